"""From a file to a network: options from shapes, metadata, other families, errors that list what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from spandrel.architectures.ESRGAN import ESRGAN
from torch import nn

from archs.examples import lively, on_meta, picture, save, small_options, small_swinir
from atelier.archs import (
    NETWORKS,
    SRVGGNetCompact,
    StateFile,
    SwinIR,
    load_network,
    load_state,
    read_weights,
    save_weights,
)
from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.archs.swinir_options import SwinIROptions
from atelier.errors import UserError
from atelier.files import sha256_of
from support import SHARED

# --- hyper-parameters from shapes

HEADS = st.one_of(
    st.just(("", 1)),
    st.tuples(st.just("pixelshuffledirect"), st.integers(1, 5)),
    st.tuples(st.just("pixelshuffle"), st.sampled_from([2, 3, 4, 8])),
    st.tuples(st.just("nearest+conv"), st.sampled_from([2, 4])),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    head=HEADS,
    in_chans=st.integers(1, 4),
    per_head=st.integers(1, 5),
    heads=st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1, max_size=3),
    depths=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    window_size=st.integers(2, 9),
    windows=st.integers(2, 4),
    mlp_ratio=st.one_of(st.sampled_from([1.0, 2.0, 2.66, 4.0]), st.floats(0.2, 4)),
    qkv_bias=st.booleans(),
    patch_norm=st.booleans(),
    ape=st.booleans(),
    resi_connection=st.sampled_from(["1conv", "3conv"]),
)
def test_swinir_options_come_back_from_the_shapes_of_a_file(
    head: tuple[str, int], per_head: int, heads: list[int], depths: list[int], windows: int, **rest: Any
) -> None:
    upsampler, upscale = head
    given_options = {
        **rest,
        "embed_dim": 12 * per_head,
        "num_heads": tuple(heads),
        "depths": tuple(depths[: len(heads)]),
        "upsampler": upsampler,
        "upscale": upscale,
        "img_size": windows * rest["window_size"],
    }
    try:
        options = SwinIROptions(**given_options)
    except ValidationError:
        assume(False)
    written = options.file_state(on_meta(options).state_dict())
    shapes = {key: tuple(value.shape) for key, value in written.items()}
    assert [name for name in NETWORKS if NETWORKS.options_class(name).recognises(shapes)] == ["SwinIR"]
    found = SwinIROptions.from_shapes(shapes)
    for key, value in given_options.items():
        if key == "mlp_ratio":
            # Different ratios round to the same number of hidden units.
            assert int(found.embed_dim * found.mlp_ratio) == int(options.embed_dim * value)
        elif key == "img_size" and not rest["ape"] and max(options.depths) == 1:
            # Without a shifted block there is no mask that would tell.
            assert found.img_size > found.window_size
        else:
            assert getattr(found, key) == value, key
    assert found.img_range == (255 if rest["window_size"] == 7 and upsampler == "" else 1)
    # Through the network once more: the same tensors.
    again = found.file_state(on_meta(found).state_dict())
    same = {key: tuple(value.shape) for key, value in again.items()}
    assert list(same) == list(shapes)
    assert max(options.depths) == 1 or same == shapes


@settings(max_examples=30)
@given(
    channels=st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2), (4, 4)]),
    num_feat=st.integers(1, 70),
    num_conv=st.integers(0, 5),
    upscale=st.integers(1, 8),
    act_type=st.sampled_from(["prelu", "relu"]),
)
def test_compact_options_come_back(channels: tuple[int, int], **rest: Any) -> None:
    options = SRVGGNetCompactOptions(num_in_ch=channels[0], num_out_ch=channels[1], **rest)
    shapes = {key: tuple(value.shape) for key, value in on_meta(options).state_dict().items()}
    assert [name for name in NETWORKS if NETWORKS.options_class(name).recognises(shapes)] == [
        "SRVGGNetCompact"
    ]
    found = SRVGGNetCompactOptions.from_shapes(shapes)
    if channels == (1, 3) and rest["upscale"] ** 2 * 3 == int((rest["upscale"] ** 2 * 3) ** 0.5) ** 2:
        assume(False)
    assert found == options


def test_a_relative_of_swinir_is_not_taken_for_it() -> None:
    """Networks with more inside a block (HAT, SRFormer, SwinIR-ELSA) share its first keys."""
    written = small_swinir().options.file_state(small_swinir().state_dict())
    shapes = {key: tuple(value.shape) for key, value in written.items()}
    assert SwinIROptions.recognises(shapes)
    block = "layers.0.residual_group.blocks.0."
    for extra in ("conv_block.cab.0.weight", "attn.elsa_attention.qkv.weight", "attn.q.weight"):
        assert not SwinIROptions.recognises({**shapes, block + extra: (3, 3)})


# --- metadata


def bare(net: Any, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


JPEG = {"window_size": 7, "img_size": 14, "img_range": 1.0}


def test_metadata_win_where_shapes_are_silent(tmp_path: Path) -> None:
    net = small_swinir(**JPEG, drop_path_rate=0.25, qk_scale=0.7)
    x = picture(1, 3, 9, 15)
    with torch.no_grad():
        expected = net(x)
        loaded = load_network(save(net, tmp_path / "net.pth"))
        assert loaded.net.options == net.options
        assert torch.equal(loaded.net(x), expected)
        guessed = load_network(bare(net, tmp_path / "bare.pth"))
        # The rule of the field for a window of 7 without an upsampler; here it is wrong, hence the metadata.
        assert guessed.net.options.img_range == 255
        assert float((guessed.net(x) - expected).abs().max()) > 1e-3


def test_metadata_tell_the_activation(tmp_path: Path) -> None:
    net = lively(SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2, act_type="leakyrelu")).eval()
    assert load_network(save(net, tmp_path / "net.pth")).net.options.act_type == "leakyrelu"
    assert load_network(save(net, tmp_path / "net.safetensors")).net.options.act_type == "leakyrelu"
    assert load_network(bare(net, tmp_path / "bare.pth")).net.options.act_type == "relu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (3, 2)}, r"num_heads is \(3, 2\), the tensors say \(2, 3\)"),
        ({"resi_connection": "3conv"}, r"resi_connection is '3conv', the tensors say '1conv'"),
        ({"embed_dim": 24, "qkv_bias": False}, r"embed_dim is 24.*12; qkv_bias is False"),
        (
            {"upsampler": "pixelshuffledirect", "upscale": 2},
            r"upscale is 2.*upsampler is 'pixelshuffledirect'",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_contradictions_are_errors(
    changes: dict[str, Any], message: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"net{suffix}"
    options = SwinIROptions(**small_options(**changes)).model_dump(mode="json", exclude={"type"})
    save_weights(path, {"params": small_swinir().state_dict()}, {"arch": "SwinIR", "options": options})
    with pytest.raises(
        UserError, match=rf"net\{suffix}: metadata and tensors contradict each other: .*{message}"
    ):
        load_network(path)


def test_another_architecture_in_the_metadata_is_a_contradiction(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"params": small_swinir().state_dict(), "arch": "SRVGGNetCompact", "options": {}}, path)
    with pytest.raises(UserError, match="arch is SRVGGNetCompact, the tensors are those of SwinIR"):
        load_network(path)


@pytest.mark.parametrize("options", [{"embed_dims": 12}, {"embed_dim": "wide"}])
def test_metadata_that_are_no_options(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"params": small_swinir().state_dict(), "arch": "SwinIR", "options": options}, path)
    with pytest.raises(
        UserError, match=rf"net\.pth: its metadata are no SwinIR options: {next(iter(options))}"
    ):
        load_network(path)


@pytest.mark.parametrize(
    "metadata", [{"arch": "resnet50"}, {"arch": ["SwinIR"]}, {"arch": "SwinIR"}, {"epoch": 3}]
)
def test_metadata_of_others_do_not_disturb(metadata: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    net = small_swinir()
    torch.save({"state_dict": net.state_dict(), **metadata}, path)
    loaded = load_network(path)
    assert isinstance(loaded.net, SwinIR)
    assert loaded.report.param_key == "state_dict"


def test_equal_numbers_of_hidden_units_are_no_contradiction(tmp_path: Path) -> None:
    net = small_swinir(mlp_ratio=1.3)
    loaded = load_network(save(net, tmp_path / "net.pth"))
    assert loaded.net.options.mlp_ratio == 1.3


# --- the loaded network


def test_facts_of_our_own(tmp_path: Path) -> None:
    facts = load_network(save(small_swinir(upsampler="nearest+conv", upscale=4), tmp_path / "net.pth")).facts
    assert (facts.architecture, facts.scale, facts.purpose, facts.source) == ("SwinIR", 4, "SR", "atelier")
    assert (facts.in_channels, facts.out_channels, facts.size_multiple) == (3, 3, 8)
    assert (facts.receptive_radius, facts.supports_half, facts.supports_bfloat16) == (None, False, True)
    assert facts.options is not None and facts.options["num_heads"] == [2, 3] and "type" not in facts.options
    gray = load_network(save(small_swinir(in_chans=1), tmp_path / "gray.pth")).facts
    assert (gray.scale, gray.purpose, gray.in_channels) == (1, "Restoration", 1)
    compact = load_network(save(SRVGGNetCompact(1, 3, 4, 2, 2), tmp_path / "compact.pth")).facts
    assert (compact.in_channels, compact.out_channels, compact.receptive_radius) == (1, 3, 4)
    assert (compact.size_multiple, compact.supports_half) == (1, True)


def test_loading_draws_no_random_numbers_and_evaluates(tmp_path: Path) -> None:
    path = save(small_swinir(drop_path_rate=0.1), tmp_path / "net.pth")
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    loaded = load_network(path)
    assert torch.equal(torch.rand(3), expected)
    assert not loaded.net.training


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    net = small_swinir()
    path = tmp_path / "net.pth"
    torch.save({key: value.half() for key, value in net.state_dict().items()}, path)
    loaded = load_network(path)
    assert {each.dtype for each in loaded.net.parameters()} == {torch.float32}
    with torch.no_grad():
        x = picture(1, 3, 16, 16)
        torch.testing.assert_close(loaded.net(x), net(x), rtol=0, atol=1e-2)


def test_the_asked_entry(tmp_path: Path) -> None:
    states = {key: lively(SRVGGNetCompact(3, 3, 4, 1, 2), i).state_dict() for i, key in enumerate("abc")}
    path = tmp_path / "net.pth"
    torch.save(states, path)
    assert torch.equal(
        load_network(path, param_key="b").net.state_dict()["body.0.weight"], states["b"]["body.0.weight"]
    )


# --- reports


def test_report_of_a_complete_load(tmp_path: Path) -> None:
    net = small_swinir()
    path = save(net, tmp_path / "net.pth")
    report = load_network(path).report
    count = len(net.state_dict())
    elements = sum(each.numel() for each in net.parameters())
    assert report.complete and report.problems() == []
    assert (report.path, report.sha256, report.param_key) == (path, sha256_of(path), "params")
    assert report.loaded == tuple(net.state_dict())
    assert (report.elements_loaded, report.elements_total, report.mode) == (elements, elements, "strict")
    assert len(report.ignored) == 6
    first, second, third = report.text().splitlines()
    assert first == f"Loading model for G [{path}] ..."
    assert second == f"Loaded {count}/{count} parameters from checkpoint"
    assert third.startswith("Entry 'params' was read; 6 constants were ignored (a constant of ")
    stored = json.loads(json.dumps(report.to_json()))
    assert stored["loaded"] == list(report.loaded)
    assert {each["key"] for each in stored["ignored"]} == set(report.ignored)


def in_memory(state: dict[str, Any]) -> StateFile:
    return StateFile(state, None)


def test_a_strict_load_names_what_does_not_fit_and_changes_nothing() -> None:
    net = lively(SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = dict(lively(SRVGGNetCompact(num_feat=4, num_conv=1, upscale=3), 1).state_dict())
    state["extra"] = state.pop("body.1.weight")
    with pytest.raises(UserError) as caught:
        load_state(net, in_memory(state))
    assert str(caught.value).splitlines() == [
        "a state in memory does not fit the network:",
        "Size mismatch (2):",
        "  - body.4.weight: checkpoint torch.Size([27, 4, 3, 3]) vs model torch.Size([12, 4, 3, 3])",
        "  - body.4.bias: checkpoint torch.Size([27]) vs model torch.Size([12])",
        "Keys in model but not in checkpoint (1):",
        "  - body.1.weight",
        "Keys in checkpoint but not in model (1):",
        "  - extra",
        "path.load=flexible would reuse 5 of 8 tensors, 264 of 712 elements (37.08 %)",
    ]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_at_most_ten_of_a_kind_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "wide.pth"
    torch.save(SRVGGNetCompact(num_feat=6, num_conv=5, upscale=2).state_dict(), path)
    with pytest.raises(UserError) as caught:
        load_state(SRVGGNetCompact(num_feat=4, num_conv=16, upscale=2), read_weights(path))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} does not fit the network:"
    mismatched, missing = (
        lines.index("Size mismatch (20):"),
        lines.index("Keys in model but not in checkpoint (33):"),
    )
    assert lines[missing - 1] == "  ... and 10 more"
    assert lines[-2] == "  ... and 23 more"
    assert missing - mismatched == len(lines) - 1 - missing == 12
    assert lines[-1] == "path.load=inherit would carry what was learned into this network"


def test_a_flexible_load_takes_what_fits_by_name() -> None:
    source = lively(SRVGGNetCompact(num_feat=4, num_conv=1, upscale=3), 1)
    net = lively(SRVGGNetCompact(num_feat=4, num_conv=2, upscale=2))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    report = load_state(net, in_memory(source.state_dict()), mode="flexible")
    assert report.mode == "flexible" and not report.complete
    assert report.loaded == (
        "body.0.weight",
        "body.0.bias",
        "body.1.weight",
        "body.2.weight",
        "body.2.bias",
        "body.3.weight",
    )
    assert report.mismatched == {"body.4.weight": ((27, 4, 3, 3), (4, 4, 3, 3)), "body.4.bias": ((27,), (4,))}
    assert report.missing == ("body.5.weight", "body.6.weight", "body.6.bias")
    assert report.unexpected == ()
    for key, value in net.state_dict().items():
        assert torch.equal(value, source.state_dict()[key] if key in report.loaded else before[key])
    total = sum(value.numel() for value in before.values())
    fits = sum(before[key].numel() for key in report.loaded)
    assert (report.elements_total, report.elements_loaded) == (total, fits)
    assert report.text().splitlines() == [
        "Loading model for G [a state in memory] ...",
        "Size mismatch for body.4.weight: checkpoint torch.Size([27, 4, 3, 3]) vs model torch.Size([4, 4, 3, 3]), "
        "using random initialization",
        "Size mismatch for body.4.bias: checkpoint torch.Size([27]) vs model torch.Size([4]), "
        "using random initialization",
        "",
        "Keys in model but not in checkpoint (3):",
        "  - body.5.weight",
        "  - body.6.weight",
        "  - body.6.bias",
        "",
        "Loaded 6/11 parameters from checkpoint",
        "Mismatched: 2, Missing: 3",
        "Unexpected in checkpoint: 0",
        f"Learned parameters reused: 6 of 11 tensors, {fits:,} of {total:,} elements ({100 * fits / total:.2f} %)",
    ]


def test_tensors_go_by_name_not_by_order() -> None:
    """Two tensors of one shape, exchanged in the file's order: nothing may change."""
    source = lively(SRVGGNetCompact(num_feat=4, num_conv=2, upscale=2), 3)
    net = SRVGGNetCompact(num_feat=4, num_conv=2, upscale=2)
    load_state(net, in_memory(dict(reversed(source.state_dict().items()))))
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in net.state_dict().items())


