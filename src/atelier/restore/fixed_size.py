"""A graph that takes one size only, over pictures of any size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from atelier.restore.grid import plan_axis, round_up
from atelier.restore.tiling import default_overlap


def run_at_size(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    size: tuple[int, int],
    scale: int,
    *,
    receptive_radius: int | None = None,
    multiple: int = 1,
) -> Tensor:
    """``run`` over every window of exactly ``size``, one picture at a time, joined as tiles are.

    Where a quarter of the window holds the receptive radius, joints are cut and nothing but the border of a picture
    smaller than the window tells that there were any; otherwise neighbours are feathered into each other.

    Args:
        run: 1×C×h×w to 1×C'×(h*scale)×(w*scale).
        x: N×C×H×W, any H, W >= 1. A side shorter than the window is continued with its last pixels.
        size: (h, w) in pixels.
        scale: how many times larger the result is.
        receptive_radius: in pixels of ``x``; None: not bounded.
        multiple: windows start on its multiples, if ``size`` is one.

    Returns:
        N×C'×(H*scale)×(W*scale).
    """
    height, width = x.shape[-2:]
    wanted = default_overlap(receptive_radius)
    exact, axes = True, []
    for length, side in zip((height, width), size, strict=True):
        step = 1 if side % multiple else multiple
        context = min(round_up(wanted, step), side // 4 // step * step)
        whole = round_up(max(length, side), step)
        axes.append(plan_axis(whole, side - 2 * context, context, step))
        if len(axes[-1].starts) > 1 and (receptive_radius is None or context < receptive_radius):
            exact = False
    rows, columns = axes
    padded = pad(x, (0, columns.length - width, 0, rows.length - height), mode="replicate")
    weights = None if exact else (rows.weights(scale).to(x.device), columns.weights(scale).to(x.device))
    results = []
    for place in range(padded.shape[0]):
        picture = padded[place : place + 1]
        whole_result: Tensor | None = None
        for i, top in enumerate(rows.starts):
            for j, left in enumerate(columns.starts):
                piece = run(picture[..., top : top + size[0], left : left + size[1]].contiguous())
                if whole_result is None:
                    sides = (rows.length * scale, columns.length * scale)
                    whole_result = piece.new_zeros(1, piece.shape[1], *sides)
                if weights is not None:
                    down, across = weights[0][i].to(piece.device), weights[1][j].to(piece.device)
                    part = whole_result[..., top * scale :, left * scale :]
                    part[..., : size[0] * scale, : size[1] * scale] += piece * down[:, None] * across
                    continue
                (y0, y1), (x0, x1) = rows.core(i), columns.core(j)
                whole_result[..., y0 * scale : y1 * scale, x0 * scale : x1 * scale] = piece[
                    ...,
                    (y0 - top) * scale : (y1 - top) * scale,
                    (x0 - left) * scale : (x1 - left) * scale,
                ]
        assert whole_result is not None
        results.append(whole_result[..., : height * scale, : width * scale])
    return torch.cat(results)
