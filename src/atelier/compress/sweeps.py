"""All layers of a chain solved anew together, so that the picture that comes out is nearest to a wanted one.

Solving layer by layer makes each layer give what the source has there, although a narrow network cannot and need not:
only the picture counts. A sweep is one Gauss-Newton step on it: the chain is made linear around its weights, the
least-squares problem in all of them is solved by preconditioned conjugate gradients, which need products with the
Jacobian and its transpose only, and the length of the step is the one that serves crops best which the problem did not
contain. The preconditioner is block-diagonal, a Kronecker product for each layer of the moments of its inputs and of
what its outputs do to the picture (K-FAC, Martens and Grosse 2015). Derivatives are used, a learning rate is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from atelier.compress.chain import Chain, Layer, run
from atelier.compress.least_squares import Tick, collect
from atelier.randomness import Streams

_BATCH = 8
_PRODUCTS = 10  # conjugate gradient steps of a sweep; more of them fit the crops, not the source
_STEPS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.1)
_INPUT_DAMPING, _OUTPUT_DAMPING = 1e-6, 1e-3  # shares of the mean of the diagonal
Vector = list[Tensor]
"""Weight, bias and slope of one layer after the other; the last layer has no slope."""


@torch.no_grad()
def sweep(
    chain: Chain,
    x: Tensor,
    wanted: Tensor,
    places: Tensor,
    *,
    sweeps: int,
    seed: int,
    fit_slopes: bool,
    tick: Tick = lambda: None,
) -> Chain:
    """``chain`` with weights nearer to giving ``wanted``; bit for bit itself where nothing is missing.

    Args:
        chain: where to begin.
        x: pictures [N, C, H, W]; half of them make a sweep's problem, the others judge its step.
        wanted: [N, O, H, W], what the last layer shall give.
        places: see :func:`atelier.compress.moments.patches`.
        sweeps: how many.
        seed: of the halves.
        fit_slopes: whether slopes may change (PReLU).
        tick: called after every sweep.
    """
    half = (len(x) + 1) // 2
    for number in range(1, sweeps + 1):
        # Two sweeps see every picture once; then the halves are drawn anew.
        order = torch.from_numpy(Streams(seed, (number + 1) // 2, 0)("sweep halves").permutation(len(x)))
        if number % 2 == 0:
            order = order.flip(0)
        solved, judging = order[:half], order[half:] if len(x) > 1 else order
        direction = _direction(chain, x[solved], wanted[solved], places, seed + number, fit_slopes)
        chain = _stepped(chain, direction, x[judging], wanted[judging])
        tick()
    return chain


def _stepped(chain: Chain, direction: Vector, x: Tensor, wanted: Tensor) -> Chain:
    best, least = chain, _loss(chain, x, wanted)
    for step in _STEPS:
        moved = _chain([a + step * b for a, b in zip(_vector(chain), direction, strict=True)])
        loss = _loss(moved, x, wanted)
        if loss < least:
            best, least = moved, loss
        elif best is not chain:
            break
    return best


def _loss(chain: Chain, x: Tensor, wanted: Tensor) -> float:
    return sum(
        float((run(chain, a) - b).double().square().sum())
        for a, b in zip(torch.split(x, _BATCH), torch.split(wanted, _BATCH), strict=True)
    )


def _direction(
    chain: Chain, x: Tensor, wanted: Tensor, places: Tensor, seed: int, fit_slopes: bool
) -> Vector:
    """A few conjugate gradient steps from 0 towards the solution of the linearised problem."""
    around = [Linearised(chain, batch) for batch in torch.split(x, _BATCH)]
    missing = [b - each.output for each, b in zip(around, torch.split(wanted, _BATCH), strict=True)]
    residual = _sum(each.transposed(b) for each, b in zip(around, missing, strict=True))
    scaled = _preconditioner(chain, x, places, around, seed)

    def precondition(vector: Vector) -> Vector:
        return scaled(vector) if fit_slopes else _without_slopes(scaled(vector))

    solution = [torch.zeros_like(each) for each in residual]
    z = precondition(residual)
    p, power = z, _dot(residual, z)
    for _ in range(_PRODUCTS):
        if power <= 0:
            break
        product = _sum(each.transposed(each.product(p)) for each in around)
        length = power / _dot(p, product)
        solution = [a + length * b for a, b in zip(solution, p, strict=True)]
        residual = [a - length * b for a, b in zip(residual, product, strict=True)]
        z = precondition(residual)
        before, power = power, _dot(residual, z)
        p = [a + power / before * b for a, b in zip(z, p, strict=True)]
    return solution


class Linearised:
    """A chain around its weights, on one batch: products with the Jacobian of its output."""

    def __init__(self, chain: Chain, x: Tensor) -> None:
        self.chain = chain
        self.x = x
        self.before: list[Tensor] = []
        for layer in chain:
            self.before.append(layer.linear(x))
            x = layer.activate(self.before[-1])
        self.output = x

    def _input(self, i: int) -> Tensor:
        # Computed again: storing it would double the memory and save little beside two convolutions.
        return self.x if i == 0 else self.chain[i - 1].activate(self.before[i - 1])

    def product(self, vector: Vector) -> Tensor:
        """How the output [N, O, H, W] moves when the weights move along ``vector``."""
        moved: Tensor | None = None
        for i, (layer, change) in enumerate(zip(self.chain, _chain(vector), strict=True)):
            after = change.linear(self._input(i))
            if moved is not None:
                after += F.conv2d(moved, layer.weight, padding=layer.weight.shape[-1] // 2)
            if layer.slope is not None and change.slope is not None:
                negative = self.before[i].clamp(max=0)
                bent = after * layer.slope[:, None, None] + negative * change.slope[:, None, None]
                after = torch.where(negative < 0, bent, after)
            moved = after
        assert moved is not None
        return moved

    def transposed(self, output: Tensor, outer: Sequence[Tensor] = ()) -> Vector:
        """The transposed Jacobian times ``output`` [N, O, H, W].

        Args:
            output: what is carried back.
            outer: for every layer [O, O], to which the moments of what arrives at its outputs are added.
        """
        parts: Vector = []
        for i in reversed(range(len(self.chain))):
            layer, x, slopes = self.chain[i], self._input(i), []
            if layer.slope is not None:
                negative = self.before[i].clamp(max=0)
                slopes = [(output * negative).sum((0, 2, 3))]
                output = torch.where(negative < 0, output * layer.slope[:, None, None], output)
            if outer:
                rows = output.transpose(0, 1).flatten(1)
                outer[i].add_((rows @ rows.T).double())
            pad = layer.weight.shape[-1] // 2
            weight = conv2d_weight(x, list(layer.weight.shape), output, padding=pad)  # type: ignore[no-untyped-call]
            parts = [weight, output.sum((0, 2, 3)), *slopes, *parts]
            if i:
                output = conv2d_input(list(x.shape), layer.weight, output, padding=pad)  # type: ignore[no-untyped-call]
        return parts


@dataclass(frozen=True)
class _Scaled:
    """Approximate inverse of the normal matrix, layer by layer."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    slopes: list[Tensor]

    def __call__(self, vector: Vector) -> Vector:
        parts: Vector = []
        layers = _chain(vector)
        for i, (layer, inputs, outputs) in enumerate(zip(layers, self.inputs, self.outputs, strict=True)):
            rows = outputs @ torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1) @ inputs
            parts += [rows[:, :-1].reshape(layer.weight.shape), rows[:, -1]]
            if layer.slope is not None:
                parts.append(layer.slope * self.slopes[i])
        return parts