def test_an_inserted_key_moves_nothing() -> None:
    """Loading by position would put every tensor after it into its neighbour."""
    source = lively(SRVGGNetCompact(num_feat=4, num_conv=2, upscale=2), 3)
    state = source.state_dict()
    names = list(state)
    shifted = {"body.1.extra": torch.zeros(4, 4, 3, 3), **state}
    first, second = "body.2.weight", "body.4.weight"
    order = [
        second if name == first else first if name == second else name for name in ["body.1.extra", *names]
    ]
    net = SRVGGNetCompact(num_feat=4, num_conv=2, upscale=2)
    report = load_state(net, in_memory({name: shifted[name] for name in order}), "flexible")
    assert report.unexpected == ("body.1.extra",) and set(report.loaded) == set(names)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_flexible_load_of_next_to_nothing_is_refused() -> None:
    net = lively(SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = dict(SRVGGNetCompact(num_feat=6, num_conv=1, upscale=2).state_dict())
    with pytest.raises(
        UserError,
        match=r"^NOTHING USABLE in a state in memory: 1 of 8 tensors, 12 of 712 elements \(1\.69 %\) would be reused, "
        r"less than min_loaded 0\.02; use path\.load=inherit, or start fresh \(path\.resume=never, "
        r"or no path\.pretrain_network_g\) \(path\.min_loaded=0 ",
    ):
        load_state(net, in_memory(state), "flexible", min_loaded=0.02)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert load_state(net, in_memory(state), "flexible", min_loaded=0.01).loaded == ("body.4.bias",)


def test_nothing_matched_is_an_error_whatever_is_asked_for() -> None:
    net = SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2)
    with pytest.raises(
        UserError,
        match=r"0 of 8 tensors.*nothing at all; start fresh \(path\.resume=never, or no path\.pretrain_network_g\)$",
    ):
        load_state(net, in_memory({"weight": torch.zeros(3)}), "flexible", min_loaded=0)
    with pytest.raises(UserError, match="No other mode of loading would find anything to reuse"):
        load_state(net, in_memory({"weight": torch.zeros(3)}))


