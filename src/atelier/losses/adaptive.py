"""The adaptive term: where the carried colours can be trusted, the result keeps to them."""

from __future__ import annotations

from torch import Tensor

from atelier.losses.module import full_precision


@full_precision
def adaptive_loss(ab: Tensor, flow_ab: Tensor, confidence: Tensor) -> Tensor:
    """Mean over frames t >= 1, planes and pixels of conf · |ab - flow_ab|, 0-d.

    Frame 0 has no predecessor whose colours could be carried. Its motion-compensated companion (0.3 times
    :func:`~atelier.losses.temporal.temporal_loss`) is added by who knows the flow.

    Args:
        ab: ``[B, T, 2, H, W]``, T >= 2.
        flow_ab: the same shape: the previous colours along the flow.
        confidence: ``[B, T, 1, H, W]`` in [0, 1]; no gradient flows into it.

    Raises:
        ValueError: a clip of one frame.
    """
    if ab.shape[1] < 2:
        raise ValueError("the adaptive term needs clips of two frames or more")
    return (confidence[:, 1:].detach() * (ab[:, 1:] - flow_ab[:, 1:]).abs()).mean()
