"""Flow by dense inverse search (Kroeger et al., ECCV 2016) as OpenCV computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from atelier.colorize.confidence import cycle_confidence, photometric_confidence
from atelier.colorize.flow import FlowBackend, FlowResult, FlowState, TargetAb, check_pair

if TYPE_CHECKING:
    import numpy.typing as npt

    from atelier.colorize.flow_options import DisFlowOptions

#: OpenCV refuses smaller pictures.
LEAST = 12
#: Below this many pixels a side the search starts at full resolution, with denser patches.
_SMALL = 128


class DisFlow(FlowBackend):
    """OpenCV's ``DISOpticalFlow``, preset medium, on 8-bit grey pictures; no weights, no state, depends on L alone.

    The result does not depend on OpenCV's number of threads.
    """

    def __init__(self, options: DisFlowOptions) -> None:
        super().__init__()
        self.options = options

    def estimate(
        self,
        current: Tensor,
        previous: Tensor,
        state: FlowState | None = None,
        *,
        previous_ab: Tensor | None = None,
        target_ab: TargetAb | None = None,
    ) -> FlowResult:
        """See :meth:`FlowBackend.estimate`; frames need 12 pixels a side."""
        check_pair(current, previous, LEAST)
        current, previous = current.detach(), previous.detach()
        search = _searcher(current.shape[-2:])
        pairs = list(zip(_grey(current), _grey(previous), strict=True))
        flow = _stack([search.calc(c, p, None) for c, p in pairs], current.device)
        if self.options.confidence == "cycle":
            opposite = _stack([search.calc(p, c, None) for c, p in pairs], current.device)
            return FlowResult(flow, cycle_confidence(flow, opposite, current, previous))
        return FlowResult(flow, photometric_confidence(flow, current, previous))


def _searcher(size: torch.Size) -> Any:
    """OpenCV's object for pictures of this size. Made for each call: it holds buffers that threads must not share."""
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    if min(size) < _SMALL:
        search.setFinestScale(0)
        search.setPatchSize(8)
        search.setPatchStride(2)
    return search


def _grey(lightness: Tensor) -> npt.NDArray[np.uint8]:
    """``[B, 1, H, W]`` in [-1, 1] to ``B×H×W``, each contiguous, 0...255 rounded."""
    levels = ((lightness[:, 0].float() + 1) * 127.5).round().clamp(0, 255)
    return np.ascontiguousarray(levels.to("cpu", torch.uint8).numpy())


def _stack(fields: list[npt.NDArray[np.float32]], device: torch.device) -> Tensor:
    """Fields ``H×W×2`` to ``[B, 2, H, W]``."""
    return torch.from_numpy(np.stack(fields)).permute(0, 3, 1, 2).contiguous().to(device)
