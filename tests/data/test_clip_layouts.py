"""Clips of folders, films and tables: exact names, reference rules, and one message for each mistake."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.data.clip_data import ClipData
from atelier.data.clip_frames import resized
from atelier.data.clip_options import TrainClipsOptions, ValClipsOptions
from atelier.data.clip_sources import ClipSource, RawClip
from atelier.data.options import CacheOptions
from atelier.degrade.base import DEGRADATIONS
from atelier.errors import UserError
from atelier.images import write_image
from atelier.randomness import Streams

SIDE = 24
BICUBIC = DEGRADATIONS.options_class("bicubic")(type="bicubic")


def frame(film: int, number: int, height: int = SIDE, width: int = 32) -> np.ndarray:
    """A colour picture whose first pixel's red says the film and the number."""
    pixels = np.random.default_rng(film * 1000 + number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[..., 0] = 20 * film + number
    return pixels


def film(root: Path, name: str, count: int, *, number: int = 0, start: int = 0, **size: int) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for each in range(start, start + count):
        write_image(folder / f"{each:05d}.png", frame(number, each, **size))
    return folder


Open = Callable[..., ClipData]


@pytest.fixture
def cache(tmp_path: Path) -> CacheOptions:
    return CacheOptions(folder=tmp_path / ".cache")


@pytest.fixture
def opened(cache: CacheOptions) -> Any:
    streams: list[ClipData] = []

    def open_(batch: int = 4, seed: int = 5, **given: Any) -> ClipData:
        own = {"clip_length": 3, "short_side": SIDE, "num_worker_per_gpu": 0, "use_hflip": False}
        options = TrainClipsOptions(**{**own, **given, "batch_size_per_gpu": batch})
        data = options.open(
            scale=1,
            degradation=BICUBIC,
            seed=seed,
            global_batch=batch,
            in_channels=1,
            cache=cache,
            quiet=True,
        )
        streams.append(data)
        return data

    yield open_
    for data in streams:
        data.close()


def drawn_from(source: ClipSource, count: int = 40) -> list[RawClip]:
    """Raw clips of every place, several times."""
    return [source.draw(k % len(source), Streams(1, 1, k)) for k in range(count)]


def drawn(data: ClipData, count: int = 40) -> list[RawClip]:
    return drawn_from(data.source, count)


def reds(pictures: Any) -> list[int]:
    return [int(picture[0, 0, 0]) for picture in pictures]


def test_folders_give_clips_in_natural_order_with_a_reference_outside(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "films"
    film(root, "a", 9, number=1)
    (root / "a" / "00009.png").unlink(missing_ok=True)
    write_image(root / "a" / "100000.png", frame(1, 9))  # natural order: after 00008
    data = opened(layout="folders", roots=str(root), reference={"external": 0})
    assert len(data) == 8
    for clip in drawn(data):
        numbers = [red - 20 for red in reds(clip.frames)]
        assert numbers == list(range(numbers[0], numbers[0] + 3))
        (outside,) = (red - 20 for red in reds(clip.references))
        assert outside <= numbers[0] - 3 or outside >= numbers[-1] + 3
        assert clip.roles == ("exemplar",)


def test_exactly_the_named_film_is_read(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "films"
    for number, name in enumerate(("1", "11", "001"), 1):
        film(root, name, 8, number=number)
    table = root / "clips.csv"
    lines = [f"1,{each:05d}.png," for each in range(8)]
    table.write_text("\n".join(["video_name,current_frame,ref1", *lines]))
    data = opened(layout="csv", roots=[root])
    assert {red // 20 for clip in drawn(data) for red in reds([*clip.frames, *clip.references])} == {1}
    data.close()
    table.write_text("video_name,current_frame\n01,00000.png\n")
    with pytest.raises(UserError, match=r"1 file missing") as error:
        opened(layout="csv", roots=[root])
    assert "clips.csv line 2" in str(error.value)
    assert "nearest: '001', '1', '11'" in str(error.value)


def test_no_clip_is_given_its_own_frame_by_a_table_of_numbers(tmp_path: Path, opened: Open) -> None:
    """Names of digits stay text, and a listed picture that is one of the clip's frames is not taken."""
    root = tmp_path / "films"
    film(root, "00001", 12, number=2)
    rows = [f"00001,{each:05d}.png,00001/{(each + 1) % 12:05d}.png,00001/00000.png" for each in range(12)]
    (root / "t.csv").write_text("\n".join(["video_name,current_frame,ref1,ref2", *rows]))
    data = opened(layout="csv", roots=root, reference={"external": 0.7})
    rules = data.source.rules()
    assert rules["neither: left out"] == 0 and sum(rules.values()) == 10
    seen = set()
    for clip in drawn(data, 120):
        own = reds(clip.frames)
        assert not set(reds(clip.references)) & set(own), clip.name
        seen.add("00000.png" in clip.name.split("reference")[1])
    assert seen == {True, False}


def test_the_reference_is_drawn_once_a_clip_and_follows_external(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "films"
    film(root, "a", 12, number=1)
    for number in range(3):
        write_image((film(root, "a.refs", 0) / f"r{number}.png"), frame(5, number))
    for share, allowed in ((0.0, {1}), (1.0, {5})):
        data = opened(layout="folders", roots=[root], reference={"external": share, "count": 2})
        found = [reds(clip.references) for clip in drawn(data)]
        assert {red // 20 for each in found for red in each} == allowed
        assert all(len(set(each)) == 2 for each in found)
    counts = opened(layout="folders", roots=[root], reference={"external": 0.5}).source.rules()
    assert counts == {
        "only the list of references": 0,
        "only the film itself": 0,
        "either": 10,
        "neither: left out": 0,
    }


def test_an_anchor_is_the_clips_first_frame(tmp_path: Path, opened: Open) -> None:
    film(tmp_path / "films", "a", 6, number=1)
    data = opened(layout="folders", roots=[tmp_path / "films"], reference={"anchor": True, "count": 0})
    for batch in data.batches(1, 2):
        assert batch.roles == (0,)
        assert torch.equal(batch.reference[:, 0], batch.lab[:, 0])


def test_short_films_without_references_are_an_error_and_middle_windows_are_left_out(
    tmp_path: Path, opened: Open
) -> None:
    root = tmp_path / "films"
    film(root, "short", 4)
    with pytest.raises(UserError, match=r"1 film with no picture .* short \(4 frames\)"):
        opened(layout="folders", roots=[root])
    write_image(film(root, "short.refs", 0) / "r.png", frame(5, 1))
    assert opened(layout="folders", roots=[root]).source.rules()["only the list of references"] == 2
    film(root, "middle", 7, number=3)
    source = opened(layout="folders", roots=[root]).source
    assert source.rules()["neither: left out"] == 1
    assert any("left out" in note for note in source.notes)


def test_grey_references_are_dropped_by_name_and_an_empty_list_is_an_error(
    tmp_path: Path, opened: Open
) -> None:
    root = tmp_path / "films"
    film(root, "a", 12, number=1)
    listed = film(root, "a.refs", 0)
    grey = np.repeat(frame(4, 1)[..., 1:2], 3, axis=2)
    write_image(listed / "grey.png", grey)
    write_image(listed / "grey_too.png", grey[..., :1])
    with pytest.raises(UserError, match=r"all listed references of a are grey .*grey\.png.*grey_too\.png"):
        opened(layout="folders", roots=[root])
    write_image(listed / "colour.png", frame(5, 0))
    source = opened(layout="folders", roots=[root], reference={"external": 1.0}).source
    assert "2 grey references left out" in source.notes[0] and "grey_too.png" in source.notes[0]
    assert {reds(clip.references)[0] for clip in drawn_from(source)} == {100}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: film(root, "a", 0), r"no pictures in .*a; a film needs frames"),
        (lambda root: film(root, "a", 1), r"fewer frames than the 3 that a clip needs: a \(1\)"),
        (
            lambda root: film(root, "a", 8) and film(root, "a", 1, start=8, width=40),
            r"00008.png: 40x24, the first",
        ),
        (lambda root: film(root, "a", 8) and film(root, "b.refs", 1), r"b.refs: there is no film 'b'"),
        (lambda root: film(root, "a", 8) and (root / "a" / "x.png").write_bytes(b"no"), r"x\.png"),
        (lambda root: film(root, ".", 8), r"no folder of frames .* give the folder above it"),
        (lambda root: None, r"is no folder"),
        (
            lambda root: film(root, "a", 8) and (root / "a.mp4").write_bytes(b"x"),
            r"are both a film called 'a'",
        ),
        (lambda root: film(root, "a", 8) and (root / "b.mp4").write_bytes(b"x"), r"b\.mp4 is not a film"),
    ],
)
def test_each_mistake_in_folders_has_one_message(
    tmp_path: Path, opened: Open, build: Callable[[Path], Any], message: str
) -> None:
    root = tmp_path / "films"
    build(root)
    with pytest.raises(UserError, match=message):
        opened(layout="folders", roots=[root])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("video,frame\n", r"its first line must be video_name,prev_frame.* or video_name,current_frame,ref1"),
        ("video_name,current_frame\n", "names nothing"),
        ("video_name,current_frame\na,00000.png,b.png\n", "line 2: 3 cells"),
        ("video_name,current_frame\na,\n", "line 2: current_frame is empty"),
        ("video_name,current_frame\na,00000.png\na,00000.png\n", "stands in t.csv line 2 already"),
        (
            "video_name,current_frame,ref1\n" + "".join(f"a,{k:05d}.png,m{k}.png\n" for k in range(12)),
            r"16 files missing; the first 10",
        ),
    ],
)
def test_each_mistake_in_a_table_has_one_message(
    tmp_path: Path, opened: Open, text: str, message: str
) -> None:
    film(tmp_path, "a", 8)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        opened(layout="csv", roots=[tmp_path])
    assert str(error.value).count("\n  ") <= 10


def test_a_film_without_colours_is_an_error(tmp_path: Path, opened: Open, cache: CacheOptions) -> None:
    film(tmp_path, "colour", 8)
    grey = film(tmp_path, "grey", 0)
    for each in range(8):
        write_image(grey / f"{each}.png", np.repeat(frame(1, each)[..., 1:2], 3, axis=2))
    with pytest.raises(UserError, match=r"1 film without colours .*: grey$"):
        opened(layout="folders", roots=[tmp_path])
    with pytest.raises(UserError, match=r"1 film without colours"):
        ValClipsOptions(layout="folders", roots=[tmp_path]).open(cache=cache, quiet=True)
    write_image(grey / "1.png", frame(1, 1)[..., 1:2])
    with pytest.raises(UserError, match=r"1\.png: a grey picture; frames need their true colours"):
        opened(layout="folders", roots=[tmp_path])


def test_the_only_table_is_found_and_two_are_an_error(tmp_path: Path, opened: Open) -> None:
    film(tmp_path, "a", 8)
    with pytest.raises(UserError, match="holds no CSV file"):
        opened(layout="csv", roots=[tmp_path])
    rows = "\n".join(["video_name,current_frame", *(f"a,{each:05d}.png" for each in range(8))])
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(rows)
    with pytest.raises(UserError, match=r"2 CSV files \(one.csv, two.csv\)"):
        opened(layout="csv", roots=[tmp_path])
    assert len(opened(layout="csv", roots=[tmp_path], csv=str(tmp_path / "two.csv"))) == 6


def test_a_picture_in_two_reference_roots_is_an_error(tmp_path: Path, opened: Open) -> None:
    film(tmp_path, "a", 8)
    for name in ("one", "two"):
        write_image(film(tmp_path / "refs", name, 0) / "r.png", frame(5, 1))
    rows = [f"a,{each:05d}.png,r.png" for each in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["video_name,current_frame,ref1", *rows]))
    roots = [tmp_path / "refs" / name for name in ("one", "two")]
    with pytest.raises(UserError, match=r"'r.png' is in .*one and in .*two; which"):
        opened(layout="csv", roots=[tmp_path], reference_roots=roots)
    assert len(opened(layout="csv", roots=[tmp_path], reference_roots=roots[:1])) == 6


