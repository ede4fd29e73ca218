"""The contextual term is finite wherever features meet, in every precision; the naive form is not (teeth)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atelier.losses.contextual import STAGE_WEIGHTS, contextual_loss, contextual_stages_loss

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(name: str) -> tuple[Tensor, Tensor]:
    base = draw(2, 16, 6, 7)
    return {
        "different": (base, draw(2, 16, 5, 9, seed=1)),
        "identical": (base, base.clone()),
        "near-identical": (base, base + 1e-4 * draw(2, 16, 6, 7, seed=2)),
        "constant": (torch.full_like(base, 0.7), torch.full_like(base, 0.3)),
        "same constant": (torch.full_like(base, 0.7), torch.full_like(base, 0.7)),
        "zero": (torch.zeros_like(base), torch.zeros_like(base)),
        "zero prediction": (torch.zeros_like(base), base),
        "two channels": (draw(2, 2, 8, 8), draw(2, 2, 8, 8, seed=3)),
        "large": (1000 * base, 1000 * draw(2, 16, 6, 7, seed=4)),
    }[name]


NAMES = (
    "different",
    "identical",
    "near-identical",
    "constant",
    "same constant",
    "zero",
    "zero prediction",
    "two channels",
    "large",
)


def naive(x: Tensor, y: Tensor) -> Tensor:
    """The form that was patched with clamps: the distance may be a little below 0, nothing keeps the ratio finite."""
    x, y = x.flatten(2), y.flatten(2)
    mean = y.mean(dim=2, keepdim=True)
    x, y = x - mean, y - mean
    x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    distance = 1 - x.transpose(1, 2) @ y
    relative = distance / (distance.amin(dim=2, keepdim=True) + 1e-5)
    weight = ((1 - relative) / 0.1).exp()
    share = weight / weight.sum(dim=2, keepdim=True)
    return -share.amax(dim=2).mean(dim=1).log().mean()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_finite(name: str, dtype: torch.dtype, autocast: bool) -> None:
    x, y = (each.to(dtype).requires_grad_() for each in case(name))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = contextual_loss(x, y)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss) and loss >= 0
    for leaf in (x, y):
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()


def test_teeth_the_naive_form_is_not_finite() -> None:
    x, y = (each.bfloat16() for each in case("two channels"))
    assert not torch.isfinite(naive(x, y)), "a negative distance in bfloat16 overflows the exponential"
    x, y = (each.half().requires_grad_() for each in case("identical"))
    naive(x, y).backward()
    assert x.grad is not None and not torch.isfinite(x.grad).all()


def test_it_is_the_formula() -> None:
    x, y = (each.double() for each in case("different"))
    mean = y.mean(dim=(2, 3), keepdim=True)
    expected = []
    for a, b in zip((x - mean).flatten(2), (y - mean).flatten(2), strict=True):
        best = []
        for i in range(a.shape[1]):
            cosines = torch.stack(
                [torch.cosine_similarity(a[:, i], b[:, j], dim=0) for j in range(b.shape[1])]
            )
            distance = (1 - cosines).clamp(min=0)
            best.append(torch.softmax(-distance / (distance.min() + 1e-3) / 0.1, dim=0).max())
        expected.append(-torch.stack(best).mean().log())
    torch.testing.assert_close(contextual_loss(x, y), torch.stack(expected).mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("chunk", [1, 5, 42, 1000])
def test_chunks_change_nothing(chunk: int) -> None:
    results = []
    for size in (chunk, 1024):
        x, y = (each.double().requires_grad_() for each in case("different"))
        loss = contextual_loss(x, y, chunk=size)
        loss.backward()
        assert x.grad is not None and y.grad is not None
        results.append((loss.detach(), x.grad, y.grad))
    for ours, whole in zip(*results, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-13)


def test_rows_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for the backward pass does not grow with the square of the positions."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    x, y = draw(1, 4, 40, 40).requires_grad_(), draw(1, 4, 40, 40, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contextual_loss(x, y, chunk=100)
    assert max(kept.values()) < 1600 * 100 / 4, "no matrix of positions is among them"


def test_padding_counts_as_nothing() -> None:
    x, y = case("different")
    padded = torch.cat([y, 50 * draw(2, 16, 5, 4, seed=9)], dim=3)
    valid = torch.zeros(2, 5, 13, dtype=torch.bool)
    valid[..., :9] = True
    torch.testing.assert_close(contextual_loss(x, padded, valid=valid), contextual_loss(x, y))
    assert not torch.isclose(contextual_loss(x, padded), contextual_loss(x, y))


def test_likeness_lowers_it_and_a_batch_is_the_mean_of_its_parts() -> None:
    x, y = case("different")
    assert contextual_loss(y, y) < 0.01 < contextual_loss(x, y)
    parts = [contextual_loss(x[k : k + 1], y[k : k + 1]) for k in range(2)]
    torch.testing.assert_close(contextual_loss(x, y), torch.stack(parts).mean())


def test_stages_are_weighted() -> None:
    xs = [draw(1, 3, 8, 8, seed=k) for k in range(4)]
    ys = [draw(1, 3, 8, 8, seed=k + 10) for k in range(4)]
    expected = sum(w * contextual_loss(x, y) for w, x, y in zip((1, 2, 4, 8), xs, ys, strict=True))
    torch.testing.assert_close(contextual_stages_loss(xs, ys), expected)
    assert STAGE_WEIGHTS == (1, 2, 4, 8)
    with pytest.raises(ValueError):
        contextual_stages_loss(xs[:3], ys)
