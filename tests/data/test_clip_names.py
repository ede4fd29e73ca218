"""Names of films: no two alike, whatever the roots are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atelier.data.clip_names import film_names, numbered
from atelier.data.clip_options import ValClipsOptions
from atelier.data.options import CacheOptions
from atelier.images import write_image


@pytest.mark.parametrize(
    ("films", "names"),
    [
        ([("m/A", "x"), ("m/B", "x")], ["A/x", "B/x"]),
        ([("m/A/frames", "x"), ("m/B/frames", "x")], ["A/frames/x", "B/frames/x"]),
        ([("m/A/frames", "x"), ("m/B/frames", "y")], ["frames/x", "frames/y"]),
        (
            [("A/frames", "x"), ("B/frames", "x"), ("A/frames", "y"), ("C", "x")],
            ["A/frames/x", "B/frames/x", "A/frames/y", "C/x"],
        ),
        ([("/", "x"), ("//", "x"), ("/p", "x"), ("/q/p", "x")], None),
        ([("m/A", "x"), ("m/A", "y"), ("m/./A", "x")], ["A/x", "A/y", "A/x_2"]),
        ([("m/A", "x"), ("n/A", "x"), ("m/A", "x")], ["m/A/x", "n/A/x", "m/A/x_2"]),
        ([("A", "a/x"), ("m/A/a", "x"), ("n/a", "x")], None),
        ([], []),
    ],
)
def test_films_of_several_roots_have_names_of_their_own(
    films: list[tuple[str, str]], names: list[str] | None
) -> None:
    found = film_names([(Path(root), name) for root, name in films])
    assert len(set(found)) == len(films)
    assert names is None or found == names


def test_numbers_keep_clear_of_names_that_are_there() -> None:
    assert numbered(["a", "a", "a_2", "a", "a_2"]) == ["a", "a_3", "a_2", "a_4", "a_2_2"]


def test_each_film_that_is_measured_has_its_own_file_name(tmp_path: Path) -> None:
    """Measures and pictures are kept by these names: two alike would be one."""
    roots = [tmp_path / each for each in ("A/frames", "B/frames", "b_frames", "b")]
    films = [
        (roots[0], "x"),
        (roots[0], "y"),
        (roots[1], "x"),
        (roots[1], "y"),
        (roots[2], "z"),
        (roots[3], "frames_z"),
    ]
    for number, (root, name) in enumerate(films):
        (root / name).mkdir(parents=True)
        for each in range(2):
            pixels = np.random.default_rng(10 * number + each).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            write_image(root / name / f"{each}.png", pixels)
    options = ValClipsOptions(layout="folders", roots=roots, short_side=16)
    measured = options.open(cache=CacheOptions(folder=tmp_path / ".cache"), quiet=True)
    assert len(measured) == len(films) == len(set(measured.names))
    assert [clip.samples for clip in measured] == [[name] for name in measured.names]
    paths = ["A_frames_x", "A_frames_y", "B_frames_x", "B_frames_y", "b_frames_z", "b_frames_z_2"]
    assert measured.names == paths
    measured.close()
