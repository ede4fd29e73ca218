"""What ``atelier info`` prints: multiply-adds by hand and as published, memory in closed form, the lines themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from spandrel.architectures.ESRGAN import ESRGAN
from torch import nn

from archs.examples import OFFICIAL, lively, on_meta, save, small_options, small_swinir
from atelier.archs import SRVGGNetCompact
from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.archs.info import count_macs, count_parameters, describe, describe_lines, parse_size, peak_memory
from atelier.archs.swinir_options import SwinIROptions
from atelier.errors import UserError


@pytest.mark.parametrize(
    ("feat", "conv", "per_pixel"), [(64, 16, 598_464), (32, 32, 299_232), (32, 16, 151_776)]
)
def test_compact_multiply_adds(feat: int, conv: int, per_pixel: int) -> None:
    """9 in f + n 9 f^2 + 9 f out s^2 for each input pixel; the numbers are the specification's, at x2."""
    assert per_pixel == 27 * feat + conv * 9 * feat**2 + 9 * feat * 12
    net = on_meta(SRVGGNetCompactOptions(num_feat=feat, num_conv=conv, upscale=2))
    cost = count_macs(net, 3, (10, 14))
    assert (cost.total, cost.attention) == (140 * per_pixel, 0)


@pytest.mark.parametrize("size", [(16, 24), (17, 20)])
def test_swinir_multiply_adds_by_hand(size: tuple[int, int]) -> None:
    options = SwinIROptions(**small_options(in_chans=1, depths=(2, 1), mlp_ratio=3))
    c, hidden, tokens = 12, 36, 64
    pixels = 384  # 17x20 is worked on as 24x24
    if size == (17, 20):
        pixels = 576
    linear = 3 * c * c + c * c + 2 * c * hidden
    attention = 2 * tokens * c
    convolutions = 9 * c + 2 * 9 * c * c + 9 * c * c + 9 * c
    cost = count_macs(options.build(), 1, size)
    assert cost.attention == 3 * attention * pixels
    assert cost.total == (3 * (linear + attention) + convolutions) * pixels


MEASURED = [
    ("swinir_gray_dn", (64, 64), 50.0),
    ("swinir_lightweight_x4", (64, 64), 4.36),
    ("swinir_lightweight_x4", (320, 184), 62.7),
    pytest.param("swinir_classical_x4_s64", (64, 64), 53.6, marks=pytest.mark.slow),
    pytest.param("swinir_classical_x4_s64", (256, 256), 856.9, marks=pytest.mark.slow),
    pytest.param("swinir_real_l_x4", (64, 64), 125.6, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "size", "expected"), MEASURED)
def test_swinir_multiply_adds_as_measured(name: str, size: tuple[int, int], expected: float) -> None:
    options = SwinIROptions(**OFFICIAL[name].options)
    cost = count_macs(on_meta(options), options.in_chans, size)
    assert cost.total / 1e9 == pytest.approx(expected, rel=2e-3)


def test_counting_leaves_the_network_alone() -> None:
    net = small_swinir().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    count_macs(net, 3, (16, 16))
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_parameters_with_and_without_tables() -> None:
    net = small_swinir()
    tables = 2 * 225 * (2 + 3)
    total = sum(each.numel() for each in net.parameters())
    assert count_parameters(net) == (total, total - tables)


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (5, 7)])
def test_peak_memory_of_compact_is_two_maps(size: tuple[int, int]) -> None:
    """While a convolution works, its input and its output are alive: 2 f maps; the head is smaller."""
    net = lively(SRVGGNetCompact(num_feat=32, num_conv=3, upscale=2)).eval()
    assert peak_memory(net, 3, size) == 2 * 32 * size[0] * size[1] * 4


def test_peak_memory_sees_what_stays_alive() -> None:
    class Keeps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = [x * i for i in range(5)]
            views = [each.flatten() for each in kept]
            return torch.stack([each.sum() for each in views])

    size = 64 * 64 * 4
    assert 5 * size <= peak_memory(Keeps(), 1, (64, 64)) < 5.1 * size


def test_peak_memory_of_swinir_is_plausible() -> None:
    net = small_swinir(upsampler="pixelshuffledirect", upscale=2)
    one_map = 12 * 32 * 32 * 4
    small, large = peak_memory(net, 3, (32, 32)), peak_memory(net, 3, (64, 64))
    # At least the stream and what is added to it; at most a few times the logits of all windows at once.
    assert 2 * one_map < small < 4 * (32 * 32 * 64 * 3 * 4)
    assert 2.5 * small < large < 4.5 * small


