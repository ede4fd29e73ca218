"""What a source of optical flow takes and gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from atelier.errors import UserError

FlowState = Mapping[str, Tensor]
TargetAb = Literal["previous", "zero"]


@dataclass(frozen=True)
class FlowResult:
    """One frame's motion. All tensors are float32 and detached.

    Attributes:
        flow: ``[B, 2, H, W]``, backward flow on the current frame's grid: (x, y) in pixels, into the previous frame;
            ``atelier.images.warp.warp(previous, flow)`` looks like the current frame.
        confidence: ``[B, 1, H, W]`` in [0, 1].
        state: for the next pair; None where the source keeps none.
    """

    flow: Tensor
    confidence: Tensor
    state: FlowState | None = None


class FlowBackend(nn.Module):
    """A source of flow: frozen, always in evaluation mode, computed without gradients in float32.

    Everything it remembers is in ``FlowResult.state``, whose tensors have the batch as their first axis and stop
    growing. ``needs_colour`` says whether the flow depends on anything but lightness; where it does not, it may be
    computed long before the colours are known.
    """

    needs_colour = False

    @abstractmethod
    def estimate(
        self,
        current: Tensor,
        previous: Tensor,
        state: FlowState | None = None,
        *,
        previous_ab: Tensor | None = None,
        target_ab: TargetAb | None = None,
    ) -> FlowResult:
        """The motion between two frames.

        Args:
            current: unit lightness of the frame to be coloured, ``[B, 1, H, W]`` in [-1, 1].
            previous: that of the frame before.
            state: what the pair before gave; None or :meth:`initial_state` at the beginning of a scene.
            previous_ab: colours made for the frame before, ``[B, 2, H, W]``; read where ``needs_colour``.
            target_ab: overrides the option of that name; the true colours of ``current`` are never asked for.

        Raises:
            UserError: sizes that do not fit each other or the method.
        """

    def initial_state(self) -> FlowState | None:
        """The state at the beginning of a scene; None for a source that remembers nothing."""
        return None

    def freeze(self) -> None:
        """No parameter takes a gradient from now on, and dropout and batch statistics stand still."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FlowBackend:
        """Stays in evaluation mode: a frozen network whose batch statistics moved would not be frozen."""
        return super().train(False)

    def forward(self, current: Tensor, previous: Tensor, state: FlowState | None = None) -> FlowResult:
        """The same as :meth:`estimate` for sources that need no colour."""
        return self.estimate(current, previous, state)


def check_pair(current: Tensor, previous: Tensor, least: int = 1) -> None:
    """Raise :class:`UserError` unless both are ``[B, 1, H, W]``, alike, and ``least`` pixels a side or more."""
    shape = tuple(current.shape)
    if current.ndim != 4 or shape[1] != 1 or tuple(previous.shape) != shape:
        raise UserError(
            f"flow is found between two lightness pictures [B, 1, H, W] of one size, given {shape} and "
            f"{tuple(previous.shape)}"
        )
    if min(shape[2:]) < least:
        raise UserError(f"flow needs frames of at least {least}x{least} pixels, given {shape[3]}x{shape[2]}")
