"""FusionLoss: the sum of the colouring terms of a clip, float32 throughout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.losses.adaptive import adaptive_loss
from atelier.losses.charbonnier import charbonnier_loss
from atelier.losses.clips import Frames, as_clip
from atelier.losses.colour_options import ColourLossOptions
from atelier.losses.colour_perceptual import Features, colour_perceptual_loss
from atelier.losses.contextual import contextual_stages_loss
from atelier.losses.l1 import l1_loss
from atelier.losses.lab_picture import lab_picture
from atelier.losses.smoothness import smoothness_loss
from atelier.losses.temporal import Direction, temporal_loss

_CHARBONNIER_EPS = 1e-3
_DEFAULT = {"l1": 1.0, "adaptive": 0.5}
#: Which term joins when its network is given and no weights are.
_JOINING = {"perceptual": 0.05, "contextual": 0.015}


@dataclass(frozen=True, eq=False)
class _Clip:
    """All that a term may read, ``[B, T, C, H, W]``; None where it was not given."""

    ab: Tensor
    truth: Tensor
    flow: Tensor | None
    flow_ab: Tensor | None
    confidence: Tensor | None
    mask: Tensor | None
    exemplar_ab: Tensor | None
    references: Tensor | None
    reference_valid: Tensor | None
    direction: Direction


class FusionLoss(nn.Module):
    """Weighted sum of the colouring terms between a coloured clip and the true one.

    Args:
        weights: the terms: :class:`~atelier.losses.colour_options.ColourLossOptions` or a mapping such as
            ``{"l1": 1.0, "temporal": 0.2}``. None: ``l1`` 1.0 on all frames and ``adaptive`` 0.5 on frames >= 1,
            which need no weight files; ``perceptual`` (0.05) and ``contextual`` (0.015) join when their network is
            given. ``gan`` is not added here: the objective alternates with the discriminator.
        perceptual: a frozen network of sRGB pictures in [0, 1] for the perceptual term; None where ``weights`` ask for
            it: VGG19 with its weights, or the embed net's last stage, as the term says.
        embed_net: a frozen network that gives four stages of an sRGB picture, for the contextual term. It stays with
            its owner: it is neither moved nor saved with this loss.

    Raises:
        UserError: unknown terms, or a term whose network or weight file is missing (never a random network).
    """

    perceptual: Callable[[Tensor], Features] | None

    def __init__(
        self,
        weights: ColourLossOptions | Mapping[str, Any] | None = None,
        *,
        perceptual: Callable[[Tensor], Features] | None = None,
        embed_net: Callable[[Tensor], Sequence[Tensor]] | None = None,
    ) -> None:
        super().__init__()
        given = {"perceptual": perceptual, "contextual": embed_net}
        #: Chosen terms may miss nothing; the default ones do without what was not given.
        self._lenient = weights is None
        self.options = _checked(
            {**_DEFAULT, **{term: _JOINING[term] for term, network in given.items() if network is not None}}
            if weights is None
            else weights
        )
        self._embed = (embed_net,)  # inside a tuple, so that it is no child
        if self.options.contextual is not None and embed_net is None:
            raise UserError("loss.contextual needs the features of the embed net: give embed_net=")
        self.perceptual = perceptual
        if self.options.perceptual is not None and perceptual is None:
            self._own_perceptual()
        self._warned = False

    def _own_perceptual(self) -> None:
        term = self.options.perceptual
        assert term is not None
        if term.network == "embed":
            if self._embed[0] is None:
                raise UserError(
                    "loss.perceptual with network: embed needs the features of the embed net: give embed_net="
                )
            return
        from atelier.losses.vgg import VggFeatures

        self.perceptual = VggFeatures([term.layer], "vgg19", weights=term.vgg_weights)

    def forward(
        self,
        outputs: Frames,
        frames_lab: Frames,
        memflow_outputs: Frames | None = None,
        memflow_confs: Frames | None = None,
        *,
        sequence: Any = None,
        flows: Any = None,
        references: Any = None,
        valid: Frames | None = None,
        direction: Direction = "backward",
        return_terms: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The loss of a clip, 0-d with its graph; with ``return_terms`` also each term times its weight, detached.

        Clips are batches ``[B, T, C, H, W]``, lists over T of ``[C, H, W]`` (one clip) or of ``[B, C, H, W]``. All
        colours are unit LAB; where C may be 3 or 2, the last two are ab.

        Args:
            outputs: the coloured frames, C = 3 or 2.
            frames_lab: the true frames, C = 3; the lightness of pictures comes from here.
            memflow_outputs: the previous colours along the flow, C = 3 or 2.
            memflow_confs: how far they are trusted, C = 1, in [0, 1]; None: what ``sequence`` or ``flows`` say, else 1.
            sequence: a system's output for the clip; ``flow``, ``flow_ab``, ``flow_conf`` and ``exemplar_ab`` are
                taken from it where not given here.
            flows: ``[B, T, 2, H, W]`` in pixels, entry 0 unread; or what has it as ``flow`` and perhaps ``confidence``;
                or a list over frames of either.
            references: ``[B, R, 3, H, W]``, ``[B, 3, H, W]``, or what has this as ``lab`` and perhaps ``valid``.
            valid: where the flow is right, C = 1; the temporal term's mask instead of the confidence.
            direction: ``forward`` where the flow lies on the previous frame's grid (SwinTExCo's files).

        Raises:
            UserError: shapes do not fit, a chosen term lacks its input, or neighbours are compared in a clip of one
                frame.
        """
        with torch.autocast(_device_of(outputs), enabled=False):
            clip = _gathered(
                outputs,
                frames_lab,
                memflow_outputs,
                memflow_confs,
                sequence,
                flows,
                references,
                valid,
                direction,
            )
            terms = {}
            for name in type(self.options).model_fields:
                if name != "gan" and getattr(self.options, name) is not None:
                    terms[name] = getattr(self.options, name).weight * getattr(self, f"_{name}")(clip)
            total = torch.stack(list(terms.values())).sum()
        return (total, {name: term.detach() for name, term in terms.items()}) if return_terms else total

    def _l1(self, clip: _Clip) -> Tensor:
        return self._distance(clip.ab, clip.truth[:, :, 1:])

    def _exemplar(self, clip: _Clip) -> Tensor:
        return l1_loss(_needed(clip.exemplar_ab, "exemplar", "sequence="), clip.truth[:, :, 1:])

    def _distance(self, ab: Tensor, ab_gt: Tensor) -> Tensor:
        assert self.options.l1 is not None
        if self.options.l1.charbonnier:
            return charbonnier_loss(ab, ab_gt, eps=_CHARBONNIER_EPS**2)
        return l1_loss(ab, ab_gt)

    def _perceptual(self, clip: _Clip) -> Tensor:
        network = self.perceptual or self._embed[0]
        assert network is not None
        lightness, ab_gt = clip.truth[:, :, :1], clip.truth[:, :, 1:]
        return colour_perceptual_loss(
            lightness.flatten(0, 1), clip.ab.flatten(0, 1), ab_gt.flatten(0, 1), network
        )

    def _contextual(self, clip: _Clip) -> Tensor:
        term, embed = self.options.contextual, self._embed[0]
        assert term is not None and embed is not None
        references = _needed(clip.references, "contextual", "references=")
        batch, count = references.shape[:2]
        seen = [stage.float() for stage in embed(lab_picture(clip.truth[:, 0, :1], clip.ab[:, 0]))]
        with torch.no_grad():
            pictures = lab_picture(references[:, :, :1], references[:, :, 1:]).flatten(0, 1)
            # The pictures of one clip make one longer list of positions: [B·R, C, h, w] to [B, C, R, h, w].
            wanted = [
                stage.float().reshape(batch, count, *stage.shape[1:]).transpose(1, 2)
                for stage in embed(pictures)
            ]
            masks = None
            if clip.reference_valid is not None:
                masks = [_shrunk(clip.reference_valid, stage) for stage in wanted]
        return contextual_stages_loss(seen, wanted, bandwidth=term.bandwidth, chunk=term.chunk, valid=masks)

    def _temporal(self, clip: _Clip) -> Tensor:
        assert self.options.temporal is not None
        flow = _needed(clip.flow, "temporal", "flows= or sequence=")
        return self._along(clip, flow, self.options.temporal.detach_previous, "temporal")

    def _adaptive(self, clip: _Clip) -> Tensor:
        term = self.options.adaptive
        assert term is not None
        _two_frames(clip, "adaptive")
        missing = [
            name
            for name, value in (
                ("memflow_outputs= (or sequence=)", clip.flow_ab),
                ("flows= (or sequence=)", clip.flow if term.smooth else 0),
            )
            if value is None
        ]
        if missing and not self._lenient and clip.flow_ab is None:
            raise UserError(f"loss.adaptive needs {missing[0]}")
        if missing and not self._warned:
            self._warned = True
            warnings.warn(
                f"FusionLoss: not given: {', '.join(missing)}; the parts of 'adaptive' that need it are left out",
                stacklevel=5,  # past the two frames of a module call, to who called the loss
            )
        total = clip.ab.new_zeros(())
        if clip.flow_ab is not None:
            confidence = torch.ones_like(clip.ab[:, :, :1]) if clip.confidence is None else clip.confidence
            total = total + adaptive_loss(clip.ab, clip.flow_ab, confidence)
        if clip.flow is not None and term.smooth:
            total = total + term.smooth * self._along(clip, clip.flow, term.detach_previous, "adaptive")
        return total

    def _smoothness(self, clip: _Clip) -> Tensor:
        return smoothness_loss(clip.ab, clip.truth)

    def _along(self, clip: _Clip, flow: Tensor, detached: bool, name: str) -> Tensor:
        _two_frames(clip, name)
        mask = torch.ones_like(clip.ab[:, :, :1]) if clip.mask is None else clip.mask
        return temporal_loss(clip.ab, flow, mask, clip.direction, detach_previous=detached)


