"""Options of MemFlow, optical flow with a memory of the frames before; no torch at module level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from atelier.options.base import Options

if TYPE_CHECKING:
    from atelier.archs.memflow import MemFlow


class MemFlowOptions(Options):
    """What the weight file does not say. Widths are fixed: there is one MemFlow (the "skflow" variant)."""

    iterations: int = Field(
        15, ge=1, description="refinements of a flow; colour-tuned weights were made for 9"
    )
    train_avg_length: int = Field(
        6750,
        ge=2,
        description="mean number of attention keys in training: 6750 (things), 6624 (sintel, spring), 6480 (kitti), "
        "1568 (colour-tuned at 224)",
    )
    memory_frames: int = Field(1, ge=1, description="pairs that the memory holds; the oldest leaves first")
    correlation_mib: int = Field(
        512,
        ge=1,
        description="the correlation of all pairs of positions is kept where it fits into so much memory, "
        "and made again in parts at every iteration where it does not",
    )

    def build(self) -> MemFlow:
        """The network with freshly drawn weights, float32, on torch's default device."""
        from atelier.archs.memflow import MemFlow

        return MemFlow(self)