def _preconditioner(
    chain: Chain, x: Tensor, places: Tensor, around: Sequence[Linearised], seed: int
) -> _Scaled:
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    moments = collect(chain, [(i, i) for i in range(len(chain))], x, places)
    outer = [torch.zeros(len(layer.bias), len(layer.bias), dtype=torch.float64) for layer in chain]
    for number, each in enumerate(around):
        # Random signs carried back have, on average, the second moments of the Jacobian.
        signs = torch.from_numpy(Streams(seed, 0, number)("sweep signs").integers(0, 2, each.output.shape))
        each.transposed(signs.to(each.output.dtype) * 2 - 1, outer)
    inputs = [torch.linalg.inv(each.ridge(_INPUT_DAMPING) / each.count).float() for each in moments]
    outputs, slopes = [], []
    for i, sums in enumerate(outer):
        mean = sums / pixels
        damped = mean + _OUTPUT_DAMPING * mean.diagonal().mean().clamp(min=1e-30) * torch.eye(len(mean))
        outputs.append((torch.linalg.inv(damped) / pixels).float())
        negative = [batch.before[i].clamp(max=0).double().square().sum((0, 2, 3)) for batch in around]
        power = mean.diagonal() * torch.stack(negative).sum(0) / pixels
        slopes.append((1 / (power + 1e-3 * power.mean().clamp(min=1e-30)) / pixels).float())
    return _Scaled(inputs, outputs, slopes)


def _vector(chain: Chain) -> Vector:
    parts = ([layer.weight, layer.bias, layer.slope] for layer in chain)
    return [part for part in itertools.chain.from_iterable(parts) if part is not None]


def _chain(vector: Vector) -> Chain:
    inner = len(vector) // 3
    layers = [Layer(*vector[3 * i : 3 * i + 3]) for i in range(inner)]
    return (*layers, Layer(vector[-2], vector[-1], None))


def _without_slopes(vector: Vector) -> Vector:
    last = len(vector) - 2
    return [torch.zeros_like(each) if k % 3 == 2 and k < last else each for k, each in enumerate(vector)]


def _sum(vectors: Iterable[Vector]) -> Vector:
    return [torch.stack(parts).sum(0) for parts in zip(*vectors, strict=True)]


def _dot(one: Vector, other: Vector) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))
