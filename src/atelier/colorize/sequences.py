"""Lists of frames and reference pictures around the tensors of :class:`~atelier.colorize.system.FusionSystem`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atelier.colorize.pictures import fingerprint, reference_lab, reference_rgb
from atelier.colorize.references import References
from atelier.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from atelier.colorize.state import SequenceOutput, SequenceState
    from atelier.colorize.system import FusionSystem, PreparedReferences

LabFrames = Tensor | Sequence[Tensor]


def colour_sequence(
    system: FusionSystem,
    frames_lab: LabFrames,
    pictures: Image | Tensor | Sequence[Image | Tensor] | None,
    references: References | None,
    state: SequenceState | None,
    return_memflow: bool,
) -> tuple[Any, SequenceState]:
    """What :meth:`FusionSystem.forward_sequence` does: (its result, the state after the last frame)."""
    lightness = _lightness(frames_lab)
    outputs: list[SequenceOutput] = []
    for start, end, prepared in _runs(system, lightness, pictures, references):
        output = system(lightness[:, start:end], prepared, state=state)
        outputs.append(output)
        state = output.state
    assert state is not None
    ab, flow_ab, confidence = (
        torch.cat([getattr(output, name) for output in outputs], dim=1)
        for name in ("ab", "flow_ab", "flow_conf")
    )
    wholes = [torch.cat([lightness, ab], dim=2), torch.cat([lightness, flow_ab], dim=2), confidence]
    results: list[Any] = list(wholes)
    if not isinstance(frames_lab, Tensor):
        single = frames_lab[0].ndim == 3
        results = [list(whole[0] if single else whole.unbind(1)) for whole in wholes]
    return (tuple(results) if return_memflow else results[0]), state


def _lightness(frames: LabFrames) -> Tensor:
    """``[B, T, 1, H, W]``: channel 0 of the frames; the others are never touched."""
    if isinstance(frames, Tensor):
        if frames.ndim != 5 or frames.shape[2] != 3 or frames.shape[1] == 0:
            raise UserError(
                f"frames_lab must be [B, T, 3, H, W] or a list of [3, H, W], not {tuple(frames.shape)}"
            )
        return frames[:, :, :1]
    if not frames:
        raise UserError("frames_lab has no frames")
    sizes = {tuple(frame.shape) for frame in frames}
    first = next(iter(sizes))
    if len(sizes) > 1 or len(first) not in (3, 4) or first[-3] != 3:
        shown = ", ".join(str(size) for size in sorted(sizes))
        raise UserError(f"frames_lab must be [3, H, W] or [B, 3, H, W] each, all of one size, given {shown}")
    batched = [frame if frame.ndim == 4 else frame[None] for frame in frames]
    return torch.stack([frame[:, :1] for frame in batched], dim=1)


def _runs(
    system: FusionSystem,
    lightness: Tensor,
    pictures: Image | Tensor | Sequence[Image | Tensor] | None,
    references: References | None,
) -> Iterator[tuple[int, int, PreparedReferences]]:
    """(first frame, one past the last, references) for stretches of frames with the same references.

    Equal pictures are encoded once, and forgotten after the last frame that uses them.
    """
    count = lightness.shape[1]
    if (pictures is None) == (references is None):
        raise UserError("give the references as references_pil or as references, one of the two")
    if references is not None:
        yield 0, count, system.prepare(references)
        return
    several = isinstance(pictures, Sequence)
    given: list[Any] = list(pictures) if isinstance(pictures, Sequence) else [pictures]
    if len(given) not in ((1, count) if several else (1,)):
        raise UserError(f"{count} frames need one reference or {count}, given {len(given)}")
    # The same object need not be read again.
    colours: dict[int, Tensor] = {}
    for each in given:
        if id(each) not in colours:
            colours[id(each)] = reference_rgb(each)
    keys = {number: fingerprint(rgb) for number, rgb in colours.items()}
    order = [keys[id(each)] for each in given] * (count if len(given) == 1 else 1)
    last = {key: place for place, key in enumerate(order)}
    first_of = {keys[id(each)]: id(each) for each in reversed(given)}
    made: dict[Any, PreparedReferences] = {}
    start = 0
    while start < count:
        key = order[start]
        end = start + 1
        while end < count and order[end] == key:
            end += 1
        if key not in made:
            lab = reference_lab(colours[first_of[key]].to(lightness.device), min(lightness.shape[-2:]))
            if lab.shape[0] not in (1, lightness.shape[0]):
                raise UserError(f"{lightness.shape[0]} clips and a reference of {lab.shape[0]} pictures")
            shared = lab.expand(lightness.shape[0], -1, -1, -1)[:, None]
            made[key] = system.prepare(References(shared, ("exemplar",)))
        yield start, end, made[key]
        if last[key] < end:
            del made[key]
        start = end
