"""Training clips of a rank, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atelier.data.clip_augment import augmented
from atelier.data.clip_batch import ClipBatch
from atelier.data.clip_samples import ClipShare, FindMotion, LightnessDraw, find_motion, make_sample
from atelier.data.clip_sources import ClipSource
from atelier.data.plan import epoch_order
from atelier.data.stepping import Failure, Stepper
from atelier.errors import UserError
from atelier.randomness import Streams

if TYPE_CHECKING:
    from atelier.data.clip_options import TrainClipsOptions


class ClipData:
    """The samples of ``datasets.train`` of type ``clips``: a :class:`~atelier.data.stream.SampleStream`.

    Sample k of step s is the clip that the epoch's keyed permutation has at its place; everything else that is random
    about it comes from ``Streams(seed, s, k)``. Ranks, workers and micro-batches change nothing.

    Args:
        options: the data set.
        source: its clips.
        seed: the run's ``manual_seed``.
        global_batch: clips of a step over all ranks.
        rank, world: this process and how many there are.
        device: where batches go.

    Raises:
        UserError: the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        options: TrainClipsOptions,
        source: ClipSource,
        *,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if global_batch < 1 or global_batch % world:
            raise UserError(
                f"a global batch of {global_batch} clips cannot be shared evenly by {world} ranks"
            )
        self.device = torch.device(device)
        self.wait_s = 0.0
        share = global_batch // world
        self._numbers = range(rank * share, (rank + 1) * share)
        self._assembler = _Assembler(options, source, seed, global_batch, self._numbers)
        self._stepper: Stepper[ClipShare] = Stepper(options, pin=self.device.type == "cuda")

    @property
    def fingerprint(self) -> str:
        """Digest of what is trained on."""
        return self._assembler.source.fingerprint

    @property
    def source(self) -> ClipSource:
        """The clips that samples are drawn from."""
        return self._assembler.source

    def use_motion(self, find: FindMotion) -> None:
        """Let loader processes find the motion in each clip's lightness (``ClipBatch.flow``, ``.confidence``).

        To be called before :meth:`batches`; does nothing with ``flows: false``.

        Args:
            find: a source of flow that needs neither colours nor a state; it travels to the loader processes.
        """
        if self._assembler.options.flows:
            self._assembler.find = find

    def __len__(self) -> int:
        """Clips of an epoch."""
        return len(self._assembler.source)

    def batches(self, first_step: int, last_step: int) -> Iterator[ClipBatch]:
        """Batches of steps ``first_step`` (from 1) to ``last_step``, both included; one iteration at a time.

        Raises:
            UserError: a file cannot be read any more; :class:`~atelier.errors.RunStopped` when a worker process died.
        """
        if first_step < 1:
            raise ValueError(f"steps are counted from 1, not {first_step}")
        if first_step > last_step:
            return
        start = time.perf_counter()
        for share in self._stepper.shares(self._assembler, range(first_step, last_step + 1)):
            batch = share.batch(self._numbers).to(self.device, non_blocking=True)
            self.wait_s += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def close(self) -> None:
        """End the workers and let go of files."""
        self._stepper.stop()
        self._assembler.source.close()


class _Assembler:
    """``assembler[step]``: this rank's clips of a step. Can be sent to another process."""

    def __init__(
        self, options: TrainClipsOptions, source: ClipSource, seed: int, global_batch: int, numbers: range
    ) -> None:
        self.options, self.source, self.seed = options, source, seed
        self.global_batch, self.numbers = global_batch, numbers
        self.find: FindMotion | None = None

    def __getitem__(self, step: int) -> ClipShare | Failure:
        try:
            return self._share(step)
        except UserError as error:
            return Failure(str(error))

    def _share(self, step: int) -> ClipShare:
        options = self.options
        samples, names, motions = [], [], []
        for number in self.numbers:
            streams = Streams(self.seed, step, number)
            epoch, place = divmod((step - 1) * self.global_batch + number, len(self.source))
            clip = self.source.draw(int(epoch_order(self.seed, epoch, len(self.source))[place]), streams)
            sample = make_sample(
                augmented(clip, options.reference.augment, streams),
                flip=options.use_hflip and bool(streams("flip").random() < 0.5),
                lightness=self._lightness(streams),
            )
            samples.append(sample)
            names.append(clip.name)
            if self.find is not None:
                motions.append(find_motion(sample.L, self.find))
        L, ab, reference, true_flow, valid = (_stacked(each) for each in zip(*samples, strict=True))
        assert L is not None and ab is not None and reference is not None
        flow, confidence = (
            (_stacked(each) for each in zip(*motions, strict=True)) if motions else (None, None)
        )
        direction = "backward" if clip.motion is None else clip.motion.direction
        return ClipShare(L, ab, reference, clip.roles, names, flow, confidence, true_flow, valid, direction)

    def _lightness(self, streams: Streams) -> LightnessDraw | None:
        gain, noise = self.options.lightness_gain, self.options.lightness_noise
        if not gain and not noise:
            return None
        return LightnessDraw(
            1 + gain * float(streams("lightness gain").uniform(-1, 1)), noise, streams("lightness noise")
        )


def _stacked(tensors: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None
