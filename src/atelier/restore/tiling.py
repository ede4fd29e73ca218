"""A network over a picture of any size: whole or in tiles, within the memory there is."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from atelier.errors import RunStopped, UserError
from atelier.restore.canvas import Blend, Canvas, CanvasT, TensorCanvas, blend_bytes
from atelier.restore.grid import Axis, plan_axis, round_up
from atelier.restore.memory import PROBE_SIDE, free_memory, is_out_of_memory, measure_cost

Precision = Literal["fp32", "bf16", "fp16"]
Tile = int | Literal["auto"] | None
OnTile = Callable[[int, int], None]

DEFAULT_OVERLAP = 32
"""lq pixels of context on each side where an exact overlap is impossible or would cost too much."""

EXACT_OVERLAP_LIMIT = 64
"""Up to this receptive radius the default overlap is the exact one."""

SMALLEST_TILE = 16
"""Below this core size tiles are nearly all overlap; running out of memory there ends the attempt."""

_BATCH_PIXELS = 256 * 256
"""On a GPU tiles are batched up to about this many lq pixels: a small tile alone leaves it idle."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_log = logging.getLogger(__name__)


def restore_tensor(
    net: nn.Module,
    lq: Tensor,
    *,
    scale: int,
    tile: Tile = None,
    overlap: int | None = None,
    size_multiple: int = 1,
    receptive_radius: int | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    on_tile: OnTile | None = None,
) -> Tensor:
    """Run ``net`` over ``lq`` and return the restored picture, not clamped.

    Joints between tiles are cut exactly where both sides see ``receptive_radius`` pixels beyond them (tiled
    then equals untiled up to the rounding of the convolutions), otherwise blended by smooth ramps. When
    memory runs out, everything is done again with fewer tiles at once, then with smaller tiles; no part of a
    failed attempt is used. Gradients are off and the network is in evaluation mode while it runs; afterwards
    its modes are as before.

    Args:
        net: a network from N×C×h×w to N×C'×(h*scale)×(w*scale).
        lq: N×C×H×W float, any H, W >= 1, values about [0, 1]. Sizes that are no multiple of ``size_multiple``
            are mirrored at the right and bottom, and the result is cropped.
        scale: how many times larger the result is.
        tile: lq pixels (height and width) a tile answers for; with its context it sees ``tile + 2 *
            overlap``.
            None: the whole picture at once. "auto" or 0: whole when memory allows, otherwise the largest that
                fits.
        overlap: context pixels on each side of a tile. None: the receptive radius up to 64, otherwise 32.
        size_multiple: the network's window; tiles start on its multiples.
        receptive_radius: how far, in lq pixels, a result depends on its surroundings; None: not bounded.
        device: where the network is; default the device of its first parameter.
        precision: "bf16" and "fp16" run under autocast.
        on_tile: called as ``on_tile(done, total)`` after each step of tiles.

    Returns:
        N×C'×(H*scale)×(W*scale) float32 on the device of ``lq``.

    Raises:
        UserError: the arguments make no sense, or the network's result has another size than ``scale`` says.
        RunStopped: memory ran out even with the smallest tiles.
    """
    canvas, _ = restore_onto(
        lambda: TensorCanvas(lq.shape[0], lq.shape[-2] * scale, lq.shape[-1] * scale, lq.device),
        net,
        lq,
        scale=scale,
        tile=tile,
        overlap=overlap,
        size_multiple=size_multiple,
        receptive_radius=receptive_radius,
        device=device,
        precision=precision,
        on_tile=on_tile,
    )
    assert canvas.result is not None
    return canvas.result


