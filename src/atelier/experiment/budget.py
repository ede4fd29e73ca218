"""Equal time or equal work instead of equal steps: arms timed or counted once, the steps then fixed."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.errors import UserError
from atelier.experiment.arms import digest_of
from atelier.experiment.plan import Plan
from atelier.experiment.worker import launch
from atelier.options.read import load_run_options
from atelier.options.schema import RunOptions
from atelier.options.write import save_run_options

if TYPE_CHECKING:
    from torch import nn

#: Steps not counted, and steps that are, in blocks whose median counts: starting up and single hiccups fall out.
WARM_STEPS, TIMED_STEPS, BLOCK = 20, 50, 10


def steps_of_arms(
    plan: Plan, say: Callable[[str], None], *, threads: int, environment: Mapping[str, str] | None = None
) -> tuple[dict[str, int], dict[str, float]]:
    """(arm -> steps, arm -> cost of a step) under a budget that is not equal steps.

    Costs are seconds, or multiply-adds of one sample. Arms with equal options share one measurement, so that an arm
    that repeats the reference gets exactly its steps.
    """
    budget = plan.study.budget
    known: dict[str, float] = {}
    costs: dict[str, float] = {}
    for name, arm in plan.arms.items():
        key = digest_of(arm.options)
        if key not in known:
            if budget.equal == "compute":
                known[key] = float(step_macs(arm.options))
            else:
                say(f"timing arm '{name}' alone, {WARM_STEPS + TIMED_STEPS} steps")
                known[key] = seconds_per_step(arm.options, threads=threads, environment=environment)
        costs[name] = known[key]
    if budget.seconds is not None:
        return {name: max(1, int(budget.seconds / cost)) for name, cost in costs.items()}, costs
    dearest = max(costs.values())
    total = plan.reference.steps
    return {name: max(1, round(total * dearest / cost)) for name, cost in costs.items()}, costs


def seconds_per_step(
    options: RunOptions,
    *,
    threads: int,
    environment: Mapping[str, str] | None = None,
    warm: int = WARM_STEPS,
    timed: int = TIMED_STEPS,
) -> float:
    """Seconds of one training step as this run does it, teacher and loader included, validation excluded.

    A short run in a process of its own; the median of the timed blocks.
    """
    block = min(BLOCK, max(1, timed // 3))
    with tempfile.TemporaryDirectory(prefix="atelier-timing-") as folder:
        short = _short_run(options, Path(folder), warm + timed, block)
        file = Path(folder) / "timing.yml"
        save_run_options(short, file)
        log = Path(folder) / "timing.log"
        process = launch(["train", "-opt", str(file)], log, threads=threads, environment=environment)
        process.join()
        if process.exitcode != 0:
            raise UserError(f"timing failed: {last_words(log.read_text(errors='replace'))}")
        rates = [
            record["images_per_s"]
            for record in map(json.loads, (short.run_dir / "metrics.jsonl").read_text().splitlines())
            if record["kind"] == "train" and record["iter"] > warm
        ]
    return options.datasets.train.batch_size_per_gpu / float(statistics.median(rates))


def _short_run(options: RunOptions, folder: Path, steps: int, block: int) -> RunOptions:
    """The run for so many steps, nothing saved or measured on the way, one tiny validation at its end."""
    data = options.model_dump(mode="json")
    data["name"] = "timing"
    data["path"]["experiments_root"] = str(folder)
    data["train"]["total_iter"] = steps
    data["val"] |= {"val_freq": steps, "save_img": False}
    data["logger"] |= {
        "print_freq": block,
        "save_checkpoint_freq": steps,
        "keep_last": 1,
        "use_tb_logger": False,
    }
    for key, each in data["datasets"].items():
        if key != "train" and each is not None:
            each |= {"most": 1, "middle": 16}
    return load_run_options(data)


def step_macs(options: RunOptions) -> int:
    """Multiply-adds of one sample in one step: the student three times (forward, and twice that backward), each
    teacher once, and both again for every upcycled tile."""
    from atelier.archs.info import count_macs
    from atelier.archs.load import load_network

    side = options.datasets.images.gt_size // options.scale
    channels = options.network_g.in_channels
    student = 3 * count_macs(options.network_g.build(), channels, (side, side)).total
    objective: Any = options.objective
    terms = objective.terms.active if hasattr(objective, "terms") else {}
    teacher = 0
    for each in objective.teacher if terms else ():
        net: nn.Module = load_network(each.weights, param_key=each.param_key).net
        teacher += each.self_ensemble * count_macs(net, channels, (side, side)).total
    tiles = terms["upcycle"].tiles if "upcycle" in terms else 0
    return (student + teacher) * (1 + tiles)


def last_words(text: str) -> str:
    """The message of a process that failed: from its ``error:`` line on, else its last line."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    starts = [place for place, line in enumerate(lines) if line.startswith("error")]
    if starts:
        return "\n".join(lines[starts[-1] :]).partition(": ")[2]
    return lines[-1] if lines else "it said nothing"
