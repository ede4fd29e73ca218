"""Where scenes begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.colorize.scenes import RESEMBLANCE, SceneRule, resemblance, scene_rule, thumbnail
from atelier.colorize.working import lightness
from atelier.errors import UserError
from colorize.grey_films import clip, grey


def _small(frames: Any) -> list[torch.Tensor]:
    return [thumbnail(lightness(frame)) for frame in frames]


def _cuts(rule: SceneRule, frames: Any) -> list[int]:
    small = _small(frames)
    return [t for t in range(1, len(small)) if rule.is_cut(small[t], small[t - 1], t)]


def _film() -> Any:
    parts = [clip("chelsea", 6, 96), clip("astronaut", 6, 96), clip("rocket", 6, 96)]
    return np.concatenate([np.stack([grey(frame) for frame in part]) for part in parts])


@pytest.mark.parametrize("kind", ["auto", "content"])
def test_hard_cuts_are_found_where_they_are(kind: str) -> None:
    assert _cuts(scene_rule(kind), _film()) == [6, 12]


def test_off_finds_nothing() -> None:
    assert _cuts(scene_rule("off"), _film()) == []


@pytest.mark.parametrize("name", ["chelsea", "astronaut", "motorcycle_left"])
def test_motion_is_no_cut(name: str) -> None:
    assert _cuts(scene_rule("auto"), clip(name, 10, 96, seed=3)) == []


def test_a_flash_is_no_cut() -> None:
    frames = clip("chelsea", 6, 96).copy()
    frames[3] = np.clip(frames[3].astype(int) + 60, 0, 255)
    small = _small(frames)
    assert _cuts(scene_rule("auto"), frames) == []
    # Without the correction it would be one.
    from atelier.colorize.flow_dis import DisFlow
    from atelier.colorize.flow_options import DisFlowOptions

    plain = float(DisFlow(DisFlowOptions()).estimate(small[3], small[2]).confidence.mean())
    assert plain < RESEMBLANCE < resemblance(small[3], small[2])


def test_a_fade_is_no_cut() -> None:
    frames = clip("astronaut", 13, 96)
    faded = np.stack([np.rint(f * (1 - t / 12)).astype(np.uint8) for t, f in enumerate(frames)])
    assert _cuts(scene_rule("auto"), faded) == []


def test_thumbnails() -> None:
    assert thumbnail(torch.zeros(1, 1, 480, 854)).shape[-2:] == (96, 171)
    assert thumbnail(torch.zeros(1, 1, 40, 60)).shape[-2:] == (40, 60)
    assert thumbnail(torch.zeros(1, 1, 6, 4)).shape[-2:] == (18, 12)


def test_a_list_of_frames(tmp_path: Path) -> None:
    path = tmp_path / "cuts.txt"
    path.write_text("# first frames\n0 3\n7,8  # late\n\n")
    rule = scene_rule(str(path))
    assert rule.last_named == 8 and rule.shortest == 1
    nothing = torch.zeros(1, 1, 12, 12)
    assert [t for t in range(10) if rule.is_cut(nothing, nothing, t)] == [0, 3, 7, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [("3\n00:12\n", "line 2: '00:12' is no frame number"), ("# none\n", "names no frame")],
)
def test_files_that_are_no_list(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cuts.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        scene_rule(str(path))


def test_unknown_rules() -> None:
    with pytest.raises(UserError, match="auto, content, off, or a file"):
        scene_rule("automatic")