def test_a_foreign_index_is_an_error() -> None:
    """Its table would be read in another order."""
    net = small_swinir()
    written = net.options.file_state(net.state_dict())
    key = "layers.1.residual_group.blocks.0.attn.relative_position_index"
    wrong = {**written, key: written[key].flip(0)}
    for mode in ("strict", "flexible"):
        with pytest.raises(UserError, match=rf"{key} is not the relative-position index of window_size 8"):
            load_state(net, in_memory(wrong), mode)


def test_constants_of_another_window_are_no_obstacle() -> None:
    """They are right for the network they were saved with, and nothing is taken from them."""
    old, net = small_swinir(), small_swinir(window_size=7)
    written = in_memory(old.options.file_state(old.state_dict()))
    report = load_state(net, written, "flexible")
    assert set(report.mismatched) == {key for key in net.state_dict() if key.endswith("_table")}
    assert len(report.ignored) == 6 and not report.missing and not report.unexpected
    with pytest.raises(UserError, match=r"Size mismatch \(4\):"):
        load_state(net, written)


def test_masks_of_any_size_are_ignored() -> None:
    net = small_swinir()
    written = net.options.file_state(net.state_dict())
    key = "layers.1.residual_group.blocks.1.attn_mask"
    assert load_state(net, in_memory({**written, key: torch.zeros(49, 64, 64)})).complete


