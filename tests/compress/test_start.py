"""The three modes of starting from a file: what is filled, what is reported, what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archs.examples import lively, picture, save, small_options
from atelier.archs import SRVGGNetCompact, StateFile, load_network, read_weights
from atelier.archs.load_report import Inherited, LoadReport
from atelier.archs.swinir_options import SwinIROptions
from atelier.compress import InheritOptions, start_from
from atelier.errors import UserError

BASE = small_options(in_chans=1, window_size=4, num_heads=(2, 2))


def built(seed: int = 0, **changes: Any) -> Any:
    """A SwinIR as drawn, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SwinIROptions(**{**BASE, **changes}).build().eval()


def as_file(net: Any, path: Path | None = None) -> StateFile:
    """What a model file of ``net`` holds."""
    options = net.options.model_dump(mode="json", exclude={"type"})
    metadata = {"arch": net.options.type, "options": options}
    return StateFile(net.options.file_state(net.state_dict()), "params", metadata, path)


def same(net: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def answer(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = net.eval()(x)
    return y


# --- reports


def test_a_deeper_network_from_a_file(tmp_path: Path) -> None:
    old, new = lively(built()), built(1, depths=(4, 2))
    path = save(old, tmp_path / "995000_G.pth")
    report = start_from(new, read_weights(path), mode="inherit")
    x = picture(1, 1, 9, 9)
    torch.testing.assert_close(answer(new, x), answer(old, x), rtol=0, atol=1e-6)
    assert report.mode == "inherit" and report.path == path and report.sha256 is not None
    assert report.loaded == tuple(key for key in new.state_dict() if key in old.state_dict())
    assert set(report.missing) == set(new.state_dict()) - set(old.state_dict())
    assert report.mismatched == {} and report.unexpected == () and len(report.ignored) == 6
    zero = {key: each for key, each in report.inherited.items() if each.rule == "added as identity: zero"}
    assert set(zero) == set(report.inherited) and len(zero) == 2 * 4
    assert report.elements_inherited == 0
    assert report.elements_loaded == sum(each.numel() for each in old.parameters())
    assert LoadReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_wider_network_is_reported_in_the_words_of_a_log() -> None:
    old, new = lively(built()), built(1, embed_dim=24)
    report = start_from(new, as_file(old), mode="inherit")
    assert report.inherited["conv_first.weight"] == Inherited("stream", (12, 1, 3, 3), (24, 1, 3, 3), 108)
    assert report.loaded == tuple(
        key for key in new.state_dict() if key in ("conv_last.bias",) or "table" in key
    )
    assert report.elements_inherited + report.elements_loaded == sum(
        each.numel() for each in old.parameters()
    )
    lines = report.text().splitlines()
    assert (
        lines[1] == "Size mismatch for conv_first.weight: checkpoint torch.Size([12, 1, 3, 3]) vs model "
        "torch.Size([24, 1, 3, 3]), inherited (stream)"
    )
    assert lines[11] == f"  ... and {len(report.mismatched) - 10} more"
    assert "Inherited: 20 LayerNorm, " in report.text()
    assert not report.complete


def test_what_a_smaller_network_leaves_behind() -> None:
    old, new = lively(built(depths=(3, 2))), built(1)
    report = start_from(new, as_file(old), mode="inherit")
    assert report.reused == 1
    assert all(key.startswith("layers.0.residual_group.blocks.2.") for key in report.unexpected)
    assert len(report.unexpected) == 13


def test_another_head_is_missing_and_unexpected() -> None:
    """conv_last has the same name and shape under both heads, and another meaning."""
    old = lively(built(upsampler="pixelshuffle", upscale=2))
    new = built(1, upsampler="nearest+conv", upscale=2)
    drawn = new.conv_last.weight.detach().clone()
    report = start_from(new, as_file(old), mode="inherit")
    assert "conv_last.weight" in report.missing and "conv_last.weight" in report.unexpected
    assert "conv_last.weight" not in report.loaded and "conv_last.weight" not in report.mismatched
    assert torch.equal(new.conv_last.weight, drawn)


def test_the_source_documents_change() -> None:
    """C 96, heads 3, depths 2 to C 180, heads 6, depths 6: flexible refuses, inherit carries it over."""
    sizes = {"in_chans": 1, "window_size": 8, "mlp_ratio": 2.0, "img_size": 16}
    old = SwinIROptions(**sizes, embed_dim=96, depths=(2,) * 6, num_heads=(3,) * 6).build()
    new = SwinIROptions(**sizes, embed_dim=180, depths=(6,) * 6, num_heads=(6,) * 6).build()
    with pytest.raises(
        UserError,
        match=r"NOTHING USABLE in a state in memory: 1 of 490 tensors, 1 of 11,497,681 elements \(0\.00 %\) would be "
        r"reused, less than min_loaded 0\.01; use path\.load=inherit, or start fresh \(path\.resume=never, "
        r"or no path\.pretrain_network_g\)",
    ):
        start_from(new, as_file(old), mode="flexible")
    with pytest.raises(UserError, match=r"Size mismatch \(177\):[\s\S]*path\.load=inherit would carry"):
        start_from(new, as_file(old), mode="strict")
    report = start_from(new, as_file(old), mode="inherit")
    assert (len(report.loaded), len(report.mismatched), len(report.missing)) == (1, 177, 312)
    # Two of 32 channels a head fall away, in 3 heads of 12 blocks: rows of q, k, v (weight and bias), columns of proj.
    lost = 12 * 3 * 2 * (3 * (96 + 1) + 96)
    assert report.elements_loaded + report.elements_inherited == 1_488_997 - lost


# --- averages


def test_strict_and_no_average() -> None:
    old, new = lively(built()), built(1)
    average = copy.deepcopy(new)
    assert start_from(new, as_file(old), mode="strict", average_net=average).complete
    assert same(new, old.state_dict()) and same(average, old.state_dict())


def test_an_absent_average_is_the_network_after_loading() -> None:
    new = built(1, embed_dim=24)
    average = built(2, embed_dim=24)
    start_from(new, as_file(lively(built())), mode="inherit", average_net=average)
    assert same(average, new.state_dict())


def test_network_and_average_share_choices_and_fresh_parts() -> None:
    old, smooth = lively(built(embed_dim=24)), lively(built(embed_dim=24), 5)
    new, average = built(1, depths=(3, 2), embed_dim=18), built(2, depths=(3, 2), embed_dim=18)
    report = start_from(
        new,
        as_file(old),
        mode="inherit",
        average=as_file(smooth),
        average_net=average,
        options=InheritOptions(select="l2"),
    )
    for key, value in new.state_dict().items():
        if key.startswith("layers.0.residual_group.blocks.2."):
            assert torch.equal(value, average.state_dict()[key])
    kept = [int((old.norm.bias == value).nonzero()) for value in new.norm.bias]
    assert kept != list(range(18))
    assert torch.equal(average.norm.bias, smooth.norm.bias[kept])
    assert report.inherited["norm.bias"].elements == 18


@pytest.mark.parametrize("mode", ["strict", "flexible", "inherit"])
def test_an_average_may_be_loaded_in_another_mode(mode: Any) -> None:
    old, smooth = lively(built()), lively(built(), 5)
    new, average = built(1), built(2)
    start_from(
        new, as_file(old), mode="strict", average=as_file(smooth), average_net=average, average_mode=mode
    )
    assert same(new, old.state_dict()) and same(average, smooth.state_dict())


def test_what_a_flexible_average_lacks_is_the_networks() -> None:
    old, smooth = lively(built()), lively(built(), 5)
    new, average = built(1, window_size=5), built(2, window_size=5)
    start_from(new, as_file(old), mode="flexible", average=as_file(smooth), average_net=average)
    key = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"
    assert torch.equal(average.state_dict()[key], new.state_dict()[key])
    assert torch.equal(average.conv_first.weight, smooth.conv_first.weight)


def test_an_average_of_another_network_is_refused() -> None:
    with pytest.raises(UserError, match=r"not complete: conv_first\.weight has shape \[24, 1, 3, 3\]"):
        start_from(
            built(1, embed_dim=18),
            as_file(built()),
            mode="inherit",
            average=as_file(built(embed_dim=24)),
            average_net=built(2, embed_dim=18),
        )


# --- refusals


@pytest.mark.parametrize("min_loaded", [0.9, 1.0])
def test_too_little_to_inherit_is_refused_and_nothing_changes(min_loaded: float) -> None:
    new = built(1, embed_dim=48)
    before = {key: value.clone() for key, value in new.state_dict().items()}
    with pytest.raises(
        UserError,
        match=r"^NOTHING USABLE.*elements.*start fresh \(path\.resume=never, or no path\.pretrain_network_g\)",
    ):
        start_from(new, as_file(built()), mode="inherit", min_loaded=min_loaded)
    assert same(new, before)


def test_other_networks_cannot_be_inherited() -> None:
    file = as_file(built())
    with pytest.raises(
        UserError, match="carries SwinIR into another size of SwinIR; the network here is SRVGG"
    ):
        start_from(SRVGGNetCompact(), file, mode="inherit")
    with pytest.raises(UserError, match=r"knows SwinIR, SRVGGNetCompact; this network is none of them"):
        start_from(nn.Linear(2, 2), file, mode="inherit")
    with pytest.raises(UserError, match=r"knows SwinIR, SRVGGNetCompact; a state in memory is none of them"):
        start_from(built(), StateFile({"encoder.weight": torch.zeros(3)}, None), mode="inherit")


def test_a_plug_in_network_without_rules_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atelier.compress.inherit.FAMILIES", {})
    with pytest.raises(UserError, match=r"knows no rules for SwinIR.*path\.load=flexible"):
        start_from(built(1, embed_dim=24), as_file(built()), mode="inherit")


def test_a_damaged_file_names_itself() -> None:
    state = dict(built().state_dict())
    del state["norm.bias"]
    with pytest.raises(UserError, match=r"^models/5_G\.pth: .*not complete: norm\.bias is missing"):
        start_from(built(1, embed_dim=24), StateFile(state, None, {}, Path("models/5_G.pth")), mode="inherit")


# --- calibration


def test_calibration_measures_what_the_plain_rule_assumes() -> None:
    """Old channels with a mean: the plain factor is off, the measured one is not."""
    old = lively(built())
    with torch.no_grad():
        old.conv_first.bias += 2
    pictures = [picture(1, 1, 17, 16, seed=3), picture(1, 20, 16, seed=4)]
    x = picture(1, 1, 16, 16)
    errors = []
    for calibrate in (False, True):
        new = built(1, embed_dim=24, num_heads=(4, 4))
        options = InheritOptions(calibrate=calibrate)
        report = start_from(new, as_file(old), mode="inherit", options=options, calibration=pictures)
        errors.append(float((answer(new, x) - answer(old, x)).square().mean().sqrt()))
    assert errors[1] < 0.8 * errors[0]
    assert report.inherited["norm.weight"].rule == "LayerNorm, calibrated"


def test_calibration_leaves_the_same_network_alone() -> None:
    old, new = lively(built()), built(1)
    options = InheritOptions(calibrate=True)
    report = start_from(
        new, as_file(old), mode="inherit", options=options, calibration=[picture(1, 1, 16, 16)]
    )
    assert same(new, old.state_dict()) and report.complete


def test_calibration_needs_pictures_of_both_networks_colours() -> None:
    options = InheritOptions(calibrate=True)
    with pytest.raises(UserError, match="needs pictures"):
        start_from(built(1, embed_dim=24), as_file(built()), mode="inherit", options=options)
    for colours, message in (([], "at least one picture"), ([picture(1, 8, 8)], "they take 1 and 3 colours")):
        new = built(1, in_chans=3 if colours else 1, embed_dim=24)
        with pytest.raises(UserError, match=message):
            start_from(new, as_file(built()), mode="inherit", options=options, calibration=colours)


# --- what it is for


def noisy(seed: int) -> tuple[Tensor, Tensor]:
    """Smooth grey pictures [8, 1, 16, 16], and the same with noise of deviation 0.2."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(8, 1, 4, 4, generator=generator)
    clean = F.interpolate(small, size=(16, 16), mode="bicubic", align_corners=True)
    return clean, clean + 0.2 * torch.randn(clean.shape, generator=generator)


def test_what_was_learned_survives_every_change_of_size() -> None:
    """A denoiser trained for seconds: grown, it starts where it stopped; sliced, far above a random start."""
    old = built(embed_dim=16, depths=(2,), num_heads=(2,), patch_norm=True).train()
    optimizer = torch.optim.Adam(old.parameters(), 3e-3)
    for step in range(60):
        clean, spoilt = noisy(step)
        optimizer.zero_grad()
        F.mse_loss(old(spoilt), clean).backward()
        optimizer.step()
    clean, spoilt = noisy(1000)

    def psnr(net: nn.Module) -> float:
        return float(-10 * F.mse_loss(answer(net, spoilt), clean).log10())

    learned = psnr(old)
    assert learned > -10 * F.mse_loss(spoilt, clean).log10() + 3
    for changes, least in (
        ({"embed_dim": 24, "num_heads": (4, 4), "depths": (4, 2)}, learned - 0.5),
        ({"embed_dim": 30, "num_heads": (5,), "depths": (6,)}, learned - 0.5),
        ({"embed_dim": 12, "num_heads": (2,), "depths": (2,)}, 0.0),
    ):
        new = built(1, **changes)
        random = psnr(new)
        start_from(new, as_file(old), mode="inherit")
        assert psnr(new) > max(least, random + 3), changes


def test_a_grown_network_is_saved_and_read_as_any_other(tmp_path: Path) -> None:
    new = built(1, embed_dim=24)
    start_from(new, as_file(lively(built())), mode="inherit")
    loaded = load_network(save(new, tmp_path / "grown.pth"))
    assert same(loaded.net, new.state_dict())
