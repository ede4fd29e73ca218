"""MemFlow against the official numbers, with the mistakes that they must tell."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from archs.golden import agrees, formula_state, golden, shapes_of
from atelier.archs import memflow_blocks
from atelier.archs.flow_padding import Borders
from atelier.archs.memflow import FlowMemory, MemFlow, MemFlowOutput
from atelier.archs.memflow_correlation import Correlation
from atelier.archs.memflow_options import MemFlowOptions
from atelier.errors import UserError


@lru_cache(maxsize=1)
def weights() -> dict[str, Tensor]:
    return MemFlow().state_dict() | formula_state(shapes_of("memflow"), golden("memflow")["weights_seed"])


def formula_net(**options: int) -> MemFlow:
    net = MemFlow(MemFlowOptions(**{"iterations": 4, **options}))
    net.load_state_dict(weights())
    return net.eval()


def frame(number: int) -> Tensor:
    small = np.random.RandomState(100 + number).uniform(-1, 1, (1, 3, 16, 20)).astype(np.float32)
    return F.interpolate(torch.from_numpy(small), scale_factor=8, mode="bilinear", align_corners=False)


@torch.no_grad()
def pairs(net: MemFlow, *, remember: bool = True) -> list[MemFlowOutput]:
    first = net(frame(0), frame(1))
    return [first, net(frame(1), frame(2), first.memory if remember else None)]


@lru_cache(maxsize=1)
def right() -> list[MemFlowOutput]:
    return pairs(formula_net())


def apart(outputs: list[MemFlowOutput], pair: int) -> float:
    """Largest distance from the right flow, in pixels."""
    return float((outputs[pair].flow - right()[pair].flow).abs().max())


def test_the_count_of_parameters_is_the_official_one_part_by_part() -> None:
    net = MemFlow()
    parts = {
        name: sum(p.numel() for p in net.get_submodule(name).parameters())
        for name in ("", "cnet", "fnet", "update_block", "att", "att.pos_emb")
    }
    assert parts == {
        "": 6_273_149,
        "cnet": 1_069_728,
        "fnet": 1_066_848,
        "update_block": 4_022_141,
        "att": 114_432,
        "att.pos_emb": 81_664,
    }


def test_names_and_shapes_are_the_official_ones() -> None:
    state = MemFlow().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes_of("memflow")


def test_the_unused_index_is_the_official_one() -> None:
    index = MemFlow().att.pos_emb.rel_ind
    assert index.dtype == torch.int64
    assert index[3, 10] == 10 - 3 + 159 and index[159, 0] == 0


def test_formula_filled_weights_give_the_official_output() -> None:
    for output, expected in zip(right(), golden("memflow")["pairs"], strict=True):
        agrees(output.flow_low, expected["flow_low"], 5e-5)
        agrees(output.flow, expected["flow_up"], 1e-4)
        agrees(output.peakedness, expected["confidence"], 5e-5)


def test_without_the_memory_the_second_pair_is_wrong() -> None:
    outputs = pairs(formula_net(), remember=False)
    assert apart(outputs, 0) < 1e-4
    assert apart(outputs, 1) > 0.3


def test_values_remembered_as_keys_are_wrong() -> None:
    net = formula_net()
    with torch.no_grad():
        memory = net(frame(0), frame(1)).memory
        outputs = [net(frame(1), frame(2), FlowMemory(memory.values, memory.values))] * 2
    assert apart(outputs, 1) > 0.01


def test_another_length_of_training_is_wrong() -> None:
    assert apart(pairs(formula_net(train_avg_length=1568)), 1) > 0.02


def test_the_approximate_gelu_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = F.gelu
    right()
    monkeypatch.setattr(F, "gelu", lambda x, approximate="none": exact(x, approximate="tanh"))
    assert apart(pairs(formula_net()), 1) > 5e-4


def test_exchanged_axes_of_the_window_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = Correlation.look_up
    right()

    def exchanged(self: Correlation, coordinates: Tensor) -> Tensor:
        return look_up(self, coordinates).unflatten(1, (4, 9, 9)).transpose(2, 3).flatten(1, 3)

    monkeypatch.setattr(Correlation, "look_up", exchanged)
    assert apart(pairs(formula_net()), 0) > 1.0


def reference_look_up(first: Tensor, second: Tensor, coordinates: Tensor) -> Tensor:
    """The definition word by word: the whole volume, pooled, each sample by itself."""
    batch, channels, height, width = first.shape
    volume = torch.einsum("bcq,bck->bqk", first.flatten(2), second.flatten(2)) / channels**0.5
    level_map = volume.reshape(batch * height * width, 1, height, width)
    points = coordinates.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    shift = torch.arange(-4.0, 5.0)
    window = torch.stack(torch.meshgrid(shift, shift, indexing="ij"), -1)
    levels = []
    for level in range(4):
        size = torch.tensor([level_map.shape[3] - 1, level_map.shape[2] - 1])
        grid = 2 * (points / 2**level + window) / size - 1
        sampled = F.grid_sample(level_map, grid, align_corners=True)
        levels.append(sampled.reshape(batch, height, width, 81).permute(0, 3, 1, 2))
        level_map = F.avg_pool2d(level_map, 2)
    return torch.cat(levels, dim=1)


def test_the_look_up_is_the_definition_also_in_parts_and_beyond_the_border(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 32, 18, 23, generator=draw) for _ in range(2))
    coordinates = torch.rand(2, 2, 18, 23, generator=draw) * 40 - 9
    wanted = reference_look_up(first, second, coordinates)
    whole = Correlation(first, second, limit_mib=64)
    torch.testing.assert_close(whole.look_up(coordinates), wanted, atol=1e-4, rtol=0)
    monkeypatch.setattr("atelier.archs.memflow_correlation._PART_BYTES", 2**19)
    parts = Correlation(first, second, limit_mib=1)
    assert whole.kept and not parts.kept
    torch.testing.assert_close(parts.look_up(coordinates), wanted, atol=1e-4, rtol=0)


def test_the_correlation_stays_in_float32_under_autocast() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, 256, 16, 16, generator=draw) for _ in range(2))
    middle = torch.full((1, 2, 16, 16), 7.3)
    wanted = Correlation(first, second, 64).look_up(middle)
    with torch.autocast("cpu", torch.bfloat16):
        found = Correlation(first, second, 64).look_up(middle)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_near_float32(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype):
        found = pairs(formula_net())[1].flow
    wanted = right()[1].flow
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert (found - wanted).abs().mean() < 2e-2 * wanted.abs().mean()


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    net = formula_net(iterations=2)
    with torch.no_grad():
        a, b = torch.cat([frame(0), frame(2)]), torch.cat([frame(1), frame(3)])
        both = net(a, b)
        both = net(b, a, both.memory)
        for item in range(2):
            own = slice(item, item + 1)
            one = net(a[own], b[own])
            one = net(b[own], a[own], one.memory)
            torch.testing.assert_close(both.flow[own], one.flow, atol=1e-4, rtol=0)


@torch.no_grad()
def test_attention_never_makes_the_whole_matrix() -> None:
    """The fused kernel takes the tensors as they come; where it cannot, torch raises here."""
    net = formula_net(iterations=1)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        net(frame(1), frame(2), net(frame(0), frame(1)).memory)


def test_both_ways_are_the_pair_and_its_opposite() -> None:
    net = formula_net(iterations=2)
    with torch.no_grad():
        forth, back = net(frame(0), frame(1)), net(frame(1), frame(0))
        both = net.both_ways(frame(0), frame(1))
        torch.testing.assert_close(both.flow, torch.cat([forth.flow, back.flow]), atol=1e-4, rtol=0)
        forth, back = net(frame(1), frame(2), forth.memory), net(frame(2), frame(1), back.memory)
        both = net.both_ways(frame(1), frame(2), both.memory)
        torch.testing.assert_close(both.flow, torch.cat([forth.flow, back.flow]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("frames", [1, 2])
def test_the_memory_is_bounded_and_holds_the_newest(frames: int) -> None:
    net = formula_net(iterations=1, memory_frames=frames)
    memory, newest = None, []
    for number in range(4):
        output = net(frame(number), frame(number + 1), memory)
        memory = output.memory
        newest.append(memory.keys[:, -1])
        assert memory.keys.shape == memory.values.shape == (1, min(number + 1, frames), 16 * 20, 128)
        assert not memory.keys.requires_grad and not memory.values.requires_grad
        assert memory.keys.untyped_storage().nbytes() == memory.keys.numel() * 4
    assert memory is not None
    torch.testing.assert_close(memory.keys, torch.stack(newest[-frames:], dim=1), atol=0, rtol=0)


def test_a_memory_of_another_size_is_refused() -> None:
    net = formula_net(iterations=1)
    with torch.no_grad():
        memory = net(frame(0), frame(1)).memory
        with pytest.raises(UserError, match="1 pairs with 320 positions each, the pictures have 1 with 256"):
            net(frame(0)[..., :128], frame(1)[..., :128], memory)


@pytest.mark.parametrize("size", [(13, 37), (128, 136), (130, 300)])
def test_padding_fills_up_evenly_and_is_taken_off_again(size: tuple[int, int]) -> None:
    borders = Borders.around(*size)
    picture = torch.randn(1, 2, *size)
    padded = borders.pad(picture)
    for side in padded.shape[-2:]:
        assert side % 8 == 0 and side >= 128
    assert borders.right - borders.left in (0, 1) and borders.bottom - borders.top in (0, 1)
    torch.testing.assert_close(borders.crop(padded), picture, atol=0, rtol=0)
    assert (padded[..., 0, 0] == picture[..., 0, 0]).all() and (
        padded[..., -1, -1] == picture[..., -1, -1]
    ).all()


def test_small_and_odd_pictures_give_flow_of_their_size() -> None:
    net = MemFlow(MemFlowOptions(iterations=1)).eval()
    picture = torch.rand(1, 3, 33, 150) * 2 - 1
    with torch.no_grad():
        output = net(picture, picture)
    assert output.flow.shape == (1, 2, 33, 150) and output.peakedness.shape == (1, 1, 33, 150)
    assert output.flow.isfinite().all()
    assert 0 <= output.peakedness.min() <= output.peakedness.max() <= 1


def test_a_gradient_reaches_every_parameter_in_use() -> None:
    net = MemFlow(MemFlowOptions(iterations=2))
    torch.nn.init.ones_(net.update_block.aggregator.gamma)
    picture = torch.rand(1, 3, 128, 128) * 2 - 1
    net(picture, picture.flip(3)).flow.square().mean().backward()
    without = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert without == {"att.pos_emb.rel_height.weight", "att.pos_emb.rel_width.weight"}


def test_the_skip_norm_has_two_names_and_is_one_module() -> None:
    block = memflow_blocks.ResidualBlock(8, 16, 2, torch.nn.BatchNorm2d)
    assert isinstance(block.downsample, torch.nn.Sequential)
    assert block.norm3 is block.downsample[1]
