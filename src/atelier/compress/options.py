"""How a trained network is carried into one of another size (no torch here)."""

from __future__ import annotations

from typing import Literal

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
    calibrate: bool = Field(
        False, description="rescale every LayerNorm by the change of variance measured on bundled pictures"
    )
