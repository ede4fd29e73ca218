"""Weight files: every layout of the field is read, nothing runs, damage is named, a write is whole or absent."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from archs.examples import lively, picture, save, small_swinir
from atelier.archs import SRVGGNetCompact, load_network, read_weights, save_weights, written_state
from atelier.archs.weights import EXPORTED_SUFFIXES
from atelier.errors import UserError
from atelier.restore.exported import RUNTIMES


def net_of(seed: int = 0) -> Any:
    return lively(SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2), seed).eval()


def equal(found: Any, expected: Any) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


# --- reading


@pytest.mark.parametrize("key", ["params", "params_ema", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_layouts_of_the_field(key: str | None, prefix: str, tmp_path: Path) -> None:
    state = net_of().state_dict()
    stored: Any = {prefix + name: value for name, value in state.items()}
    path = tmp_path / "net.pth"
    torch.save(stored if key is None else {key: stored}, path)
    file = read_weights(path)
    assert file.param_key == key
    assert file.path == path
    assert equal(file.state, state)
    assert file.shapes["body.4.weight"] == (12, 4, 3, 3)


def test_an_exported_model_is_no_damaged_file(tmp_path: Path) -> None:
    assert set(EXPORTED_SUFFIXES) == set(RUNTIMES)
    for suffix in (*EXPORTED_SUFFIXES, ".ONNX"):
        path = tmp_path / f"net{suffix}"
        path.write_bytes(b"whatever")
        with pytest.raises(
            UserError, match=r"net\.\w+ is an exported model.*give the file that it was exported from"
        ):
            load_network(path)


def test_order_of_entries(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    states = {
        key: net_of(i).state_dict() for i, key in enumerate(("state_dict", "params", "params_ema", "best"))
    }
    for key in ("params_ema", "params", "state_dict"):
        torch.save(states, path)
        file = read_weights(path)
        assert file.param_key == key
        assert equal(file.state, states.pop(key) if key != "state_dict" else states[key])
    asked = read_weights(path, "best")
    assert asked.param_key == "best"
    assert equal(asked.state, states["best"])


def test_an_entry_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"params": net_of().state_dict(), "iter": 3}, path)
    with pytest.raises(UserError, match=r"net\.pth has no entry 'params_ema'; it has: params$"):
        read_weights(path, "params_ema")
    torch.save(net_of().state_dict(), path)
    with pytest.raises(UserError, match="it has: bare weights"):
        read_weights(path, "params_ema")
    single = save(net_of(), tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="'params_ema': a safetensors file holds one set"):
        read_weights(single, "params_ema")
    assert read_weights(single, "params").param_key == "params"


def test_a_prefix_is_stripped_only_where_all_have_it(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, path)
    assert list(read_weights(path).state) == ["module.a", "b"]


def test_old_format_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    state = net_of().state_dict()
    torch.save({"params": state}, path, _use_new_zipfile_serialization=False)
    assert equal(read_weights(path).state, state)


def test_foreign_safetensors_are_bare(tmp_path: Path) -> None:
    path = tmp_path / "net.SAFETENSORS"
    save_file(net_of().state_dict(), path, metadata={"modelspec.architecture": "compact"})
    file = read_weights(path)
    assert (file.param_key, dict(file.metadata)) == (None, {})
    assert file.state.keys() == net_of().state_dict().keys()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_metadata_come_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    metadata = {
        "arch": "Other",
        "options": {"a": [1, 2.5, None]},
        "iter": 7,
        "text": "größer",
        "sizes": [1, 2],
    }
    save_weights(path, {"params": {"a": torch.zeros(2)}}, metadata)
    assert dict(read_weights(path).metadata) == metadata


def test_both_entries_in_pth_the_better_one_in_safetensors(tmp_path: Path) -> None:
    states = {"params": net_of(1).state_dict(), "params_ema": net_of(2).state_dict()}
    save_weights(tmp_path / "net.pth", states, {})
    save_weights(tmp_path / "net.safetensors", states, {})
    for key in states:
        assert equal(read_weights(tmp_path / "net.pth", key).state, states[key])
    file = read_weights(tmp_path / "net.safetensors")
    assert file.param_key == "params_ema"
    assert all(torch.equal(file.state[name], value) for name, value in states["params_ema"].items())


def test_safetensors_of_swinir_hold_the_smallest_masks(tmp_path: Path) -> None:
    net = small_swinir(img_size=64)
    path = save(net, tmp_path / "net.safetensors")
    stored = load_file(path)
    assert stored["layers.0.residual_group.blocks.1.attn_mask"].shape == (4, 64, 64)
    x = picture(1, 3, 17, 9)
    with torch.no_grad():
        assert torch.equal(load_network(path).net(x), net(x))


def test_written_state_is_what_a_file_holds(tmp_path: Path) -> None:
    net = small_swinir()
    stored = torch.load(save(net, tmp_path / "net.pth"), weights_only=True)["params"]
    assert equal(stored, written_state(net))
    plain = torch.nn.Conv2d(1, 1, 3)
    assert equal(written_state(plain), plain.state_dict())


def test_what_is_written_is_detached_contiguous_and_not_shared(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.arange(12.0).view(3, 4).t())
    path = tmp_path / "net.pth"
    save_weights(path, {"params": {"w": weight}}, {})
    stored = read_weights(path).state["w"]
    assert not stored.requires_grad and stored.is_contiguous() and torch.equal(stored, weight.detach())


# --- nothing runs


class Evil:
    """A pickle that makes a folder when it is opened carelessly."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["beside", "inside", "pickle", "old format"])
