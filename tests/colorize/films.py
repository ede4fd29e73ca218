"""Films and small parts that several tests of this room use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.colorize import FusionSystem, References
from atelier.colorize.flow import FlowBackend, FlowResult


def film(batch: int = 1, frames: int = 4, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    """Unit LAB ``[B, T, 3, H, W]`` that moves by (2, 1) px a frame."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, height // 4 + 6, width // 4 + 6, generator=draw) * 1.4 - 0.7
    scene = F.interpolate(coarse, scale_factor=4, mode="bilinear")
    return torch.stack(
        [scene[..., t : t + height, 2 * t : 2 * t + width] for t in range(frames)], dim=1
    ).contiguous()


def references_for(clip: Tensor, frame: int = 0) -> References:
    return References(clip[:, frame : frame + 1].clone(), ("exemplar",))


class CountingFlow(FlowBackend):
    """Constant motion; remembers as much as MemFlow would and writes down what it was shown."""

    def __init__(self, x: float = 2.0, y: float = 1.0) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([x, y]))
        self.shown: list[dict[str, Any]] = []

    def initial_state(self) -> Mapping[str, Tensor]:
        return {"pairs": torch.zeros(1)}

    def estimate(
        self,
        current: Tensor,
        previous: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        previous_ab: Tensor | None = None,
        target_ab: Any = None,
    ) -> FlowResult:
        assert state is not None and previous_ab is not None and not previous_ab.requires_grad
        self.shown.append({"previous": previous, "previous_ab": previous_ab, "pairs": int(state["pairs"])})
        batch, _, height, width = current.shape
        flow = self.scale[None, :, None, None].expand(batch, 2, height, width)
        confidence = 0.25 + 0.5 * torch.sigmoid(previous_ab[:, :1] + current)
        return FlowResult(flow, confidence, {"pairs": state["pairs"] + 1})


def small_system(fusion: torch.nn.Module | None = None, flow: Any = "dis", **kwargs: Any) -> FusionSystem:
    return FusionSystem(fusion_net=fusion, flow=flow, exemplar="tiny", **kwargs)


def lively(net: torch.nn.Module, seed: int = 1) -> Any:
    """The network with weights that do something."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return net
