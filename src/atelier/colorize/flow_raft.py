"""torchvision's RAFT (Teed and Deng, ECCV 2020) as a source of flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atelier.archs.flow_padding import Borders
from atelier.archs.load import load_whole
from atelier.archs.weights import read_weights
from atelier.colorize.confidence import cycle_confidence, photometric_confidence
from atelier.colorize.flow import FlowBackend, FlowResult, FlowState, TargetAb, check_pair
from atelier.errors import UserError
from atelier.images.lab import grey_rgb

if TYPE_CHECKING:
    from atelier.colorize.flow_options import RaftFlowOptions


class RaftFlow(FlowBackend):
    """RAFT on grey pairs (current, previous); no state, depends on L alone.

    Args:
        options: which network and which file.
        fill: read the weights; False leaves them drawn, for a model file that holds them.

    Raises:
        UserError: the weights are not there, or are another network's.
    """

    def __init__(self, options: RaftFlowOptions, *, fill: bool = True) -> None:
        from torchvision.models import optical_flow

        super().__init__()
        self.options = options
        path = None
        if fill:
            path = options.weights if options.weights is not None else _found_or_fetched(options)
        make = optical_flow.raft_large if options.model == "large" else optical_flow.raft_small
        # The weights drawn here are replaced; nobody's numbers should shift.
        with torch.random.fork_rng(devices=()):
            self.network: nn.Module = make(weights=None)
        self.report = load_whole(self.network, read_weights(path)) if path is not None else None
        self.freeze()

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
            borders = Borders.around(*current.shape[-2:])
            first, second = (borders.pad(2 * grey_rgb(each) - 1) for each in (current, previous))
            if self.options.confidence == "photometric":
                flow = self._flow(borders, first, second)
                return FlowResult(flow, photometric_confidence(flow, current, previous))
            both = self._flow(borders, torch.cat([first, second]), torch.cat([second, first]))
            flow, opposite = both.chunk(2)
            return FlowResult(flow, cycle_confidence(flow, opposite, current, previous))

    def _flow(self, borders: Borders, first: Tensor, second: Tensor) -> Tensor:
        steps: list[Tensor] = self.network(first, second, num_flow_updates=self.options.iterations)
        return borders.crop(steps[-1])


def _found_or_fetched(options: RaftFlowOptions) -> Path:
    """torchvision's weight file where BasicSR's habit or torch keeps it; fetched there only if that is allowed."""
    from torchvision.models import get_model_weights

    known: Any = get_model_weights(f"raft_{options.model}").DEFAULT
    name = str(known.url).rpartition("/")[2]
    cache = Path(torch.hub.get_dir()) / "checkpoints" / name
    places = [Path("experiments/pretrained_models") / name, cache]
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(str(place) for place in places)
    if not options.allow_download:
        raise UserError(
            f"flow raft: the weights of raft_{options.model} are not at {looked}; name a file with 'weights', set "
            f"'allow_download: true' to fetch {known.url}, or use flow dis, which needs none"
        )
    try:
        known.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"flow raft: fetching {known.url} failed ({error}); put the file at {cache}, or use flow dis"
        ) from error
    return cache
