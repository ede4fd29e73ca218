"""References from files: names, roles, choice and bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.colorize.bank import ReferenceBank
from atelier.colorize.opening import WeightFiles, open_system
from atelier.colorize.reference_files import ReferenceFile, find_references
from atelier.colorize.references import Anchor
from atelier.colorize.working import WorkingSize, lightness
from atelier.errors import UserError
from colorize.grey_films import clip, grey, picture

NAMES = ("chelsea", "astronaut", "rocket", "motorcycle_left")


@pytest.fixture(scope="module")
def system() -> Any:
    return open_system(WeightFiles()).system


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [picture(folder / f"{name}.png", clip(name, 2)[0]) for name in NAMES]


SIZE = WorkingSize.of(64, 64, 64)


def test_names(tmp_path: Path, pictures: list[Path]) -> None:
    odd = picture(tmp_path / "a@7.png", clip("chelsea", 2)[0])
    found = find_references([f"{pictures[0]}@120", str(odd)], [f"4={pictures[1]}"])
    assert [(file.path.name, file.frame) for file in found] == [
        ("chelsea.png", 120),
        ("a@7.png", None),
        ("astronaut.png", 4),
    ]
    assert str(found[0]) == f"{pictures[0]}@120"
    whole = find_references([str(pictures[0].parent)], [])
    assert [file.path.stem for file in whole] == sorted(NAMES) and all(file.from_folder for file in whole)


@pytest.mark.parametrize(
    ("references", "anchors", "message"),
    [
        ([], [], "at least one colour picture"),
        (["nothing.png"], [], "nothing.png does not exist"),
        (["nothing.png@3"], [], "nothing.png does not exist"),
        ([__file__], [], "is no picture"),
        (["{0}@-1"], [], "counted from 0"),
        ([], ["{0}"], "FRAME=PICTURE"),
        ([], ["x={0}"], "FRAME=PICTURE"),
        (["{0}@3"], ["3={1}"], "frame 3 is pinned by .*chelsea.png and by .*astronaut.png"),
        (["{0}", "{0}"], [], "given twice"),
    ],
)
def test_bad_names(references: list[str], anchors: list[str], message: str, pictures: list[Path]) -> None:
    with pytest.raises(UserError, match=message):
        find_references(
            [text.format(*pictures) for text in references], [text.format(*pictures) for text in anchors]
        )


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pictures in this folder"):
        find_references([str(tmp_path)], [])


def test_grey_references(tmp_path: Path, system: Any, pictures: list[Path]) -> None:
    pale = picture(tmp_path / "pale.png", grey(clip("chelsea", 2)[0]))
    tinted = np.clip(grey(clip("chelsea", 2)[0]) * np.array([1.0, 0.99, 0.98]), 0, 255).astype(np.uint8)
    sepia = picture(tmp_path / "sepia.png", tinted)
    for path in (pale, sepia):
        with pytest.raises(UserError, match=f"{path.name} is grey"):
            ReferenceBank(system, [ReferenceFile(path)], SIZE)
        with pytest.raises(UserError, match="all 1 references are grey"):
            ReferenceBank(system, [ReferenceFile(path, from_folder=True)], SIZE)
    bank = ReferenceBank(system, [ReferenceFile(pale, from_folder=True), ReferenceFile(pictures[0])], SIZE)
    assert len(bank.files) == 1 and bank.notes == [f"{pale} is grey and was left out"]


def test_anchors_are_as_large_as_a_frame(tmp_path: Path, system: Any, pictures: list[Path]) -> None:
    size = WorkingSize.of(80, 64, 32)
    with pytest.raises(UserError, match="another shape than the film's 80x64"):
        ReferenceBank(system, [ReferenceFile(pictures[0], frame=2)], size)
    wide = picture(tmp_path / "wide.png", clip("chelsea", 2, 160)[0][:128])
    bank = ReferenceBank(system, [ReferenceFile(wide, frame=2)], size)
    assert bank.roles == [Anchor(2)]
    pinned = bank.anchor(2)
    assert pinned is not None and tuple(pinned.shape) == (1, 3, *size.padded)
    assert bank.anchor(1) is None
    prepared = bank.prepared((0,), 2, pinned)
    found = prepared.references.anchor_lab(2, size.padded)
    assert found is not None and torch.equal(found, pinned)
    assert bank.prepared((0,), 1, None).references.anchor_lab(1, size.padded) is None


def test_saturation(system: Any, pictures: list[Path]) -> None:
    files = [ReferenceFile(pictures[0], frame=0)]
    plain, strong = (ReferenceBank(system, files, SIZE, saturation=factor) for factor in (1.0, 1.5))
    one, more = plain.prepared((0,), 1, None).cache.ab, strong.prepared((0,), 1, None).cache.ab
    assert torch.allclose(more, 1.5 * one, atol=1e-6) and float(one.abs().max()) > 0.01
    first, second = plain.anchor(0), strong.anchor(0)
    assert first is not None and second is not None
    assert torch.allclose(second[:, 1:], 1.5 * first[:, 1:], atol=1e-6)


def test_the_best_reference_of_a_scene(system: Any, pictures: list[Path]) -> None:
    bank = ReferenceBank(
        system, [ReferenceFile(path) for path in pictures], SIZE, per_scene="best", limit=10**6
    )
    for number, name in enumerate(NAMES):
        choice = bank.choose(SIZE.shrink(lightness(clip(name, 2)[1])), 0)
        assert choice.kept == (number,) and len(choice.resemblance) == len(NAMES)


def test_only_references_of_the_scene_count_unless_all_are_asked_for(
    tmp_path: Path, system: Any, pictures: list[Path]
) -> None:
    """A second picture of the scene stays beside the first one, those of other scenes do not."""
    later = picture(tmp_path / "later.png", clip("rocket", 6)[5])
    files = [ReferenceFile(path) for path in [*pictures, later]]
    work = SIZE.shrink(lightness(clip("rocket", 2)[1]))
    choices = {
        rule: ReferenceBank(system, files, SIZE, limit=10**6, per_scene=rule).choose(work, 0)
        for rule in ("alike", "best", "all")
    }
    assert [choices[rule].kept for rule in ("alike", "best", "all")] == [(2, 4), (2,), (0, 1, 2, 3, 4)]
    assert choices["alike"].left_out == ()
    # Memory bounds these too, and tells what it costs.
    tight = ReferenceBank(system, files, SIZE, limit=256).choose(work, 0)
    assert (tight.kept, tight.left_out) == ((2,), (4,))


def test_memory_is_bounded(system: Any, pictures: list[Path]) -> None:
    """Beyond the limit the best stay, the rest is named, and the features lie on the disk."""
    files = [ReferenceFile(path) for path in pictures]
    everything = ReferenceBank(system, files, SIZE, limit=10**6, per_scene="all")
    bank = ReferenceBank(system, files, SIZE, limit=2 * 256, per_scene="all")
    assert bank.counts == [256] * 4 and bank.limit == 512 and not bank._caches
    work = SIZE.shrink(lightness(clip("rocket", 2)[1]))
    choice = bank.choose(work, 0)
    assert len(choice.kept) == 2 and 2 in choice.kept
    assert sorted(choice.kept + choice.left_out) == [0, 1, 2, 3]
    cache = bank.prepared(choice.kept, 0, None).cache
    same = everything.prepared(choice.kept, 0, None).cache
    assert torch.equal(cache.features, same.features) and torch.equal(cache.ab, same.ab)
    assert bank._folder is not None
    place = Path(bank._folder.name)
    assert len(list(place.iterdir())) == 4
    bank.close()
    assert not place.exists()
    assert everything.choose(work, 0).kept == (0, 1, 2, 3) and everything._folder is None


def test_each_reference_is_encoded_once(system: Any, pictures: list[Path], monkeypatch: Any) -> None:
    calls = []
    net = system.exemplar.net
    hook = net.register_forward_hook(lambda *_: calls.append(1))
    bank = ReferenceBank(system, [ReferenceFile(path) for path in pictures], SIZE, limit=512)
    assert len(calls) == len(pictures)
    for frame in range(3):
        bank.prepared((0, 1), frame, None)
    hook.remove()
    assert len(calls) == len(pictures)
    bank.close()


def test_wrong_numbers(system: Any, pictures: list[Path]) -> None:
    for wrong, message in (({"limit": 0}, "at least 1"), ({"saturation": -1.0}, "must not be negative")):
        with pytest.raises(UserError, match=message):
            ReferenceBank(system, [ReferenceFile(pictures[0])], SIZE, **wrong)  # type: ignore[arg-type]
