"""Options of the networks that join two proposals of colour, and their registry."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from atelier.archs.network_options import Shapes
from atelier.errors import UserError
from atelier.options.base import Component, Registry

if TYPE_CHECKING:
    from atelier.archs.fusion import ConfidenceAverage, FusionNet, SimpleFusionNet, UNetFusionNet
    from atelier.archs.fusion_vidnet import FusionNetV1

Base = Literal["average", "flow"]


class FusionOptions(Component):
    """Options of one fusion network."""

    @abstractmethod
    def build(self) -> FusionNet:
        """The network, untrained, float32, on torch's default device."""

    @property
    def size_multiple(self) -> int:
        """Both sides of a frame must be multiples of this."""
        return 1


class AverageOptions(FusionOptions):
    """The average of both colours, weighted by confidence and similarity: nothing to train."""

    type: Literal["average"] = "average"

    def build(self) -> ConfidenceAverage:
        """The formula as a module."""
        from atelier.archs.fusion import ConfidenceAverage

        return ConfidenceAverage()


class SimpleFusionOptions(FusionOptions):
    """Four convolutions at full size that correct ``base``."""

    type: Literal["simple"] = "simple"
    base: Base = "average"

    def build(self) -> SimpleFusionNet:
        """The network; its last layer is zero, so that it begins as ``base``."""
        from atelier.archs.fusion import SimpleFusionNet

        return SimpleFusionNet(self.base)


class UNetFusionOptions(FusionOptions):
    """A small U-Net that shifts the weights of the average and adds a bounded residual."""

    type: Literal["unet"] = "unet"
    width: int = Field(16, ge=4, multiple_of=4)

    def build(self) -> UNetFusionNet:
        """The network; its last layer is zero, so that it begins as the average."""
        from atelier.archs.fusion import UNetFusionNet

        return UNetFusionNet(self.width)

    @property
    def size_multiple(self) -> int:
        """Two halvings."""
        return 4


class VidNetFusionOptions(FusionOptions):
    """ColorVidNet's layout with eight input planes, as a correction of ``base``."""

    type: Literal["vidnet"] = "vidnet"
    base: Base = "average"

    def build(self) -> FusionNetV1:
        """The network; its last layer is zero, so that it begins as ``base``."""
        from atelier.archs.fusion_vidnet import FusionNetV1

        return FusionNetV1(self.base)

    @property
    def size_multiple(self) -> int:
        """Three halvings."""
        return 8


FUSIONS: Registry[FusionOptions] = Registry(
    "fusion network",
    {
        "average": "atelier.archs.fusion_options:AverageOptions",
        "simple": "atelier.archs.fusion_options:SimpleFusionOptions",
        "unet": "atelier.archs.fusion_options:UNetFusionOptions",
        "vidnet": "atelier.archs.fusion_options:VidNetFusionOptions",
    },
)


def fusion_from_shapes(shapes: Shapes, *, foreign: bool = False) -> FusionOptions:
    """The fusion network whose weights have these shapes.

    Args:
        shapes: name -> shape.
        foreign: the file is one of the code base that came before: its networks correct the flow's colours.

    Raises:
        UserError: the shapes belong to no fusion network, or to one whose decoder was never trained.
    """
    base: Base = "flow" if foreign else "average"
    if "enc1.0.weight" in shapes:
        raise UserError(
            "this fusion U-Net cannot be used: its decoder was drawn anew at every pass, so the file holds no trained "
            "decoder; train a fusion network of type simple, unet or vidnet"
        )
    if shapes.get("net.0.weight") == (32, 7, 3, 3):
        return SimpleFusionOptions(base=base)
    if shapes.get("conv1_1.0.weight", ())[:2] == (32, 8):
        return VidNetFusionOptions(base=base)
    first = shapes.get("e1.0.weight", ())
    if first[1:] == (7, 3, 3) and first[0] % 4 == 0:
        return UNetFusionOptions(width=first[0])
    raise UserError(
        "these are no weights of a fusion network; known by net.0.weight (simple), e1.0.weight (unet) and "
        f"conv1_1.0.weight with 8 input planes (vidnet), given {', '.join(list(shapes)[:5]) or 'nothing'}"
    )
