"""The state as written equals the official files: names, shapes, order, counts."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from archs.examples import OFFICIAL, lively, on_meta, save
from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.archs.info import count_parameters
from atelier.archs.swinir_options import SwinIROptions
from support import SHARED

KEYS = SHARED / "spec" / "keys"


def key_file(name: str) -> dict[str, tuple[int, ...]]:
    path = KEYS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"the key list {name}.json is not in the shared folder")
    return {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}


def written_shapes(options: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in written(options).items()}


def written(options: Any) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = options.file_state(on_meta(options).state_dict())
    return state


@cache
def official_net(name: str) -> Any:
    return on_meta(SwinIROptions(**OFFICIAL[name].options))


def test_every_official_key_file_is_covered() -> None:
    if not KEYS.is_dir():
        pytest.skip("the key lists are not in the shared folder")
    there = {path.stem for path in KEYS.glob("swinir_*.json") if "elsa" not in path.stem}
    assert there == set(OFFICIAL)


@pytest.mark.parametrize("name", OFFICIAL)
def test_swinir_files_have_the_official_names_shapes_and_order(name: str) -> None:
    expected = key_file(name)
    net = official_net(name)
    shapes = {key: tuple(value.shape) for key, value in net.options.file_state(net.state_dict()).items()}
    assert list(shapes) == list(expected)
    assert shapes == expected


@pytest.mark.parametrize("name", OFFICIAL)
def test_swinir_counts(name: str) -> None:
    official, net = OFFICIAL[name], official_net(name)
    assert count_parameters(net) == (official.parameters, official.without_tables)
    own = net.state_dict()
    stored = net.options.file_state(own)
    assert len(stored) == official.entries
    assert sum(value.numel() for key, value in stored.items() if key not in own) == official.constants


@pytest.mark.parametrize("name", OFFICIAL)
def test_options_are_read_off_official_shapes(name: str) -> None:
    told = SwinIROptions(**OFFICIAL[name].options)
    assert SwinIROptions.recognises(key_file(name))
    assert SwinIROptions.from_shapes(key_file(name)) == told


def test_reduced_denoiser_counts() -> None:
    options = SwinIROptions(
        in_chans=1, embed_dim=96, depths=(2,) * 6, num_heads=(3,) * 6, window_size=8, mlp_ratio=2
    )
    assert count_parameters(on_meta(options))[0] == 1_488_997
    assert len(written(options)) == 196


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [({}, 891_123), ({"mlp_ratio": 2, "upsampler": "pixelshuffle", "upscale": 4}, 988_959)],
)
def test_constructor_defaults_match_no_trained_model(changes: dict[str, Any], parameters: int) -> None:
    options = SwinIROptions(embed_dim=60, depths=(4,) * 4, num_heads=(6,) * 4, window_size=8, **changes)
    assert count_parameters(on_meta(options))[0] == parameters


def test_one_shifted_block_as_the_specification_lists_it() -> None:
    """Typed from the table of keys, for a checkout without the shared folder."""
    options = SwinIROptions(**OFFICIAL["swinir_lightweight_x2"].options)
    shapes = written_shapes(options)
    prefix = "layers.3.residual_group.blocks.5."
    block = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    assert list(block.items()) == [
        ("attn_mask", (64, 64, 64)),
        ("norm1.weight", (60,)),
        ("norm1.bias", (60,)),
        ("attn.relative_position_bias_table", (225, 6)),
        ("attn.relative_position_index", (64, 64)),
        ("attn.qkv.weight", (180, 60)),
        ("attn.qkv.bias", (180,)),
        ("attn.proj.weight", (60, 60)),
        ("attn.proj.bias", (60,)),
        ("norm2.weight", (60,)),
        ("norm2.bias", (60,)),
        ("mlp.fc1.weight", (120, 60)),
        ("mlp.fc1.bias", (120,)),
        ("mlp.fc2.weight", (60, 120)),
        ("mlp.fc2.bias", (60,)),
    ]
    assert "layers.3.residual_group.blocks.4.attn_mask" not in shapes
    keys = list(shapes)
    assert keys[:4] == [
        "conv_first.weight",
        "conv_first.bias",
        "patch_embed.norm.weight",
        "patch_embed.norm.bias",
    ]
    assert keys[-6:] == [
        "norm.weight",
        "norm.bias",
        "conv_after_body.weight",
        "conv_after_body.bias",
        "upsample.0.weight",
        "upsample.0.bias",
    ]
    assert shapes["upsample.0.weight"] == (12, 60, 3, 3)


def test_the_saved_file_itself_is_in_official_order(tmp_path: Path) -> None:
    expected = key_file("swinir_lightweight_x2")
    net = lively(SwinIROptions(**OFFICIAL["swinir_lightweight_x2"].options).build())
    stored = torch.load(save(net, tmp_path / "net.pth"), weights_only=True)["params"]
    assert [(key, tuple(value.shape)) for key, value in stored.items()] == list(expected.items())
    assert stored["layers.0.residual_group.blocks.0.attn.relative_position_index"].dtype == torch.int64
    assert stored["layers.0.residual_group.blocks.1.attn_mask"].dtype == torch.float32


def test_shared_constants_are_stored_once(tmp_path: Path) -> None:
    """122.7 MB of the official gray denoiser are 46 MB of weights and 18 copies of one mask."""
    net = SwinIROptions(**OFFICIAL["swinir_lightweight_x2"].options).build()
    full = save(net, tmp_path / "full.pth").stat().st_size
    minimal = save(net, tmp_path / "minimal.pth", minimal_masks=True).stat().st_size
    weights = 4 * OFFICIAL["swinir_lightweight_x2"].parameters
    assert weights < minimal < full < weights + 4 * 64**3 + 400_000


COMPACT = {(64, 16, 1): 595_459, (64, 16, 2): 600_652, (64, 16, 3): 609_307, (64, 16, 4): 621_424}
COMPACT |= {(64, 32, 4): 1_213_296, (48, 16, 2): 339_900, (32, 32, 2): 301_356, (32, 32, 4): 311_760}
COMPACT |= {(32, 16, 2): 152_876, (32, 16, 4): 163_280, (24, 16, 2): 87_012}


@pytest.mark.parametrize(("feat", "conv", "scale"), COMPACT)
def test_compact_counts(feat: int, conv: int, scale: int) -> None:
    options = SRVGGNetCompactOptions(num_feat=feat, num_conv=conv, upscale=scale)
    assert count_parameters(on_meta(options)) == (COMPACT[feat, conv, scale],) * 2
    assert options.receptive_radius == conv + 2


def test_compact_file_has_the_official_names_shapes_and_order() -> None:
    expected = key_file("compact_64_16_x2")
    assert list(written_shapes(SRVGGNetCompactOptions(upscale=2)).items()) == list(expected.items())
    assert SRVGGNetCompactOptions.from_shapes(expected) == SRVGGNetCompactOptions(upscale=2)


def test_compact_names_as_the_specification_lists_them() -> None:
    prelu = written_shapes(SRVGGNetCompactOptions(num_feat=8, num_conv=1, upscale=2))
    assert prelu == {
        "body.0.weight": (8, 3, 3, 3),
        "body.0.bias": (8,),
        "body.1.weight": (8,),
        "body.2.weight": (8, 8, 3, 3),
        "body.2.bias": (8,),
        "body.3.weight": (8,),
        "body.4.weight": (12, 8, 3, 3),
        "body.4.bias": (12,),
    }
    for act_type in ("relu", "leakyrelu"):
        plain = written_shapes(SRVGGNetCompactOptions(num_feat=8, num_conv=1, upscale=2, act_type=act_type))
        assert plain == {key: shape for key, shape in prelu.items() if len(shape) != 1 or "bias" in key}
