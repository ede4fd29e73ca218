"""How much each term counts at each step: schedules, and factors that follow gradients or losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.objectives.distill.ranks import mean_over_ranks

if TYPE_CHECKING:
    from atelier.objectives.distill.term_options import WeightOptions

KEPT = 0.9
"""What a new measurement leaves of the old factor, in the logarithm."""


class WeightSchedule:
    """A term's number over the steps of a run: its weight, or the ratio or share that it shall have.

    With v the ``value`` (or ``grad_ratio`` or ``loss_share``) and steps counted from 1::

        0                                    step < start
        v · min(1, (step - start + 1)/ramp)  until the ramp is over
        v                                    from then on (decay none)
        v · (1 → final)                      from the ramp's last step to ``end``, along a line or half a cosine
        v · final                            from ``end`` on

    A pure function of the step. Percent of ``total_iter`` are rounded to the nearest step.

    Raises:
        UserError: a decay whose end does not come after its ramp.
    """

    def __init__(self, options: WeightOptions, total_iter: int, name: str = "") -> None:
        numbers = {"value": options.value, "grad_ratio": options.grad_ratio, "loss_share": options.loss_share}
        self.kind, self.number = next((key, each) for key, each in numbers.items() if each is not None)
        self.every = options.every
        self.start, self.ramp, self.end = (
            _position(each, total_iter) for each in (options.start, options.ramp, options.end)
        )
        self._decay, self.final = options.decay, options.final
        self._full = self.start + max(self.ramp - 1, 0)
        if self._decay != "none" and self.end <= self._full:
            raise UserError(
                f"distill.terms.{name}.weight: a {self._decay} decay must end after its start and ramp; "
                f"it begins at iteration {self._full} and 'end' is {self.end} of {total_iter}"
            )

    def at(self, step: int) -> float:
        """The number at ``step`` (from 1)."""
        return self.number * self.shape(step)

    def shape(self, step: int) -> float:
        """The same with v = 1: the course alone."""
        if step < self.start:
            return 0.0
        if step < self._full:
            return (step - self.start + 1) / self.ramp
        if self._decay == "none":
            return 1.0
        way = min(1.0, (step - self._full) / (self.end - self._full))
        if way == 1.0:
            return self.final
        left = 1 - way if self._decay == "linear" else (1 + math.cos(math.pi * way)) / 2
        return self.final + (1 - self.final) * left

    def active(self, step: int) -> bool:
        """Whether the term acts at ``step``; where not, nothing it needs has to be computed."""
        return self.at(step) > 0

    def due(self, step: int) -> bool:
        """Whether a balanced term is measured at ``step``: at its first one, and at every multiple of ``every``."""
        first = step == max(1, self.start)
        return self.kind != "value" and self.active(step) and (first or step % self.every == 0)


class Balance:
    """The weights in force of all terms, step by step.

    A ``value`` is its schedule. For ``grad_ratio`` r the weight is r·u, where u follows ‖∇L_pixel‖ / ‖∇L_term‖ over
    the student's parameters (the idea of GradNorm, Chen et al., ICML 2018, without its loss). For ``loss_share`` s it
    is s/(1 - Σs)·u, where u follows the losses without a share over the term's own, so that the term has the share s
    of the total. u is the first measurement, then moves a tenth of the way in the logarithm at each; a measurement
    that is zero or not finite is passed over, and a term that was never measured has weight 0.

    Factors stay on the device. Losses between two measurements are averaged, over all ranks at each step; nothing waits
    for the device.

    Args:
        options: the weight of each term by log name.
        total_iter: steps of the run.
        device: where the factors live.

    Raises:
        UserError: shares that add up to 1 or more.
    """

    def __init__(self, options: Mapping[str, WeightOptions], total_iter: int, device: torch.device) -> None:
        self.schedules = {name: WeightSchedule(each, total_iter, name) for name, each in options.items()}
        shares = {n: s.number * max(1, s.final) for n, s in self.schedules.items() if s.kind == "loss_share"}
        if sum(shares.values()) >= 1:
            raise UserError(
                "distill.terms: the loss_share of all terms together must stay below 1, given "
                + ", ".join(f"{name} {share:g}" for name, share in shares.items())
            )
        balanced = [name for name, each in self.schedules.items() if each.kind != "value"]
        self._log = {name: torch.full((), -math.inf, device=device) for name in balanced}
        # sums of (the term's loss, the losses without a share) since the last measurement
        self._sums = {name: torch.zeros(2, device=device) for name in shares}
        self._step = 0
        # balanced now and not in the checkpoint: measured at their next step, not at the next multiple of ``every``
        self._late: set[str] = set()

    def active(self, step: int) -> tuple[str, ...]:
        """The terms that act at ``step``, in order."""
        return tuple(name for name, each in self.schedules.items() if each.active(step))

    def weights(
        self, step: int, pixel: Tensor, raw: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
    ) -> dict[str, float | Tensor]:
        """The weight in force of every term in ``raw``, measuring first where a measurement is due.

        Only the first call of a step measures, so all micro-batches of a step count alike. On several ranks all must
        call it, and a gradient's norm is that of the ranks' mean gradient.

        Args:
            step: from 1.
            pixel: the sum of the run's own losses, 0-d, graph attached.
            raw: the raw value of each term of :meth:`active`, 0-d, graph attached (and kept).
            parameters: the student's.

        Returns:
            Floats, and 0-d tensors without graph for balanced terms.
        """
        if step != self._step:
            self._step = step
            self._follow_gradients(step, pixel, raw, parameters)
            self._follow_losses(step, pixel, raw)
            self._late -= raw.keys()
        return {name: self._weight(name, step) for name in raw}

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: the factors and the sums of losses."""
        return {
            "log": {name: each.clone() for name, each in self._log.items()},
            "sums": {name: each.clone() for name, each in self._sums.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> tuple[str, ...]:
        """Take back :meth:`state_dict`, as far as both sides balance a term in the same way.

        Returns:
            The balanced terms of the run of which the checkpoint knows nothing: they are measured at their next step.
        """
        logs, sums = state.get("log", {}), state.get("sums", {})
        for name, own in self._log.items():
            # A factor of gradients says nothing of losses; what has sums follows losses.
            if name not in logs or (name in sums) != (name in self._sums):
                self._late.add(name)
                continue
            own.copy_(logs[name])
            if name in self._sums:
                self._sums[name].copy_(sums[name])
        return tuple(name for name in self._log if name in self._late)

    def _weight(self, name: str, step: int) -> float | Tensor:
        schedule = self.schedules[name]
        if schedule.kind == "value":
            return schedule.at(step)
        number = schedule.at(step)
        if schedule.kind == "loss_share":
            number /= 1 - sum(each.at(step) for each in self.schedules.values() if each.kind == "loss_share")
        return number * self._log[name].exp()

    def _follow_gradients(
        self, step: int, pixel: Tensor, raw: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
    ) -> None:
        due = [n for n in raw if self.schedules[n].kind == "grad_ratio" and self._due(n, step)]
        if not due:
            return
        norm = gradient_norm(pixel, parameters)
        for name in due:
            self._move(name, norm / gradient_norm(raw[name], parameters))

    def _follow_losses(self, step: int, pixel: Tensor, raw: Mapping[str, Tensor]) -> None:
        shares = [name for name in raw if self.schedules[name].kind == "loss_share"]
        if not shares:
            return
        rest = pixel.detach()
        for name in raw:
            if name not in shares:
                rest = rest + self._weight(name, step) * raw[name].detach()
        # Of all ranks at every step, not only when measured: a checkpoint between two measurements is one rank's.
        here = torch.stack([torch.stack([raw[name].detach(), rest]) for name in shares])
        for name, seen in zip(shares, mean_over_ranks(here.to(self._sums[shares[0]])), strict=True):
            self._sums[name] += seen
            if self._due(name, step):
                term, others = self._sums[name].unbind()
                self._move(name, others / term)
                self._sums[name].zero_()

    def _due(self, name: str, step: int) -> bool:
        return name in self._late or self.schedules[name].due(step)

    def _move(self, name: str, measured: Tensor) -> None:
        own, new = self._log[name], measured.to(self._log[name]).log()
        moved = torch.where(own.isfinite(), KEPT * own + (1 - KEPT) * new, new)
        own.copy_(torch.where(new.isfinite(), moved, own))


def gradient_norm(value: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """‖∂value/∂parameters‖₂ over all of them, 0-d, the ranks' gradients averaged; the graph stays, ``.grad`` untouched.

    Parameters that ``value`` does not depend on count as zero.
    """
    trained = [each for each in parameters if each.requires_grad]
    gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
    flat = [
        (torch.zeros_like(parameter) if gradient is None else gradient).flatten().to(torch.float32)
        for parameter, gradient in zip(trained, gradients, strict=True)
    ]
    norm: Tensor = mean_over_ranks(torch.cat(flat)).norm()
    return norm


def _position(position: int | str, total_iter: int) -> int:
    if isinstance(position, str):
        return math.floor(total_iter * float(position.removesuffix("%")) / 100 + 0.5)
    return position
