"""What SwinIR promises beside the official results: any size, no stale caches, no stored constants, clear errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archs.examples import lively, picture, small_options, small_swinir
from atelier.archs import SwinIR
from atelier.archs.swinir_options import SwinIROptions
from atelier.errors import UserError

HEADS = [("", 1), ("pixelshuffledirect", 3), ("pixelshuffle", 2), ("nearest+conv", 4)]


# --- any size


@pytest.mark.parametrize(("upsampler", "scale"), HEADS)
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (1, 20), (3, 8), (9, 2)])
def test_tiny_pictures_are_reflected_back_and_forth(
    upsampler: str, scale: int, size: tuple[int, int]
) -> None:
    net = small_swinir(upsampler=upsampler, upscale=scale)
    x = picture(2, 3, *size)
    # NumPy's reflection goes back and forth by itself, and repeats a side of one pixel.
    pads = [(0, 0), (0, 0), *((0, -side % 8) for side in size)]
    padded = torch.from_numpy(np.pad(x.numpy(), pads, mode="reflect"))
    with torch.no_grad():
        y, whole = net(x), net(padded)
    assert y.shape == (2, 3, size[0] * scale, size[1] * scale)
    torch.testing.assert_close(y, whole[..., : y.shape[2], : y.shape[3]], rtol=0, atol=1e-6)


def test_a_batch_is_its_pictures() -> None:
    net = small_swinir()
    x = picture(3, 3, 17, 23)
    with torch.no_grad():
        one_by_one = torch.cat([net(each[None]) for each in x])
        torch.testing.assert_close(net(x), one_by_one, rtol=0, atol=1e-5)


def test_far_corners_do_not_mix() -> None:
    """The shift mask: what was not a neighbour before the roll has no influence (the original: 1.6e-47)."""
    net = small_swinir(depths=(2,), num_heads=(2,)).double()
    x = picture(1, 3, 48, 48).double().requires_grad_()
    net(x)[0, :, 1, 1].sum().backward()
    assert x.grad is not None
    assert float(x.grad[..., -1, -1].abs().max()) < 1e-30
    assert float(x.grad[..., 1, 1].abs().max()) > 1e-3


def test_the_input_is_left_as_it_was() -> None:
    net = small_swinir()
    x = picture(1, 3, 16, 16)
    before = x.clone()
    with torch.no_grad():
        net(x)
    assert torch.equal(x, before)


# --- training and evaluation


@pytest.mark.parametrize(("upsampler", "scale"), HEADS)
def test_evaluation_is_training_without_drop_path(upsampler: str, scale: int) -> None:
    net = small_swinir(upsampler=upsampler, upscale=scale)
    x = picture(2, 3, 17, 10)
    with torch.no_grad():
        evaluated = net(x)
    trained = net.train()(x)
    assert trained.requires_grad
    torch.testing.assert_close(trained.detach(), evaluated, rtol=0, atol=1e-5)


def test_checkpointing_changes_memory_only() -> None:
    """The same gradients, drop path included, because its draws are repeated."""
    options = small_options(drop_path_rate=0.4)
    x = picture(4, 3, 16, 16)
    results = []
    for use_checkpoint in (False, True):
        net = lively(SwinIROptions(**options, use_checkpoint=use_checkpoint).build()).train()
        torch.manual_seed(4)
        y = net(x)
        y.square().sum().backward()
        results.append((y.detach(), {name: each.grad for name, each in net.named_parameters()}))
    (plain, expected), (again, found) = results
    torch.testing.assert_close(again, plain, rtol=0, atol=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_drop_path_drops_whole_pictures_and_keeps_the_mean() -> None:
    rate = 0.5
    net = lively(SwinIROptions(**small_options(depths=(2,), num_heads=(2,), drop_path_rate=rate)).build())
    branches = picture(1, 3, 8, 8).expand(64, -1, -1, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        y = net.train()(branches).flatten(1)
    # Equal pictures come out in a few kinds only: with or without the two branches of the second block.
    kinds = {tuple(np.round(row, 4)) for row in y[:, :12].tolist()}
    assert 2 <= len(kinds) <= 4
    assert net.layers[0].residual_group.blocks[0].drop_path.rate == 0
    assert net.layers[0].residual_group.blocks[1].drop_path.rate == rate


def test_every_parameter_gets_a_gradient() -> None:
    for upsampler, scale in HEADS:
        net = small_swinir(upsampler=upsampler, upscale=scale).train()
        net(picture(1, 3, 16, 16)).square().sum().backward()
        dead = [name for name, each in net.named_parameters() if each.grad is None or not each.grad.any()]
        assert dead == []


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_autocast_is_near(train: bool) -> None:
    torch.manual_seed(0)
    net = SwinIROptions(**small_options(upsampler="pixelshuffledirect", upscale=2)).build().train(train)
    x = picture(2, 3, 20, 16)
    y = net(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(x)
    assert 0 < float((half.detach() - y).abs().max()) < 0.05
    half.float().square().sum().backward()
    assert all(each.grad is not None and bool(each.grad.isfinite().all()) for each in net.parameters())


def test_inference_mode_leaves_nothing_behind_for_training() -> None:
    net = small_swinir()
    x = picture(1, 3, 24, 16)
    with torch.inference_mode():
        expected = net(x).clone()
    net.train()(x).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), expected, rtol=0, atol=1e-6)


# --- what is stored


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_mean_is_the_only_buffer_and_in_no_file(channels: int) -> None:
    net = small_swinir(in_chans=channels)
    x = picture(1, channels, 24, 16)
    with torch.no_grad():
        net(x)
    assert [name for name, _ in net.named_buffers()] == ["mean"]
    assert [round(value, 4) for value in net.mean.flatten().tolist()] == (
        [0.4488, 0.4371, 0.4040] if channels == 3 else [0]
    )
    assert list(net.state_dict()) == [name for name, _ in net.named_parameters()]


def test_files_hold_what_memory_does_not() -> None:
    net = small_swinir(img_size=24)
    written = net.options.file_state(net.state_dict())
    extra = {key: value for key, value in written.items() if key not in net.state_dict()}
    assert sum(key.endswith(".attn_mask") for key in extra) == 2
    assert sum(key.endswith(".relative_position_index") for key in extra) == 4
    assert len(extra) == 6
    masks = [value for key, value in extra.items() if key.endswith(".attn_mask")]
    assert masks[0].shape == (9, 64, 64)
    assert masks[0].unique().tolist() == [-100, 0]
    # Written out from the text: regions cut at -w and -s on both axes of the padded map, windows row by row.
    region = np.zeros((24, 24), dtype=int)
    for i, rows in enumerate((slice(0, -8), slice(-8, -4), slice(-4, None))):
        for j, columns in enumerate((slice(0, -8), slice(-8, -4), slice(-4, None))):
            region[rows, columns] = 3 * i + j
    windows = region.reshape(3, 8, 3, 8).transpose(0, 2, 1, 3).reshape(9, 64)
    expected = np.where(windows[:, :, None] == windows[:, None, :], 0.0, -100.0)
    assert np.array_equal(masks[0].numpy(), expected)
    index = extra["layers.0.residual_group.blocks.0.attn.relative_position_index"]
    for a, b in ((0, 0), (0, 63), (63, 0), (10, 37), (7, 8)):
        (ya, xa), (yb, xb) = divmod(a, 8), divmod(b, 8)
        assert int(index[a, b]) == (ya - yb + 7) * 15 + (xa - xb + 7)


class MadeConstants(TorchDispatchMode):
    """Counts fresh integer and boolean tensors: no mask, index or window order is built without one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {
            each.untyped_storage().data_ptr()
            for each in tree_leaves((args, kwargs))
            if isinstance(each, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if (
                isinstance(each, Tensor)
                and not each.is_floating_point()
                and each.untyped_storage().data_ptr() not in known
            ):
                self.count += 1
        return result


@pytest.mark.parametrize("train", [False, True])
def test_constants_are_made_once_for_three_forwards(train: bool) -> None:
    # A window that no other test uses: the constants of a window are shared by all networks.
    net = small_swinir(window_size=9 if train else 10, img_size=20).train(train)
    counts = []
    for _ in range(3):
        with MadeConstants() as made:
            y = net(picture(1, 3, 33, 21))
            if train:
                y.sum().backward()
        counts.append(made.count)
    assert counts[0] > 0
    assert counts[1:] == [0, 0]


# --- no stale cache: whatever changes the weights, the next evaluation must use them


def expected_after(net: nn.Module, x: Tensor) -> Tensor:
    """What a fresh network with the same weights answers."""
    fresh = SwinIROptions(**net.options.model_dump()).build().eval()
    fresh.load_state_dict(net.state_dict())
    with torch.no_grad():
        return fresh(x)


def evaluate(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=1e-3, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.05, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.05, fused=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.05),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_an_optimiser_step(name: str) -> None:
    net = small_swinir()
    x = picture(1, 3, 16, 16)
    optimizer = OPTIMIZERS[name](net.parameters())
    before = evaluate(net, x)
    for _ in range(2):
        net.train()
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        net.eval()
        after = evaluate(net, x)
        assert float((after - before).abs().max()) > 1e-4
        torch.testing.assert_close(after, expected_after(net, x), rtol=0, atol=1e-6)
        before = after


def test_after_a_step_without_leaving_evaluation_mode() -> None:
    """Fine-tuning in evaluation mode, with the optimisers that leave a trace in the tensors' version."""
    net = small_swinir()
    x = picture(1, 3, 16, 16)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    evaluate(net, x)
    net(x).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(evaluate(net, x), expected_after(net, x), rtol=0, atol=1e-6)


def test_after_a_fused_step_without_a_switch_of_mode() -> None:
    """A generator that is also run under ``no_grad`` in each step, as the discriminator's turn does."""
    net = small_swinir().train()
    x = picture(1, 3, 16, 16)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05, fused=True)
    evaluate(net, x)
    net(x).square().mean().backward()
    optimizer.step()
    torch.testing.assert_close(evaluate(net, x), expected_after(net, x), rtol=0, atol=1e-5)


def shift_tables(net: nn.Module, change: Callable[[Tensor], object]) -> None:
    """Position tables only: they are what a network could keep in another form."""
    for name, parameter in net.named_parameters():
        if name.endswith("relative_position_bias_table"):
            change(parameter)


def test_after_averaging_in_place() -> None:
    """As the averages of a run: always in evaluation mode, changed by foreach kernels."""
    net, average = lively(small_swinir(), seed=5), small_swinir().requires_grad_(False)
    x = picture(1, 3, 16, 16)
    for _ in range(2):
        evaluate(average, x)
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 0.3)
        torch.testing.assert_close(evaluate(average, x), expected_after(average, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("assign", [False, True])
def test_after_load_state_dict(assign: bool) -> None:
    net = small_swinir()
    x = picture(1, 3, 16, 16)
    evaluate(net, x)
    net.load_state_dict(lively(small_swinir(), seed=8).state_dict(), assign=assign)
    torch.testing.assert_close(evaluate(net, x), expected_after(net, x), rtol=0, atol=1e-6)


def test_after_changes_through_data() -> None:
    """They leave no trace on the tensor, so the switch of mode has to do."""
    net = small_swinir()
    x = picture(1, 3, 16, 16)
    before = evaluate(net, x)
    net.train()
    shift_tables(net, lambda table: table.data.mul_(-1))
    after = evaluate(net.eval(), x)
    assert float((after - before).abs().max()) > 1e-3
    torch.testing.assert_close(after, expected_after(net, x), rtol=0, atol=1e-6)


def test_after_replacing_data() -> None:
    net = small_swinir()
    x = picture(1, 3, 16, 16)
    evaluate(net, x)

    def replace(table: Any) -> None:
        table.data = -table.data

    shift_tables(net, replace)
    torch.testing.assert_close(evaluate(net, x), expected_after(net, x), rtol=0, atol=1e-6)


def test_after_moving_to_another_precision_and_back() -> None:
    net = small_swinir()
    x = picture(1, 3, 16, 16)
    before = evaluate(net, x)
    assert evaluate(net.double(), x.double()).dtype == torch.float64
    torch.testing.assert_close(evaluate(net.float(), x), before, rtol=0, atol=1e-6)


def test_a_copy_stands_alone() -> None:
    net = small_swinir()
    x = picture(1, 3, 16, 16)
    before = evaluate(net, x)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        shift_tables(twin, lambda table: table.mul_(-1))
    changed = evaluate(twin, x)
    torch.testing.assert_close(changed, expected_after(twin, x), rtol=0, atol=1e-6)
    assert float((changed - before).abs().max()) > 1e-3
    torch.testing.assert_close(evaluate(net, x), before, rtol=0, atol=0)


# --- construction


def test_first_weights_are_the_originals() -> None:
    """Linear: truncated normal 0.02, bias 0; LayerNorm 1 and 0; tables 0.02; the rest PyTorch's own."""
    torch.manual_seed(0)
    net = SwinIROptions(**small_options(embed_dim=48, num_heads=(2, 3))).build()
    for name, each in net.named_parameters():
        value = each.detach()
        if ".attn." in name or ".mlp." in name:
            if name.endswith("bias"):
                assert not value.any(), name
            else:
                assert 0.018 < float(value.std()) < 0.022, name
        elif "norm" in name:
            assert bool((value == (1 if name.endswith("weight") else 0)).all()), name
        elif value.ndim > 1:
            fan_in = 9 * (3 if name.startswith("conv_first") else 48)
            assert 0.5 < float(value.std()) * fan_in**0.5 * 3**0.5 < 1.3, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": (2, 2), "num_heads": (2,)}, r"depths has 2 entries and num_heads 1"),
        ({"embed_dim": 10, "num_heads": (2, 3)}, r"embed_dim 10 is not divisible by num_heads 3"),
        ({"img_size": 8}, r"img_size 8 must be larger than window_size 8"),
        ({"img_size": 4}, r"img_size 4 must be larger than window_size 8"),
        ({"upsampler": "nearest+conv", "upscale": 3}, r"upscale 3 with upsampler 'nearest\+conv'.*2 or 4"),
        ({"upsampler": "nearest+conv", "upscale": 8}, r"upscale 8 .*2 or 4"),
        ({"upsampler": "pixelshuffle", "upscale": 6}, r"upscale 6 with upsampler 'pixelshuffle'.*power of 2"),
        ({"upsampler": "pixelshuffle", "upscale": 1}, r"upscale 1 with upsampler 'pixelshuffle'"),
        ({"upscale": 2}, r"upscale 2 with upsampler ''.*name an upsampler"),
        ({"patch_size": 4}, r"patch_size.*1.*given 4"),
        ({"upsampler": "pixelshufle", "upscale": 2}, r"upsampler.*pixelshuffledirect.*given 'pixelshufle'"),
        ({"resi_connection": "2conv"}, r"resi_connection.*1conv.*3conv.*given '2conv'"),
        ({"depths": (2, 0)}, r"depths.*at least 1.*\[2, 0\]"),
        ({"depths": (), "num_heads": ()}, r"depths.*at least 1 item"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate.*less than 1, given 1.0"),
        ({"mlp_ratio": 0.01}, r"mlp_ratio 0.01 leaves no hidden unit"),
        (
            {"embed_dim": 3, "num_heads": (1, 1), "resi_connection": "3conv"},
            r"3conv needs embed_dim of at least 4",
        ),
        ({"img_range": 0}, r"img_range.*greater than 0, given 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SwinIR(**small_options(**arguments))
    with pytest.raises(ValidationError):
        SwinIROptions(**small_options(**arguments))


def test_a_misspelt_argument_is_not_swallowed() -> None:
    with pytest.raises(TypeError, match="embed_dims"):
        SwinIR(embed_dims=60)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="embed_dims"):
        SwinIROptions(embed_dims=60)  # type: ignore[call-arg]


def test_null_is_no_upsampler_and_scale_one_then() -> None:
    for upsampler in (None, ""):
        options = SwinIROptions(upsampler=upsampler)
        assert (options.upsampler, options.upscale, options.scale) == ("", 1, 1)
    assert SwinIROptions(upsampler="pixelshuffle").upscale == 2


def test_absolute_positions_take_their_own_size_only() -> None:
    net = small_swinir(ape=True)
    with torch.no_grad():
        assert net(picture(1, 3, 16, 16)).shape == (1, 3, 16, 16)
        assert net(picture(1, 3, 12, 9)).shape == (1, 3, 12, 9)
        with pytest.raises(
            UserError, match=r"absolute positions \(ape\) for 16x16.*given 16x24 after padding"
        ):
            net(picture(1, 3, 16, 17))


def test_float16_is_refused_in_the_facts() -> None:
    assert not SwinIROptions().supports_half