def _checked(weights: ColourLossOptions | Mapping[str, Any]) -> ColourLossOptions:
    try:
        return ColourLossOptions.model_validate(weights)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(('loss', *map(str, problem['loc'])))}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        raise UserError(f"{'; '.join(wrong)}; terms: {', '.join(ColourLossOptions.model_fields)}") from None


def _gathered(
    outputs: Frames,
    frames_lab: Frames,
    memflow_outputs: Frames | None,
    memflow_confs: Frames | None,
    sequence: Any,
    flows: Any,
    references: Any,
    valid: Frames | None,
    direction: Direction,
) -> _Clip:
    ab = as_clip(outputs, (3, 2), "outputs")[:, :, -2:]
    truth = as_clip(frames_lab, (3,), "frames_lab")

    def fitting(frames: Any, channels: tuple[int, ...], name: str) -> Tensor | None:
        if frames is None:
            return None
        clip = as_clip(frames, channels, name)
        if clip.shape[:2] != truth.shape[:2] or clip.shape[-2:] != truth.shape[-2:]:
            raise UserError(f"{name} is {_size(clip)}, frames_lab {_size(truth)}; they must agree")
        return clip[:, :, -2:] if channels == (3, 2) else clip

    fitting(ab, (2,), "outputs")
    carried = memflow_outputs if memflow_outputs is not None else getattr(sequence, "flow_ab", None)
    flow, confidence = _motion(flows)
    flow = getattr(sequence, "flow", None) if flow is None else flow
    for better in (getattr(sequence, "flow_conf", None), memflow_confs):
        confidence = confidence if better is None else better
    conf = fitting(confidence, (1,), "memflow_confs")
    given = fitting(valid, (1,), "valid")
    pictures = getattr(references, "lab", references)
    if isinstance(pictures, Tensor) and pictures.ndim == 4:
        pictures = pictures[:, None]
    if pictures is not None:
        pictures = as_clip(pictures, (3,), "references")
    return _Clip(
        ab=ab,
        truth=truth,
        flow=fitting(flow, (2,), "flows"),
        flow_ab=fitting(carried, (3, 2), "memflow_outputs"),
        confidence=conf,
        mask=conf if given is None else given,
        exemplar_ab=fitting(getattr(sequence, "exemplar_ab", None), (3, 2), "sequence.exemplar_ab"),
        references=pictures,
        reference_valid=getattr(references, "valid", None),
        direction=direction,
    )