def test_motion_of_swintexcos_table_is_resized_cut_and_flipped_with_the_clip(
    tmp_path: Path, opened: Open
) -> None:
    """A flow of (4, 2) pixels at 48x64 becomes (2, 1) at 24x32, mirrored (-2, 1); mask from 240 on."""
    film(tmp_path, "v", 9, height=2 * SIDE, width=64)
    flow = np.broadcast_to(np.array([4, 2], "<f4"), (48, 64, 2))
    header = struct.pack("<f2i", 202021.25, 64, 48)
    mask = np.full((48, 64, 1), 239, np.uint8)
    mask[:24] = 240
    lines = ["video_name,prev_frame,current_frame,flow_forward_name,mask_name,ref1"]
    for each in range(8):
        (tmp_path / "v" / f"{each}.flo").write_bytes(header + flow.tobytes())
        write_image(tmp_path / "v" / f"mask{each}.png", mask)
        lines.append(f"v,{each:05d}.png,{each + 1:05d}.png,{each}.flo,mask{each}.png,")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match="clip_length: 2"):
        opened(layout="csv", roots=[tmp_path])
    data = opened(layout="csv", roots=[tmp_path], clip_length=2, use_hflip=True)
    assert len(data) == 8
    seen = set()
    for batch in data.batches(1, 3):
        assert batch.direction == "forward" and batch.true_flow is not None and batch.valid is not None
        assert batch.true_flow.shape == (4, 2, 2, SIDE, SIDE) and not batch.true_flow[:, 0].any()
        for clip in batch.true_flow[:, 1]:
            seen.add(float(clip[0, 0, 0]))
            assert torch.allclose(clip[1], torch.tensor(1.0)) and torch.allclose(
                clip[0].abs(), torch.tensor(2.0)
            )
        assert batch.valid[:, 1, 0, :12].all() and not batch.valid[:, 1, 0, 12:].any()
    assert seen == {2.0, -2.0}


