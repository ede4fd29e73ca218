"""-dn: weights between two networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.archs import load_network
from atelier.archs.compact import SRVGGNetCompact
from atelier.archs.weights import save_weights
from atelier.errors import UserError
from atelier.restore.blend import blend
from atelier.restore.model import load_model


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for seed, features in ((0, 8), (1, 8), (2, 12)):
        torch.manual_seed(seed)
        net = SRVGGNetCompact(num_feat=features, num_conv=2, upscale=2)
        paths.append(tmp_path / f"net_{seed}.pth")
        save_weights(paths[-1], {"params": net.state_dict()}, {})
    return paths


def test_every_weight_is_the_mean_by_share(files: list[Path]) -> None:
    one, two = (load_network(path).net.state_dict() for path in files[:2])
    mixed = load_model(files[0], device="cpu", blend_with=(files[1], 0.25)).net.state_dict()
    for key, value in mixed.items():
        torch.testing.assert_close(value, 0.25 * one[key] + 0.75 * two[key])
    assert not torch.equal(mixed["body.0.weight"], one["body.0.weight"])


@pytest.mark.parametrize(("share", "which"), [(1.0, 0), (0.0, 1)])
def test_the_ends_are_the_two_networks(files: list[Path], share: float, which: int) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    mixed = load_model(files[0], device="cpu", blend_with=(files[1], share))
    assert np.array_equal(mixed.restore(picture), load_model(files[which], device="cpu").restore(picture))


def test_other_networks_and_shares_are_refused(files: list[Path]) -> None:
    first, second, wider = (load_network(path) for path in files)
    with pytest.raises(UserError, match=r"net_0\.pth .* and .*net_2\.pth .* cannot be mixed"):
        blend(first, wider, 0.5)
    with pytest.raises(UserError, match="from 0 to 1"):
        blend(first, second, -0.1)
