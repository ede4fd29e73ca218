"""The colorizer: colours carried along the motion, colours fetched from references, and a network that joins them.

The recurrence feeds back what was *predicted* for the previous frame, in floating point. The colours of the frame to
be coloured are never read, neither by the flow nor by anything else: of a LAB frame only the lightness is.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.fusion import average_colours
from atelier.archs.load import load_whole
from atelier.colorize.flow import FlowBackend
from atelier.colorize.matcher import ExemplarMatcher, ReferenceCache
from atelier.colorize.parts import resolve
from atelier.colorize.references import References
from atelier.colorize.sequences import LabFrames, colour_sequence
from atelier.colorize.state import MODES, ClipFlow, SequenceOutput, SequenceState, Teacher
from atelier.colorize.system_options import FusionSystemOptions, Mode
from atelier.errors import UserError, did_you_mean
from atelier.images.warp import warp

if TYPE_CHECKING:
    from PIL.Image import Image

    from atelier.archs.fusion_options import FusionOptions
    from atelier.archs.load_report import LoadReport
    from atelier.archs.weights import StateFile
    from atelier.colorize.flow_options import FlowOptions
    from atelier.colorize.matcher_options import ExemplarOptions


@dataclass(frozen=True)
class PreparedReferences:
    """References whose features were computed, to be used for any number of frames."""

    cache: ReferenceCache
    references: References


@dataclass(frozen=True)
class _Frame:
    """One frame's tensors, all ``[B, C, H, W]``."""

    ab: Tensor
    flow_ab: Tensor
    flow_conf: Tensor
    flow: Tensor
    exemplar_ab: Tensor
    exemplar_sim: Tensor


