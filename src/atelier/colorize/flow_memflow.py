"""MemFlow as a source of flow for colorization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atelier.archs.load_report import LoadReport
from atelier.archs.memflow import FlowMemory
from atelier.archs.memflow_files import load_memflow
from atelier.colorize.confidence import cycle_confidence, photometric_confidence
from atelier.colorize.flow import FlowBackend, FlowResult, FlowState, TargetAb, check_pair
from atelier.errors import UserError
from atelier.images.lab import grey_rgb

if TYPE_CHECKING:
    from atelier.colorize.flow_options import MemFlowFlowOptions

_FIELDS = ("keys", "values")
_OPPOSITE = "opposite_"


class MemFlowBackend(FlowBackend):
    """MemFlow on pairs of frames; its memory (and with ``confidence: cycle`` that of the opposite pairs) is the state.

    ``direction: backward`` shows the pair (current, previous), so that the flow is the backward flow right away.
    ``direction: seed`` shows (previous, current) and takes the result as backward flow nevertheless: so were the
    colour-tuned weights trained.

    Attributes:
        network: :class:`~atelier.archs.memflow.MemFlow`.
        report: what became of the file's tensors; None with random weights.

    Raises:
        UserError: no weights and not ``allow_random``, or a file that does not fit.
    """

    def __init__(self, options: MemFlowFlowOptions) -> None:
        super().__init__()
        if options.weights is None and not options.allow_random:
            raise UserError(
                "flow memflow: 'weights' is missing; name a MemFlowNet file, or use flow dis, which needs none"
            )
        self.options = options
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.network = options.network.build()
        self.report: LoadReport | None = None
        if options.weights is not None:
            self.report = load_memflow(self.network, options.weights)
        self.needs_colour = options.input == "lab"
        self.freeze()

    def initial_state(self) -> FlowState:
        """Nothing remembered."""
        return {}

    def estimate(
        self,
        current: Tensor,
        previous: Tensor,
        state: FlowState | None = None,
        *,
        previous_ab: Tensor | None = None,
        target_ab: TargetAb | None = None,
    ) -> FlowResult:
        """See :meth:`FlowBackend.estimate`."""
        check_pair(current, previous)
        with torch.no_grad(), torch.autocast(current.device.type, enabled=False):
            first, second = self._pictures(current.float(), previous.float(), previous_ab, target_ab)
            if self.options.direction == "seed":
                first, second = second, first
            cycle = self.options.confidence == "cycle"
            run = self.network.both_ways if cycle else self.network
            made = run(first, second, _memory(state or {}, cycle))
            if cycle:
                flow, opposite = made.flow.chunk(2)
                confidence = cycle_confidence(flow, opposite, current, previous)
            elif self.options.confidence == "photometric":
                flow = made.flow
                confidence = photometric_confidence(flow, current, previous)
            else:
                flow, confidence = made.flow, made.peakedness
        return FlowResult(flow, confidence, _state(made.memory, cycle))

    def _pictures(
        self, current: Tensor, previous: Tensor, previous_ab: Tensor | None, target_ab: TargetAb | None
    ) -> tuple[Tensor, Tensor]:
        """What the network sees of both frames, ``[B, 3, H, W]`` in [-1, 1]."""
        if self.options.input == "grey":
            return 2 * grey_rgb(current) - 1, 2 * grey_rgb(previous) - 1
        if previous_ab is None:
            raise UserError(
                "flow memflow with input lab needs previous_ab, the colours made for the frame before"
            )
        known = previous_ab.detach().float()
        shown = known if (target_ab or self.options.target_ab) == "previous" else torch.zeros_like(known)
        return torch.cat([current, shown], dim=1), torch.cat([previous, known], dim=1)


def _memory(state: FlowState, cycle: bool) -> FlowMemory | None:
    """The network's memory out of a state; with ``cycle`` the opposite pairs follow in the batch."""
    if not state:
        return None
    kinds = ("", _OPPOSITE) if cycle else ("",)
    missing = [kind + name for kind in kinds for name in _FIELDS if kind + name not in state]
    if missing:
        raise UserError(
            f"flow memflow: the state lacks {', '.join(missing)}; it is of another source or option"
        )
    keys, values = (torch.cat([state[kind + name] for kind in kinds]) for name in _FIELDS)
    return FlowMemory(keys, values)


def _state(memory: FlowMemory, cycle: bool) -> dict[str, Tensor]:
    """The reverse of :func:`_memory`."""
    if not cycle:
        return dict(zip(_FIELDS, memory, strict=True))
    state: dict[str, Tensor] = {}
    for name, both in zip(_FIELDS, memory, strict=True):
        own, opposite = both.chunk(2)
        # Copies: a half of a larger tensor would be stored whole.
        state[name], state[_OPPOSITE + name] = own.clone(), opposite.clone()
    return state
