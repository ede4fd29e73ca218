"""The main job in miniature: train, validate, restore a held-out photograph, report, and judge the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.errors import UserError


@dataclass(frozen=True)
class DemoResult:
    """What the demo has to say.

    Attributes:
        text: where things are, the table, and the verdict.
        exit_code: 0; 1 when the model does not beat bicubic on every held-out photograph; 128 + signal when stopped.
    """

    text: str
    exit_code: int


def shipped_option_file(name: str) -> Path:
    """An option file that comes with Atelier: in the installed package, or in ``options/`` of a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "shipped_options", here.parents[1] / "options"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"the option file {name} is missing from this installation of atelier")


def run_demo(overrides: Sequence[str] = ()) -> DemoResult:
    """Run ``options/demo.yml`` from start to report.

    Raises:
        UserError: an override is wrong, or the folder cannot be written.
    """
    from atelier.options.read import load_run_options

    options = load_run_options(shipped_option_file("demo.yml"), list(overrides))
    from atelier.train.run import train

    result = train(options)
    if not result.finished:
        return DemoResult(f"stopped after step {result.iteration}", result.exit_code)
    restored = _restore_held_out(options, result.folder)
    table, beaten = judge(result.folder / "metrics.jsonl")
    lines = [table, f"restored photograph: {restored}", f"report: {result.report}"]
    if beaten:
        names = ", ".join(beaten)
        lines.append(f"FAILED: the trained model does not beat bicubic on: {names}")
        return DemoResult("\n".join(lines), 1)
    lines.append("the trained model beats bicubic on every held-out photograph")
    return DemoResult("\n".join(lines), 0)


def _restore_held_out(options: Any, folder: Path) -> Path:
    """Enlarge the first held-out photograph itself (not its lq) with the saved model, as a user would."""
    from atelier.data.bundled import bundled_path
    from atelier.images import read_image, write_image
    from atelier.restore.model import load_model

    picture = read_image(bundled_path(options.datasets.val.pictures[0]))
    model = load_model(folder / "models" / "net_g_latest.pth")
    target = folder / "restored" / f"{picture.path.stem}_x{model.scale}.png"
    write_image(target, model.restore(picture.pixels), like=picture)
    return target


def judge(metrics_file: Path) -> tuple[str, list[str]]:
    """Compare bicubic and the last validation picture by picture.

    Returns:
        The table as text, and the photographs on which the model does not beat bicubic in every metric.
    """
    import json

    records = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    baseline = next(record for record in records if record["kind"] == "baseline")
    model = [record for record in records if record["kind"] == "validation"][-1]
    metrics = model["metrics"]
    lost = []
    width = max(len(name) for name in model["images"]) + 2
    head = "photograph".ljust(width) + "".join(f"{facts['protocol']:>34}" for facts in metrics.values())
    sub = " " * width + "".join(f"{'bicubic':>12}{'model':>11}{'gain':>11}" for _ in metrics)
    rows = []
    for name, values in model["images"].items():
        cells = ""
        for metric, facts in metrics.items():
            before, after = float(baseline["images"][name][metric]), float(values[metric])
            gain = after - before if facts["higher_is_better"] else before - after
            if gain <= 0 and name not in lost:
                lost.append(name)
            cells += f"{before:12.4f}{after:11.4f}{gain:+11.4f}"
        rows.append(name.ljust(width) + cells)
    return "\n".join([head, sub, *rows]), lost
