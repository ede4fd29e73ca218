"""ELSA attention against its formulas: values, gradients, what is kept for them, and what it must not see."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from archs.elsa_reference import elsa_picture, residual_group
from archs.examples import lively, picture, small_options, small_swinir
from atelier.archs import compile_blocks, swinir_elsa_taps
from atelier.archs.swinir_elsa import ElsaAttention, Maps
from atelier.archs.swinir_elsa_options import ElsaOptions
from atelier.archs.swinir_elsa_taps import mix_taps
from atelier.archs.swinir_options import SwinIROptions
from atelier.archs.swinir_windows import Layout

SMALL = {"kernel_size": 3, "group_width": 4}


def elsa_net(*, elsa: dict[str, Any] | None = None, **changes: Any) -> Any:
    return small_swinir(attention="elsa", elsa={**SMALL, **(elsa or {})}, **changes)


def taps_arguments(size: tuple[int, int, int], side: int = 3) -> list[Tensor]:
    """Two heads of three channels, five hidden channels."""
    generator = torch.Generator().manual_seed(0)
    tokens, taps = size[0] * size[1] * size[2], side * side
    shapes = ((5, tokens), (2 * taps, 5), (2 * taps,), (6, tokens), (6, taps), (6, taps))
    return [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]


@pytest.mark.parametrize(
    ("size", "piece_bytes"), [((3, 2, 1), 1 << 19), ((4, 2, 1), 48), ((2, 1, 2), 96), ((1, 1, 1), 48)]
)
def test_gradients_of_the_taps(
    size: tuple[int, int, int], piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swinir_elsa_taps, "_PIECE_BYTES", piece_bytes)
    assert torch.autograd.gradcheck(lambda *tensors: mix_taps(*tensors, size), taps_arguments(size))


def test_a_map_in_pieces_is_the_map_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    size = (13, 6, 5)
    arguments = taps_arguments(size, 5)
    whole = mix_taps(*arguments, size)
    gradients = torch.autograd.grad(whole.square().sum(), arguments)
    for piece_bytes in (24 * 6 * 13, 24 * 6 * 4, 1):
        monkeypatch.setattr(swinir_elsa_taps, "_PIECE_BYTES", piece_bytes)
        cut = mix_taps(*arguments, size)
        torch.testing.assert_close(cut, whole)
        for mine, expected in zip(torch.autograd.grad(cut.square().sum(), arguments), gradients, strict=True):
            torch.testing.assert_close(mine, expected)


def test_the_traceable_form_agrees() -> None:
    size = (6, 5, 2)
    arguments = taps_arguments(size)
    fast, plain = mix_taps(*arguments, size), swinir_elsa_taps._traceable(*arguments, size)
    torch.testing.assert_close(fast, plain)
    seed = torch.randn(fast.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for mine, expected in zip(
        torch.autograd.grad(fast, arguments, seed), torch.autograd.grad(plain, arguments, seed), strict=True
    ):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize(
    ("lam", "gamma", "side", "qk_scale", "bias"),
    [(0, 1, 7, None, True), (1, 1, 3, 0.7, False), (1, 0, 5, None, True)],
)
def test_attention_is_its_formula(
    lam: int, gamma: int, side: int, qk_scale: float | None, bias: bool
) -> None:
    options = ElsaOptions(kernel_size=side, lam=lam, gamma=gamma, qk_scale=qk_scale, group_width=4)
    attention = lively(ElsaAttention(12, 2, options, qkv_bias=bias)).double()
    x = picture(7, 5, 12).double().requires_grad_()
    ours = attention(x.view(35, 12), (Maps(1, 7, 5, (7,), (5,)),)).view(7, 5, 12)
    expected = elsa_picture(attention, x, 8, False)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    inputs = [x, *attention.parameters()]
    seed = torch.randn(7, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mine = torch.autograd.grad(ours, inputs, seed)
    for each, reference in zip(mine, torch.autograd.grad(expected, inputs, seed), strict=True):
        torch.testing.assert_close(each, reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", [4, 5])
@pytest.mark.parametrize(
    "elsa", [{"scope": "image"}, {"scope": "window"}, {"scope": "window", "border": "fork"}]
)
def test_a_residual_group_is_its_formula(elsa: dict[str, Any], window: int) -> None:
    net = elsa_net(elsa={**elsa, "lam": 1}, window_size=window, depths=(2,), num_heads=(2,)).double()
    group = net.layers[0].residual_group
    height, width = 2 * window, 3 * window
    x = picture(2, height, width, 12).double()
    layout = Layout(2, height, width, window, torch.device("cpu"))
    with torch.no_grad():
        expected = torch.stack([residual_group(group, each, window) for each in x])
        without = group(x.view(-1, 12), layout).view_as(x)
    torch.testing.assert_close(without, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(group(x.view(-1, 12), layout).view_as(x), expected, rtol=0, atol=1e-12)


def test_float32_agrees_with_float64() -> None:
    net, x = elsa_net(elsa={"kernel_size": 7}), picture(1, 3, 16, 24)
    single = net(x)
    torch.testing.assert_close(single.double(), net.double()(x.double()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scope", ["image", "window"])
def test_pictures_of_a_batch_do_not_mix(scope: str) -> None:
    net, x = elsa_net(elsa={"scope": scope}), picture(3, 3, 16, 24)
    with torch.no_grad():
        together, apart = net(x), torch.cat([net(each[None]) for each in x])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (17, 23)])
def test_any_size_runs(size: tuple[int, int]) -> None:
    assert elsa_net()(picture(1, 3, *size)).shape == (1, 3, *size)


def far_corner(net: Any, side: int) -> Tensor:
    """The gradient of pixel (1, 1) with respect to the four pixels of the opposite corner."""
    x = picture(1, 3, side, side).double().requires_grad_()
    (gradient,) = torch.autograd.grad(net.double()(x)[0, :, 1, 1].sum(), x)
    assert gradient[0, :, 1, 1].abs().min() > 0
    return gradient[0, :, -2:, -2:]


@pytest.mark.parametrize("elsa", [{"scope": "image"}, {"scope": "window"}])
def test_opposite_corners_do_not_see_each_other(elsa: dict[str, Any]) -> None:
    net = elsa_net(elsa={**elsa, "kernel_size": 7}, depths=(2,), num_heads=(2,))
    assert (far_corner(net, 16) == 0).all()


def test_the_fork_leaks_across_the_seam() -> None:
    """Shows that the derivative above can see a leak."""
    elsa = {"scope": "window", "border": "fork", "kernel_size": 7}
    assert far_corner(elsa_net(elsa=elsa, depths=(2,), num_heads=(2,)), 16).abs().min() > 0


@pytest.mark.parametrize("resi_connection", ["1conv", "3conv"])
@pytest.mark.parametrize(
    "head", [("", 1), ("pixelshuffle", 2), ("nearest+conv", 4), ("pixelshuffledirect", 3)]
)
def test_receptive_radius_bounds_what_a_pixel_sees(head: tuple[str, int], resi_connection: str) -> None:
    upsampler, scale = head
    net = elsa_net(
        depths=(1, 1), window_size=2, upsampler=upsampler, upscale=scale, resi_connection=resi_connection
    )
    radius = net.options.receptive_radius
    x = picture(1, 3, 2, 48).double().requires_grad_()
    (gradient,) = torch.autograd.grad(net.double()(x)[0, :, :, 24 * scale].sum(), x)
    seen = gradient[0].abs().sum((0, 1)).nonzero().flatten()
    reach = max(24 - int(seen[0]), int(seen[-1]) - 24)
    assert reach <= radius <= reach + 4
    if upsampler == "":
        assert reach == radius


@pytest.mark.parametrize(
    "elsa",
    [{"scope": "window", "where": "all"}, {"where": (1,)}, {"where": "even"}, {"scope": "image", "lam": 1}],
)
def test_the_radius_is_unbounded_with_windows(elsa: dict[str, Any]) -> None:
    options = SwinIROptions(**small_options(), attention="elsa", elsa=elsa)
    assert (options.receptive_radius is None) == (elsa.get("lam") != 1)


@pytest.mark.parametrize("ghost", [(0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("where", ["all", "even", (1,)])
@pytest.mark.parametrize("scope", ["image", "window"])
def test_no_parameter_is_dead(scope: str, where: Any, ghost: tuple[int, int]) -> None:
    net = elsa_net(elsa={"scope": scope, "where": where, "lam": ghost[0], "gamma": ghost[1]}).train()
    net(picture(1, 3, 16, 16)).square().mean().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []


@pytest.mark.parametrize(
    ("where", "with_elsa"),
    [("all", {(0, 0), (0, 1), (1, 0), (1, 1)}), ("even", {(0, 0), (1, 0)}), ((1,), {(1, 0), (1, 1)})],
)
def test_where(where: Any, with_elsa: set[tuple[int, int]]) -> None:
    net = elsa_net(elsa={"where": where})
    found = {
        (i, j)
        for i, layer in enumerate(net.layers)
        for j, block in enumerate(layer.residual_group.blocks)
        if isinstance(block.attn, ElsaAttention)
    }
    assert found == with_elsa
    with torch.no_grad():
        evaluated = net(picture(1, 3, 16, 24))
    torch.testing.assert_close(net(picture(1, 3, 16, 24)), evaluated, rtol=0, atol=1e-5)


def test_fresh_static_filters() -> None:
    both = ElsaAttention(60, 6, ElsaOptions(lam=1, gamma=1))
    assert both.ghost_head.shape == (2, 1, 60, 7, 7)
    assert both.ghost_head[0].std().item() == pytest.approx(1, rel=0.1)
    assert both.ghost_head[1].std().item() == pytest.approx(0.02, rel=0.1)
    assert ElsaAttention(60, 6, ElsaOptions()).ghost_head.std().item() == pytest.approx(0.02, rel=0.1)
    assert ElsaAttention(60, 6, ElsaOptions(lam=1, gamma=0)).ghost_head.std().item() == pytest.approx(
        1, rel=0.1
    )


def kept_bytes(run: Any, own: list[Tensor]) -> int:
    """Bytes that autograd keeps, each storage once, those of ``own`` left out."""
    weights = {each.untyped_storage().data_ptr() for each in own}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    total = sum(each.untyped_storage().nbytes() for each in kept.values())
    del result
    return total


def test_the_backward_pass_keeps_no_filters() -> None:
    """Ten numbers a token and channel or fewer; the unfolded values alone would be 49."""
    attention = lively(ElsaAttention(24, 2, ElsaOptions(lam=1)))
    rows = picture(32 * 32, 24).requires_grad_()
    maps = (Maps(1, 32, 32, (32,), (32,)),)
    kept = kept_bytes(lambda: attention(rows, maps), list(attention.parameters()))
    assert 0 < kept < 10 * rows.numel() * 4


def test_checkpointing_changes_nothing() -> None:
    x = picture(2, 3, 16, 16)
    results = []
    for use_checkpoint in (False, True):
        net = elsa_net(use_checkpoint=use_checkpoint).train()
        y = net(x)
        y.square().mean().backward()
        results.append([y, *(parameter.grad for parameter in net.parameters())])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again, rtol=0, atol=0)


def test_autocast_trains_close_to_float32() -> None:
    net, x = elsa_net().train(), picture(1, 3, 16, 16)
    exact = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x)
    rough.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert 0 < (rough - exact).abs().max() < 0.1 * exact.detach().std() + 0.05


@pytest.mark.parametrize("attention", [{}, {"attention": "elsa", "elsa": SMALL}])
def test_export(attention: dict[str, Any]) -> None:
    net = small_swinir(depths=(1,), num_heads=(2,), **attention)
    x = picture(1, 3, 13, 19)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_agrees() -> None:
    net, x = elsa_net(depths=(1,), num_heads=(2,)), picture(1, 3, 16, 24)
    expected = net(x)
    compile_blocks(net)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-5)
