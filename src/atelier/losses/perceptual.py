"""PerceptualLoss: differences of VGG features (Johnson et al., ECCV 2016; before the ReLU: ESRGAN, 2018).

This file holds the options and the search for the weight file, both without torch; the network and the
arithmetic are in :mod:`atelier.losses.vgg`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from atelier.errors import did_you_mean
from atelier.losses.base import LossOptions, PositiveWeight, Weight

if TYPE_CHECKING:
    from atelier.losses.module import Loss

VggType = Literal["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]
Criterion = Literal["l1", "l2", "fro"]

CONVOLUTIONS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2,) * 5,
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions per block (Simonyan & Zisserman, ICLR 2015, table 1: columns A, B, D, E)."""

RANDOM = "random"


class PerceptualLossOptions(LossOptions):
    """Content (``percep``) and style (``style``) terms on frozen VGG features of RGB pictures in [0, 1].

    Keys as in BasicSR. ``layer_weights`` names layers ``convA_B`` (before the ReLU), ``bnA_B``, ``reluA_B``
    or ``poolA``. ``use_input_norm`` normalises with ImageNet's mean and deviation; ``range_norm`` maps [-1,
    1] to [0, 1] first. ``perceptual_weight`` or ``style_weight`` 0 switches that term off. ``vgg_weights`` is
    the path of a torchvision weight file; left out, the places of :func:`weight_places` are searched and
    torchvision's download is tried last. ``vgg_weights: random`` uses fixed random weights: it exists for
    tests only and says nothing about picture quality.
    """

    type: Literal["PerceptualLoss"] = "PerceptualLoss"
    layer_weights: dict[str, PositiveWeight] = Field(default={"conv5_4": 1.0}, min_length=1)
    vgg_type: VggType = "vgg19"
    use_input_norm: bool = True
    range_norm: bool = False
    perceptual_weight: Weight = 1.0
    style_weight: Weight = 0.0
    criterion: Criterion = "l1"
    vgg_weights: str | None = None

    @model_validator(mode="after")
    def _known_layers_and_some_weight(self) -> PerceptualLossOptions:
        known = layer_names(self.vgg_type)
        for name in self.layer_weights:
            if name not in known:
                raise ValueError(
                    f"layer_weights: {self.vgg_type} has no layer '{name}'{did_you_mean(name, known)} "
                    f"layers: {', '.join(known)}"
                )
        if not self.perceptual_weight and not self.style_weight:
            raise ValueError("perceptual_weight and style_weight are both 0: leave the loss out instead")
        return self

    def build(self) -> Loss:
        """A loss with the terms ``percep`` and ``style``; raises UserError where no weights can be had."""
        from atelier.losses.vgg import PerceptualLoss

        return PerceptualLoss(self)


def layer_names(vgg_type: VggType) -> list[str]:
    """Names of the layers in torchvision's ``features``: the place in the list is torchvision's index."""
    plain, _, norm = vgg_type.partition("_")
    kinds = ("conv", "bn", "relu") if norm else ("conv", "relu")
    names: list[str] = []
    for block, count in enumerate(CONVOLUTIONS[plain], start=1):
        names += [f"{kind}{block}_{place}" for place in range(1, count + 1) for kind in kinds]
        names.append(f"pool{block}")
    return names


def weight_places(file_name: str, hub_folder: str | Path) -> list[Path]:
    """Where a weight file is looked for when ``vgg_weights`` is left out, in order.

    BasicSR's place, relative to the working directory, then torch's download cache.
    """
    return [Path("experiments/pretrained_models") / file_name, Path(hub_folder) / "checkpoints" / file_name]
