"""Attention transfer: where the energy of the features lies (Zagoruyko and Komodakis, ICLR 2017, equation 2)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from atelier.losses.module import full_precision


@full_precision
def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ(Q_s - Q_t)² over places, mean over samples; two maps B×C×H×W (C may differ), 0-d result in [0, 2].

    Q = Σ_c F² divided by its Euclidean norm over the H·W places. Gradients flow into both sides.
    """
    return (_energy(student) - _energy(teacher)).square().sum(1).mean()


def _energy(feature: Tensor) -> Tensor:
    """B×(H·W), each row of norm 1; in float32 or better."""
    return functional.normalize(feature.square().sum(1).flatten(1), dim=1)
