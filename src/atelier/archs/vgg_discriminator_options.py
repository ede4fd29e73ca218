"""Options of VGGStyleDiscriminator, ESRGAN's discriminator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from atelier.archs.discriminator_options import DiscriminatorOptions

if TYPE_CHECKING:
    from atelier.archs.vgg_discriminator import VGGStyleDiscriminator


class VGGStyleDiscriminatorOptions(DiscriminatorOptions):
    """A chain of strided convolutions with BatchNorm that gives one logit a picture of a fixed size."""

    type: Literal["VGGStyleDiscriminator"] = "VGGStyleDiscriminator"
    num_in_ch: int = Field(3, ge=1)
    num_feat: int = Field(64, ge=1)
    input_size: Literal[128, 256] = 128

    def build(self) -> VGGStyleDiscriminator:
        """The network, PyTorch's default initialisation."""
        from atelier.archs.vgg_discriminator import VGGStyleDiscriminator

        return VGGStyleDiscriminator(**self.model_dump(exclude={"type"}))

    @property
    def in_channels(self) -> int:
        """``num_in_ch``."""
        return self.num_in_ch

    def check_size(self, size: int) -> None:
        """Crops must have the side ``input_size``."""
        if size != self.input_size:
            raise ValueError(
                f"{size} is not network_d.input_size {self.input_size}: VGGStyleDiscriminator judges crops of one "
                "size, 128 or 256"
            )
