"""Which MemFlow files load, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from archs.golden import shapes_of
from atelier.archs.memflow import MemFlow
from atelier.archs.memflow_files import load_memflow
from atelier.errors import UserError


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return MemFlow().state_dict()


@pytest.mark.parametrize("form", ["flat", "model", "module", "model and module", "safetensors"])
def test_the_forms_in_which_files_are_found(form: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "memflow.pth"
    written = {f"module.{key}" if "module" in form else key: value for key, value in state.items()}
    if form == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file({key: value.clone() for key, value in written.items()}, path)
    else:
        torch.save({"iteration": 5, "model": written} if "model" in form.split() else written, path)
    net = MemFlow()
    report = load_memflow(net, path)
    assert report.complete and len(report.loaded) == 245
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_the_official_key_list_loads_strictly(tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    made = {
        key: torch.full(shape, 3, dtype=torch.int64)
        if key.endswith(("rel_ind", "num_batches_tracked"))
        else torch.full(shape, 0.5)
        for key, shape in shapes_of("memflow").items()
    }
    torch.save(made, path)
    net = MemFlow()
    assert load_memflow(net, path).complete
    assert all(bool((value == made[key]).all()) for key, value in net.state_dict().items())


def test_a_renamed_key_is_told_by_both_names(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "renamed.pth"
    renamed = dict(state)
    renamed["update_block.gru.pv.weight"] = renamed.pop("update_block.gru.pw.weight")
    torch.save(renamed, path)
    net = MemFlow()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_memflow(net, path)
    for name in ("renamed.pth", "update_block.gru.pv.weight", "update_block.gru.pw.weight"):
        assert name in str(caught.value)
    assert "path.load" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("extra", "words"),
    [("cnet.svt.patch_embeds.0.proj.weight", "MemFlow-T"), ("update_block.gru_new.pw.weight", "MemFlow-P")],
)
def test_other_variants_are_refused_by_name(
    extra: str, words: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "variant.pth"
    torch.save({**state, extra: torch.zeros(1)}, path)
    with pytest.raises(UserError, match=f"variant.pth holds {words}.*not supported"):
        load_memflow(MemFlow(), path)


def test_another_network_is_no_memflow(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"body.0.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="no MemFlow: there is no update_block"):
        load_memflow(MemFlow(), path)


def test_two_names_of_one_tensor_must_agree(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "torn.pth"
    torch.save({**state, "cnet.layer2.0.norm3.weight": state["cnet.layer2.0.norm3.weight"] + 1}, path)
    with pytest.raises(UserError, match=r"cnet\.layer2\.0\.norm3\.weight and its second name cnet\.layer2"):
        load_memflow(MemFlow(), path)
