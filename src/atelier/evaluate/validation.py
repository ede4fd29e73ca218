"""Measure a network, or the bicubic baseline, on pairs of pictures; sharded over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from atelier.errors import RunStopped, UserError
from atelier.evaluate.results import MetricLike, Pixels, ValidationResult, as_dtype
from atelier.images import imresize, to_tensor, write_image
from atelier.progress import progress
from atelier.restore import restore_tensor

#: ``restore(net, lq pixels) -> restored pixels``: uint8, uint16 or float in [0, 1], ``H×W×C``.
Restore = Callable[[nn.Module, Pixels], Pixels]

#: Index in the set, name of the picture, its values.
Measured = tuple[int, str, dict[str, float]]


class PairLike(Protocol):
    """One validation picture: its name and ``H×W×C`` pixels; gt is exactly ``scale`` times as large as lq."""

    @property
    def name(self) -> str:
        """Unique in its set; folders as ``a/b``."""

    @property
    def lq(self) -> Pixels:
        """What the network gets."""

    @property
    def gt(self) -> Pixels:
        """What it should give."""


@dataclass(frozen=True)
class SaveOptions:
    """Where sample pictures go and how many pictures of a set are saved (the first ones)."""

    folder: Path
    max_images: int = 16


def sample_path(folder: Path, image: str, kind: str | int) -> Path:
    """``folder/baby/baby_2000.png``; ``kind`` is an iteration or one of ``gt``, ``lq``, ``bicubic``.

    Raises:
        UserError: the picture's name would lead out of the folder.
    """
    relative = Path(image)
    if relative.is_absolute() or ".." in relative.parts or not relative.name:
        raise UserError(f"picture name '{image}' cannot be used for a file below {folder}")
    return folder / relative / f"{relative.name}_{kind}.png"


def restorer(
    scale: int,
    *,
    tile: int | None = None,
    size_multiple: int = 1,
    receptive_radius: int | None = None,
    device: torch.device | str = "cpu",
    padding: Literal["network", "official"] = "network",
) -> Restore:
    """The usual way to restore one picture: to the device as float32, whole or in tiles of ``tile`` lq pixels.

    ``size_multiple`` and ``receptive_radius`` are the network's (see :func:`atelier.restore.restore_tensor`). The
    result is float32, so that rounding happens once, to the gt's type. ``padding: official`` enlarges pictures by
    :func:`mirrored_to_windows` first and cuts the result, as SwinIR's test script does; ``network`` leaves sizes to the
    network.
    """

    def restore(net: nn.Module, lq: Pixels) -> Pixels:
        pixels = to_tensor(lq).unsqueeze(0).to(device)
        if padding == "official":
            pixels = mirrored_to_windows(pixels, size_multiple)
        output = restore_tensor(
            net,
            pixels,
            scale=scale,
            tile=tile,
            size_multiple=size_multiple,
            receptive_radius=receptive_radius,
            device=device,
        )
        kept = output[0, :, : lq.shape[0] * scale, : lq.shape[1] * scale]
        picture: Pixels = kept.float().permute(1, 2, 0).cpu().numpy()
        return picture

    return restore


def mirrored_to_windows(pixels: torch.Tensor, window: int) -> torch.Tensor:
    """Pictures ``N×C×H×W`` mirrored at the right and bottom to ``(side // window + 1) * window`` a side.

    The edge pixel is repeated, and a side that the window divides gets a whole further window: this is the padding of
    SwinIR's official test script (so a picture smaller than half the result is only doubled).
    """
    for axis in (2, 3):
        side = pixels.shape[axis]
        wanted = (side // window + 1) * window
        pixels = torch.cat([pixels, pixels.flip(axis)], dim=axis).narrow(axis, 0, min(wanted, 2 * side))
    return pixels


def validate(
    net: nn.Module,
    pairs: Sequence[PairLike],
    *,
    name: str,
    metrics: Mapping[str, MetricLike],
    restore: Restore,
    iteration: int = 0,
    rank: int = 0,
    world: int = 1,
    save: SaveOptions | None = None,
    quiet: bool = False,
) -> ValidationResult:
    """Restore and measure every picture of ``pairs``; the result is the same for any number of ranks.

    Every rank calls this with the same arguments but ``rank``; picture i is done by rank ``i % world``. The network
    runs in evaluation mode without a graph and every submodule gets its training flag back.

    Args:
        net: the network; a DistributedDataParallel wrapper is taken off.
        pairs: the set.
        name: the set's name.
        metrics: name -> metric, called with the restored picture (clamped and rounded to the gt's type) and the gt.
        restore: how one picture is restored, see :func:`restorer`.
        iteration: of the network, for the result and file names.
        rank: this process.
        world: how many processes; above 1 they meet in ``torch.distributed``'s default group.
        save: sample pictures; None saves none.
        quiet: no progress bar.

    Raises:
        UserError: two pictures of one name, sizes that do not fit, or what a metric or the restoring raised.
        RunStopped: non-finite pixels, or another rank failed.
    """
    # A DDP forward exchanges buffers, and ranks with fewer pictures would not be there to answer.
    inner: nn.Module = net.module if isinstance(net, DistributedDataParallel) else net

    def produce(pair: PairLike) -> Pixels:
        restored = restore(inner, pair.lq)
        try:
            return as_dtype(restored, pair.gt.dtype)
        except ValueError as error:
            raise RunStopped(
                f"validation '{name}', picture '{pair.name}': the network's output: {error}"
            ) from error

    def keep(index: int, pair: PairLike, restored: Pixels) -> None:
        if save is not None and index < save.max_images:
            _save_samples(save.folder, pair, restored, iteration)

    work = Work(name, f"Validation {name}", rank, world, quiet)
    with evaluating(inner):
        images = _measure(pairs, produce, metrics, work, keep)
    return ValidationResult.of(name, images, metrics, iteration=iteration)


def baseline(
    pairs: Sequence[PairLike],
    scale: int,
    metrics: Mapping[str, MetricLike],
    *,
    name: str = "val",
    rank: int = 0,
    world: int = 1,
    quiet: bool = False,
) -> ValidationResult:
    """What a network has to beat: MATLAB's bicubic enlargement of lq by ``scale``, or lq itself where ``scale`` is 1.

    The result's ``method`` is ``bicubic`` or ``input``. Arguments and errors as in :func:`validate`.
    """

    work = Work(name, f"Baseline {name}", rank, world, quiet)
    images = _measure(pairs, lambda pair: bicubic(pair, scale), metrics, work)
    return ValidationResult.of(name, images, metrics, method="bicubic" if scale > 1 else "input")


def bicubic(pair: PairLike, scale: int) -> Pixels:
    """The pair's lq enlarged by ``scale`` in the gt's type (lq itself for 1)."""
    enlarged: Pixels = imresize(pair.lq, scale=scale) if scale > 1 else pair.lq
    return as_dtype(enlarged, pair.gt.dtype)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Within it the network is in evaluation mode and makes no graph; then every submodule has its flag back."""
    flags = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        # Not inference_mode: what a network caches in its forward (masks, bias tables) would become an inference
        # tensor and break the next training step of the same network.
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


@dataclass(frozen=True)
class Work:
    """Which set is measured, and this process's part in it."""

    name: str
    title: str
    rank: int
    world: int
    quiet: bool


def _measure(
    pairs: Sequence[PairLike],
    produce: Callable[[PairLike], Pixels],
    metrics: Mapping[str, MetricLike],
    work: Work,
    keep: Callable[[int, PairLike, Pixels], None] | None = None,
) -> dict[str, dict[str, float]]:
    """This rank's share, then everybody's, in the order of the set."""
    if len(pairs) == 0:
        raise UserError(f"set '{work.name}' holds no pictures, so there is nothing to measure")
    share: list[Measured] = []
    failure: Exception | None = None
    try:
        mine = range(work.rank, len(pairs), work.world)
        with progress(work.title, len(mine), quiet=work.quiet or work.rank != 0) as bar:
            for index in mine:
                pair = pairs[index]
                restored = produce(pair)
                _check_size(work.name, pair, restored)
                share.append(
                    (index, pair.name, {key: float(m(restored, pair.gt)) for key, m in metrics.items()})
                )
                if keep is not None:
                    keep(index, pair, restored)
                bar.advance(note=pair.name)
    except Exception as error:
        # The other ranks are on their way to the exchange below and would wait there for ever.
        failure = error
    images: dict[str, dict[str, float]] = {}
    for _, image, values in sorted(exchange(share, failure, work), key=lambda entry: entry[0]):
        if image in images:
            raise UserError(
                f"set '{work.name}' holds two pictures called '{image}'; give them different names"
            )
        images[image] = values
    return images


def exchange(share: list[Measured], failure: Exception | None, work: Work) -> list[Measured]:
    """All ranks' shares; a failure on any rank is raised on every rank."""
    if work.world == 1:
        if failure is not None:
            raise failure
        return share
    message = f"{type(failure).__name__}: {failure}" if failure is not None else None
    gathered: list[tuple[list[Measured], str | None]] = [([], None)] * work.world
    dist.all_gather_object(gathered, (share, message))
    if failure is not None:
        raise failure
    for other, (_, text) in enumerate(gathered):
        if text is not None:
            raise RunStopped(f"{work.title} failed on rank {other}: {text}")
    return [entry for part, _ in gathered for entry in part]


def _check_size(name: str, pair: PairLike, restored: Pixels) -> None:
    if restored.shape != pair.gt.shape:
        raise UserError(
            f"set '{name}', picture '{pair.name}': the restored picture is {_size(restored)}, gt is {_size(pair.gt)} "
            f"(lq: {_size(pair.lq)}); check scale and channels of the network and the data"
        )


def _size(pixels: Pixels) -> str:
    return "×".join(str(side) for side in pixels.shape)


def _save_samples(folder: Path, pair: PairLike, restored: Pixels, iteration: int) -> None:
    """The restored picture, and once for each set also gt, lq and bicubic beside it."""
    file_dtype = pair.gt.dtype if pair.gt.dtype.kind == "u" else np.dtype(np.uint8)
    write_image(sample_path(folder, pair.name, iteration), as_dtype(restored, file_dtype))
    scale = pair.gt.shape[0] // pair.lq.shape[0]
    others: dict[str, Callable[[], Pixels]] = {"gt": lambda: pair.gt, "lq": lambda: pair.lq}
    if scale > 1:
        others["bicubic"] = lambda: bicubic(pair, scale)
    for kind, pixels in others.items():
        path = sample_path(folder, pair.name, kind)
        if not path.exists():
            write_image(path, as_dtype(pixels(), file_dtype))
