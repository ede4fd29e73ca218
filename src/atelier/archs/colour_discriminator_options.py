"""Options of ColourDiscriminatorSN, the discriminator of exemplar colouring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from atelier.archs.discriminator_options import DiscriminatorOptions

if TYPE_CHECKING:
    from atelier.archs.colour_discriminator import ColourDiscriminatorSN

#: Six halvings must leave more than one place, or instance normalisation has nothing to normalise by.
LEAST_SIDE = 128


class ColourDiscriminatorSNOptions(DiscriminatorOptions):
    """Six halving convolutions with self-attention after the second; one logit a picture."""

    type: Literal["ColourDiscriminatorSN"] = "ColourDiscriminatorSN"
    num_in_ch: int = Field(3, ge=1)
    num_feat: int = Field(64, ge=1)

    def build(self) -> ColourDiscriminatorSN:
        """The network, PyTorch's default initialisation."""
        from atelier.archs.colour_discriminator import ColourDiscriminatorSN

        return ColourDiscriminatorSN(**self.model_dump(exclude={"type"}))

    @property
    def in_channels(self) -> int:
        """``num_in_ch``."""
        return self.num_in_ch

    def check_size(self, size: int) -> None:
        """Sides must be 128 or more."""
        if size < LEAST_SIDE:
            raise ValueError(
                f"{size} is too small for ColourDiscriminatorSN: it judges pictures of {LEAST_SIDE} and more"
            )
