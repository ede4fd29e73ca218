"""Archives: what is refused, what is read, and that nothing leaves the folder."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from atelier.data.archives import Limits, list_members, read_members
from atelier.data.extract import MANIFEST, extract_archives
from atelier.data.manifest import flat_names, read_manifest
from atelier.errors import UserError
from atelier.files import sha256_of


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def tarred(
    path: Path, files: dict[str, bytes], mode: str = "w", extra: list[tarfile.TarInfo] | None = None
) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra or []:
            archive.addfile(info)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != MANIFEST
    }


@pytest.mark.parametrize(
    "name", ["/abs.png", "../up.png", "a/../../up.png", "C:\\x.png", "..\\up.png", "\\\\host\\x.png"]
)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_names_that_lead_out_refuse_the_whole_archive(tmp_path, make, name):
    path = make(tmp_path / "bad.bin", {"good.png": b"1", name: b"evil"})
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=r"outside of the folder; the archive is refused"):
        extract_archives([path], tmp_path / "x" / "out", quiet=True)
    assert not tree(tmp_path / "x") and not (tmp_path / "up.png").exists()


@pytest.mark.parametrize(
    "info",
    [
        link("l.png", "/etc/passwd"),
        link("d/l.png", "../../x.png"),
        link("l.png", "../x.png", tarfile.LNKTYPE),
    ],
)
def test_links_that_lead_out_are_refused(tmp_path, info):
    path = tarred(tmp_path / "bad.tar", {"good.png": b"1"}, extra=[info])
    with pytest.raises(UserError, match=r"holds a link .* outside of the folder"):
        list_members(path, Limits())


def test_a_zip_with_a_link_that_leads_out_is_refused(tmp_path):
    info = zipfile.ZipInfo("l.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(info, "../../etc/passwd")
    with pytest.raises(UserError, match="outside of the folder"):
        list_members(tmp_path / "bad.zip", Limits())


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_device_files_are_refused(tmp_path, kind):
    path = tarred(tmp_path / "bad.tar", {"good.png": b"1"}, extra=[link("dev.png", "", kind)])
    with pytest.raises(UserError, match=r"device file or pipe, 'dev\.png'"):
        list_members(path, Limits())


def test_links_inside_are_read_as_their_file_and_never_made(tmp_path):
    path = tarred(
        tmp_path / "a.tar.gz",
        {"d/a.png": b"one", "d/b.png": b"two"},
        "w:gz",
        [
            link("e/s.png", "../d/a.png"),
            link("h.png", "d/b.png", tarfile.LNKTYPE),
            link("c.png", "e/s.png"),
            link("loop.png", "loop.png"),
        ],
    )
    extract_archives([path], tmp_path / "out", quiet=True)
    assert tree(tmp_path / "out") == {
        "d/a.png": b"one",
        "d/b.png": b"two",
        "e/s.png": b"one",
        "h.png": b"two",
        "c.png": b"one",
    }
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))


def test_a_link_in_the_folder_is_not_followed_out(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of"):
        extract_archives([zipped(tmp_path / "a.zip", {"sub/a.png": b"1"})], tmp_path / "out", quiet=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_bombs_are_refused_before_anything_is_written(tmp_path):
    path = zipped(tmp_path / "bomb.zip", {f"{k}.png": bytes(1 << 20) for k in range(8)})
    small = Limits(free=1 << 20)
    with pytest.raises(UserError, match="more than 100 times its size"):
        extract_archives([path], tmp_path / "out", limits=small, quiet=True)
    packed = tmp_path / "bomb.tar.gz"
    packed.write_bytes(gzip.compress(tarred(tmp_path / "t.tar", {"a.png": bytes(8 << 20)}).read_bytes()))
    with pytest.raises(UserError, match="more than 100 times its size"):
        extract_archives([packed], tmp_path / "out", limits=small, quiet=True)
    with pytest.raises(UserError, match=r"more than 0\.001 GB"):
        extract_archives([path], tmp_path / "out", limits=Limits(total=10**6), quiet=True)
    with pytest.raises(UserError, match="3 files"):
        extract_archives([path], tmp_path / "out", limits=Limits(members=3), quiet=True)
    assert not tree(tmp_path / "out")
    assert extract_archives([path], tmp_path / "out", quiet=True).written == 8


def test_the_limit_holds_for_several_archives_together(tmp_path):
    paths = [zipped(tmp_path / f"{k}.zip", {f"{k}.png": bytes(600)}, zipfile.ZIP_STORED) for k in range(2)]
    with pytest.raises(UserError, match="together"):
        extract_archives(paths, tmp_path / "out", limits=Limits(total=1000), quiet=True)


def test_a_forged_header_cannot_ask_for_all_memory(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "a.tar").write_bytes(
        tarfile.TarInfo("a.png").tobuf() + info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)
    )
    with pytest.raises(UserError, match="a header asks for"):
        list_members(tmp_path / "a.tar", Limits())


def test_a_zip_bomb_in_a_zip_is_found(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"a.png": bytes(4 << 20)}).read_bytes()
    path = zipped(tmp_path / "outer.zip", {"inner.zip": inner})
    with pytest.raises(UserError, match="times its size"):
        extract_archives([path], tmp_path / "out", limits=Limits(free=1 << 20), quiet=True)
    deep = inner
    for _ in range(4):
        deep = zipped(tmp_path / "deep.zip", {"x.zip": deep}).read_bytes()
    with pytest.raises(UserError, match="more than 2 deep"):
        extract_archives([tmp_path / "deep.zip"], tmp_path / "out", quiet=True)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_every_kind_of_tar(tmp_path, mode):
    path = tarred(tmp_path / "a.bin", {"x/a.png": b"one" * 999, "./b.jpg": b"two", "n.txt": b"-"}, mode)
    report = extract_archives([path], tmp_path / "out", quiet=True)
    assert tree(tmp_path / "out") == {"x/a.png": b"one" * 999, "b.jpg": b"two"}
    assert report.left_out == {".txt": 1}


def test_damaged_archives(tmp_path):
    whole = zipped(tmp_path / "a.zip", {"a.png": b"A" * 500, "b.png": b"B" * 500}, zipfile.ZIP_STORED)
    data = whole.read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[:-10])
    with pytest.raises(UserError, match=r"cannot read the archive .*cut\.zip.*cut short"):
        extract_archives([tmp_path / "cut.zip"], tmp_path / "out", quiet=True)
    (tmp_path / "flip.zip").write_bytes(data.replace(b"AAAA", b"AABA", 1))
    report = extract_archives([tmp_path / "flip.zip"], tmp_path / "out", quiet=True)
    assert report.written == 1 and "a.png cannot be read" in report.failed[0]
    assert tree(tmp_path / "out") == {"b.png": b"B" * 500}
    tar = tarred(tmp_path / "t.tar.gz", {f"{k}.png": bytes(range(256)) * 40 for k in range(20)}, "w:gz")
    (tmp_path / "cut.tar.gz").write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut\.tar\.gz"):
        extract_archives([tmp_path / "cut.tar.gz"], tmp_path / "out", quiet=True)
    for content, words in ((b"Rar!\x1a\x07\0", "no archive that can be read"), (b"", "no archive")):
        (tmp_path / "a.rar").write_bytes(content)
        with pytest.raises(UserError, match=words):
            extract_archives([tmp_path / "a.rar"], tmp_path / "out", quiet=True)


def test_read_members_reports_the_rest_of_a_broken_tar(tmp_path):
    tar = tarred(tmp_path / "t.tar", {f"{k}.png": bytes(2000) for k in range(4)})
    members = list_members(tar, Limits())
    tar.write_bytes(tar.read_bytes()[:6000])
    results = [data if isinstance(data, str) else len(data) for _, data in read_members(tar, members)]
    assert results[:2] == [2000, 2000] and all("cannot be read" in str(text) for text in results[2:])
    assert len(results) == 4


# names


def test_flatten_never_overwrites(tmp_path):
    ost = zipped(
        tmp_path / "OST.zip",
        {
            "animal.zip": zipped(
                tmp_path / "1.zip", {"animal/1.png": b"cat", "animal/2.png": b"dog"}
            ).read_bytes(),
            "plant.zip": zipped(
                tmp_path / "2.zip", {"plant/1.png": b"fern", "plant/3.PNG": b"moss"}
            ).read_bytes(),
            "sky/2.png": b"dog",
            "__MACOSX/animal/._1.png": b"junk",
        },
    )
    report = extract_archives([ost], tmp_path / "out", flatten=True, quiet=True)
    assert tree(tmp_path / "out") == {
        "animal_1.png": b"cat",
        "plant_1.png": b"fern",
        "2.png": b"dog",
        "3.PNG": b"moss",
    }
    assert report.same == 1 and len(report.renamed) == 2
    entries = read_manifest(tmp_path / "out" / MANIFEST)["pictures"]
    assert [entry["file"] for entry in entries] == ["2.png", "3.PNG", "animal_1.png", "plant_1.png"]
    for entry in entries:
        assert entry["sha256"] == sha256_of(tmp_path / "out" / entry["file"])
    assert not list((tmp_path / "out").glob(".unpacking-*"))


def test_extracting_again_changes_nothing_with_and_without_the_manifest(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a/1.png": b"one", "b/1.png": b"two", "c/2.png": b"three"})
    extract_archives([path], tmp_path / "out", flatten=True, quiet=True)
    before = tree(tmp_path / "out")
    assert extract_archives([path], tmp_path / "out", flatten=True, quiet=True).present == 3
    (tmp_path / "out" / MANIFEST).unlink()
    (tmp_path / "out" / "2.png").unlink()
    report = extract_archives([path], tmp_path / "out", flatten=True, quiet=True)
    assert (report.written, report.present) == (1, 2) and tree(tmp_path / "out") == before


def test_a_stranger_of_the_same_name_stays(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").write_bytes(b"mine")
    path = zipped(tmp_path / "a.zip", {"d/1.png": b"theirs"})
    for _ in range(2):
        extract_archives([path], tmp_path / "out", flatten=True, quiet=True)
        assert tree(tmp_path / "out") == {"1.png": b"mine", "d_1.png": b"theirs"}
    other = zipped(tmp_path / "b.zip", {"d/1.png": b"others"})
    extract_archives([other], tmp_path / "out", flatten=True, quiet=True)
    assert tree(tmp_path / "out")["b_d_1.png"] == b"others"


def test_two_archives_of_one_name_are_not_confused(tmp_path):
    for folder, data in (("x", b"one"), ("y", b"two")):
        (tmp_path / folder).mkdir()
        zipped(tmp_path / folder / "a.zip", {"p.png": data}, zipfile.ZIP_STORED)
        extract_archives([tmp_path / folder / "a.zip"], tmp_path / "out", quiet=True)
    assert sorted(tree(tmp_path / "out").values()) == [b"one", b"two"]


def test_kinds_and_dry_run(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.png": b"1", "b.jpg": b"2"})
    assert extract_archives([path], tmp_path / "out", dry_run=True, quiet=True).written == 2
    assert not (tmp_path / "out").exists()
    assert extract_archives([path], tmp_path / "out", suffixes=["PNG"], quiet=True).left_out == {".jpg": 1}
    with pytest.raises(UserError, match=r"--ext \.gif: no picture"):
        extract_archives([path], tmp_path / "out", suffixes=["gif"], quiet=True)
    with pytest.raises(UserError, match="no pictures"):
        extract_archives([path], tmp_path / "out", suffixes=["bmp"], quiet=True)
    with pytest.raises(UserError, match="does not exist"):
        extract_archives([tmp_path / "none.zip"], tmp_path / "out", quiet=True)


def test_flat_names_do_not_depend_on_the_order():
    paths = [("a", "x", "1.png"), ("b", "x", "1.png"), ("b", "y", "1.PNG"), ("b", "y_1.png"), ("c", "2.png")]
    names = dict(zip(paths, flat_names(paths), strict=True))
    backwards = dict(zip(paths[::-1], flat_names(paths[::-1]), strict=True))
    assert names == backwards and len({name.casefold() for name in names.values()}) == 5
    assert names["c", "2.png"] == "2.png" and names["a", "x", "1.png"] == "a_x_1.png"
    assert flat_names([("a.png",), ("a.png",)], ["a_2.png"]) == ["a_3.png", "a_4.png"]