def _motion(flows: Any) -> tuple[Any, Any]:
    """Flow and confidence of what was given: a tensor, what has both as attributes, or a list over frames of either."""
    if isinstance(flows, list | tuple) and not hasattr(flows, "flow"):
        pairs = [_motion(each) for each in flows]
        confidences = [confidence for _, confidence in pairs if confidence is not None]
        return [flow for flow, _ in pairs], confidences if len(confidences) == len(pairs) else None
    return getattr(flows, "flow", flows), getattr(flows, "confidence", None)


def _needed(value: Tensor | None, term: str, source: str) -> Tensor:
    if value is None:
        raise UserError(f"loss.{term} needs {source}")
    return value


def _two_frames(clip: _Clip, term: str) -> None:
    if clip.ab.shape[1] < 2:
        raise UserError(
            f"loss.{term} compares neighbouring frames, but the clip has one frame; clips need two or more"
        )


def _shrunk(valid: Tensor, stage: Tensor) -> Tensor:
    """The mask ``[B, R, 1, H, W]`` at the size of a stage ``[B, C, R, h, w]``: places wholly inside the picture."""
    height, width = stage.shape[-2:]
    share = nn.functional.adaptive_avg_pool2d(valid.flatten(0, 1).float(), (height, width))
    return (share > 1 - 1e-3).reshape(valid.shape[0], -1)


def _size(clip: Tensor) -> str:
    batch, frames, _, height, width = clip.shape
    return f"{batch} clips of {frames} frames of {width}×{height}"


def _device_of(frames: Frames) -> str:
    first = frames if isinstance(frames, Tensor) else next(iter(frames), None)
    return "cpu" if first is None else first.device.type