def test_tables_with_and_without_motion_are_not_mixed(
    tmp_path: Path, opened: Open, cache: CacheOptions
) -> None:
    """A step's clips would have motion here and none there; films that are measured need none."""
    rows = {
        "still": ["video_name,current_frame", *(f"v,{each:05d}.png" for each in range(8))],
        "moved": [
            "video_name,prev_frame,current_frame,flow_forward_name,mask_name",
            *(f"v,{each:05d}.png,{each + 1:05d}.png,f.flo,f.png" for each in range(7)),
        ],
    }
    for name, lines in rows.items():
        film(tmp_path / name, "v", 8)
        for file in ("f.flo", "f.png"):
            (tmp_path / name / "v" / file).touch()
        (tmp_path / name / "t.csv").write_text("\n".join(lines))
    roots = [tmp_path / "still", tmp_path / "moved"]
    for order in (roots, roots[::-1]):
        with pytest.raises(UserError, match=r"moved.t\.csv names motion and .*still.t\.csv names none"):
            opened(layout="csv", roots=order, clip_length=2)
    assert len(opened(layout="csv", roots=roots[1:], clip_length=2)) == 7
    measured = ValClipsOptions(layout="csv", roots=roots, short_side=SIDE).open(cache=cache, quiet=True)
    assert measured.names == ["still_v", "moved_v"]
    measured.close()


