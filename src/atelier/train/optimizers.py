"""Optimisers by ``type:``, built with the device's fastest kernels; taking them up again; the guarded step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from atelier.options.base import Component, Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from atelier.objectives.base import ParameterGroup

Beta = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


class OptimizerOptions(Component):
    """Options of one optimiser; key names and defaults are torch's, as in BasicSR's files."""

    lr: Positive = 2e-4

    @abstractmethod
    def build(self, params: Iterable[nn.Parameter], device: torch.device) -> Optimizer:
        """The optimiser over those of ``params`` that require a gradient."""


class AdamOptions(OptimizerOptions):
    """Adam (Kingma & Ba, ICLR 2015); ``weight_decay`` is added to the gradient."""

    type: Literal["Adam"] = "Adam"
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0

    def build(self, params: Iterable[nn.Parameter], device: torch.device) -> Optimizer:
        """Fused where the device has it."""
        from torch.optim import Adam

        return Adam(
            _trainable(params),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            **_kernels(device),
        )


class AdamWOptions(OptimizerOptions):
    """AdamW (Loshchilov & Hutter, ICLR 2019); ``weight_decay`` shrinks the weights themselves."""

    type: Literal["AdamW"] = "AdamW"
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01

    def build(self, params: Iterable[nn.Parameter], device: torch.device) -> Optimizer:
        """Fused where the device has it."""
        from torch.optim import AdamW

        return AdamW(
            _trainable(params),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            **_kernels(device),
        )


class SGDOptions(OptimizerOptions):
    """Stochastic gradient descent with momentum."""

    type: Literal["SGD"] = "SGD"
    momentum: Beta = 0.0
    weight_decay: NonNegative = 0.0

    def build(self, params: Iterable[nn.Parameter], device: torch.device) -> Optimizer:
        """Fused where the device has it."""
        from torch.optim import SGD

        optimizer = SGD(
            _trainable(params),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            **_kernels(device),
        )
        _fill_velocities(optimizer)
        return optimizer


class AdamWScheduleFreeOptions(OptimizerOptions):
    """AdamW without a schedule (Defazio et al., "The Road Less Scheduled", 2024).

    The rate is best left constant, with ``warmup_iter``; ``betas[0]`` says how near to their average the
    weights stand at which gradients are taken. Validation and checkpoints use the average: see
    :func:`averaged_weights`.
    """

    type: Literal["AdamWScheduleFree"] = "AdamWScheduleFree"
    lr: Positive = 2e-3
    betas: tuple[Annotated[float, Field(gt=0, lt=1)], Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0

    def build(self, params: Iterable[nn.Parameter], device: torch.device) -> Optimizer:
        """Foreach kernels; in training mode."""
        from atelier.train.schedule_free import AdamWScheduleFree

        return AdamWScheduleFree(_trainable(params), self.lr, self.betas, self.eps, self.weight_decay)


OPTIMIZERS: Registry[OptimizerOptions] = Registry(
    "optimiser",
    {
        "Adam": "atelier.train.optimizers:AdamOptions",
        "AdamW": "atelier.train.optimizers:AdamWOptions",
        "SGD": "atelier.train.optimizers:SGDOptions",
        "AdamWScheduleFree": "atelier.train.optimizers:AdamWScheduleFreeOptions",
    },
)


def split_groups(optimizer: Optimizer, groups: Sequence[ParameterGroup]) -> Optimizer:
    """``optimizer``, whose parameters are those of ``groups`` in order, with one group of its own for each of them.

    A group keeps the optimiser's settings; its ``rate`` multiplies what the schedule says. One group stays as it is.
    """
    if len(groups) == 1 and groups[0].rate == 1.0:
        return optimizer
    (whole,) = optimizer.param_groups
    shared = {key: value for key, value in whole.items() if key != "params"}
    # Counters are tensors that a step adds to: each group has its own.
    optimizer.param_groups[:] = [
        {"params": list(group.parameters), **deepcopy(shared), "name": group.name, "rate": group.rate}
        for group in groups
    ]
    return optimizer


def take_up(optimizer: Optimizer, stored: Mapping[str, Any]) -> None:
    """Go on with the moments and counters of ``stored``, a ``state_dict`` of an optimiser with the same moments.

    Settings (betas, weight decay, kernels, the groups' shares of the rate) stay those that ``optimizer`` was built
    with: torch would take the stored ones, and an option that was changed since would do nothing. ``lr`` is the
    stored one, which the last step used; the schedule sets it anew at every step.

    Raises:
        ValueError, KeyError: it is the state of another network's optimiser.
    """
    settings = {*optimizer.defaults, "name", "rate"} - {"lr"}
    groups: Sequence[Mapping[str, Any]] = stored["param_groups"]
    if len(groups) == len(optimizer.param_groups):  # else torch says so
        groups = [
            {key: value for key, value in theirs.items() if key not in settings}
            | {key: value for key, value in own.items() if key in settings}
            for own, theirs in zip(optimizer.param_groups, groups, strict=True)
        ]
    # Before loading, as what is loaded is made to fit the settings: a step count's device, schedule-free weights.
    optimizer.load_state_dict({**stored, "param_groups": groups})
    _fill_velocities(optimizer)


def begin_at_weights(optimizer: Optimizer) -> None:
    """Tell a fresh optimiser that other weights were loaded since it was built; only schedule-free ones keep any."""
    from atelier.train.schedule_free import AdamWScheduleFree

    if isinstance(optimizer, AdamWScheduleFree):
        optimizer.begin()


def _fill_velocities(optimizer: Optimizer) -> None:
    """Give every parameter of an SGD with momentum its velocity, zero where there is none; without, take them away.

    torch's fused kernel creates velocities without a value in its first step and fills them only where that step is
    not skipped; from zero the first step gives the same one (0 · momentum + gradient).
    """
    import torch

    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for param in group["params"]:
            if not group["momentum"]:
                optimizer.state.pop(param, None)
            elif optimizer.state[param].get("momentum_buffer") is None:
                optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)


def guarded_step(optimizer: Optimizer, skip: Tensor | None = None) -> None:
    """Step, unless the 0-d tensor ``skip`` is 1 on the device: then weights and moments keep their bits.

    The flag goes the way torch's own ``GradScaler`` sends it (attributes that fused optimisers read in their
    kernel), so the host never waits to learn it. An optimiser without that way (foreach on an exotic device)
    steps regardless; the run still stops before a checkpoint is written. Do not use it under a
    ``GradScaler``, which guards by itself: call ``scaler.step(optimizer)`` there.
    """
    if skip is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.step()
        return
    flagged: Any = optimizer
    flagged.grad_scale, flagged.found_inf = None, skip
    try:
        optimizer.step()
    finally:
        del flagged.grad_scale, flagged.found_inf


@contextmanager
def averaged_weights(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Within it, networks hold the weights to validate and to save; afterwards those to train, bit for bit.

    Only schedule-free optimisers keep two sets; for others nothing happens. After a resume,
    ``load_state_dict`` of the optimiser puts the training weights back into the network by itself.
    """
    from atelier.train.schedule_free import AdamWScheduleFree

    switched = [each for each in optimizers if isinstance(each, AdamWScheduleFree) and each.training]
    for each in switched:
        each.eval()
    try:
        yield
    finally:
        for each in switched:
            each.train()


def _trainable(params: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [param for param in params if param.requires_grad]


def _kernels(device: torch.device) -> dict[str, Any]:
    return {"fused": True} if device.type in FUSED_DEVICES else {"foreach": True}
