"""Options of :mod:`atelier.archs.initialise` (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atelier.options.base import Options


class WeightInitOptions(Options):
    """Fresh weights for every convolution and linear layer in place of the network's own start (KAIR's ``init_*``)."""

    type: Literal[
        "normal",
        "uniform",
        "xavier_normal",
        "xavier_uniform",
        "kaiming_normal",
        "kaiming_uniform",
        "orthogonal",
    ]
    gain: float = Field(0.2, gt=0, allow_inf_nan=False)
    bn_type: Literal["uniform", "constant"] = "uniform"
