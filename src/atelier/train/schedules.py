"""Learning-rate schedules as pure functions of the step.

``build`` gives ``rate(n)``: the learning rate that step n uses, n counted from 1. Nothing is remembered
between steps, so resuming needs no state, and the rate that is logged is the rate that was used.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from atelier.options.base import Component, Registry

Rate = Callable[[int], float]
Steps = Annotated[int, Field(gt=0)]


class SchedulerOptions(Component):
    """Options of one schedule."""

    def build(self, base_lr: float, total_iter: int, warmup_iter: int = -1) -> Rate:
        """The rate of step n = 1 … total_iter.

        During the first ``warmup_iter`` steps (-1 or 0: none) the schedule's value is multiplied by n /
        warmup_iter; step ``warmup_iter`` is the first with the full value. (BasicSR takes base_lr times that
        factor: the same wherever the schedule has not moved yet.)
        """
        schedule = self._schedule(base_lr, total_iter)

        def rate(step: int) -> float:
            value = schedule(step)
            return value * step / warmup_iter if step < warmup_iter else value

        return rate

    @abstractmethod
    def _schedule(self, base_lr: float, total_iter: int) -> Rate:
        """The rate without warm-up."""

    def check(self, total_iter: int) -> list[str]:
        """What in these options cannot act in a run of ``total_iter`` steps: one warning each."""
        return []


class ConstantOptions(SchedulerOptions):
    """The same rate throughout."""

    type: Literal["constant"] = "constant"

    def _schedule(self, base_lr: float, total_iter: int) -> Rate:
        return lambda step: base_lr


class MultiStepLROptions(SchedulerOptions):
    """rate(n) = lr · gamma ^ (number of milestones <= n): step n = milestone is the first with the new rate.

    That is KAIR's count; BasicSR changes the rate one step later.
    """

    type: Literal["MultiStepLR"] = "MultiStepLR"
    milestones: list[Steps]
    gamma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: list[int]) -> list[int]:
        if any(later <= earlier for earlier, later in pairwise(milestones)):
            raise ValueError(f"milestones must rise, given {milestones}")
        return milestones

    def _schedule(self, base_lr: float, total_iter: int) -> Rate:
        milestones, gamma = list(self.milestones), self.gamma
        return lambda step: base_lr * gamma ** bisect_right(milestones, step)

    def check(self, total_iter: int) -> list[str]:
        """Names each milestone that comes too late to act."""
        return [
            f"scheduler: milestone {milestone} is not before total_iter {total_iter}: the rate stays"
            + (" until the last step" if milestone == total_iter else "")
            for milestone in self.milestones
            if milestone >= total_iter
        ]


class CosineAnnealingRestartLROptions(SchedulerOptions):
    """Half cosines from weight · lr to ``eta_min``, one per period (SGDR: Loshchilov & Hutter, ICLR 2017).

    With t = n - 1 steps done before step n and a period of T steps that began after step b: rate(n) = eta_min
    + w/2 · (lr - eta_min) · (1 + cos(π (t - b) / T)), BasicSR's formula. The place t = b + T still belongs to
    the period that ends there. After the last period the rate stays at ``eta_min``.
    """

    type: Literal["CosineAnnealingRestartLR"] = "CosineAnnealingRestartLR"
    periods: Annotated[list[Steps], Field(min_length=1)]
    restart_weights: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default=[1.0])
    eta_min: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _a_weight_for_each_period(self) -> CosineAnnealingRestartLROptions:
        if len(self.restart_weights) != len(self.periods):
            raise ValueError(
                f"restart_weights needs one value for each of the {len(self.periods)} periods, "
                f"given {len(self.restart_weights)}"
            )
        return self

    def _schedule(self, base_lr: float, total_iter: int) -> Rate:
        ends = list(accumulate(self.periods))
        periods, weights, eta_min = list(self.periods), list(self.restart_weights), self.eta_min

        def rate(step: int) -> float:
            done = step - 1
            place = bisect_left(ends, done)
            if place == len(ends):
                return eta_min
            share = (done - (ends[place] - periods[place])) / periods[place]
            return eta_min + weights[place] * 0.5 * (base_lr - eta_min) * (1 + math.cos(math.pi * share))

        return rate

    def check(self, total_iter: int) -> list[str]:
        """Says where the rate stays at its lowest, and names periods that never begin."""
        ends = list(accumulate(self.periods))
        warnings = [
            f"scheduler: the period of {period} steps after step {end - period} never begins "
            f"(total_iter {total_iter})"
            for period, end in zip(self.periods, ends, strict=True)
            if end - period >= total_iter
        ]
        if ends[-1] < total_iter:
            warnings.append(
                f"scheduler: the periods end after step {ends[-1]} of {total_iter}: "
                f"the rate stays at eta_min ({self.eta_min:g}) from there"
            )
        return warnings


class OneCycleLROptions(SchedulerOptions):
    """One rise and one fall (Smith & Topin, 2017): half cosines from lr / div_factor to lr, then far below.

    ``lr`` of the optimiser is the peak. Values as torch's OneCycleLR with ``anneal_strategy="cos"``: the peak
    lies at place ``pct_start`` · total_iter - 1 of 0 … total_iter - 1, the end is lr / div_factor /
    final_div_factor. Momentum is left alone.
    """

    type: Literal["OneCycleLR"] = "OneCycleLR"
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 25.0
    final_div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1e4

    def _schedule(self, base_lr: float, total_iter: int) -> Rate:
        first = base_lr / self.div_factor
        last = first / self.final_div_factor
        peak, end = max(self.pct_start * total_iter - 1, 0.0), max(total_iter - 1, 1)

        def rate(step: int) -> float:
            place = min(step - 1, end)
            if place < peak:
                return _cosine(first, base_lr, place / peak)
            return _cosine(base_lr, last, (place - peak) / (end - peak))

        return rate


def _cosine(start: float, stop: float, share: float) -> float:
    """From ``start`` (share 0) to ``stop`` (share 1) along half a cosine."""
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))


SCHEDULERS: Registry[SchedulerOptions] = Registry(
    "learning-rate schedule",
    {
        "MultiStepLR": "atelier.train.schedules:MultiStepLROptions",
        "CosineAnnealingRestartLR": "atelier.train.schedules:CosineAnnealingRestartLROptions",
        "OneCycleLR": "atelier.train.schedules:OneCycleLROptions",
        "constant": "atelier.train.schedules:ConstantOptions",
    },
)