def restore_onto(
    new_canvas: Callable[[], CanvasT],
    net: nn.Module,
    lq: Tensor,
    *,
    scale: int,
    tile: Tile,
    overlap: int | None,
    size_multiple: int,
    receptive_radius: int | None,
    device: torch.device | str | None,
    precision: Precision,
    on_tile: OnTile | None,
) -> tuple[CanvasT, int | None]:
    """As :func:`restore_tensor`, but onto a canvas of the caller's, a new one for each attempt.

    Returns:
        The canvas of the attempt that went well, and the tile that memory forced (None: the first was fine).
    """
    _check(lq, scale, tile, overlap, size_multiple, precision)
    where = (
        torch.device(device) if device is not None else next((p.device for p in net.parameters()), lq.device)
    )
    context = overlap if overlap is not None else default_overlap(receptive_radius)
    exact = receptive_radius is not None and context >= receptive_radius
    padded = pad_to_multiple(lq, size_multiple)

    def forward(part: Tensor) -> Tensor:
        casting = torch.autocast(where.type, _DTYPES[precision]) if precision in _DTYPES else nullcontext()
        with casting:
            result: Tensor = net(part.to(where, torch.float32))
        if result.shape[-2:] != (part.shape[-2] * scale, part.shape[-1] * scale):
            raise UserError(
                f"the network made {tuple(result.shape)} of {tuple(part.shape)}; with scale {scale} the last "
                f"two sizes should be {part.shape[-2] * scale} and {part.shape[-1] * scale}"
            )
        return result.float()

    with torch.no_grad(), _evaluating(net):
        result = _Result(new_canvas().nbytes(lq.shape[1]), scale, exact) if where == lq.device else None
        limit = _automatic_tile(net, forward, padded, context, size_multiple, where, precision, tile, result)
        batch: int | None = None
        forced: int | None = None
        while True:
            rows, columns = (plan_axis(n, limit, context, size_multiple) for n in padded.shape[-2:])
            batch = batch or _tiles_at_once(where, rows, columns, padded.shape[0])
            canvas = new_canvas()
            try:
                _run(forward, padded, rows, columns, scale, exact, batch, canvas, on_tile)
                return canvas, forced
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: while the exception lives, its frames keep the failed attempt's tensors.
            del canvas
            _release(where)
            if batch > 1:
                batch //= 2
                continue
            limit = forced = _smaller_tile(limit, rows, columns, context, size_multiple, where)
            batch = None
            _log.warning("out of memory on %s; trying again in tiles of %d lq pixels", where, limit)


def default_overlap(receptive_radius: int | None) -> int:
    """Context in lq pixels when none was asked for: exact where that is affordable."""
    if receptive_radius is not None and receptive_radius <= EXACT_OVERLAP_LIMIT:
        return receptive_radius
    return DEFAULT_OVERLAP


def pad_to_multiple(lq: Tensor, multiple: int) -> Tensor:
    """Mirror the right and bottom of N×C×H×W until both sides are multiples; a side of 1 is repeated.

    The mirror image is itself mirrored when a side is shorter than what is missing, so every size works.
    """
    for dim in (-2, -1):
        length = lq.shape[dim]
        if length % multiple:
            place = torch.arange(round_up(length, multiple), device=lq.device) % max(2 * (length - 1), 1)
            lq = lq.index_select(dim, torch.minimum(place, 2 * (length - 1) - place).clamp_min(0))
    return lq


def _check(
    lq: Tensor, scale: int, tile: Tile, overlap: int | None, size_multiple: int, precision: Precision
) -> None:
    if lq.ndim != 4 or lq.numel() == 0 or not lq.is_floating_point():
        raise UserError(
            f"lq must be a float N×C×H×W tensor that is not empty, not {lq.dtype} {tuple(lq.shape)}"
        )
    if scale < 1 or size_multiple < 1:
        raise UserError(f"scale and size_multiple must be at least 1, not {scale} and {size_multiple}")
    if tile is not None and tile != "auto" and tile < 0:
        raise UserError(f"tile must be 0 (automatic) or a positive number of pixels, not {tile}")
    if overlap is not None and overlap < 0:
        raise UserError(f"overlap must not be negative, not {overlap}")
    if precision != "fp32" and precision not in _DTYPES:
        raise UserError(f"unknown precision '{precision}'; allowed: fp32, bf16, fp16")


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has the mode it had (frozen parts stay frozen)."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _run(
    forward: Callable[[Tensor], Tensor],
    padded: Tensor,
    rows: Axis,
    columns: Axis,
    scale: int,
    exact: bool,
    batch: int,
    canvas: Canvas,
    on_tile: OnTile | None,
) -> None:
    """One attempt: every tile once, onto a canvas that belongs to this attempt alone."""
    places = [(i, j) for i in range(len(rows.starts)) for j in range(len(columns.starts))]
    if len(places) == 1:
        canvas.place(0, 0, forward(padded))
        if on_tile is not None:
            on_tile(1, 1)
        return
    blend = None if exact else Blend(rows, columns, scale, canvas, padded.device)
    for first in range(0, len(places), batch):
        group = places[first : first + batch]
        parts = [
            padded[
                ...,
                rows.starts[i] : rows.starts[i] + rows.size,
                columns.starts[j] : columns.starts[j] + columns.size,
            ]
            for i, j in group
        ]
        result = forward(torch.cat(parts))
        for (i, j), piece in zip(group, result.chunk(len(group)), strict=True):
            if blend is not None:
                blend.add(i, j, piece)
                continue
            y, x = rows.starts[i] * scale, columns.starts[j] * scale
            (top, bottom), (left, right) = (
                (low * scale, high * scale) for low, high in (rows.core(i), columns.core(j))
            )
            canvas.place(top, left, piece[..., top - y : bottom - y, left - x : right - x])
        if on_tile is not None:
            on_tile(min(first + batch, len(places)), len(places))


