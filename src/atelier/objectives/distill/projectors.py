"""Projectors: what brings the channels of one side's features to the other's, trained with the student.

``state_dict`` of the list that :func:`build_projectors` returns has the keys of the original's ``N_P.pth`` for the
linear form: ``0.weight`` (60×180), ``0.bias`` (60), ``1.weight`` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from atelier.errors import UserError
from atelier.losses.module import shape_text

ProjectorType = Literal["none", "linear", "conv3", "mlp"]
Side = Literal["student", "teacher"]


class PairShape(NamedTuple):
    """A pair of taps: channels of both sides and the taps' names, student first."""

    student: int
    teacher: int
    names: tuple[str, str]


class Linear(nn.Linear):
    """A linear layer over the channels of a B×C×H×W map (a 1×1 convolution with a matrix's weight and start)."""

    def forward(self, feature: Tensor) -> Tensor:
        """B×in×H×W to B×out×H×W."""
        return functional.conv2d(feature, self.weight[:, :, None, None], self.bias)


def build_projectors(
    pairs: Sequence[PairShape], kind: ProjectorType, *, side: Side = "student", bias: bool = True
) -> nn.ModuleList:
    """One projector a pair, on ``side``, giving the other side's channels; start weights from torch's generator.

    ``linear``: one matrix; ``conv3``: a 3×3 convolution; ``mlp``: two matrices with GELU between, as wide as the
    output; ``none``: nothing (the maps must have equal channels).

    Raises:
        UserError: ``none`` between different numbers of channels.
    """
    projectors = nn.ModuleList()
    for place, (student, teacher, names) in enumerate(pairs, start=1):
        given, wanted = (student, teacher) if side == "student" else (teacher, student)
        if kind == "none" and given != wanted:
            raise UserError(
                f"distill.terms.feature.projector: type none needs equal channels, but pair {place} has {student} "
                f"(student '{names[0]}') and {teacher} (teacher '{names[1]}'); use linear, conv3 or mlp"
            )
        projectors.append(_projector(kind, given, wanted, bias))
    return projectors


def _projector(kind: ProjectorType, given: int, wanted: int, bias: bool) -> nn.Module:
    if kind == "linear":
        return Linear(given, wanted, bias=bias)
    if kind == "conv3":
        return nn.Conv2d(given, wanted, 3, padding=1, bias=bias)
    if kind == "mlp":
        return nn.Sequential(Linear(given, wanted, bias=bias), nn.GELU(), Linear(wanted, wanted, bias=bias))
    return nn.Identity()


def load_projectors(projectors: nn.ModuleList, state: Mapping[str, object], source: str) -> None:
    """Fill ``projectors`` from a file's content, bare or under ``params``, by name and shape.

    Args:
        projectors: what :func:`build_projectors` gave.
        state: the loaded file.
        source: the file's name, for messages.

    Raises:
        UserError: a key is missing, unknown or of another shape.
    """
    inner = state.get("params")
    given = inner if isinstance(inner, Mapping) else state
    wanted = projectors.state_dict()
    missing = [key for key in wanted if key not in given]
    unknown = [key for key in given if key not in wanted]
    if missing or unknown:
        raise UserError(
            f"{source}: these projectors do not fit the run's pairs: missing {', '.join(missing) or 'nothing'}; "
            f"unknown {', '.join(map(str, unknown)) or 'nothing'}; wanted: {', '.join(wanted) or 'none'}"
        )
    tensors: dict[str, Tensor] = {}
    for key, own in wanted.items():
        value = given[key]
        if not isinstance(value, Tensor) or value.shape != own.shape:
            found = shape_text(value) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"{source}: projector '{key}' is {found}, the run's is {shape_text(own)}; "
                "check the taps, the mapping and projector.side"
            )
        tensors[key] = value
    with torch.no_grad():
        projectors.load_state_dict(tensors)