# --- damaged networks of our own


@pytest.mark.parametrize(
    "gone",
    [
        "layers.0.residual_group.blocks.0.mlp.fc1.bias",
        "layers.1.residual_group.blocks.1.attn.qkv.weight",
        "conv_after_body.bias",
        "conv_last.weight",
    ],
)
def test_an_incomplete_swinir_is_a_clear_error(gone: str, tmp_path: Path) -> None:
    state = small_swinir().state_dict()
    del state[gone]
    path = tmp_path / "net.pth"
    torch.save(state, path)
    with pytest.raises(UserError, match=r"net\.pth"):
        load_network(path)


def test_an_incomplete_compact_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    for gone in ("body.4.bias", "body.2.weight", "body.4.weight"):
        state = SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2).state_dict()
        del state[gone]
        torch.save(state, path)
        with pytest.raises(UserError, match=r"net\.pth"):
            load_network(path)


# --- other families


def small_esrgan(**changes: Any) -> nn.Module:
    options = {"num_filters": 8, "num_blocks": 1, "scale": 2, **changes}
    return lively(ESRGAN(**options)).eval()


def test_a_network_of_another_family(tmp_path: Path) -> None:
    theirs = small_esrgan()
    path = tmp_path / "esrgan.pth"
    torch.save({"params_ema": theirs.state_dict()}, path)
    loaded = load_network(path)
    facts = loaded.facts
    assert (facts.architecture, facts.scale, facts.source, facts.purpose) == ("ESRGAN", 2, "spandrel", "SR")
    assert (facts.in_channels, facts.out_channels, facts.options) == (3, 3, None)
    assert loaded.report.param_key == "params_ema"
    assert loaded.report.complete and len(loaded.report.loaded) == len(theirs.state_dict())
    assert loaded.report.sha256 == sha256_of(path)
    assert not any(module.training for module in loaded.net.modules())
    for size in ((17, 23), (2, 2), (5, 3)):
        x = picture(1, 3, *size)
        with torch.no_grad():
            assert torch.equal(loaded.net(x), theirs(x))


