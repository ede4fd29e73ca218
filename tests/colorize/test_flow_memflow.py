"""MemFlow as a source: which pair it sees, what it remembers, and that it is never silently random."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from atelier.colorize import photometric_confidence
from atelier.colorize.flow_memflow import MemFlowBackend
from atelier.colorize.flow_options import MemFlowFlowOptions
from atelier.errors import UserError
from atelier.images.lab import grey_rgb


def backend(**options: Any) -> MemFlowBackend:
    """Random weights whose signals keep their size, so that every input shows in the flow."""
    source = MemFlowFlowOptions.model_validate(
        {"allow_random": True, "network": {"iterations": 1}, **options}
    ).build()
    draw = torch.Generator().manual_seed(5)
    for parameter in source.network.parameters():
        if parameter.ndim >= 2:
            drawn = torch.randn(parameter.shape, generator=draw) / parameter[0].numel() ** 0.5
            parameter.copy_(drawn)
    source.network.update_block.aggregator.gamma.fill_(0.5)
    source.network.update_block.flow_head.ffn2[2].weight.mul_(0.01)
    return source


def frames(count: int, channels: int = 1, batch: int = 1) -> list[Tensor]:
    draw = torch.Generator().manual_seed(channels)
    return [torch.rand(batch, channels, 40, 48, generator=draw) * 2 - 1 for _ in range(count)]


@torch.no_grad()
def test_backward_shows_current_then_previous_and_seed_the_reverse() -> None:
    current, previous = frames(2)
    pictures = [2 * grey_rgb(each) - 1 for each in (current, previous)]
    source = backend(confidence="photometric")
    torch.testing.assert_close(
        source.estimate(current, previous).flow, source.network(*pictures).flow, atol=1e-5, rtol=0
    )
    other = backend(confidence="photometric", direction="seed")
    found = other.estimate(current, previous).flow
    torch.testing.assert_close(found, source.network(*reversed(pictures)).flow, atol=1e-5, rtol=0)
    assert (found - source.estimate(current, previous).flow).abs().max() > 0.1


def test_the_opposite_pair_has_a_memory_of_its_own_and_leaves_the_flow_alone() -> None:
    film = frames(4)
    cycle, plain = backend(), backend(confidence="photometric")
    state, other = cycle.initial_state(), plain.initial_state()
    for previous, current in pairwise(film):
        found, wanted = cycle.estimate(current, previous, state), plain.estimate(current, previous, other)
        torch.testing.assert_close(found.flow, wanted.flow, atol=1e-4, rtol=0)
        assert found.state is not None and wanted.state is not None
        state, other = found.state, wanted.state
        assert set(state) == {"keys", "values", "opposite_keys", "opposite_values"}
        assert set(other) == {"keys", "values"}
        torch.testing.assert_close(state["keys"], other["keys"], atol=1e-5, rtol=0)
    assert (state["keys"] - state["opposite_keys"]).abs().max() > 0.01
    exchanged = {
        "keys": state["opposite_keys"],
        "values": state["opposite_values"],
        "opposite_keys": state["keys"],
        "opposite_values": state["values"],
    }
    wrong = cycle.estimate(film[0], film[3], exchanged)
    right = cycle.estimate(film[0], film[3], state)
    assert not torch.equal(wrong.state["keys"], wrong.state["opposite_keys"])  # type: ignore[index]
    assert torch.equal(wrong.state["keys"], right.state["keys"])  # type: ignore[index]


def test_the_memory_matters_and_stays_as_large_as_it_is() -> None:
    source = backend()
    film = frames(6)
    state, sizes = source.initial_state(), []
    for previous, current in pairwise(film):
        found = source.estimate(current, previous, state)
        assert found.state is not None
        state = found.state
        sizes.append(sum(each.untyped_storage().nbytes() for each in state.values()))
        assert all(each.shape[0] == 1 and not each.requires_grad for each in state.values())
    assert len(set(sizes)) == 1
    assert sizes[0] == 4 * 16 * 16 * 128 * 4  # padded to 128x128
    with_memory = source.estimate(film[0], film[5], state).flow
    without = source.estimate(film[0], film[5]).flow
    assert (with_memory - without).abs().max() > 1e-3


def test_the_colours_of_the_current_frame_are_those_made_before_or_none() -> None:
    current, previous = frames(2)
    (ab,) = frames(1, channels=2)
    source = backend(input="lab", direction="seed", confidence="entropy")
    assert source.needs_colour and not backend().needs_colour

    def network(shown: Tensor) -> Tensor:
        pair = torch.cat([previous, ab], 1), torch.cat([current, shown], 1)
        with torch.no_grad():
            flow: Tensor = source.network(*pair).flow
        return flow

    with_previous = source.estimate(current, previous, previous_ab=ab)
    torch.testing.assert_close(with_previous.flow, network(ab), atol=1e-5, rtol=0)
    with_zero = source.estimate(current, previous, previous_ab=ab, target_ab="zero")
    torch.testing.assert_close(with_zero.flow, network(torch.zeros_like(ab)), atol=1e-5, rtol=0)
    assert (with_zero.flow - with_previous.flow).abs().max() > 0.01
    by_option = backend(input="lab", direction="seed", confidence="entropy", target_ab="zero")
    assert torch.equal(by_option.estimate(current, previous, previous_ab=ab).flow, with_zero.flow)
    with pytest.raises(UserError, match="input lab needs previous_ab"):
        source.estimate(current, previous)


def test_grey_flow_sees_no_colour() -> None:
    current, previous = frames(2)
    (ab,) = frames(1, channels=2)
    source = backend()
    found, bare = source.estimate(current, previous, previous_ab=ab), source.estimate(current, previous)
    assert torch.equal(found.flow, bare.flow) and torch.equal(found.confidence, bare.confidence)


def test_each_confidence_is_what_it_says() -> None:
    current, previous = frames(2)
    entropy = backend(confidence="entropy").estimate(current, previous)
    with torch.no_grad():
        made = backend().network(2 * grey_rgb(current) - 1, 2 * grey_rgb(previous) - 1)
    torch.testing.assert_close(entropy.confidence, made.peakedness, atol=1e-5, rtol=0)
    plain = backend(confidence="photometric").estimate(current, previous)
    assert torch.equal(plain.confidence, photometric_confidence(plain.flow, current, previous))
    cycle = backend().estimate(current, previous)
    assert (cycle.confidence <= plain.confidence + 1e-4).all()
    assert (cycle.confidence < plain.confidence - 1e-3).any()


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    film = frames(3, batch=2)
    source = backend()
    both = source.estimate(film[1], film[0])
    both = source.estimate(film[2], film[1], both.state)
    for item in range(2):
        a, b, c = (each[item : item + 1] for each in film)
        one = source.estimate(c, b, source.estimate(b, a).state)
        torch.testing.assert_close(both.flow[item], one.flow[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(both.confidence[item], one.confidence[0], atol=1e-4, rtol=0)


def test_without_weights_there_is_one_message_and_no_random_network() -> None:
    with pytest.raises(UserError, match=r"flow memflow: 'weights' is missing.*flow dis"):
        MemFlowFlowOptions().build()


def test_random_weights_are_the_same_each_time_and_shift_nobodys_numbers() -> None:
    before = torch.random.get_rng_state()
    first, second = backend(), backend()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.report is None
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])


def test_weights_of_a_file_are_used_frozen_and_stay_in_evaluation_mode(tmp_path: Path) -> None:
    path = tmp_path / "memflow.pth"
    with torch.random.fork_rng():
        torch.manual_seed(9)
        state = MemFlowFlowOptions().network.build().state_dict()
    torch.save({"model": state}, path)
    source = MemFlowFlowOptions(weights=path).build()
    assert source.report is not None and source.report.complete
    assert all(torch.equal(value, state[key]) for key, value in source.network.state_dict().items())
    source.train()
    assert not any(module.training for module in source.modules())
    assert not any(parameter.requires_grad for parameter in source.parameters())


def test_autocast_does_not_reach_the_flow() -> None:
    current, previous = frames(2)
    source = backend()
    with torch.autocast("cpu", torch.bfloat16):
        found = source.estimate(current, previous)
    assert torch.equal(found.flow, source.estimate(current, previous).flow)


def test_states_of_other_sources_options_or_sizes_are_told() -> None:
    film = frames(3)
    plain = backend(confidence="photometric").estimate(film[1], film[0])
    with pytest.raises(UserError, match="the state lacks opposite_keys, opposite_values"):
        backend().estimate(film[2], film[1], plain.state)
    larger = torch.zeros(1, 1, 200, 48)
    with pytest.raises(UserError, match="256 positions each"):
        backend(confidence="photometric").estimate(larger, larger, plain.state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "a.pth", "allow_random": True}, "allow_random stands in for weights"),
        ({"target_ab": "zero"}, "target_ab does something with input: lab only"),
        ({"confidence": "flow"}, "'cycle', 'photometric' or 'entropy'"),
        ({"network": {"memory_frames": 0}}, "greater than or equal to 1"),
    ],
)
def test_options_that_contradict_each_other_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MemFlowFlowOptions.model_validate(options)