def test_a_listed_link_to_a_frame_of_the_clip_is_not_its_reference(tmp_path: Path, opened: Open) -> None:
    """Also where the film itself is a link to another one, or has a frame under two names."""
    root = tmp_path / "films"
    film(root, "x", 4)
    film(root, "x.refs", 0)
    for number, name in enumerate(("00000.png", "00003.png")):
        (root / "x.refs" / f"{number}.png").symlink_to(Path("..", "x", name))
    (root / "y").symlink_to("x", target_is_directory=True)
    (root / "y.refs").symlink_to("x.refs", target_is_directory=True)
    rows = [f"{name},{each:05d}.png,x.refs/0.png,x.refs/1.png" for name in "xy" for each in range(4)]
    (root / "t.csv").write_text("\n".join(["video_name,current_frame,ref1,ref2", *rows]))
    for layout in ("folders", "csv"):
        source = opened(layout=layout, roots=[root], reference={"external": 1.0}).source
        assert len(source) == 4
        for clip in drawn_from(source):
            assert set(reds(clip.references)) == {0, 3} - set(reds(clip.frames)), (layout, clip.name)
    (root / "x" / "00003.png").unlink()
    (root / "x" / "00003.png").symlink_to("00000.png")
    with pytest.raises(UserError, match=r"no picture that could be a clip's reference: x \(4 frames\)"):
        opened(layout="folders", roots=[root], reference={"external": 1.0}, clip_length=4)


