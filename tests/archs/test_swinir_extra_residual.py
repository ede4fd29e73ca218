"""Student V2: every Swin layer adds its input once more. The function, the marker, and who may load what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archs.examples import lively, picture, small_options
from atelier.archs import SwinIR, load_network, save_weights
from atelier.archs.load import load_state, options_of
from atelier.archs.swinir_block import SwinBlock
from atelier.archs.swinir_options import SwinIROptions
from atelier.archs.weights import read_weights
from atelier.compress.inherit import inherit_plan
from atelier.compress.options import InheritOptions
from atelier.errors import UserError
from atelier.options.read import load_run_options


def network(extra: bool, **changes: Any) -> SwinIR:
    torch.manual_seed(0)
    return SwinIROptions(**small_options(extra_residual=extra, **changes)).build().eval()


def written(net: SwinIR, path: Path, *, bare: bool = False) -> Path:
    if bare:
        torch.save({key: value for key, value in net.state_dict().items() if key != "extra_residual"}, path)
    else:
        options = net.options.model_dump(mode="json", exclude={"type"})
        save_weights(path, {"params": net.state_dict()}, {"arch": "SwinIR", "options": options})
    return path


def with_input_added(block: SwinBlock, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    rows: Tensor = inputs[0]
    return output + rows


@pytest.mark.parametrize("attention", ["window", "elsa"])
@pytest.mark.parametrize("train", [False, True])
def test_a_layer_is_the_plain_layer_plus_its_input(attention: str, train: bool) -> None:
    plain = lively(network(False, attention=attention, drop_path_rate=0.0))
    extra = network(True, attention=attention, drop_path_rate=0.0)
    extra.load_state_dict(plain.state_dict() | {"extra_residual": torch.ones(())})
    plain.train(train), extra.train(train)
    x = picture(2, 3, 17, 23)
    with torch.set_grad_enabled(train):
        before = plain(x)
        for module in plain.modules():
            if isinstance(module, SwinBlock):
                module.register_forward_hook(with_input_added)
        expected, got = plain(x), extra(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert float((got - before).detach().abs().max()) > 1e-2


def test_the_parameters_are_those_of_the_plain_network() -> None:
    plain, extra = network(False), network(True)
    assert [key for key, _ in plain.named_parameters()] == [key for key, _ in extra.named_parameters()]
    assert set(extra.state_dict()) - set(plain.state_dict()) == {"extra_residual"}


def test_its_file_comes_back_as_such_and_is_refused_elsewhere(tmp_path: Path) -> None:
    extra = lively(network(True))
    path = written(extra, tmp_path / "v2.pth")
    loaded = load_network(path).net
    x = picture(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), extra(x))
    with pytest.raises(UserError, match="extra_residual"):
        load_state(network(False), read_weights(path))
    # Another program's loader is as strict as torch's.
    with pytest.raises(RuntimeError, match="extra_residual"):
        network(False).load_state_dict(torch.load(path)["params"])


def test_spandrel_refuses_it(tmp_path: Path) -> None:
    from spandrel import ModelLoader

    plain = written(network(False), tmp_path / "v1.pth")
    assert ModelLoader().load_from_file(plain).architecture.id == "SwinIR"
    with pytest.raises(Exception, match="extra_residual"):
        ModelLoader().load_from_file(written(network(True), tmp_path / "v2.pth"))


def test_an_originals_file_loads_with_the_option_alone(tmp_path: Path) -> None:
    """It has exactly the plain network's keys, so only who asks knows what it is."""
    extra = lively(network(True))
    path = written(extra, tmp_path / "20000_E.pth", bare=True)
    assert not getattr(options_of(read_weights(path)), "extra_residual", True)
    target = network(True)
    load_state(target, read_weights(path))
    x = picture(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(target(x), extra(x))


def test_a_plain_file_of_ours_is_no_start_for_it(tmp_path: Path) -> None:
    path = written(network(False), tmp_path / "v1.pth")
    for mode in ("strict", "flexible"):
        with pytest.raises(UserError, match="holds a SwinIR without extra_residual"):
            load_state(network(True), read_weights(path), mode)  # type: ignore[arg-type]
    load_state(network(False), read_weights(path))


@pytest.mark.parametrize("old", [False, True])
def test_inheriting_never_changes_what_a_layer_is(old: bool) -> None:
    one, other = network(old), network(not old)
    with pytest.raises(UserError, match="extra_residual"):
        inherit_plan(one.options, other.options, one.state_dict(), InheritOptions())


def test_inheriting_keeps_the_marker() -> None:
    one, other = lively(network(True)), network(True)
    plan = inherit_plan(one.options, other.options, one.state_dict(), InheritOptions())
    other.load_state_dict(plan.apply(one.state_dict(), other.state_dict())[0])
    x = picture(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(one(x), other(x))


def test_the_warning() -> None:
    run = {
        "name": "v2",
        "scale": 4,
        "datasets": {"train": {"dataroot_gt": "bundled"}, "val": {"dataroot_gt": "bundled"}},
        "network_g": {
            "type": "SwinIR",
            "upsampler": "pixelshuffle",
            "window_size": 8,
            "depths": [4, 4, 4, 4],
        },
    }
    assert not any("extra_residual" in note for note in load_run_options(run).warnings())
    (warning,) = [
        note
        for note in load_run_options(run, ["network_g.extra_residual=true"]).warnings()
        if "extra_residual" in note
    ]
    assert "2^4-fold" in warning and "no other program" in warning
