"""Frames of films: in any order, each film opened once, none kept longer than it is due, sizes of the right aspect."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from atelier.data.clip_frames import Between, Cover, FilmFile, FrameSource, look_at_film
from atelier.data.options import CacheOptions
from atelier.errors import UserError

SIDE = 24


def test_frames_of_a_film_may_be_asked_for_in_any_order(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from films import flat_film

    flat_film(tmp_path / "a.mp4", frames=6, size=(64, 48))
    flat_film(tmp_path / "b.mp4", frames=4, size=(64, 48), still=2)
    cache = CacheOptions(folder=tmp_path / ".cache")
    source = FrameSource("films", "x")
    for name in ("a.mp4", "b.mp4"):
        source.add_film(look_at_film(tmp_path / name, cache), Cover(SIDE))
    assert [source.shape(number) for number in (0, 9)] == [(SIDE, 32, 3)] * 2
    straight = [source.read(number) for number in range(10)]
    assert len({each.tobytes() for each in straight[:6]}) == 6
    for number in (7, 2, 0, 9, 1, 1):
        assert np.array_equal(source.read(number), straight[number])
    broken = FrameSource("films", "y")
    broken.add_film(FilmFile(tmp_path / "a.mp4", 7, (48, 64)), Cover(SIDE))
    with pytest.raises(UserError, match=r"a\.mp4: has 6 frames now, but 7"):
        broken.read(6)


class CountedFilms:
    """Stands in for ``open_video``: counts how often each film is opened and which of its frames live on."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.opened: list[str] = []
        self.closed = 0
        self._made: list[weakref.ref[Any]] = []

    def __call__(self, path: Path) -> Any:
        self.opened.append(path.name)
        return SimpleNamespace(frames=self._frames, close=self._close)

    def _frames(self) -> Any:
        for number in range(self.length):
            pixels = np.full((48, 64, 3), number, np.uint8)
            self._made.append(weakref.ref(pixels))
            yield SimpleNamespace(pixels=pixels)
            del pixels

    def _close(self) -> None:
        self.closed += 1

    def alive(self) -> int:
        return sum(each() is not None for each in self._made)


def test_threads_between_two_films_open_each_once_and_leave_no_frame_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order in which several threads arrive: the next film is begun before the last frames of the one before."""
    from atelier.images import video

    films = CountedFilms(6)
    monkeypatch.setattr(video, "open_video", films)
    source = FrameSource("films", "x")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
        source.add_film(FilmFile(tmp_path / name, 6, (48, 64)), Cover(SIDE))
    for number in (1, 0, 2, 3, 6, 5, 8, 4, 7, 9, 11, 10):
        assert (source.read(number) == number % 6).all()
        assert films.alive() <= 4, number
    assert films.opened == ["a.mp4", "b.mp4"] and films.closed == 2
    assert films.alive() == 0


def test_a_film_that_fails_is_not_decoded_again_for_each_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atelier.images import video

    films = CountedFilms(3)
    monkeypatch.setattr(video, "open_video", films)
    (tmp_path / "a.mp4").touch()
    source = FrameSource("films", "x")
    source.add_film(FilmFile(tmp_path / "a.mp4", 6, (48, 64)), Cover(SIDE))
    for number in (4, 5, 3):
        with pytest.raises(UserError, match=r"a\.mp4: has 3 frames now, but 6"):
            source.read(number)
    assert [int(source.read(number)[0, 0, 0]) for number in range(3)] == [0, 1, 2]
    assert films.opened == ["a.mp4"] and films.closed == 1


@pytest.mark.parametrize(
    ("fit", "before", "after"),
    [
        (Cover(24), (48, 64), (24, 32)),
        (Cover(24, (16, 40)), (48, 64), (30, 40)),
        (Cover(24, (24, 24)), (97, 161), (24, 40)),
        (Cover(24), (12, 20), (24, 40)),
        (Between(30, 48), (24, 48), (30, 60)),
        (Between(30, 48), (40, 50), (40, 50)),
        (Between(30, 48), (96, 96), (48, 48)),
    ],
)
def test_sizes_keep_the_aspect(fit: Any, before: tuple[int, int], after: tuple[int, int]) -> None:
    assert fit(before) == after