@pytest.mark.parametrize("size", [(17, 23), (16, 12), (1, 1), (1, 8), (5, 3)])
def test_a_foreign_network_takes_any_size(size: tuple[int, int], tmp_path: Path) -> None:
    """Real-ESRGAN's x2 network folds 2x2 pixels first; spandrel asks for multiples of four."""
    theirs = small_esrgan(in_nc=12, shuffle_factor=2, scale=4)
    path = tmp_path / "esrgan.pth"
    torch.save(theirs.state_dict(), path)
    loaded = load_network(path)
    assert (loaded.facts.scale, loaded.facts.in_channels) == (2, 3)
    x = picture(1, 3, *size)
    with torch.no_grad():
        y = loaded.net(x)
    assert y.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert bool(y.isfinite().all())
    # NumPy's reflection, where the picture is large enough for one.
    pads = [(0, 0), (0, 0), *((0, -side % 4) for side in size)]
    if all(missing < side for (_, missing), side in zip(pads[2:], size, strict=True)):
        padded = torch.from_numpy(np.pad(x.numpy(), pads, mode="reflect"))
        with torch.no_grad():
            expected = theirs(padded)[..., : y.shape[2], : y.shape[3]]
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


def test_official_rrdb_names_are_known() -> None:
    path = SHARED / "spec" / "keys" / "rrdb_x4.json"
    if not path.is_file():
        pytest.skip("the key list rrdb_x4.json is not in the shared folder")
    shapes = {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}
    assert [name for name in NETWORKS if NETWORKS.options_class(name).recognises(shapes)] == ["RRDBNet"]


def test_unknown_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"encoder.weight": torch.zeros(3, 3), "encoder.bias": torch.zeros(3)}, path)
    message = r"net\.pth holds no architecture .*ours: SwinIR, SRVGGNetCompact.*2 tensors begin with encoder\.weight"
    with pytest.raises(UserError, match=message):
        load_network(path)


def test_a_broken_network_of_another_family(tmp_path: Path) -> None:
    state = dict(small_esrgan().state_dict())
    key = next(key for key in state if "RDB2" in key)
    state[key] = torch.zeros(1)
    path = tmp_path / "net.pth"
    torch.save(state, path)
    with pytest.raises(UserError, match=r"net\.pth looks like a known architecture but does not load"):
        load_network(path)
