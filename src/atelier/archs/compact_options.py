"""Options of SRVGGNetCompact, the plain convolution chain of Real-ESRGAN's small models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.archs.compact import SRVGGNetCompact


class SRVGGNetCompactOptions(NetworkOptions):
    """``num_conv`` counts the convolutions between the first and the last one."""

    scale_key: ClassVar[str | None] = "upscale"
    not_in_shapes: ClassVar[frozenset[str]] = frozenset({"act_type"})

    type: Literal["SRVGGNetCompact"] = "SRVGGNetCompact"
    num_in_ch: int = Field(3, ge=1)
    num_out_ch: int = Field(3, ge=1)
    num_feat: int = Field(64, ge=1)
    num_conv: int = Field(16, ge=0)
    upscale: int = Field(4, ge=1)
    act_type: Literal["prelu", "relu", "leakyrelu"] = "prelu"

    @model_validator(mode="after")
    def _skip_must_fit(self) -> Self:
        if self.num_in_ch not in (1, self.num_out_ch):
            raise ValueError(
                f"num_in_ch {self.num_in_ch} and num_out_ch {self.num_out_ch}: the enlarged input is added to the "
                f"output, so num_in_ch must be 1 or equal num_out_ch"
            )
        return self

    def build(self) -> SRVGGNetCompact:
        """The network, PyTorch's default initialisation, PReLU slopes 0.25."""
        from atelier.archs.compact import SRVGGNetCompact

        return SRVGGNetCompact(**self.model_dump(exclude={"type"}))

    @property
    def scale(self) -> int:
        """``upscale``."""
        return self.upscale

    @property
    def in_channels(self) -> int:
        """``num_in_ch``."""
        return self.num_in_ch

    @property
    def out_channels(self) -> int:
        """``num_out_ch``."""
        return self.num_out_ch

    @property
    def stages(self) -> tuple[str, ...]:
        """The activation after each of the ``num_conv`` convolutions."""
        return tuple(f"body.{2 * block + 3}" for block in range(self.num_conv))

    @property
    def receptive_radius(self) -> int:
        """One pixel for each of the ``num_conv + 2`` convolutions of 3x3."""
        return self.num_conv + 2

    @classmethod
    def recognises(cls, shapes: Shapes) -> bool:
        """A flat ``body`` of 3x3 convolutions and nothing else."""
        first = shapes.get("body.0.weight", ())
        return (
            len(first) == 4
            and first[2:] == (3, 3)
            and "body.0.bias" in shapes
            and all(key.startswith("body.") and key.count(".") == 2 for key in shapes)
        )

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self:
        """Everything but the activation without weights: ``relu`` and ``leakyrelu`` leave the same file (``relu``)."""
        num_feat, num_in_ch = shapes["body.0.weight"][:2]
        last = max(int(key.split(".")[1]) for key in shapes)
        rows = shapes[f"body.{last}.weight"][0]
        if last < 2 or last % 2:
            raise UserError(
                f"not a SRVGGNetCompact file: its last convolution is body.{last}, an even index is expected"
            )
        for num_out_ch in (num_in_ch, 3, 1):
            upscale = math.isqrt(rows // num_out_ch)
            if num_out_ch * upscale**2 == rows and num_in_ch in (1, num_out_ch):
                break
        else:
            raise UserError(
                f"not a SRVGGNetCompact file: {rows} rows of body.{last} are no channels times scale squared"
            )
        options: Mapping[str, Any] = {
            "num_in_ch": num_in_ch,
            "num_out_ch": num_out_ch,
            "num_feat": num_feat,
            "num_conv": (last - 2) // 2,
            "upscale": upscale,
            "act_type": "prelu" if len(shapes.get("body.1.weight", ())) == 1 else "relu",
        }
        return cls.model_validate(options)
