"""How a trained network is carried into one of another size (no torch here)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atelier.options.base import Options


class InheritOptions(Options):
    """Choices of ``path.load: inherit``."""

    select: Literal["first", "l2"] = Field(
        "first",
        description="channels kept by a narrower network: the first ones, or the strongest by L2 norm",
    )
    window_bias: Literal["offset", "interpolate"] = Field(
        "offset",
        description="bias tables at another window size: keep the bias of equal pixel offsets, or resize the table",
    )
    warmup: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="steps over which the rate rises, because an optimiser without moments moves every weight by the "
        "full rate and throws away what was carried; auto: a tenth of the run, at most 500, where less than half of "
        "the moments are known and train.warmup_iter says nothing; 0: none",
    )
    rstb: Literal["first", "last", "proportional"] = Field(
        "first",
        description="RSTBs that a SwinIR with fewer of them keeps: the first ones, the last ones, or those at the same "
        "share of the depth (of 6, a network of 4 keeps 2, 3, 5 and 6)",
    )
    calibrate: bool = Field(
        False, description="rescale every LayerNorm by the change of variance measured on bundled pictures"
    )
