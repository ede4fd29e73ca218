"""torchvision's RAFT as a source: weights from a file, from torch's place, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.optical_flow import raft_small

from atelier.colorize.flow_options import RaftFlowOptions
from atelier.errors import UserError
from atelier.images.lab import grey_rgb

NAME = "raft_small_C_T_V2-01064c6d.pth"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raft") / NAME
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.save(raft_small(weights=None).state_dict(), path)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and torch cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def options(**given: Any) -> RaftFlowOptions:
    return RaftFlowOptions.model_validate({"model": "small", "iterations": 2, **given})


def test_the_flow_is_torchvisions_from_current_to_previous(file: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    current, previous = (torch.rand(2, 1, 128, 136, generator=draw) * 2 - 1 for _ in range(2))
    source = options(weights=file, confidence="photometric").build()
    net = raft_small(weights=None).eval()
    net.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        wanted = net(2 * grey_rgb(current) - 1, 2 * grey_rgb(previous) - 1, num_flow_updates=2)[-1]
    found = source.estimate(current, previous)
    torch.testing.assert_close(found.flow, wanted, atol=1e-4, rtol=0)
    cycle = options(weights=file).build().estimate(current, previous)
    torch.testing.assert_close(cycle.flow, wanted, atol=1e-4, rtol=0)
    assert (cycle.confidence <= found.confidence + 1e-4).all() and cycle.state is None


def test_any_size_and_a_frozen_network(file: Path) -> None:
    source = options(weights=file).build().train()
    assert not any(module.training for module in source.modules())
    assert not any(parameter.requires_grad for parameter in source.parameters())
    frame = torch.zeros(1, 1, 33, 150)
    found = source.estimate(frame, frame)
    assert found.flow.shape == (1, 2, 33, 150) and found.confidence.shape == (1, 1, 33, 150)
    assert found.flow.isfinite().all()


def test_a_file_where_torch_keeps_it_is_found(file: Path, elsewhere: Path) -> None:
    place = elsewhere / "hub" / "checkpoints" / NAME
    place.parent.mkdir(parents=True)
    place.write_bytes(file.read_bytes())
    assert options().build().report.path == place


def test_missing_weights_are_one_message_and_nothing_is_fetched(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("tried to download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetch)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    with pytest.raises(UserError) as caught:
        options().build()
    for words in (NAME, "'weights'", "'allow_download: true'", "flow dis"):
        assert words in str(caught.value)


def test_a_download_that_fails_is_one_message(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    with pytest.raises(UserError, match=r"fetching .* failed .no route.; put the file at"):
        options(allow_download=True).build()


def test_a_file_of_the_other_size_names_what_does_not_fit(file: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit the network(.|\n)*feature_encoder"):
        options(weights=file, model="large").build()