@pytest.mark.parametrize(
    ("text", "size"), [("64x48", (64, 48)), ("360X640", (360, 640)), (" 1 x 1 ", (1, 1)), ("8×9", (8, 9))]
)
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["64", "", "x", "0x5", "5x0", "-4x4", "64*64", "6.5x4", "4x4x3", "axb"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UserError, match=r"HEIGHTxWIDTH.*given '"):
        parse_size(text)


def page(path: Path, **more: Any) -> dict[str, str]:
    """title -> text; lines without a title go on with the one before."""
    rows: dict[str, str] = {}
    title = ""
    for line in describe(path, **more).splitlines():
        title = line[:14].strip() or title
        rows[title] = (rows[title] + "\n" if title in rows else "") + line[14:]
    return rows


def test_what_is_known_comes_before_anything_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(small_swinir(), tmp_path / "net.pth")

    def runs(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("atelier.archs.info.count_macs", runs)
    lines = describe_lines(path)
    known = [next(lines) for _ in range(8)]
    assert known[0].startswith("file ") and known[7].endswith(" without relative-position tables")
    with pytest.raises(KeyboardInterrupt):
        next(lines)


def test_page_of_a_swinir(tmp_path: Path) -> None:
    net = small_swinir(upsampler="pixelshuffledirect", upscale=2)
    path = save(net, tmp_path / "net.pth")
    rows = page(path, size=(16, 24))
    total, without = count_parameters(net)
    cost = count_macs(net, 3, (16, 24))
    assert rows["file"] == f"{path}, {path.stat().st_size / 1e6:.2f} MB"
    assert rows["weights"] == f"entry 'params', {len(net.state_dict())} tensors, 6 constants ignored"
    assert (rows["architecture"], rows["purpose"], rows["scale"]) == ("SwinIR", "SR", "x2")
    assert rows["channels"] == "3 in, 3 out"
    assert rows["parameters"] == f"{total:,}\n{without:,} without relative-position tables"
    assert rows["multiply-adds"] == (
        f"{cost.total / 1e9:.3f} G for 16x24 (height x width); convolutions and matrix products\n"
        f"{(cost.total - cost.attention) / 1e9:.3f} G without the attention products"
    )
    assert "MB of tensors in one forward for 16x24 (height x width), CPU, float32" in rows["peak memory"]
    assert rows["precision"] == "float32, bfloat16 (not float16: not safe)"
    assert "embed_dim: 12" in rows["options"] and "upsampler: pixelshuffledirect" in rows["options"]
    assert "two conventions" in rows["note"] and "with or without the tables" in rows["note"]


def test_page_of_a_compact(tmp_path: Path) -> None:
    net = SRVGGNetCompact(num_feat=8, num_conv=1, upscale=1)
    path = tmp_path / "net.pth"
    torch.save({"a": net.state_dict(), "b": net.state_dict()}, path)
    rows = page(path, param_key="b")
    assert rows["weights"] == "entry 'b', 8 tensors"
    assert rows["purpose"] == "Restoration"
    assert rows["parameters"] == f"{sum(each.numel() for each in net.parameters()):,}"
    assert rows["precision"] == "float32, float16, bfloat16"
    assert "64x64" in rows["multiply-adds"] and "\n" not in rows["multiply-adds"]
    # One convention only, nothing to warn of.
    assert "note" not in rows


def test_page_of_a_foreign_network(tmp_path: Path) -> None:
    net = ESRGAN(num_filters=8, num_blocks=1, scale=2)
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path)
    rows = page(path, size=(8, 8))
    assert rows["architecture"] == "ESRGAN (through spandrel)"
    assert rows["weights"] == f"bare, {len(net.state_dict())} tensors"
    assert " G for 8x8" in rows["multiply-adds"]
    assert "options" not in rows


def test_a_page_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such weight file"):
        describe(tmp_path / "net.pth")


def test_a_network_that_needs_data_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some foreign networks decide by values; the page says so and goes on."""
    path = save(SRVGGNetCompact(num_feat=4, num_conv=0, upscale=1), tmp_path / "net.pth")
    forward = SRVGGNetCompact.forward

    def by_value(self: SRVGGNetCompact, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x) if x.mean().item() >= 0 else x

    monkeypatch.setattr(SRVGGNetCompact, "forward", by_value)
    rows = page(path, size=(8, 8))
    assert rows["multiply-adds"].startswith("not counted: this network does not run without data (")
    assert "MB" in rows["peak memory"]
