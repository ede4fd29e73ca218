"""Sources of optical flow for video colorization, found by ``type:``; no torch at module level."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from atelier.archs.memflow_options import MemFlowOptions
from atelier.options.base import Component, Registry

if TYPE_CHECKING:
    from atelier.colorize.flow import FlowBackend
    from atelier.colorize.flow_dis import DisFlow
    from atelier.colorize.flow_memflow import MemFlowBackend
    from atelier.colorize.flow_raft import RaftFlow

_CYCLE = "cycle: the opposite flow agrees and the pictures are alike; photometric: the pictures are alike"


class FlowOptions(Component):
    """Options of one source of flow. Another one is a subclass and one line in the table (or a plug-in)."""

    @abstractmethod
    def build(self) -> FlowBackend:
        """The working source on the CPU, frozen; a :class:`~atelier.errors.UserError` where weights are missing."""

    def vacant(self) -> FlowBackend:
        """The same with any weights, without reading a file: they will be filled in from a model file."""
        return self.build()


class DisFlowOptions(FlowOptions):
    """Dense inverse search of OpenCV: no weights, small motion, the default."""

    type: Literal["dis"] = "dis"
    confidence: Literal["cycle", "photometric"] = Field("cycle", description=_CYCLE)

    def build(self) -> DisFlow:
        """Needs nothing."""
        from atelier.colorize.flow_dis import DisFlow

        return DisFlow(self)


class MemFlowFlowOptions(FlowOptions):
    """MemFlow. The defaults suit the official flow weights; colour-tuned ones need ``input: lab``, ``direction: seed``,
    ``confidence: entropy``, and in ``network`` 9 iterations and a train_avg_length of 1568.
    """

    type: Literal["memflow"] = "memflow"
    weights: Path | None = Field(None, description="a MemFlowNet file (.pth or .safetensors)")
    allow_random: bool = Field(False, description="run untrained where no weights are given; for tests alone")
    network: MemFlowOptions = MemFlowOptions()
    direction: Literal["backward", "seed"] = Field(
        "backward", description="the pair is (current, previous), or with seed (previous, current)"
    )
    input: Literal["grey", "lab"] = Field(
        "grey", description="what the network sees: the grey picture, or LAB with the colours made so far"
    )
    target_ab: Literal["previous", "zero"] = Field(
        "previous", description="with input lab: the colours that the current frame is shown with"
    )
    confidence: Literal["cycle", "photometric", "entropy"] = Field(
        "cycle", description=f"{_CYCLE}; entropy: how sharply the network's upsampling chose"
    )

    @model_validator(mode="after")
    def _weights_or_none(self) -> Self:
        if self.weights is not None and self.allow_random:
            raise ValueError("allow_random stands in for weights; give one of the two")
        # By value: a resolved option file names every key.
        if self.input == "grey" and self.target_ab != "previous":
            raise ValueError("target_ab does something with input: lab only; remove it")
        return self

    def build(self) -> MemFlowBackend:
        """Reads ``weights``."""
        from atelier.colorize.flow_memflow import MemFlowBackend

        return MemFlowBackend(self)

    def vacant(self) -> MemFlowBackend:
        """See the base class."""
        from atelier.colorize.flow_memflow import MemFlowBackend

        backend = MemFlowBackend(self.model_copy(update={"weights": None, "allow_random": True}))
        backend.options = self
        return backend


class RaftFlowOptions(FlowOptions):
    """torchvision's RAFT."""

    type: Literal["raft"] = "raft"
    model: Literal["large", "small"] = "large"
    weights: Path | None = Field(
        None,
        description="a file of torchvision's raft_large or raft_small; null: looked for where torch keeps them",
    )
    allow_download: bool = Field(
        False, description="let torchvision fetch its own weights where they are missing"
    )
    iterations: int = Field(12, ge=1, description="refinements of a flow")
    confidence: Literal["cycle", "photometric"] = Field("cycle", description=_CYCLE)

    def build(self) -> RaftFlow:
        """Reads, or where allowed fetches, the weights."""
        from atelier.colorize.flow_raft import RaftFlow

        return RaftFlow(self)

    def vacant(self) -> RaftFlow:
        """See the base class."""
        from atelier.colorize.flow_raft import RaftFlow

        return RaftFlow(self, fill=False)


FLOWS: Registry[FlowOptions] = Registry(
    "flow",
    {
        "dis": "atelier.colorize.flow_options:DisFlowOptions",
        "memflow": "atelier.colorize.flow_options:MemFlowFlowOptions",
        "raft": "atelier.colorize.flow_options:RaftFlowOptions",
    },
)
