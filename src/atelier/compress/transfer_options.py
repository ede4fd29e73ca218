"""How a trained network is transferred into one of another width and depth (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atelier.options.base import Options

Method = Literal["l2", "l2-aligned", "activation", "least-squares"]
METHODS: tuple[Method, ...] = ("l2", "l2-aligned", "activation", "least-squares")


class TransferOptions(Options):
    """Choices of :func:`atelier.compress.transfer`."""

    num_feat: int = Field(32, ge=1, description="features of the new network")
    num_conv: int = Field(
        32, ge=0, description="convolutions of the new network between the first and the last"
    )
    method: Method = "least-squares"
    grow: Literal["identity", "duplicate", "split"] = Field(
        "identity",
        description="added depth: layers that change nothing, or blocks repeated; split: added width as well, exactly",
    )
    where: Literal["even", "end"] = Field("even", description="where layers that change nothing are put")
    ridge: float = Field(
        1e-5, gt=0, description="damping of least squares, as a share of the mean input power"
    )
    rows: int = Field(320, ge=1, description="pixels of each calibration crop that enter the sums")
    sweeps: int = Field(
        4,
        ge=0,
        description="least-squares: solves of all layers together for the source's output, see sweeps.py",
    )
    polish: int = Field(0, ge=0, description="Adam steps on all weights towards the source's output")
    polish_lr: float = Field(5e-4, gt=0, description="first rate of the polish; it falls to 0 along a cosine")
    seed: int = Field(0, ge=0)