class FusionSystem(nn.Module):
    """Flow, exemplar matching and fusion as one module; children ``flow``, ``exemplar`` and ``fusion``.

    The flow is frozen, and so are the parts of the matcher that it says are; frozen parts stay in evaluation mode.
    :meth:`forward` is the step over a whole clip, so the module can be wrapped for several processes.

    Args:
        memflow_path, swintexco_path: accepted for older scripts and ignored with a warning: the code is in here.
        memflow_ckpt: a MemFlowNet file.
        swintexco_ckpt: folder of SwinTExCo's weights; None: its matching network begins untrained.
        fusion_net: a network of ``atelier.archs.fusion`` or one of that signature, or its options; None: the average.
        device: where to move everything.
        flow: ``auto`` (``memflow`` where ``memflow_ckpt`` is given, else ``dis``), a name of
            :data:`~atelier.colorize.flow_options.FLOWS`, options, or a :class:`FlowBackend`.
        exemplar: ``auto`` (``swintexco``), a name of :data:`~atelier.colorize.matcher_options.EXEMPLARS`, options, or
            an :class:`ExemplarMatcher`.
        backbone_weights: the Swin transformer's weights, a file; None: the folder's, or timm's cache or hub.
        freeze_swintexco: the matching network does not learn.
        allow_random_backbone: draw the transformer's weights where there are none; for tests.
        options: everything above at once, for option files; nothing else may be given then but ``device``.

    Raises:
        UserError: arguments that contradict each other, or weights that are missing or do not fit.
    """

    options: FusionSystemOptions | None

    def __init__(
        self,
        memflow_path: str | Path | None = None,
        swintexco_path: str | Path | None = None,
        memflow_ckpt: str | Path | None = None,
        swintexco_ckpt: str | Path | None = None,
        fusion_net: nn.Module | FusionOptions | None = None,
        device: torch.device | str | None = None,
        *,
        flow: str | FlowOptions | Mapping[str, Any] | FlowBackend = "auto",
        exemplar: str | ExemplarOptions | Mapping[str, Any] | ExemplarMatcher = "auto",
        backbone_weights: str | Path | None = None,
        freeze_swintexco: bool = False,
        allow_random_backbone: bool = False,
        options: FusionSystemOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        old = {"memflow_path": memflow_path, "swintexco_path": swintexco_path}
        if ignored := [name for name, value in old.items() if value is not None]:
            warnings.warn(
                f"{' and '.join(ignored)} ignored: MemFlow and SwinTExCo are part of this package",
                stacklevel=2,
            )
        parts = resolve(
            flow=flow,
            memflow_ckpt=memflow_ckpt,
            exemplar=exemplar,
            swintexco_ckpt=swintexco_ckpt,
            backbone_weights=backbone_weights,
            freeze_swintexco=freeze_swintexco,
            allow_random_backbone=allow_random_backbone,
            fusion=fusion_net,
            options=options,
        )
        self.flow = parts.flow
        self.exemplar = parts.exemplar
        self.fusion = parts.fusion
        self.options = parts.options
        self.flow.requires_grad_(False)
        #: Names of the modules that never learn; a copy of the system keeps them.
        self.frozen_parts = ("flow", *(f"exemplar.{part}" for part in _frozen_children(self.exemplar)))
        self._state: SequenceState | None = None
        self.train(self.training)
        if device is not None:
            self.to(device)

    @property
    def memflow(self) -> FlowBackend:
        """``flow`` under its older name."""
        return self.flow

    @property
    def swintexco(self) -> ExemplarMatcher:
        """``exemplar`` under its older name."""
        return self.exemplar

    @property
    def fusion_unet(self) -> nn.Module:
        """``fusion`` under its older name."""
        return self.fusion

    def train(self, mode: bool = True) -> FusionSystem:
        """As usual, but parts that hold nothing to train stay in evaluation mode."""
        super().train(mode)
        self.flow.eval()
        for part in (self.exemplar, *self.exemplar.children()):
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()
        return self

    def get_parameter_groups(self) -> list[dict[str, Any]]:
        """What an optimiser takes: trainable parameters of ``swintexco`` and ``fusion``, always both, in this order."""
        parts = {"swintexco": self.exemplar, "fusion": self.fusion}
        return [
            {"params": [p for p in part.parameters() if p.requires_grad], "name": name}
            for name, part in parts.items()
        ]

    def with_frozen(self, file: StateFile) -> Mapping[str, Tensor]:
        """A model file's tensors and those of the frozen parts it leaves out, if they are the ones of its training."""
        from atelier.colorize.model_files import with_frozen

        return with_frozen(self, file)

    def file_record(self) -> Mapping[str, Any]:
        """What model files say of the frozen parts: ``frozen`` (source and SHA-256 of each), ``notes``."""
        from atelier.colorize.model_files import frozen_record

        return {"frozen": frozen_record(self), "notes": list(getattr(self.exemplar, "notes", ()))}

    def load_matching(self, file: StateFile) -> LoadReport:
        """Give SwinTExCo's matching network (``exemplar.nonlocal_net``) weights trained with a fusion network.

        Raises:
            UserError: the matcher has no such network, or tensors do not fit, by name.
        """
        net = getattr(self.exemplar, "nonlocal_net", None)
        if not isinstance(net, nn.Module):
            raise UserError(
                f"{file.path} holds weights of SwinTExCo's matching network, but the exemplar is "
                f"{type(self.exemplar).__name__}; use exemplar: swintexco"
            )
        return load_whole(net, file)

    def prepare(self, references: References) -> PreparedReferences:
        """Compute the references' features once; the result stands for ``references`` in :meth:`forward`."""
        return PreparedReferences(self.exemplar.prepare(references), references)

    def forward(
        self,
        L: Tensor,
        references: References | PreparedReferences,
        *,
        flows: ClipFlow | tuple[Tensor, Tensor] | None = None,
        state: SequenceState | None = None,
        mode: Mode = "fused",
        previous_ab: Teacher | tuple[Tensor, Tensor] | None = None,
        bptt: int = 1,
    ) -> SequenceOutput:
        """Colour a clip, frame after frame.

        Args:
            L: unit lightness ``[B, T, 1, H, W]``.
            references: colour pictures of the batch; a frame that an anchor pins takes its colours.
            flows: motion found beforehand, (flow ``[B, T, 2, H, W]``, confidence ``[B, T, 1, H, W]``).
            state: what the frames before left; None: the clip begins a film.
            mode: whose colours are the output, and are handed on: the fusion network's, the average's, the flow's
                alone, the references' alone, or none.
            previous_ab: scheduled sampling, (true ab ``[B, T, 2, H, W]``, mask ``[B, T]``), see :class:`Teacher`.
            bptt: gradients go back through so many frames: the colour that is handed on is cut off from its past at
                every ``bptt``-th frame of the clip.

        Returns:
            ``SequenceOutput``; at the first frame of a scene the flow's colours are the exemplar's, confidence 0.

        Raises:
            UserError: an unknown mode, or shapes that do not fit each other.
        """
        _check(L, flows, state, mode, previous_ab, bptt)
        if isinstance(references, PreparedReferences):
            prepared = references
        elif mode == "grey":
            prepared = PreparedReferences(_no_cache(references), references)
        else:
            prepared = self.prepare(references)
        state = state or SequenceState()
        lightness, ab, memory, anchor = state.lightness, state.ab, state.flow, state.anchor
        frames: list[_Frame] = []
        for t in range(L.shape[1]):
            if ab is not None and t % bptt == 0:
                ab = ab.detach()
            here = L[:, t]
            given = None if flows is None else (flows[0][:, t], flows[1][:, t])
            past = None if lightness is None or ab is None else (lightness, ab)
            frame, memory = self._frame(here, past, memory, prepared, given, mode)
            colours = frame.ab
            pinned = None
            if mode != "grey":
                pinned = prepared.references.anchor_lab(state.frame + t, (here.shape[-2], here.shape[-1]))
            if pinned is not None:
                colours, anchor = pinned[:, 1:].to(colours.dtype), state.frame + t
                frame = _Frame(**{**frame.__dict__, "ab": colours})
            frames.append(frame)
            if previous_ab is not None:
                true, mask = previous_ab
                colours = torch.where(mask[:, t, None, None, None], true[:, t].to(colours.dtype), colours)
            lightness, ab = here, colours
        assert lightness is not None and ab is not None
        after = SequenceState(
            lightness.detach().clone(),
            ab.detach().clone(),
            memory,
            state.frame + len(frames),
            state.scene,
            anchor,
        )
        stacked = {
            name: torch.stack([getattr(frame, name) for frame in frames], dim=1)
            for name in _Frame.__annotations__
        }
        return SequenceOutput(**stacked, state=after)

    def _frame(
        self,
        lightness: Tensor,
        past: tuple[Tensor, Tensor] | None,
        memory: Mapping[str, Tensor] | None,
        prepared: PreparedReferences,
        given: tuple[Tensor, Tensor] | None,
        mode: Mode,
    ) -> tuple[_Frame, Mapping[str, Tensor] | None]:
        """One frame's colours, anchors aside, and the flow's memory after it. ``past``: lightness and ab before."""
        none, zero = lightness.new_zeros(1).float(), torch.zeros_like(lightness, dtype=torch.float32)
        two = zero.expand(-1, 2, -1, -1)
        if mode == "grey":
            return _Frame(two, two, zero, two, two, zero), memory
        flow, confidence = two, zero
        flow_ab: Tensor | None = None
        if past is not None and mode != "exemplar":
            flow, confidence, memory = self._motion(lightness, past, memory, given)
            flow_ab = warp(past[1], flow).clamp(-1, 1)
        if flow_ab is None or mode != "flow":
            exemplar_ab, similarity = self.exemplar.match(lightness, prepared.cache)
            exemplar_ab = exemplar_ab.float()
        else:
            exemplar_ab, similarity = flow_ab, none.expand_as(zero)
        if flow_ab is None:
            flow_ab = exemplar_ab
        proposals = (flow_ab, exemplar_ab, confidence, similarity)
        if mode == "fused":
            ab = self._fuse(*proposals, lightness)
        elif mode == "average":
            ab = average_colours(*proposals)
        else:
            ab = flow_ab if mode == "flow" else exemplar_ab
        return _Frame(ab.clamp(-1, 1), flow_ab, confidence, flow, exemplar_ab, similarity), memory

    def _motion(
        self,
        lightness: Tensor,
        past: tuple[Tensor, Tensor],
        memory: Mapping[str, Tensor] | None,
        given: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Mapping[str, Tensor] | None]:
        if given is not None:
            return given[0].float(), given[1].float(), memory
        with torch.no_grad():
            found = self.flow.estimate(
                lightness,
                past[0],
                self.flow.initial_state() if memory is None else memory,
                previous_ab=past[1].detach(),
            )
        return found.flow.detach(), found.confidence.detach(), found.state

    def _fuse(self, *planes: Tensor) -> Tensor:
        """The fusion network on planes padded to sides that it takes."""
        options = getattr(self.fusion, "options", None)
        multiple = getattr(options, "size_multiple", 1)
        height, width = planes[-1].shape[-2:]
        least = 2 * multiple if multiple > 1 else 1
        below, right = (max(-side % multiple, least - side) for side in (height, width))
        if below or right:
            planes = tuple(F.pad(plane, (0, right, 0, below), mode="replicate") for plane in planes)
        fused: Tensor = self.fusion(*planes)
        return fused[..., :height, :width].float()

    def reset_memory(self) -> None:
        """Forget the state that :meth:`forward_sequence` left in :attr:`state`."""
        self._state = None

    @property
    def state(self) -> SequenceState | None:
        """What the last :meth:`forward_sequence` left; hand it over as ``state=`` to go on from there."""
        return self._state

    def forward_sequence(
        self,
        frames_lab: LabFrames,
        frames_pil: object = None,
        references_pil: Image | Tensor | Sequence[Image | Tensor] | None = None,
        return_memflow: bool = False,
        *,
        references: References | None = None,
        state: SequenceState | None = None,
    ) -> Any:
        """Colour a list of frames or a batch of clips; begins anew unless a state is given.

        Args:
            frames_lab: a list over frames of ``[3, H, W]`` or ``[B, 3, H, W]``, or a batch ``[B, T, 3, H, W]``, in unit
                LAB; only the lightness is read.
            frames_pil: not used; older scripts pass it.
            references_pil: one picture, or one for each frame: PIL images, or RGB tensors ``[3, h, w]`` (for a batch
                also ``[B, 3, h, w]``) in [0, 1]. Those larger than the frame are made smaller.
            return_memflow: also return the flow's part.
            references: instead of ``references_pil``: pictures with roles.
            state: what frames before left.

        Returns:
            Unit LAB in the form of ``frames_lab``; with ``return_memflow`` the tuple of it, LAB with the flow's
            colours, and confidences (one channel), in the same form.

        Raises:
            UserError: frames or references that do not fit each other.
        """
        result, self._state = colour_sequence(
            self, frames_lab, references_pil, references, state, return_memflow
        )
        return result


def _frozen_children(module: nn.Module) -> list[str]:
    """Children that hold tensors of which none learns."""
    return [
        name
        for name, child in module.named_children()
        if child.state_dict() and not any(each.requires_grad for each in child.parameters())
    ]


def _no_cache(references: References) -> ReferenceCache:
    """What stands for the features where the mode needs none."""
    empty = references.lab.new_zeros(references.lab.shape[0], 0, 1)
    return ReferenceCache(empty, empty.expand(-1, -1, 2), None, ())


def _check(
    lightness: Tensor,
    flows: tuple[Tensor, Tensor] | None,
    state: SequenceState | None,
    mode: str,
    teacher: tuple[Tensor, Tensor] | None,
    bptt: int,
) -> None:
    if mode not in MODES:
        raise UserError(f"unknown mode '{mode}'{did_you_mean(mode, MODES)} known: {', '.join(MODES)}")
    if bptt < 1:
        raise UserError(f"bptt counts frames, at least 1, given {bptt}")
    shape = tuple(lightness.shape)
    if lightness.ndim != 5 or shape[2] != 1 or shape[1] == 0:
        raise UserError(f"lightness must be [B, T, 1, H, W] with at least one frame, not {shape}")
    batch, count, _, height, width = shape
    expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
    if flows is not None:
        expected["flows' field"] = (flows[0], (batch, count, 2, height, width))
        expected["flows' confidence"] = (flows[1], (batch, count, 1, height, width))
    if teacher is not None:
        expected["previous_ab"] = (teacher[0], (batch, count, 2, height, width))
        expected["previous_ab's mask"] = (teacher[1], (batch, count))
    if state is not None and state.lightness is not None and state.ab is not None:
        expected["the state's lightness"] = (state.lightness, (batch, 1, height, width))
        expected["the state's colours"] = (state.ab, (batch, 2, height, width))
    for name, (tensor, wanted) in expected.items():
        if tuple(tensor.shape) != wanted:
            raise UserError(f"{name} must be {wanted} for lightness {shape}, not {tuple(tensor.shape)}")
