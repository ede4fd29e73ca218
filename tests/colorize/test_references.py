from __future__ import annotations

import pytest
import torch

from atelier.colorize import Anchor, References
from atelier.errors import UserError


def test_pictures_of_different_sizes_are_padded_and_marked() -> None:
    small, large = torch.full((3, 4, 8), 0.5), torch.full((3, 6, 5), -0.5)
    stacked = References.stack([small, large], ["exemplar", Anchor(3)])
    assert stacked.lab.shape == (1, 2, 3, 6, 8)
    assert stacked.valid is not None and stacked.valid.dtype == torch.bool
    assert int(stacked.valid[0, 0].sum()) == 32 and int(stacked.valid[0, 1].sum()) == 30
    assert (stacked.lab[0, 0][:, stacked.valid[0, 0, 0]] == 0.5).all()
    assert stacked.anchors == {3: 1}


def test_equal_sizes_need_no_mask() -> None:
    stacked = References.stack([torch.zeros(3, 4, 4)] * 2)
    assert stacked.valid is None and stacked.roles == ("exemplar", "exemplar") and stacked.anchors == {}


def test_an_anchor_is_found_by_its_frame_and_cut_to_the_frame() -> None:
    anchor = torch.rand(3, 4, 8)
    stacked = References.stack([torch.rand(3, 9, 9), anchor], ["exemplar", Anchor(0)])
    found = stacked.anchor_lab(0, (4, 8))
    assert found is not None and torch.equal(found[0], anchor)
    assert stacked.anchor_lab(1, (4, 8)) is None


@pytest.mark.parametrize("size", [(4, 6), (5, 8), (9, 9)])
def test_an_anchor_of_another_size_than_its_frame_is_an_error(size: tuple[int, int]) -> None:
    padded = References.stack([torch.rand(3, 9, 9), torch.rand(3, 4, 8)], ["exemplar", Anchor(2)])
    with pytest.raises(UserError, match="anchor of frame 2"):
        padded.anchor_lab(2, size)
    with pytest.raises(UserError, match="anchor of frame 0"):
        References.stack([torch.rand(3, 4, 8)], [Anchor(0)]).anchor_lab(0, size)


def test_what_does_not_fit_is_named() -> None:
    lab = torch.zeros(1, 2, 3, 4, 4)
    with pytest.raises(UserError, match=r"\[B, R, 3, H, W\]"):
        References(lab[0], ("exemplar",))
    with pytest.raises(UserError, match="2 reference pictures need as many roles, given 1"):
        References(lab, ("exemplar",))
    with pytest.raises(UserError, match="two anchors pin frame 1"):
        References(lab, (Anchor(1), Anchor(1)))
    with pytest.raises(UserError, match="'picture'"):
        References(lab, ("exemplar", "picture"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="valid must be"):
        References(lab, ("exemplar",) * 2, torch.ones(1, 2, 4, 4, dtype=torch.bool))
    with pytest.raises(UserError, match="counts from 0"):
        Anchor(-1)
    with pytest.raises(UserError, match="at least one"):
        References.stack([])
    with pytest.raises(UserError, match=r"\[3, H, W\]"):
        References.stack([torch.zeros(1, 3, 4, 4)])


def test_moving_keeps_roles_and_mask() -> None:
    stacked = References.stack([torch.rand(3, 4, 4), torch.rand(3, 5, 5)], ["exemplar", Anchor(1)])
    moved = stacked.to("meta")
    assert moved.lab.device.type == "meta" and moved.valid is not None
    assert moved.valid.device.type == "meta" and moved.roles == stacked.roles
