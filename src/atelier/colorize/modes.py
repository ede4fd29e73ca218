"""A true film coloured in every mode at once, for comparing them: streamed, as ``atelier colorize`` would colour it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from atelier.colorize.bank import ReferenceBank
from atelier.colorize.flow import FlowBackend
from atelier.colorize.flow_options import DisFlowOptions
from atelier.colorize.reference_files import ReferenceFile
from atelier.colorize.scenes import SceneFinder, scene_rule
from atelier.colorize.state import ClipFlow, SequenceState
from atelier.colorize.system import FusionSystem
from atelier.colorize.system_options import Mode
from atelier.colorize.working import WorkingSize, enlarge, join, lightness
from atelier.errors import UserError

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class ColouredFrame:
    """A frame in every mode.

    Attributes:
        gt: the true frame, ``H×W×3``.
        pictures: mode -> what would be written, of the same shape and type.
        pinned: a reference showed this frame in its true colours, pixel by pixel.
        begins: a scene after another begins here.
    """

    gt: Pixels
    pictures: Mapping[Mode, Pixels]
    pinned: bool
    begins: bool = False


def colour_in_modes(
    system: FusionSystem,
    frames: Iterable[Pixels],
    references: Sequence[ReferenceFile],
    modes: Sequence[Mode],
    *,
    short_side: int = 256,
    scene_cut: str = "auto",
    device: torch.device | str = "cpu",
) -> Iterator[ColouredFrame]:
    """Each frame of a film, seen by the system as lightness alone, in all ``modes``; bilinear chroma.

    Scenes are found, and references chosen for each, as ``atelier colorize`` does where nothing else is asked of it.
    Memory does not grow with the film. Motion that depends on lightness alone is found once for all modes.

    Args:
        system: in evaluation mode, on ``device``.
        frames: ``H×W×3`` uint8 or uint16, all of one size.
        references: where colours come from; one pinned to a frame shows it in true colours.
        modes: which colours; ``grey`` asks nothing of the system.
        short_side: of the pictures that the networks see, a multiple of 32.
        scene_cut: see :func:`~atelier.colorize.scenes.scene_rule`.

    Raises:
        UserError: frames of several sizes, references that are grey or pinned beyond the end, a film of one frame.
    """
    size, bank, count = None, None, 0
    scenes = SceneFinder(scene_rule(scene_cut))
    states: dict[Mode, SequenceState] = {mode: SequenceState() for mode in modes}
    before: Tensor | None = None
    kept: tuple[int, ...] = ()
    try:
        for index, gt in enumerate(frames):
            whole = lightness(gt)
            begins = scenes.begins(whole, index)
            whole = whole.to(device)
            if size is None or bank is None:
                size = WorkingSize.of(gt.shape[1], gt.shape[0], short_side)
                bank = ReferenceBank(system, references, size, device=device)
            elif tuple(gt.shape[:2]) != size.full:
                raise UserError(
                    f"frame {index} is {gt.shape[1]}x{gt.shape[0]}, the ones before are {size.full[1]}x{size.full[0]}"
                )
            work = size.shrink(whole)
            if begins:
                states = {mode: state.new_scene() for mode, state in states.items()}
                before = None
            if begins or not index:
                kept = bank.choose(work, index).kept
            flows = _flows(system.flow, work, before)
            pinned = bank.anchor(index)
            prepared = bank.prepared(kept, index, pinned)
            pictures: dict[Mode, Pixels] = {}
            for mode in modes:
                ab = torch.zeros(1, 2, *size.padded, device=device)
                if mode != "grey":
                    with torch.no_grad():
                        out = system(work[:, None], prepared, flows=flows, state=states[mode], mode=mode)
                    ab, states[mode] = out.ab[:, 0], out.state
                pictures[mode], _ = join(whole, enlarge(ab, size, whole, work, "bilinear"), gt.dtype)
            before, count = work, index + 1
            yield ColouredFrame(gt, pictures, pinned is not None, begins)
    finally:
        if bank is not None:
            bank.close()
    beyond = [file for file in references if file.frame is not None and file.frame >= count]
    if beyond:
        raise UserError(
            f"the reference {beyond[0]} names frame {beyond[0].frame}, but the film has {count} frames"
        )


@torch.no_grad()
def _flows(flow: FlowBackend, work: Tensor, before: Tensor | None) -> ClipFlow | None:
    """The motion for all modes; None where it depends on what each of them has seen or made."""
    if before is None or flow.needs_colour or flow.initial_state() is not None:
        return None
    found = flow.estimate(work, before)
    return ClipFlow(found.flow[:, None], found.confidence[:, None])


class MotionFinder:
    """Motion of the true film at full size, both ways, by DIS: what a measure of steadiness follows."""

    def __init__(self) -> None:
        self._flow = DisFlowOptions(confidence="photometric").build()

    @torch.no_grad()
    def __call__(self, frame: Pixels, before: Pixels) -> tuple[Tensor, Tensor]:
        """Flows ``[1, 2, H, W]``: on the grid of ``frame`` to ``before``, and the opposite; of ``H×W×3`` pictures."""
        current, previous = lightness(frame), lightness(before)
        return self._flow.estimate(current, previous).flow, self._flow.estimate(previous, current).flow
