"""Weight files that are not there are told together, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from atelier.errors import UserError
from atelier.options.absent import absent_weights, check_weights
from atelier.options.read import load_run_options

_RUN = {
    "name": "x",
    "scale": 2,
    "network_g": "SRVGGNetCompact",
    "datasets": {"train": {"dataroot_gt": "bundled", "gt_size": 64, "batch_size_per_gpu": 4}},
    "path": {"pretrain_network_g": "gone/g.pth"},
    "distill": {"teacher": "gone/t.pth", "recipe": "classic-response@1"},
}


def test_start_weights_and_teachers_are_told_in_one_message() -> None:
    options = load_run_options(_RUN)
    start, teacher = absent_weights(options)
    assert start == "path.pretrain_network_g: gone/g.pth does not exist"
    # By the key that stands in the file, which is not the one the section is moved to.
    assert teacher == "distill.teacher.0.weights: gone/t.pth does not exist"
    with pytest.raises(UserError) as told:
        check_weights(options, start=True)
    assert str(told.value) == f"{start}\n{teacher}"


def test_a_run_that_continues_needs_no_start_weights(tmp_path: Path) -> None:
    options = load_run_options(_RUN)
    assert len(absent_weights(options, start=False)) == 1
    check_weights(options, start=False)  # one absent file has its reader's own words
