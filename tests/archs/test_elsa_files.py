"""ELSA's options and weight files: the fork's names, our own, and every mistake with its message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from archs.examples import lively, on_meta, picture, save, small_options, small_swinir
from atelier.archs import SwinIR, load_network
from atelier.archs.info import count_parameters
from atelier.archs.swinir_keys import fork_state
from atelier.archs.swinir_options import SwinIROptions
from atelier.errors import UserError
from atelier.options.read import load_run_options
from support import SHARED

FORK = {"scope": "window", "lam": 1, "gamma": 1}
OPTION_FILE = Path(__file__).parents[2] / "options" / "swinir" / "denoise_grey_elsa.yml"


def fork_keys(name: str) -> dict[str, tuple[int, ...]]:
    path = SHARED / "spec" / "keys" / f"swinir_elsa_gray_dn_{name}.json"
    if not path.is_file():
        pytest.skip(f"the key list {path.name} is not in the shared folder")
    return {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}


def elsa_options(elsa: Any = None, **changes: Any) -> SwinIROptions:
    return SwinIROptions(**small_options(**changes), attention="elsa", elsa=elsa or {})


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"), [("c180", 14_280_625, 634), ("c96", 1_935_781, 226)]
)
def test_the_forks_files(name: str, parameters: int, tensors: int) -> None:
    keys = fork_keys(name)
    assert SwinIROptions.recognises(keys)
    options = SwinIROptions.from_shapes(keys)
    assert options.elsa is not None
    assert (options.attention, options.window_size, options.in_chans, options.upsampler) == ("elsa", 8, 1, "")
    assert options.elsa.model_dump(include={*FORK, "border", "where", "kernel_size"}) == {
        **FORK,
        "border": "region",
        "where": "all",
        "kernel_size": 7,
    }
    own = on_meta(options).state_dict()
    assert len(own) == tensors
    assert count_parameters(on_meta(options)) == (parameters, parameters)
    written = fork_state(own, options)
    assert [(key, tuple(value.shape)) for key, value in written.items()] == list(keys.items())
    read, ignored = options.network_state(written)
    assert list(read) == list(own)
    assert len(ignored) == len(keys) - tensors
    tables = [why for key, why in ignored.items() if key.endswith("relative_position_bias_table")]
    assert len(tables) == sum(options.depths)
    assert all("never used" in why for why in tables)


def test_a_fork_file_loads_strictly_and_ignores_what_was_dead(tmp_path: Path) -> None:
    net = lively(elsa_options(FORK).build()).eval()
    state = fork_state(net.state_dict(), net.options)
    for key, value in state.items():
        if key.endswith("relative_position_bias_table"):
            state[key] = torch.randn_like(value)
    torch.save(state, tmp_path / "100_G.pth")
    loaded = load_network(tmp_path / "100_G.pth")
    assert loaded.report.complete
    assert len(loaded.report.ignored) == 4 + 4 + 2
    assert loaded.net.options.elsa.scope == "window"
    x = picture(1, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(loaded.net(x), net(x))


@pytest.mark.parametrize(
    "elsa",
    [
        {"scope": "image", "lam": 0, "qk_scale": 0.5},
        {"scope": "window", "border": "fork", "lam": 1, "gamma": 0, "where": "even", "kernel_size": 3},
        {"where": (1,), "lam": 1, "group_width": 4},
    ],
)
def test_our_own_files_say_what_shapes_do_not(elsa: dict[str, Any], tmp_path: Path) -> None:
    net = small_swinir(attention="elsa", elsa=elsa, window_size=6)
    loaded = load_network(save(net, tmp_path / "net.pth"))
    assert loaded.net.options == net.options
    with torch.no_grad():
        assert torch.equal(loaded.net(picture(1, 3, 9, 12)), net(picture(1, 3, 9, 12)))


def test_the_written_file_holds_no_constants_and_no_wrapper() -> None:
    net = on_meta(elsa_options({"lam": 1}))
    stored = net.options.file_state(net.state_dict())
    prefix = "layers.0.residual_group.blocks.1."
    assert [key.removeprefix(prefix) for key in stored if key.startswith(prefix + "attn")] == [
        "attn.ghost_head",
        "attn.qkv.weight",
        "attn.qkv.bias",
        "attn.hadamard_attn.0.weight",
        "attn.hadamard_attn.0.bias",
        "attn.hadamard_attn.2.weight",
        "attn.hadamard_attn.2.bias",
        "attn.proj.weight",
        "attn.proj.bias",
    ]
    assert set(stored) == set(net.state_dict())


@pytest.mark.parametrize("where", ["all", "even", (0,), (1,)])
def test_where_is_read_off_the_names(where: Any) -> None:
    options = elsa_options({"where": where, "kernel_size": 5, "group_width": 4})
    shapes = {key: tuple(value.shape) for key, value in on_meta(options).state_dict().items()}
    assert SwinIROptions.recognises(shapes)
    assert SwinIROptions.from_shapes(shapes).elsa == options.elsa
    assert SwinIROptions.from_shapes(shapes).num_heads == (2, 3)


def test_metadata_that_contradict_the_tensors_are_an_error(tmp_path: Path) -> None:
    net = small_swinir(attention="elsa", elsa={"lam": 1})
    path = save(net, tmp_path / "net.pth")
    content = torch.load(path, weights_only=True)
    content["options"]["elsa"]["kernel_size"] = 5
    torch.save(content, path)
    with pytest.raises(UserError, match="elsa"):
        load_network(path)


def test_other_names_under_attn_are_not_swinir() -> None:
    for options in (SwinIROptions(**small_options()), elsa_options()):
        shapes = {key: tuple(value.shape) for key, value in on_meta(options).state_dict().items()}
        assert SwinIROptions.recognises(shapes)
        for name in ("attn.logit_scale", "attn.aligned_relative_position_index", "conv_block.weight"):
            assert not SwinIROptions.recognises({**shapes, f"layers.1.residual_group.blocks.1.{name}": (1,)})
    assert not SwinIROptions.recognises({"conv_first.weight": (12, 3, 3, 3)})


def test_elsa_in_an_odd_choice_of_blocks_is_an_error() -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    elsa, window = (
        {key: tuple(value.shape) for key, value in on_meta(options).state_dict().items()}
        for options in (elsa_options(), SwinIROptions(**small_options()))
    )
    for key, shape in window.items():
        shapes |= {} if "layers.1.residual_group.blocks.1." in key else {key: shape}
    shapes |= {key: shape for key, shape in elsa.items() if "layers.1.residual_group.blocks.1." in key}
    with pytest.raises(UserError, match="neither all"):
        SwinIROptions.from_shapes(shapes)


@pytest.mark.parametrize(
    "given",
    [{"elsa": True}, {"use_elsa": True}, {"attention": "elsa"}, {"use_elsa": True, "elsa": {}}],
)
def test_short_forms_keep_our_defaults(given: dict[str, Any]) -> None:
    options = SwinIROptions(**small_options(), **given)
    assert options == elsa_options()
    assert options.elsa is not None
    assert options.elsa.model_dump() == {
        "kernel_size": 7,
        "scope": "image",
        "border": "region",
        "where": "all",
        "lam": 0,
        "gamma": 1,
        "group_width": 8,
        "qk_scale": None,
    }
    assert SwinIROptions.model_validate(options.model_dump(mode="json")) == options


def test_short_forms_with_values() -> None:
    options = SwinIROptions(**small_options(), elsa=True, elsa_kernel_size=5, elsa_lam=1.0, elsa_gamma=0)
    assert options == elsa_options({"kernel_size": 5, "lam": 1, "gamma": 0})
    assert SwinIROptions(**small_options(), use_elsa=False) == SwinIROptions(**small_options())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"elsa": {"kernel_size": 6}}, "even kernel has no middle"),
        ({"elsa": {"kernel_size": 1}}, "kernel_size"),
        ({"elsa": {"lam": 0.5}}, r"(?s)lam.*0 or 1.*NaN.*0\.5"),
        ({"elsa": {"gamma": 2}}, "(?s)gamma.*0 or 1"),
        ({"elsa": {"gamma": 0}}, "both 0"),
        ({"elsa": {"where": [0, 2]}}, "RSTB 2; depths has 2"),
        ({"elsa": {"where": [-1]}}, "RSTB -1"),
        ({"elsa": {"where": []}}, "list of RSTB indices"),
        ({"elsa": {"where": [1, 1]}}, "each once"),
        ({"elsa": {"border": "fork"}}, "border: fork does nothing"),
        ({"elsa": {"kernal_size": 7}}, "kernal_size"),
        ({"elsa": {"kernel_size": 7}, "elsa_kernel_size": 5}, "given twice"),
        ({"qk_scale": 1.0}, "elsa.qk_scale"),
        ({"attn_drop_rate": 0.1}, "attn_drop_rate"),
        ({"embed_dim": 2, "num_heads": (1, 1)}, "at least 3"),
        ({"attention": "window", "elsa": {}}, "do nothing with attention: window"),
        ({"attention": "window", "elsa_lam": 1}, "do nothing with attention: window"),
        ({"attention": "window", "use_elsa": True}, "attention is window"),
        ({"use_elsa": False}, "attention is elsa"),
        ({"use_elsa": 1}, "true or false"),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SwinIROptions(**{**small_options(), "attention": "elsa", **given})


def test_the_constructor_takes_the_same() -> None:
    with pytest.raises(UserError, match="even kernel"):
        SwinIR(**small_options(), attention="elsa", elsa={"kernel_size": 4})
    with pytest.raises(UserError, match="do nothing"):
        SwinIR(**small_options(), elsa={"kernel_size": 5})


def test_window_options_stay_for_blocks_with_windows() -> None:
    assert elsa_options({"where": "even"}, qk_scale=1.0, attn_drop_rate=0.1).elsa_in(0, 1) is None


@pytest.mark.parametrize("elsa", [None, {"lam": 1}, {**FORK, "where": "even"}, {**FORK, "qk_scale": 1.0}])
def test_the_fork_cannot_hold_every_network(elsa: dict[str, Any] | None) -> None:
    options = elsa_options(elsa) if elsa else SwinIROptions(**small_options())
    with pytest.raises(UserError, match="the fork's files hold"):
        fork_state(on_meta(options).state_dict(), options)


def test_the_shipped_option_file_is_the_published_configuration() -> None:
    run = load_run_options(OPTION_FILE)
    net = run.network_g
    assert isinstance(net, SwinIROptions)
    assert (net.embed_dim, net.depths, net.num_heads, net.window_size) == (180, (6,) * 6, (6,) * 6, 8)
    assert (net.attention, net.use_checkpoint, net.in_chans) == ("elsa", True, 1)
