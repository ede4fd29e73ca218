"""Synthetic clips: their flow is the film's true motion, and a wrong flow is told from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from skimage.transform import warp as skimage_warp

from atelier.data import synthetic_clips
from atelier.data.synthetic_clips import HELD_OUT, TRAINING, Clip, bundled_clip, photograph, synthetic_clip
from atelier.randomness import Streams


def clip(sample: int, frames: int = 6, size: int = 64) -> Clip:
    names = TRAINING if sample % 3 else HELD_OUT
    return bundled_clip(names, frames, size, Streams(0, 1, sample)("clip"))


def db(found: npt.NDArray[np.float64], wanted: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> float:
    return float(10 * np.log10(255**2 / ((found - wanted.astype(float))[mask] ** 2).mean()))


def gain(film: Clip, flow: npt.NDArray[np.float32]) -> float:
    """How many dB nearer to frame t its warped predecessor is than the predecessor itself, on valid pixels."""
    y, x = np.mgrid[: film.rgb.shape[1], : film.rgb.shape[2]]
    warped, still = [], []
    for t in range(1, len(film.rgb)):
        places = np.stack([y + flow[t, 1], x + flow[t, 0]])
        before = film.rgb[t - 1].astype(float)
        moved = np.stack([skimage_warp(before[..., c], places, order=1, mode="edge") for c in range(3)], -1)
        warped.append(db(moved, film.rgb[t], film.valid[t]))
        still.append(db(before, film.rgb[t], film.valid[t]))
    return float(np.mean(warped) - np.mean(still))


@pytest.mark.parametrize("sample", range(6))
def test_the_warped_predecessor_is_the_frame_where_valid(sample: int) -> None:
    film = clip(sample)
    assert film.valid[1:].mean() > 0.7
    right = gain(film, film.flow)
    assert right > 4.5
    # Teeth: the flow of the other direction, with its axes exchanged, or eight times too long.
    for wrong in (-film.flow, film.flow[:, ::-1], 8 * film.flow, np.zeros_like(film.flow)):
        assert gain(film, wrong) < right - 3.0


def test_the_gain_is_large_on_average() -> None:
    assert np.mean([gain(film, film.flow) for film in map(clip, range(8))]) > 9.0


def test_shapes_types_and_the_first_frame() -> None:
    film = clip(1, frames=3, size=40)
    assert film.rgb.shape == (3, 40, 40, 3) and film.rgb.dtype == np.uint8
    assert film.flow.shape == (3, 2, 40, 40) and film.flow.dtype == np.float32
    assert film.valid.shape == film.occluded.shape == (3, 40, 40)
    assert not film.flow[0].any() and not film.valid[0].any() and not film.occluded[0].any()
    assert not (film.valid & film.occluded).any()


def test_the_disc_uncovers_what_was_behind_it() -> None:
    """On flat pictures every pixel shows which surface it is: only there may validity be judged by colour."""
    black, white = np.zeros((200, 200, 3), np.uint8), np.full((200, 200, 3), 255, np.uint8)
    for sample in range(8):
        film = synthetic_clip(black, white, 5, 64, Streams(3, 1, sample)("clip"))
        disc = film.rgb[..., 0] > 127
        area = np.pi * (0.18 * 64) ** 2
        assert disc[0].sum() == pytest.approx(area, rel=0.05)
        y, x = np.mgrid[:64, :64]
        for t in range(1, 5):
            to_x, to_y = x + film.flow[t, 0], y + film.flow[t, 1]
            inside = (to_x >= 0) & (to_x <= 63) & (to_y >= 0) & (to_y <= 63)
            assert (film.valid[t] | film.occluded[t] == inside).all()
            nearest = disc[t - 1][
                np.rint(to_y).astype(int).clip(0, 63), np.rint(to_x).astype(int).clip(0, 63)
            ]
            assert (film.valid[t][inside] == (nearest == disc[t])[inside]).all()
        if np.abs(film.flow[1:, :, 32, 32]).max() > 1:
            assert film.occluded.any()


def test_everything_comes_from_the_stream() -> None:
    first, again, other = clip(4), clip(4), clip(5)
    assert (first.rgb == again.rgb).all() and (first.flow == again.flow).all()
    assert (first.rgb != other.rgb).any()
    longer = clip(4, frames=8)
    assert (longer.rgb[:6] == first.rgb).all(), "a longer clip begins with the shorter one"


def test_motion_keeps_to_its_ranges() -> None:
    for sample in range(20):
        film = clip(sample, frames=2, size=32)
        # 2 px a frame and axis, and at the corners (22.6 px out) 1 % of zoom and 0.01 radian of turn.
        assert np.abs(film.flow[1]).max() < 2.05 + 22.6 * 0.0205


def test_reflection_at_the_edges() -> None:
    assert synthetic_clips._reflected(np.array([-2, -1, 0, 4, 5, 6, 9]), 5).tolist() == [2, 1, 0, 4, 3, 2, 1]


def test_held_out_pictures_are_no_training_pictures() -> None:
    assert not set(TRAINING) & set(HELD_OUT)
    assert all(photograph(name).shape[2] == 3 for name in (*TRAINING, *HELD_OUT))


def test_bad_input_is_named() -> None:
    small, stream = np.zeros((40, 60, 3), np.uint8), Streams(0, 1, 0)("clip")
    with pytest.raises(ValueError, match="60×40 is too small for frames of 64"):
        synthetic_clip(small, small, 2, 64, stream)
    with pytest.raises(ValueError, match="frames must be 1 to 50, given 0"):
        synthetic_clip(small, small, 0, 16, stream)
    with pytest.raises(ValueError, match="H×W×3 of uint8"):
        synthetic_clip(small.astype(float), small, 2, 16, stream)
    with pytest.raises(ValueError, match="unknown bundled picture 'chelsae'"):
        bundled_clip(["chelsae"], 2, 16, stream)
