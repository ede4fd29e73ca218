"""SwinTExCo's matching, and the weights it runs with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from atelier.archs.colorvidnet import ColorVidNet
from atelier.archs.load import load_whole
from atelier.archs.swintexco_embed import SIDE_MULTIPLE, SwinEmbedNet, embed_state
from atelier.archs.swintexco_warp import WarpNet
from atelier.archs.weights import StateFile, read_weights
from atelier.colorize.matcher import ExemplarMatcher
from atelier.colorize.matcher_options import SwinTExCoOptions
from atelier.errors import UserError
from atelier.images.lab import LabScale, lab_to_rgb

_log = logging.getLogger(__name__)
# What the official program leaves beside its networks.
_NOT_NEEDED = ("discriminator.pth", "learning_state.pth")
# The official ColorVidNet gives tanh times this, in Lab units.
_COLORNET_SCALE = 128.0


@dataclass(frozen=True)
class WeightSource:
    """Where a network's weights come from: a description for people; the file and its SHA-256, where there is one."""

    text: str
    path: Path | None = None
    sha256: str | None = None


class SwinTExCoMatcher(ExemplarMatcher):
    """Swin features, matched by WarpNet; the embed net and ColorVidNet are frozen and stay in evaluation mode.

    Children carry the official names: ``embed_net``, ``nonlocal_net``, ``colornet`` (None where no file had one).

    Args:
        embed_net: features of pictures.
        nonlocal_net: makes them comparable.
        colornet: refines matched colours by the previous frame's, see :meth:`refine`; fusion does not use it.
        options: temperatures, chunk, whether ``nonlocal_net`` is frozen too.
        sources: by child, where the weights come from.
        notes: what whoever runs it, or opens a model file made with it, must know about these weights.
    """

    size_multiple = SIDE_MULTIPLE
    enlarging = "nearest"

    def __init__(
        self,
        embed_net: SwinEmbedNet,
        nonlocal_net: WarpNet,
        colornet: ColorVidNet | None,
        options: SwinTExCoOptions,
        sources: Mapping[str, WeightSource],
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(options.attention_chunk)
        self.options = options
        self.sources = dict(sources)
        self.notes = tuple(notes)
        self.embed_net = embed_net
        self.nonlocal_net = nonlocal_net
        self.colornet = colornet
        if colornet is not None:
            colornet.requires_grad_(False)
        if options.freeze:
            nonlocal_net.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SwinTExCoMatcher:
        """Frozen parts stay in evaluation mode: dropout would change what must not change."""
        super().train(mode)
        if self.colornet is not None:
            self.colornet.eval()
        if self.options.freeze:
            self.nonlocal_net.eval()
        return self

    def temperature(self) -> float:
        """``temperature`` while WarpNet learns, else ``inference_temperature``."""
        return self.options.temperature if self.nonlocal_net.training else self.options.inference_temperature

    def keys(self, lab: Tensor, valid: Tensor | None) -> Tensor:
        """Of the reference's sRGB picture; see the base class."""
        levels = self.embed_net(lab_to_rgb(LabScale.UNIT.restore(lab)))
        return self.nonlocal_net.keys(levels, valid)

    def queries(self, lightness: Tensor, valid: Tensor | None) -> Tensor:
        """Of L/100 in three equal channels, which is how SwinTExCo was trained; see the base class."""
        levels = self.embed_net((0.5 * (lightness.float() + 1)).expand(-1, 3, -1, -1))
        return self.nonlocal_net.queries(levels, valid)

    @torch.no_grad()
    def refine(
        self, lightness: Tensor, ab: Tensor, similarity: Tensor, previous: Tensor | None = None
    ) -> Tensor:
        """ColorVidNet's colours (``--exemplar-head colornet``): SwinTExCo as it was published, without fusion.

        Args:
            lightness: ``[B, 1, H, W]`` unit scale, sides multiples of 8 and at least 16.
            ab: matched colours ``[B, 2, H, W]``, unit scale.
            similarity: ``[B, 1, H, W]`` of the match.
            previous: the previous frame as it was coloured, ``[B, 3, H, W]`` in unit LAB; None for the first frame:
                zeros in the network's scale, as the official program begins.

        Returns:
            Unit ab ``[B, 2, H, W]`` in [-1, 1], float32.

        Raises:
            UserError: no colornet.pth was loaded.
        """
        if self.colornet is None:
            raise UserError(
                "the exemplar head 'colornet' needs colornet.pth in the SwinTExCo folder "
                "(exemplar.checkpoint, --swintexco_ckpt); use the head 'warp'"
            )
        unit = torch.cat([lightness.float(), ab.float()], dim=1)
        planes = [_centred(unit), similarity.float()]
        if self.colornet.in_channels == 7:
            planes.append(torch.zeros_like(unit) if previous is None else _centred(previous.float()))
        chroma: Tensor = self.colornet(torch.cat(planes, dim=1)).float()
        return (chroma / LabScale.UNIT.chroma_scale).clamp(-1, 1)


def _centred(unit: Tensor) -> Tensor:
    return LabScale.CENTRED.normalise(LabScale.UNIT.restore(unit))


def build_swintexco(options: SwinTExCoOptions, backbone: Path | None) -> SwinTExCoMatcher:
    """The matcher with the weights its options name.

    Args:
        options: the settings.
        backbone: ``options.backbone_file()``; None: the backbone's weights are drawn.

    Raises:
        UserError: a file is absent or does not fit, with the names that found no partner.
    """
    folder = options.checkpoint
    sources = {}
    notes = []
    # Numbers that are drawn only to be replaced shall shift nobody's.
    with torch.random.fork_rng(devices=(), enabled=backbone is not None):
        embed_net = SwinEmbedNet()
    if backbone is None:
        sources["embed_net"] = WeightSource("random (allow_random_backbone)")
        notes.append(
            "SwinTExCo's backbone has RANDOM weights (allow_random_backbone): its matches mean little"
        )
        _log.warning(notes[-1])
    else:
        file = read_weights(backbone)
        sources["embed_net"] = _load(embed_net, replace(file, state=embed_state(file.state, str(backbone))))
    with torch.random.fork_rng(devices=(), enabled=folder is not None):
        nonlocal_net = WarpNet()
    colornet = None
    if folder is None:
        sources["nonlocal_net"] = WeightSource("drawn, to be trained")
    else:
        sources["nonlocal_net"] = _load(nonlocal_net, read_weights(folder / "nonlocal_net.pth"))
        if (folder / "colornet.pth").is_file():
            colornet, sources["colornet"] = _colornet(read_weights(folder / "colornet.pth"))
        ignored = [name for name in _NOT_NEEDED if (folder / name).exists()]
        if ignored:
            notes.append(f"{folder}: {' and '.join(ignored)} not needed and not read")
            _log.info(notes[-1])
    return SwinTExCoMatcher(embed_net, nonlocal_net, colornet, options, sources, notes)


def vacant_swintexco(options: SwinTExCoOptions, shapes: Mapping[str, tuple[int, ...]]) -> SwinTExCoMatcher:
    """The matcher with drawn weights, to be filled from a file whose tensors have these ``shapes``."""
    first = shapes.get("colornet.conv1_1.0.weight")
    with torch.random.fork_rng(devices=()):
        colornet = ColorVidNet(first[1], out_scale=_COLORNET_SCALE) if first is not None else None
        return SwinTExCoMatcher(SwinEmbedNet(), WarpNet(), colornet, options, {})


def _load(net: torch.nn.Module, file: StateFile) -> WeightSource:
    report = load_whole(net, file)
    return WeightSource(report.source, report.path, report.sha256)


def _colornet(file: StateFile) -> tuple[ColorVidNet, WeightSource]:
    first = file.shapes.get("conv1_1.0.weight", ())
    channels = first[1] if len(first) == 4 else None
    if channels not in (4, 7):
        seen = "there is no such tensor" if channels is None else f"it has {channels} input channels"
        raise UserError(
            f"{file.path} is no ColorVidNet: conv1_1.0.weight must have 7 or 4 input channels, {seen}"
        )
    with torch.random.fork_rng(devices=()):
        net = ColorVidNet(channels, out_scale=_COLORNET_SCALE)
    return net, _load(net, file)
