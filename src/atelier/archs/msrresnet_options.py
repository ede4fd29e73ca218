"""Options of MSRResNet1, KAIR's modified SRResNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.archs.msrresnet import MSRResNet1


class MSRResNet1Options(NetworkOptions):
    """``nb`` residual blocks of ``nc`` channels.

    KAIR's files also give this network ``act_mode`` and ``upsample_mode``, which it does not read: its activations are
    ReLU inside the blocks and LeakyReLU outside, and it always enlarges by pixel shuffle.
    """

    scale_key: ClassVar[str | None] = "upscale"

    type: Literal["MSRResNet1"] = "MSRResNet1"
    in_nc: int = Field(3, ge=1)
    out_nc: int = Field(3, ge=1)
    nc: int = Field(64, ge=1)
    nb: int = Field(16, ge=1)
    upscale: Literal[2, 3, 4] = 4

    @model_validator(mode="after")
    def _skip_must_fit(self) -> Self:
        if self.in_nc not in (1, self.out_nc):
            raise ValueError(
                f"in_nc {self.in_nc} and out_nc {self.out_nc}: the enlarged input is added to the output, so in_nc "
                "must be 1 or equal out_nc"
            )
        return self

    def build(self) -> MSRResNet1:
        """The network; every convolution starts at a tenth of Kaiming's deviation, its bias at 0."""
        from atelier.archs.msrresnet import MSRResNet1

        return MSRResNet1(**self.model_dump(exclude={"type"}))

    @property
    def scale(self) -> int:
        """``upscale``."""
        return self.upscale

    @property
    def in_channels(self) -> int:
        """``in_nc``."""
        return self.in_nc

    @property
    def out_channels(self) -> int:
        """``out_nc``."""
        return self.out_nc

    @property
    def stages(self) -> tuple[str, ...]:
        """The blocks ``recon_trunk.*``."""
        return tuple(f"recon_trunk.{block}" for block in range(self.nb))

    @property
    def receptive_radius(self) -> int:
        """Two pixels a block, one for the first convolution, and two for all that comes after the blocks."""
        return 2 * self.nb + 3

    @classmethod
    def recognises(cls, shapes: Shapes) -> bool:
        """A ``recon_trunk`` of plain residual blocks between ``conv_first`` and ``HRconv``."""
        return {
            "conv_first.weight",
            "recon_trunk.0.conv1.weight",
            "upconv1.weight",
            "HRconv.weight",
            "conv_last.weight",
        } <= set(shapes)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self:
        """All options."""
        nc, in_nc = shapes["conv_first.weight"][:2]
        rows = shapes["upconv1.weight"][0]
        if rows not in (4 * nc, 9 * nc):
            raise UserError(f"upconv1 has {rows} rows, expected {4 * nc} (x2, x4) or {9 * nc} (x3)")
        twice = 4 if "upconv2.weight" in shapes else 2
        return cls.model_validate(
            {
                "in_nc": in_nc,
                "out_nc": shapes["conv_last.weight"][0],
                "nc": nc,
                "nb": 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("recon_trunk.")),
                "upscale": 3 if rows == 9 * nc else twice,
            }
        )
