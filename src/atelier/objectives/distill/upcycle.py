"""Upcycling: inputs that only the teacher can label (Zhang et al., data upcycling knowledge distillation, 2309.14162).

Tiles of the truth, as large as an lq crop, become new inputs. The student sees them changed by operations that can be
undone exactly; its output, with the operations undone, is compared with the teacher's output on the plain tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.images import imresize
from atelier.randomness import Streams

if TYPE_CHECKING:
    from atelier.objectives.distill.term_options import UpcycleOptions

OPERATIONS = ("invert", "h-flip", "v-flip", "transpose")


@dataclass(frozen=True)
class Upcycled:
    """New inputs of one batch, those of its first sample first.

    Attributes:
        tiles: M×C×H×W, for the teacher.
        inputs: the tiles with their operations, for the student.
        operations: M×4 bool, which of :data:`OPERATIONS` each tile went through.
    """

    tiles: Tensor
    inputs: Tensor
    operations: Tensor

    def undo(self, outs: Tensor) -> Tensor:
        """The student's outputs for ``inputs`` (M×C×sH×sW) brought back to the tiles' own colours and directions."""
        return undo(outs, self.operations)


def upcycle(
    gt: Tensor,
    lq: Tensor,
    options: UpcycleOptions,
    *,
    scale: int,
    seed: int,
    step: int,
    numbers: Sequence[int],
) -> Upcycled:
    """``options.tiles`` new inputs out of each sample; at scale 1 it is lq itself, and there is one.

    Args:
        gt: N×C×sH×sW in [0, 1].
        lq: N×C×H×W; squares, as training crops are.
        options: how many tiles, and the chance of each operation.
        scale: s.
        seed, step: of the run.
        numbers: each sample's place in the step's batch over all ranks.

    Raises:
        UserError: more tiles than a crop of the truth has, or crops that are no squares or not of the same channels.
    """
    count, channels, height, width = lq.shape
    if gt.shape != (count, channels, height * scale, width * scale) or height != width:
        raise UserError(
            f"distill.terms.upcycle: needs square lq crops and gt crops {scale} times as large with the same channels; "
            f"given lq {_size(lq)} and gt {_size(gt)}"
        )
    if options.tiles > scale**2:
        raise UserError(
            f"distill.terms.upcycle.tiles: {options.tiles}, but at scale {scale} a crop of the truth has "
            f"{scale**2} {'tile' if scale == 1 else 'tiles'} of lq size"
        )
    if len(numbers) != count:
        raise ValueError(f"upcycle: {len(numbers)} numbers for {count} samples")
    draws = [draw(options, scale, Streams(seed, step, number)) for number in numbers]
    places = torch.from_numpy(np.concatenate([places for places, _ in draws])).to(gt.device)
    operations = torch.from_numpy(np.concatenate([chosen for _, chosen in draws])).to(gt.device)
    if scale == 1:
        tiles = lq
    else:
        grid = gt.reshape(count, channels, scale, height, scale, width).permute(0, 2, 4, 1, 3, 5)
        sample = torch.arange(count, device=gt.device).repeat_interleave(options.tiles)
        tiles = grid[sample, places // scale, places % scale]
    return Upcycled(tiles, apply(tiles, operations), operations)


def draw(
    options: UpcycleOptions, scale: int, streams: Streams
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """One sample's choices: ``options.tiles`` different tiles of s×s, row by row, and n×4 operations."""
    random = streams("upcycle")
    places = random.choice(scale**2, options.tiles, replace=False).astype(np.int64)
    return places, random.random((options.tiles, len(OPERATIONS))) < options.p


def apply(tiles: Tensor, operations: Tensor) -> Tensor:
    """Each of ``tiles`` (M×C×H×H in [0, 1]) through its own of :data:`OPERATIONS`, M×4 bool, in their order."""
    for place in range(len(OPERATIONS)):
        tiles = _operated(tiles, operations, place)
    return tiles


def undo(pictures: Tensor, operations: Tensor) -> Tensor:
    """The reverse of :func:`apply`: every operation is its own inverse, so they run in reverse order."""
    for place in reversed(range(len(OPERATIONS))):
        pictures = _operated(pictures, operations, place)
    return pictures


def zoom_out(lq: Tensor, scale: int) -> Tensor:
    """lq made smaller by ``scale`` as MATLAB's bicubic does, N×C×H/s×W/s in [0, 1]: an input whose truth is lq.

    Raises:
        UserError: scale 1, or sides that the scale does not divide.
    """
    if scale == 1:
        raise UserError("distill.terms.upcycle.zoom_out: at scale 1 there is nothing to zoom out of")
    if lq.shape[2] % scale or lq.shape[3] % scale:
        raise UserError(
            f"distill.terms.upcycle.zoom_out: lq crops of {lq.shape[2]}×{lq.shape[3]} do not divide by the scale "
            f"{scale}; choose a gt_size that {scale**2} divides"
        )
    return imresize(lq, scale=1 / scale).clamp(0, 1)


def _operated(pictures: Tensor, operations: Tensor, place: int) -> Tensor:
    match OPERATIONS[place]:
        case "invert":
            changed = 1 - pictures
        case "h-flip":
            changed = pictures.flip(3)
        case "v-flip":
            changed = pictures.flip(2)
        case _:
            changed = pictures.transpose(2, 3)
    # A choice and no branch: the draws never have to come back from the device.
    return torch.where(operations[:, place, None, None, None], changed, pictures)


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape[1:]))
