"""Options of UNetDiscriminatorSN, Real-ESRGAN's discriminator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from atelier.archs.discriminator_options import DiscriminatorOptions

if TYPE_CHECKING:
    from atelier.archs.unet_discriminator import UNetDiscriminatorSN

#: The U-Net halves a picture three times.
SIDE_MULTIPLE = 8


class UNetDiscriminatorSNOptions(DiscriminatorOptions):
    """A U-Net with spectral normalisation that gives one logit per pixel; ``num_feat`` channels at full size."""

    type: Literal["UNetDiscriminatorSN"] = "UNetDiscriminatorSN"
    num_in_ch: int = Field(3, ge=1)
    num_feat: int = Field(64, ge=1)
    skip_connection: bool = True

    def build(self) -> UNetDiscriminatorSN:
        """The network, PyTorch's default initialisation."""
        from atelier.archs.unet_discriminator import UNetDiscriminatorSN

        return UNetDiscriminatorSN(**self.model_dump(exclude={"type"}))

    @property
    def in_channels(self) -> int:
        """``num_in_ch``."""
        return self.num_in_ch

    def check_size(self, size: int) -> None:
        """Sides must be multiples of 8."""
        if size % SIDE_MULTIPLE:
            nearest = max(1, round(size / SIDE_MULTIPLE)) * SIDE_MULTIPLE
            raise ValueError(
                f"{size} is no multiple of {SIDE_MULTIPLE}, which UNetDiscriminatorSN needs; the nearest is {nearest}"
            )