def test_a_malicious_file_is_refused_without_running(how: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "net.pth"
    state: dict[str, Any] = dict(net_of().state_dict())
    if how == "beside":
        torch.save({"params": state, "optimizer": Evil(mark)}, path)
    elif how == "inside":
        torch.save({"params": {**state, "body.9.weight": Evil(mark)}}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"params": Evil(mark)}, protocol=2))
    else:
        torch.save({"params": Evil(mark)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"net\.pth (holds Python objects|is damaged)"):
        read_weights(path)
    assert not mark.exists()
    # Teeth: the charge is live.
    with path.open("rb") as file:
        if how == "pickle":
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert mark.is_dir()


# --- damage


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_cut_files(suffix: str, share: float, tmp_path: Path) -> None:
    path = save(net_of(), tmp_path / f"net{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=rf"net\{suffix} is damaged or not a"):
        read_weights(path)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(
    "content", [b"hello\n", b"<!DOCTYPE html>\n" * 50, b"\x80\x02", b"PK\x03\x04 no archive", bytes(4096)]
)
def test_files_that_are_something_else(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged or not a"):
        read_weights(path)


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors", "folder.pth", "folder.safetensors"])
def test_absent_files_and_folders(name: str, tmp_path: Path) -> None:
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: there is no such weight file"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not weights by name"),
        (torch.zeros(3), "holds a Tensor, not weights by name"),
        ({}, "does not hold weights: it is empty"),
        ({"params": {}}, "entry 'params' of .*: it is empty"),
        (
            {"params": {"a": torch.zeros(1), "b": 3}},
            "entry 'params' of .*'b' is a int, expected named tensors",
        ),
        ({"iter": 5}, "'iter' is a int"),
        ({0: torch.zeros(1)}, "'0' is a Tensor|expected named tensors"),
    ],
)
def test_files_without_weights(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=message):
        read_weights(path)


# --- writing whole or not at all


def only(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The operating system's own limit; Python ignores the signal, so that writing fails."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_write_that_fails_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    path = save(net_of(1), tmp_path / f"net{suffix}")
    before = path.read_bytes()
    with no_file_larger_than(2000), pytest.raises(UserError, match=rf"cannot write .*net\{suffix}: "):
        save(lively(SRVGGNetCompact(num_feat=32, num_conv=2)), path)
    assert path.read_bytes() == before
    assert only(tmp_path) == [path.name]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_named(wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(net_of(1), tmp_path / "net.pth")
    before = path.read_bytes()

    def full(content: Any, file: Any) -> None:
        file.write(b"half")
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if wrapped:
                # As torch's archive writer: the reason hides in the context.
                raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904
            raise

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*net\.pth: the disk is full"):
        save(net_of(2), path)
    assert path.read_bytes() == before
    assert only(tmp_path) == ["net.pth"]


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(net_of(1), tmp_path / "net.pth")
    before = path.read_bytes()

    def interrupted(content: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(net_of(2), path)
    assert path.read_bytes() == before
    assert only(tmp_path) == ["net.pth"]


@pytest.mark.parametrize("name", ["net.bin", "net", "net.pt"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{name}: the name must end in \.pth or \.safetensors"):
        save(net_of(), tmp_path / name)
    assert only(tmp_path) == []


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    assert save(net_of(), tmp_path / "a" / "b" / "net.pth").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save(net_of(), tmp_path / "file" / "net.pth")


def test_saving_does_not_touch_the_network(tmp_path: Path) -> None:
    net = small_swinir()
    before: dict[str, Tensor] = {key: value.clone() for key, value in net.state_dict().items()}
    save(net, tmp_path / "net.pth")
    assert equal(net.state_dict(), before)
