"""Non-finite losses and gradients: found on the device, reported before they can reach a checkpoint.

What is guaranteed, and how:

* No saved weight is ever made from a non-finite gradient: the trainer asks :meth:`Health.verdict` before
  every
  checkpoint, and that stops the run.
* Until the flags are read (every ``print_freq`` steps) the run goes on, because reading waits for the device.
  So that
  nothing is lost meanwhile, the flag of :meth:`Health.guard` turns 1 on the device with the first bad
  gradient and stays 1: ``guarded_step(optimizer, health.guard(norm))`` then leaves weights and moments as the
  last good step left them. It depends on gradients only; those are equal on all ranks, so all ranks skip the
  same steps.
* Under a ``GradScaler`` (fp16) single infinite gradients belong to its search for a scale; it skips those
  steps by
  itself. There only an unbroken row of ``max_skipped_steps`` of them counts as a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from atelier.errors import RunStopped
from atelier.options.base import Options
from atelier.train.detector_options import DetectorOptions

if TYPE_CHECKING:
    from torch import Tensor

NEVER = 2**62
"""Stands for "no bad step yet" on the device; later than any step."""


class HealthOptions(Options):
    """``max_skipped_steps`` in a row stop an fp16 run; a message shows ``samples_shown`` sample names."""

    max_skipped_steps: Annotated[int, Field(ge=1)] = 30
    samples_shown: Annotated[int, Field(ge=1)] = 8
    detectors: DetectorOptions = DetectorOptions()


@dataclass(frozen=True)
class Fault:
    """The first step at which something was not finite, what it was, and what the step was made of."""

    step: int
    names: tuple[str, ...]
    samples: tuple[str, ...]


class Health:
    """Watches every step of one rank. Holds no state that a resume needs: a bad run is never resumed past."""

    def __init__(self, options: HealthOptions) -> None:
        self.options = options
        self._skip: Tensor | None = None
        self._first_bad: dict[tuple[str, ...], Tensor] = {}
        self._skipped_in_a_row: dict[str, Tensor] = {}
        self._samples: dict[int, list[str]] = {}

    def guard(self, grad_norm: Tensor) -> Tensor:
        """0-d flag on the device: 1 from the first non-finite ``grad_norm`` on, for ``guarded_step``."""
        bad = grad_norm.detach().isfinite().logical_not().float()
        self._skip = bad if self._skip is None else self._skip.maximum(bad)
        return self._skip

    def watch(
        self,
        step: int,
        terms: Mapping[str, Tensor],
        grad_norm: Tensor | None,
        samples: Sequence[str],
        *,
        role: str = "g",
        scaled: bool = False,
    ) -> None:
        """Note step ``step`` (from 1); a step that trains several networks may call this once for each.

        Args:
            step: number of the step.
            terms: log name -> 0-d tensor; micro-batches added up or averaged.
            grad_norm: 0-d, before clipping; None where it is not known.
            samples: what this rank's batch was made of, for the message.
            role: whose gradient it is.
            scaled: a ``GradScaler`` looks after this step's gradients.
        """
        import torch

        known = self._samples.setdefault(step, [])
        known += [sample for sample in samples if sample not in known]
        names, values = list(terms), [term.detach().float() for term in terms.values()]
        if grad_norm is not None:
            names.append(f"the gradient of net_{role}")
            norm = grad_norm.detach().float()
            values.append(self._patience(norm, role) if scaled else norm)
        if not names:
            return
        now = torch.where(torch.stack(values).isfinite(), NEVER, step)
        first = self._first_bad.get(tuple(names))
        self._first_bad[tuple(names)] = now if first is None else first.minimum(now)

    def fault(self) -> Fault | None:
        """What went wrong first, or None. Waits for the device: not for every step."""
        import torch

        if not self._first_bad:
            return None
        steps = torch.cat(list(self._first_bad.values())).tolist()
        names = [name for group in self._first_bad for name in group]
        step = min(steps)
        if step == NEVER:
            self._samples.clear()  # all of these steps are known to be good
            return None
        bad = dict.fromkeys(name for name, first in zip(names, steps, strict=True) if first == step)
        return Fault(step, tuple(bad), tuple(self._samples[step]))

    def verdict(self) -> None:
        """Raises :class:`~atelier.errors.RunStopped` naming step, terms and samples of the first fault."""
        fault = self.fault()
        if fault is not None:
            raise RunStopped(self.message(fault))

    def message(self, fault: Fault) -> str:
        """What the user reads."""
        shown = list(fault.samples[: self.options.samples_shown])
        more = len(fault.samples) - len(shown)
        samples = "; ".join(shown) + (f"; and {more} more" if more else "")
        return (
            f"step {fault.step}: {', '.join(fault.names)} not finite (NaN or infinite). "
            f"Samples of that step: {samples}. No checkpoint is written from here on; earlier ones are good. "
            "Look at these pictures, lower the learning rate, or set train.grad_clip, then resume"
        )

    def _patience(self, norm: Tensor, role: str) -> Tensor:
        """``norm`` where a row of skipped steps has grown too long, else 0 (which counts as finite)."""
        import torch

        row = self._skipped_in_a_row.get(role, torch.zeros_like(norm))
        row = torch.where(norm.isfinite(), 0, row + 1)
        self._skipped_in_a_row[role] = row
        return torch.where(row >= self.options.max_skipped_steps, norm, 0)
