"""Reading option files from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atelier.options.source import read_option_file

Refusal = Callable[..., str]


def test_yaml_and_json_files(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_bytes("\ufeffname: naïve\r\nscale: 2\r\n".encode())
    (tmp_path / "b.JSON").write_text('// ours\n{"name": "x"}', encoding="utf-8")
    read = read_option_file(tmp_path / "a.yml")
    assert (read.name, read.data) == (str(tmp_path / "a.yml"), {"name": "naïve", "scale": 2})
    assert read.lines["scale",] == 2
    assert read_option_file(str(tmp_path / "b.JSON")).lines == {(): 2, ("name",): 2}


def test_missing_file_names_the_nearest(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "train_x4.yml").write_text("name: x")
    path = tmp_path / "trian_x4.yml"
    assert refusal(read_option_file, path) == f"{path}: no such option file; did you mean 'train_x4.yml'?"
    path = tmp_path / "zzz.txt"
    assert refusal(read_option_file, path) == f"{path}: no such option file"
    path = tmp_path / "nowhere" / "x.yml"
    assert refusal(read_option_file, path) == (
        f"{path}: no such option file; the folder {tmp_path / 'nowhere'} does not exist"
    )


def test_what_is_no_option_file(tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "x.yml"
    assert refusal(read_option_file, tmp_path) == f"{tmp_path}: this is a folder; name an option file in it"
    path.write_bytes(b"name: x\nnote: caf\xe9\n")
    assert refusal(read_option_file, path) == f"{path}:2: not UTF-8 text (byte 0xe9); save the file as UTF-8"
    path.write_bytes(b"")
    assert refusal(read_option_file, path) == (
        f"{path}: the file is empty; an option file needs at least name, datasets and network_g"
    )
    path.write_text("# head\n- a\n- b\n")
    assert refusal(read_option_file, path) == (
        f"{path}:2: the file holds a list; an option file is a mapping of keys ('name: ...')"
    )
    path.write_text("hello")
    assert refusal(read_option_file, path) == (
        f"{path}:1: the file holds a single value ('hello'); an option file is a mapping of keys ('name: ...')"
    )
    path.write_bytes(b"a" * ((1 << 20) + 1))
    assert refusal(read_option_file, path) == f"{path}: larger than 1 MiB; this cannot be an option file"
    assert (
        refusal(read_option_file, path / "below")
        == f"{path / 'below'}: cannot read the option file: not a directory"
    )
    assert refusal(read_option_file, "a\0b").endswith("cannot read the option file: embedded null byte")