def _tiles_at_once(device: torch.device, rows: Axis, columns: Axis, pictures: int) -> int:
    """How many tiles to run together; the CPU is busy with one."""
    if device.type == "cpu":
        return 1
    fitting = _BATCH_PIXELS // (rows.size * columns.size * pictures)
    return max(min(fitting, len(rows.starts) * len(columns.starts)), 1)


@dataclass(frozen=True)
class _Result:
    """The restored picture in the memory that tiles share: bytes of the whole, and how tiles are joined."""

    held: int
    scale: int
    exact: bool


def _automatic_tile(
    net: nn.Module,
    forward: Callable[[Tensor], Tensor],
    padded: Tensor,
    overlap: int,
    multiple: int,
    device: torch.device,
    precision: Precision,
    asked: Tile,
    result: _Result | None,
) -> int | None:
    """The tile asked for, or for "auto"/0 the largest that memory should allow (None: the whole picture).

    ``result`` is what else has to fit; None where that lies in other memory.
    """
    if asked is None or (asked != "auto" and asked > 0):
        return asked
    pictures, channels, height, width = padded.shape
    side = round_up(PROBE_SIDE, multiple)
    if height * width <= side * side:
        return None
    probe = pad_to_multiple(padded[:1, :, :side, :side], side)
    smallest = round_up(SMALLEST_TILE, multiple)
    try:
        cost = measure_cost(net, forward, probe, (str(device), precision, channels, side))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return smallest
    free = free_memory(device) - (0 if result is None else result.held)

    def side_within(fitting: int) -> int:
        # The short side stays whole when it is smaller than a square tile, which leaves more for the long side.
        return max(math.isqrt(fitting), fitting // min(height, width))

    fitting = cost.pixels_within(max(free, 0)) // pictures
    if height * width <= fitting:
        return None
    seen = side_within(fitting)
    if result is not None and not result.exact:
        free -= pictures * blend_bytes(min(seen, height), width, channels, result.scale)
        seen = side_within(cost.pixels_within(max(free, 0)) // pictures)
    tile = (seen - 2 * round_up(overlap, multiple)) // multiple * multiple
    return max(tile, smallest)


def _smaller_tile(
    tile: int | None, rows: Axis, columns: Axis, overlap: int, multiple: int, device: torch.device
) -> int:
    """Half the tile, or less where that would cover the picture with the same tiles as before."""
    smallest = round_up(SMALLEST_TILE, multiple)
    current = min(tile, max(rows.size, columns.size)) if tile is not None else max(rows.size, columns.size)
    while current > smallest:
        current = max(current // 2 // multiple * multiple, smallest)
        sizes = [plan_axis(axis.length, current, overlap, multiple).size for axis in (rows, columns)]
        if sizes != [rows.size, columns.size]:
            return current
    raise RunStopped(
        f"out of memory on {device}: a picture of {columns.length}x{rows.length} does not fit even in "
        f"tiles of {columns.size}x{rows.size} pixels (context of {overlap} on each side included); "
        f"{free_memory(device) / 2**20:.0f} MiB are free. "
        "A smaller overlap, another device or a smaller network helps"
    )


def _release(device: torch.device) -> None:
    """Give back what a failed attempt held, so that the next one starts with all memory there is."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
