"""Bringing a teacher's features to a common scale, so that a feature term's weight means the same everywhere.

A raw target invites the student to shrink its features and lets a few strong channels decide; see ``target_norm`` in
:class:`~atelier.objectives.distill.term_options.FeatureOptions`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from atelier.objectives.distill.ranks import mean_over_ranks

TargetNorm = Literal["none", "calibrated", "instance", "layernorm"]
CALIBRATION_BATCHES = 8
# Under the variance: smaller than the usual 1e-5, because the features of an untrained teacher (a study's control arm)
# may have a spread of 1e-3 and must come out as large as a trained one's.
EPSILON = 1e-8


class Normaliser(nn.Module):
    """B×C×H×W to B×C×H×W; the base does nothing (``none``)."""

    def observe(self, feature: Tensor) -> None:
        """Take note of a training batch; only ``calibrated`` learns from it."""

    def forward(self, feature: Tensor) -> Tensor:
        """The normalised feature."""
        return feature


class Instance(Normaliser):
    """Mean 0, variance 1 over the places of each sample and channel (Ulyanov et al., 2016, no affine)."""

    def forward(self, feature: Tensor) -> Tensor:
        """The normalised feature."""
        return _standardised(feature, (2, 3))


class LayerNorm(Normaliser):
    """Mean 0, variance 1 over the channels of each place (Ba et al., 2016, no affine)."""

    def forward(self, feature: Tensor) -> Tensor:
        """The normalised feature."""
        return _standardised(feature, (1,))


class Calibrated(Normaliser):
    """Mean and variance per channel of the first 8 training batches (of all ranks), fixed from then on.

    During these batches the statistics are those of the batches seen so far. They are buffers, so a resumed run goes
    on with the same ones. Before any batch was observed a batch is normalised by its own statistics.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._seen = 0  # the buffer's value on the host: reading the buffer would wait for the device
        self.register_load_state_dict_post_hook(_count_again)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def observe(self, feature: Tensor) -> None:
        """Add a B×C×H×W batch to the statistics; after the eighth it changes nothing."""
        if self._seen >= CALIBRATION_BATCHES:
            return
        mean, variance = _moments(feature.to(self.mean.dtype))
        common = mean_over_ranks(mean)
        variance = mean_over_ranks(variance + (mean - common).square())
        self._seen += 1
        self.batches.fill_(self._seen)
        # Chan, Golub and LeVeque (1983), batches of equal size
        change = common - self.mean
        share = 1 / self._seen
        self.variance.copy_(
            (1 - share) * self.variance + share * variance + share * (1 - share) * change.square()
        )
        self.mean.add_(share * change)

    def forward(self, feature: Tensor) -> Tensor:
        """The normalised feature."""
        mean, variance = (self.mean, self.variance) if self._seen else _moments(feature)
        mean, variance = (each.to(feature.dtype)[:, None, None] for each in (mean, variance))
        return (feature - mean) * (variance + EPSILON).rsqrt()


def build_normaliser(kind: TargetNorm, channels: int) -> Normaliser:
    """The normaliser for a map of ``channels``."""
    if kind == "calibrated":
        return Calibrated(channels)
    return {"none": Normaliser, "instance": Instance, "layernorm": LayerNorm}[kind]()


def _moments(feature: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(feature, (0, 2, 3), correction=0)
    return mean, variance


def _standardised(feature: Tensor, axes: tuple[int, ...]) -> Tensor:
    variance, mean = torch.var_mean(feature, axes, correction=0, keepdim=True)
    return (feature - mean) * (variance + EPSILON).rsqrt()


def _count_again(module: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(module, Calibrated)
    module._seen = int(module.batches)
