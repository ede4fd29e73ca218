"""Training batches: the plan's samples, prepared ahead by worker processes and brought to the device."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from atelier.data.assemble import Assembled, Assembler
from atelier.data.batch import Batch
from atelier.data.options import CacheOptions, TrainImagesOptions
from atelier.data.packed import Packed, degrade_packed
from atelier.data.pairs import header_shapes, open_pictures
from atelier.data.plan import SamplePlan
from atelier.data.shards import ShardCache
from atelier.data.sources import Shape, Source
from atelier.data.stepping import Stepper
from atelier.degrade.base import Degradation
from atelier.errors import UserError

__all__ = ["Batch", "TrainingData"]


class TrainingData:
    """This rank's share of every training step.

    Args:
        options: the data set.
        scale: gt side / lq side.
        degradation: makes lq where the set has no ``dataroot_lq``; not used otherwise.
        seed: the run's ``manual_seed``.
        global_batch: samples per step over all ranks.
        rank, world: this process among all; it gets samples ``rank * b ... (rank + 1) * b - 1``, b = batch / world.
        in_channels: of the network.
        device: where batches go.
        cache: the shard cache.
        quiet: no progress bars.

    Attributes:
        wait_s: seconds spent in waiting for batches so far.
        fingerprint: digest of the pictures' names, sizes and pairing.

    Raises:
        UserError: anything wrong with the pictures, all of it in one message, before training.
    """

    def __init__(
        self,
        options: TrainImagesOptions,
        *,
        scale: int,
        degradation: Degradation | None,
        seed: int,
        global_batch: int,
        in_channels: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        cache: CacheOptions | None = None,
        quiet: bool = False,
    ) -> None:
        check_sizes(options, scale=scale, global_batch=global_batch, rank=rank, world=world)
        self.options, self.scale, self.device = options, scale, torch.device(device)
        self.wait_s = 0.0
        stepper: Stepper[Assembled | Packed] = Stepper(options, pin=self.device.type == "cuda")
        shards = ShardCache(cache or CacheOptions(), quiet=quiet)

        def shapes(source: Source) -> list[Shape | UserError]:
            known = shards.lookup(source) if shards.options.enabled else None
            return list(known.shapes if known is not None else header_shapes(source))

        pictures = open_pictures(
            options,
            scale=scale,
            in_channels=in_channels,
            shapes=shapes,
            smallest_gt=options.gt_size if options.small_pictures == "error" else 0,
        )
        if pictures.lq is None and degradation is None:
            raise UserError(
                f"data set '{options.name}' has no dataroot_lq, so a degradation must make lq of its clean pictures"
            )
        self.fingerprint = pictures.fingerprint
        plan = SamplePlan(
            seed,
            global_batch,
            [shape[:2] for shape in pictures.lq_shapes],
            lq_size=options.gt_size // scale,
            use_hflip=options.use_hflip,
            use_rot=options.use_rot,
            pool=degradation.pool if degradation is not None and pictures.lq is None else 0,
        )
        share = global_batch // world
        self.assembler = Assembler(
            plan,
            gt=shards.open(pictures.gt, pictures.gt_shapes),
            lq=shards.open(pictures.lq, pictures.lq_shapes) if pictures.lq is not None else None,
            lq_shapes=pictures.lq_shapes,
            degradation=degradation if pictures.lq is None else None,
            scale=scale,
            in_channels=in_channels,
            share=range(rank * share, (rank + 1) * share),
            grey_from=options.grey_from,
        )
        self._stepper = stepper
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        # A tensor, because dividing a GPU tensor by a number multiplies by its rounded inverse.
        self._white = torch.tensor(255.0, device=self.device)

    def __len__(self) -> int:
        """The number of pictures (an epoch)."""
        return len(self.assembler.plan)

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Batches of steps ``first_step`` (from 1) to ``last_step``, both included.

        Workers live until the iteration ends, is left, or :meth:`close` is called; one iteration at a time.

        Raises:
            UserError: a picture cannot be read any more; :class:`RunStopped` when a worker process died.
        """
        if first_step < 1:
            raise ValueError(f"steps are counted from 1, not {first_step}")
        if first_step > last_step:
            return
        start = time.perf_counter()
        for share in self._stepper.shares(self.assembler, range(first_step, last_step + 1)):
            batch = self._on_device(share)
            self.wait_s += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def close(self) -> None:
        """End the workers and let go of the shards."""
        self._stepper.stop()
        self.assembler.gt.close()
        if self.assembler.lq is not None:
            self.assembler.lq.close()

    def _on_device(self, share: Assembled | Packed) -> Batch:
        """Copy to the device, and degrade there what is to be degraded there, on a stream of its own beside the step
        that is still being computed."""
        if self._stream is None:
            return Batch(*self._pair(share), share.samples, self.assembler.share)
        with torch.cuda.stream(self._stream):
            lq, gt = self._pair(share)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for tensor in (lq, gt):  # made on one stream, used on another: the allocator must wait for both
            tensor.record_stream(current)
        return Batch(lq, gt, share.samples, self.assembler.share)

    def _pair(self, share: Assembled | Packed) -> tuple[Tensor, Tensor]:
        """``(lq, gt)`` on the device."""
        if isinstance(share, Assembled):
            return self._as_float(self._moved(share.lq)), self._as_float(self._moved(share.gt))
        assert self.assembler.degradation is not None
        moved = share._replace(pixels=self._moved(share.pixels), numbers=self._moved(share.numbers))
        return degrade_packed(moved, self.assembler.degradation, self._white)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _as_float(self, pixels: Tensor) -> Tensor:
        """``N x H x W x C`` of either dtype to ``N x C x H x W`` float32."""
        tensor = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return tensor.div_(self._white) if pixels.dtype == torch.uint8 else tensor


def check_sizes(
    options: TrainImagesOptions, *, scale: int, global_batch: int, rank: int = 0, world: int = 1
) -> None:
    """Raise :class:`UserError` where crop, scale, batch and ranks do not fit together."""
    if options.gt_size % scale:
        below = options.gt_size // scale * scale
        raise UserError(
            f"data set '{options.name}': gt_size {options.gt_size} is no multiple of scale {scale}; "
            f"the nearest ones are {f'{below} and ' if below else ''}{below + scale}"
        )
    if global_batch < 1 or global_batch % world:
        raise UserError(f"a global batch of {global_batch} samples cannot be shared evenly by {world} ranks")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}")
