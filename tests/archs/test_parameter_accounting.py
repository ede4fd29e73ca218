"""The two countings of the distillation study: its networks, and what its script counted instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from archs.examples import small_swinir
from atelier.archs import SRVGGNetCompact, save_weights
from atelier.archs.info import count_by_defaults, count_macs, count_parameters, describe
from atelier.archs.swinir_options import SwinIROptions
from atelier.objectives.distill.projectors import PairShape, build_projectors

TEACHER = {"embed_dim": 180, "depths": (6,) * 6, "num_heads": (6,) * 6}
STUDENT = {"embed_dim": 60, "depths": (4,) * 4, "num_heads": (6,) * 4}
TRAINED = {"window_size": 8, "mlp_ratio": 2, "upscale": 4, "upsampler": "pixelshuffle"}


def network(**options: object) -> nn.Module:
    with torch.device("meta"):
        return SwinIROptions.model_validate(options).build()


def test_the_networks_that_were_trained() -> None:
    teacher, student = network(**TEACHER, **TRAINED), network(**STUDENT, **TRAINED)
    assert count_parameters(teacher) == (11_900_199, 11_851_599)
    assert count_parameters(student) == (988_959, 967_359)
    assert round(100 * 988_959 / 11_900_199, 4) == 8.3104
    assert count_parameters(network(**STUDENT, **TRAINED, extra_residual=True)) == (988_959, 967_359)


def test_the_published_count_is_of_the_constructors_defaults() -> None:
    """The script gave upscale, img_size, window, embed_dim, depths and heads alone: mlp_ratio 4, no upsampler."""
    teacher, student = (network(**each, window_size=8) for each in (TEACHER, STUDENT))
    counts = count_parameters(student)[0], count_parameters(teacher)[0]
    assert counts == (891_123, 16_182_723)
    assert round(100 * counts[0] / counts[1], 4) == 5.5066
    assert count_by_defaults(network(**STUDENT, **TRAINED)) == 891_123
    assert count_by_defaults(network(**TEACHER, **TRAINED)) == 16_182_723
    assert count_by_defaults(student) is None
    assert count_by_defaults(SRVGGNetCompact(num_feat=4, num_conv=1)) is None


def test_the_students_parts() -> None:
    student = network(**STUDENT, **TRAINED)
    parts = {
        name: sum(each.numel() for each in module.parameters()) for name, module in student.named_children()
    }
    assert {name: count for name, count in parts.items() if count} == {
        "conv_first": 1_680,
        "patch_embed": 120,
        "layers": 622_800,
        "norm": 120,
        "conv_after_body": 32_460,
        "conv_before_upsample": 34_624,
        "upsample": 295_424,
        "conv_last": 1_731,
    }
    direct = network(**STUDENT, **{**TRAINED, "upsampler": "pixelshuffledirect"})
    assert count_parameters(direct)[0] == 683_148


def test_lightweight_as_the_literature_counts_it() -> None:
    light = network(
        embed_dim=60, depths=(6,) * 4, num_heads=(6,) * 4, **{**TRAINED, "upsampler": "pixelshuffledirect"}
    )
    assert count_parameters(light) == (929_628, 897_228)


def test_multiply_adds_of_the_student() -> None:
    student = network(**STUDENT, **TRAINED)
    assert count_macs(student, 3, (64, 64)).total / 1e9 == pytest.approx(6.34, abs=0.005)
    assert count_macs(student, 3, (32, 32)).total / 1e9 == pytest.approx(1.58, abs=0.01)


def test_the_projectors() -> None:
    pairs = [PairShape(60, 180, (f"layers.{i}", f"layers.{i}")) for i in range(4)]
    for side in ("teacher", "student"):
        projectors = build_projectors(pairs, "linear", side=side)  # type: ignore[arg-type]
        count = sum(each.numel() for each in projectors.parameters())
        assert count == (43_440 if side == "teacher" else 4 * (60 * 180 + 180))


def test_info_prints_and_explains_every_count(tmp_path: Path) -> None:
    net = small_swinir(upsampler="pixelshuffle", upscale=2, mlp_ratio=2)
    path = tmp_path / "net.pth"
    options = net.options.model_dump(mode="json", exclude={"type"})
    save_weights(path, {"params": net.state_dict()}, {"arch": "SwinIR", "options": options})
    total, without = count_parameters(net)
    text = describe(path, size=(8, 8))
    assert f"parameters    {total:,}" in text
    assert f"{without:,} without relative-position tables" in text
    assert (
        f"{count_by_defaults(net):,} parameters are counted where only the sizes are given and mlp_ratio 4"
        in text
    )