def test_pairs_move_the_picture_and_take_the_other_as_reference(tmp_path: Path, opened: Open) -> None:
    write_image(tmp_path / "p.png", frame(1, 0, 40, 60))
    write_image(tmp_path / "q.png", frame(2, 0, 30, 30))
    write_image(tmp_path / "grey.png", np.full((30, 30, 3), 90, np.uint8))
    table = tmp_path / "pairs.csv"
    table.write_text("image,reference\np.png,q.png\nq.png,p.png\np.png,grey.png\n")
    data = opened(layout="pairs", roots=[tmp_path])
    assert len(data) == 2 and "grey.png" in data.source.notes[0]
    for clip in drawn(data, 6):
        (red,) = reds(clip.references)
        assert {red, *(each for each in reds(clip.frames))} == {20, 40} and clip.motion is not None
    table.write_text("image,reference\np.png,p.png\n")
    with pytest.raises(UserError, match="its own reference"):
        opened(layout="pairs", roots=[tmp_path])
    table.write_text("image,reference\np.png,grey.png\n")
    with pytest.raises(UserError, match="every reference is grey"):
        opened(layout="pairs", roots=[tmp_path])


@pytest.mark.parametrize("enabled", [True, False])
def test_frames_keep_their_aspect_and_are_cut_to_the_crop(
    tmp_path: Path, opened: Open, cache: CacheOptions, enabled: bool
) -> None:
    root = tmp_path / "films"
    film(root, "wide", 9, height=48, width=97)
    film(root, "tall", 9, height=97, width=48, number=1)
    cache = cache.model_copy(update={"enabled": enabled})
    options = TrainClipsOptions(
        layout="folders",
        roots=[root],
        clip_length=3,
        short_side=SIDE,
        crop=(16, 32),
        num_worker_per_gpu=0,
    )
    data = options.open(
        scale=1,
        degradation=BICUBIC,
        seed=1,
        global_batch=3,
        in_channels=1,
        cache=cache,
        quiet=True,
    )
    for batch in data.batches(1, 3):
        assert batch.L.shape == (3, 3, 1, 16, 32) and batch.reference.shape == (3, 1, 3, 16, 32)
    data.close()
    films = ValClipsOptions(layout="folders", roots=[root], short_side=SIDE).open(cache=cache, quiet=True)
    assert {name: tuple(clip.L.shape) for name, clip in zip(films.names, films, strict=True)} == {
        "wide": (1, 9, 1, 24, 48),
        "tall": (1, 9, 1, 48, 24),
    }
    films.close()


