"""What a study would do and cost, before it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atelier.experiment.arms import digest_of
from atelier.experiment.budget import seconds_per_step, step_macs
from atelier.experiment.cells import hours_text
from atelier.experiment.manifest import DONE, PENDING
from atelier.experiment.plan import Arm, Plan

#: Steps of a quick look at the speed of an arm: not counted, counted.
QUICK = (3, 9)
#: Numbers kept per parameter in a checkpoint: the weights, their average, and Adam's two moments.
KEPT_NUMBERS = 4


def describe_plan(plan: Plan, manifest: Mapping[str, Any], *, threads: int) -> str:
    """Plan, disk and hours as text; every arm trains a few steps in a folder that is removed again.

    Where the budget is not equal steps and nothing is fixed yet, the steps shown are what this quick look gives.
    """
    states = manifest["runs"]
    known: dict[str, float] = {}
    seconds = {}
    for name, arm in plan.arms.items():
        key = digest_of(arm.options)
        if key not in known:
            known[key] = seconds_per_step(arm.options, threads=threads, warm=QUICK[0], timed=QUICK[1])
        seconds[name] = known[key]
    steps = _steps(plan, manifest, seconds)
    lines = [
        f"study {plan.study.name} in {plan.root}: {len(plan.runs)} runs, reference '{plan.reference.name}'"
    ]
    total = disk = 0.0
    for name, arm in plan.arms.items():
        left = [seed for seed in arm.seeds if states.get(f"{name}/seed_{seed}", {}).get("state") != DONE]
        hours = len(left) * steps[name] * seconds[name] / 3600
        size = len(left) * _run_bytes(arm, steps[name])
        total, disk = total + hours, disk + size
        lines.append(
            f"  {name}: {len(arm.seeds)} seeds ({len(arm.seeds) - len(left)} done), {steps[name]:,} steps of "
            f"{1000 * seconds[name]:.1f} ms, {hours_text(hours)}, {size / 1e9:.3f} GB"
            + ("" if arm.paired else ", unpaired")
        )
        lines += [f"    {change.in_full()}" for change in arm.changes]
    lines.append("order: " + ", ".join(f"{run.key} ({_state(states, run.key)})" for run in plan.runs))
    lines.append(
        f"about {hours_text(total)} of training in turn, starts, validation and saving not counted, and "
        f"{disk / 1e9:.3f} GB of checkpoints"
    )
    lines += [f"note: {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def _steps(plan: Plan, manifest: Mapping[str, Any], seconds: Mapping[str, float]) -> Mapping[str, int]:
    budget = plan.study.budget
    if manifest.get("steps") or (budget.seconds is None and budget.equal == "steps"):
        return {name: arm.steps for name, arm in plan.arms.items()}
    if budget.seconds is not None:
        return {name: max(1, int(budget.seconds / each)) for name, each in seconds.items()}
    costs: Mapping[str, float] = seconds
    if budget.equal == "compute":
        costs = {name: float(step_macs(arm.options)) for name, arm in plan.arms.items()}
    return {name: round(plan.reference.steps * max(costs.values()) / each) for name, each in costs.items()}


def _run_bytes(arm: Arm, steps: int) -> float:
    """Checkpoints that stay, each with weights, average and moments in float32."""
    from atelier.archs.info import count_parameters

    parameters = count_parameters(arm.options.network_g.build())[0]
    every = arm.options.logger.save_checkpoint_freq
    saved = -(-steps // every)
    kept = min(saved, arm.options.logger.keep_last or saved) + 1  # and the best weights
    return 4.0 * KEPT_NUMBERS * parameters * kept


def _state(states: Mapping[str, Any], key: str) -> str:
    return str(states.get(key, {}).get("state", PENDING))