def test_video_files_are_decoded_once_into_the_cache(
    tmp_path: Path, opened: Open, cache: CacheOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    from atelier.images import video
    from films import flat_film

    root = tmp_path / "films"
    root.mkdir()
    flat_film(root / "a.mp4", frames=9, size=(64, 48))
    write_image(film(root, "a.refs", 0) / "r.png", frame(5, 0))
    film(root, "b", 8, number=1)
    given: dict[str, Any] = {"layout": "folders", "roots": [root], "crop": (SIDE, 32)}
    data = opened(**given)
    assert len(data) == 7 + 6
    whole = [resized(each.pixels, (SIDE, 32)) for each in video.open_video(root / "a.mp4").frames()]
    assert len(whole) == 9 and len({each.tobytes() for each in whole}) == 9
    for number in range(7):
        clip = data.source.draw(number, Streams(1, 1, number))
        assert all(map(np.array_equal, clip.frames, whole[number : number + 3]))
    first = next(data.batches(1, 1))
    data.close()

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("decoded a second time")

    monkeypatch.setattr(video, "open_video", never)
    again = opened(**given)
    assert torch.equal(next(again.batches(1, 1)).lab, first.lab) and again.fingerprint == data.fingerprint
    with pytest.raises(UserError, match=r"a\.mp4: video files are decoded once into the shard cache"):
        TrainClipsOptions(layout="folders", roots=[root], num_worker_per_gpu=0).open(
            scale=1,
            degradation=BICUBIC,
            seed=1,
            global_batch=4,
            in_channels=1,
            cache=cache.model_copy(update={"enabled": False}),
            quiet=True,
        )


def test_workers_draw_the_same_clips_of_folders(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "films"
    film(root, "a", 10, number=1)
    write_image(film(root, "a.refs", 0) / "r.png", frame(5, 0))
    given: dict[str, Any] = {"layout": "folders", "roots": [root], "reference": {"external": 0.5}}
    here = list(opened(**given).batches(1, 2))
    there = list(opened(**given, num_worker_per_gpu=1).batches(1, 2))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.lab, other.lab) and torch.equal(one.reference, other.reference)
        assert list(one.samples) == list(other.samples)


def test_films_to_measure_give_listed_references_by_name(tmp_path: Path, cache: CacheOptions) -> None:
    root = tmp_path / "films"
    film(root, "a", 6, number=1)
    options: dict[str, Any] = {"layout": "folders", "roots": [root], "short_side": SIDE}
    listed = {"source": "listed", "count": 2}
    with pytest.raises(UserError, match="needs 2 listed references of each film; too few: a"):
        ValClipsOptions(**options, reference=listed).open(cache=cache, quiet=True)
    for number in range(3):
        write_image(film(root, "a.refs", 0) / f"{number}.png", frame(5, number, 40, 40))
    films = ValClipsOptions(**options, reference=listed, clip_length=4).open(cache=cache, quiet=True)
    (clip,) = films
    assert clip.L.shape == (1, 4, 1, SIDE, 32) and clip.reference.shape == (1, 2, 3, SIDE, 32)
    assert clip.roles == ("exemplar", "exemplar") and clip.true_flow is None
    films.close()
    first = ValClipsOptions(**options, reference={"role": "anchor"}, crop=16).open(cache=cache, quiet=True)[0]
    assert first.roles == (0,) and torch.equal(first.reference[:, 0], first.lab[:, 0])
    assert first.L.shape == (1, 6, 1, 16, 16)


def test_data_check_counts_what_each_rule_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    from atelier.cli.main import main

    root = tmp_path / "films"
    film(root, "a", 12, number=1)
    film(root, "b", 7, number=2)
    write_image(film(root, "a.refs", 0) / "r.png", frame(5, 0))
    run = {
        "name": "clips",
        "scale": 1,
        "objective": {"type": "colorize"},
        "network_g": {"type": "FusionSystem"},
        "cache": {"folder": str(tmp_path / ".cache")},
        "datasets": {
            "train": {
                "type": "clips",
                "layout": "folders",
                "roots": [str(root)],
                "clip_length": 3,
                "short_side": 32,
                "reference": {"external": 0.2, "augment": "minimal"},
            },
            "val": {"type": "clips", "layout": "synthetic", "clips": 2},
        },
    }
    file = tmp_path / "run.yml"
    file.write_text(yaml.safe_dump(run))
    with pytest.raises(SystemExit) as done:
        main(["data", "check", "-opt", str(file), "datasets.val.clips=3"])
    assert not done.value.code and "val: 3 films to measure, synthetic" in capsys.readouterr().out
    for words, told in (([], "given neither"), (["a", "b"], "given a, b")):
        with pytest.raises(SystemExit) as done:
            main(["data", "check", *words])
        assert done.value.code == 2 and told in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main(["data", "check", str(file)])
    printed = capsys.readouterr()
    assert not done.value.code, printed.err
    for line in (
        "train: 14 clips of 3 frames of 32x32",
        "reference from either: 10",
        "about 2 from the list (external 0.2)",
        "reference from only the film itself: 4",
        "reference from neither: left out: 1",
        "1 clips in the middle of short films",
        "val: 2 films to measure, synthetic",
        "reference from the first frame: 2",
    ):
        assert line in printed.out, printed.out
