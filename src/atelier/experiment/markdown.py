"""``summary.csv`` and ``report.md`` out of ``study.json``; no number in them comes from anywhere else."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atelier.evaluate.results import format_change
from atelier.experiment.cells import (
    change_cell,
    difference_cells,
    hours_text,
    latency_rows,
    one_line,
    p_cell,
    percent_cell,
    spread_cell,
    value_cell,
)

SUMMARY = (
    "arm",
    "against",
    "set",
    "metric",
    "n",
    "mean",
    "sd",
    "difference",
    "difference_sd",
    "low",
    "high",
    "p",
    "p_holm",
    "p_sign_flip",
    "detectable",
    "seeds_needed",
    "verdict",
    "gap_closed",
)


def summary_csv(study: Mapping[str, Any]) -> str:
    """One line for every arm, set and metric, and one for every planned contrast."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(SUMMARY)
    by_name = {arm["name"]: arm for arm in study["arms"]}
    compared = [(arm, study["reference"], arm["comparison"], arm["gap_closed"]) for arm in study["arms"]]
    compared += [
        (by_name[each["arm"]], each["against"], each["comparison"], None) for each in study["contrasts"]
    ]
    for arm, against, comparison, gaps in compared:
        for test, by_metric in arm["summary"].items():
            for metric, own in by_metric.items():
                told = comparison[test][metric] if comparison is not None else {}
                row = [arm["name"], against if comparison is not None else None, test, metric]
                row += [own["n"], own["mean"], own["sd"], told.get("mean"), told.get("sd")]
                row += [told.get(key) for key in SUMMARY[9:17]]
                row += [gaps[test][metric] if gaps is not None else None]
                table.writerow(["" if each is None else each for each in row])
    return text.getvalue()


def report_markdown(study: Mapping[str, Any]) -> str:
    """The report: verdicts first, then what they rest on."""
    blocks = [f"# {study['name']}", *_banner(study), *_verdicts(study), *_contrasts(study), *_sets(study)]
    blocks += [*_pictures(study), *_costs(study), *_arms(study), *_teachers(study), *_how(study)]
    return "\n\n".join(blocks) + "\n"


def _banner(study: Mapping[str, Any]) -> list[str]:
    blocks = []
    if not study["complete"]:
        listed = [
            f"- {each['run']}: {each['state']}" + (f" ({one_line(each['error'])})" if each["error"] else "")
            for each in study["missing"]
        ]
        blocks.append("**Incomplete.** These runs are missing:\n\n" + "\n".join(listed))
    if any(arm["verdict"] == "no claim" for arm in study["arms"]):
        blocks.append(
            "**No claim** where there are fewer than two seeds: chance cannot be told from an effect."
        )
    if study["notes"]:
        blocks.append("\n".join(f"- {one_line(note)}" for note in study["notes"]))
    return blocks


def _verdicts(study: Mapping[str, Any]) -> list[str]:
    primary = study["primary"]
    metric, test = primary["metric"], primary["set"]
    unit = study["protocols"][metric]
    rows = []
    for arm in study["arms"]:
        own = arm["summary"][test][metric]
        rows.append(
            [arm["name"], str(own["n"]), value_cell(own["mean"], unit), spread_cell(own["sd"], unit)]
            + (
                ["reference", *[""] * 6]
                if arm["reference"]
                else [
                    f"**{arm['verdict']}**",
                    *difference_cells(arm["comparison"][test][metric], unit),
                    percent_cell(
                        arm["gap_closed"][test][metric] if arm["gap_closed"] else None, arm["teacher"]
                    ),
                ]
            )
        )
    head = ["arm", "seeds", "mean", "SD", "verdict", "difference", "95 % interval", "p (Holm)", "p, signs"]
    head += ["detectable", "gap closed"]
    return [
        "## Verdicts",
        f"Against *{study['reference']}*, {primary['protocol']}. Unit: the seed. *better* and *worse* need an adjusted "
        f"p below 0.05 and a mean of at least {study['min_effect']:g}; detectable is the smallest difference that so "
        "many seeds show with 80 % probability.",
        _table(head, rows),
    ]


def _contrasts(study: Mapping[str, Any]) -> list[str]:
    if not study["contrasts"]:
        return []
    metric, test = study["primary"]["metric"], study["primary"]["set"]
    unit = study["protocols"][metric]
    rows = [
        [
            f"{each['arm']} against {each['against']}" + ("" if each["planned"] else " (added later)"),
            f"**{each['verdict']}**",
            *difference_cells(each["comparison"][test][metric], unit),
        ]
        for each in study["contrasts"]
    ]
    head = [
        "contrast",
        "verdict",
        "difference",
        "95 % interval",
        "p (Holm)",
        "p, signs",
        "detectable",
    ]
    later = [each for each in study["contrasts"] if not each["planned"]]
    told = [
        "Added later: asked after results of this study could be seen, so its p is not that of a planned comparison."
    ]
    title = "## Contrasts" if later else "## Planned contrasts"
    return [title, _table(head, rows), *(told if later else [])]


def _sets(study: Mapping[str, Any]) -> list[str]:
    """Every set and metric: mean ± SD, difference behind it."""
    blocks = ["## Test sets"]
    for test in next(iter(study["arms"]))["summary"]:
        rows = []
        for arm in study["arms"]:
            cells = [arm["name"]]
            for metric, unit in study["protocols"].items():
                own = arm["summary"][test][metric]
                cell = value_cell(own["mean"], unit)
                if own["sd"] is not None:
                    cell += f" ± {spread_cell(own['sd'], unit)}"
                if arm["comparison"] is not None and arm["comparison"][test][metric]["mean"] is not None:
                    cell += f" ({format_change(arm['comparison'][test][metric]['mean'], unit)})"
                cells.append(cell)
            rows.append(cells)
        pictures = study["tests"].get(test)
        title = f"**{test}**" + (f": {', '.join(pictures)}" if pictures else "")
        head = ["arm", *(f"{metric}: {unit}" for metric, unit in study["protocols"].items())]
        blocks += [title, _table(head, rows)]
    return blocks


def _pictures(study: Mapping[str, Any]) -> list[str]:
    rows = []
    unit = study["protocols"][study["primary"]["metric"]]
    compared = [arm for arm in study["arms"] if arm["per_image"] is not None]
    if not compared:
        return []
    places = [(test, image) for test, images in study["tests"].items() for image in images]
    for test, image in places:
        found = [arm["per_image"]["differences"].get(test, {}).get(image) for arm in compared]
        rows.append(
            [f"{test}/{image}", *("–" if each is None else change_cell(each, unit) for each in found)]
        )
    rows.append(["Wilcoxon p", *(p_cell(arm["per_image"]["wilcoxon_p"]) for arm in compared)])
    return [
        "## Pictures",
        f"Difference to *{study['reference']}*, mean over seeds. The p of Wilcoxon's test is "
        f"{compared[0]['per_image']['about']}.",
        _table(["picture", *(arm["name"] for arm in compared)], rows),
    ]


def _costs(study: Mapping[str, Any]) -> list[str]:
    rows = []
    for arm in study["arms"]:
        cost, soon = arm["cost"], arm["catch_up"]
        macs = ", ".join(f"{count / 1e9:.3f} G at {size}" for size, count in cost["macs"].items())
        catch = "–"
        if soon is not None:
            share = soon["share_of_steps"]
            catch = (
                f"{share:.0%} of its steps"
                if share is not None
                else f"{soon['reached']} of {soon['of']} seeds do"
            )
        rows.append(
            [
                arm["name"],
                f"{cost['parameters']:,} ({cost['parameters_without_tables']:,})",
                macs,
                f"{arm['steps']:,}",
                "–" if cost["step_seconds"] is None else f"{1000 * cost['step_seconds']:.1f} ms",
                "–" if cost["teacher_share"] is None else f"{cost['teacher_share']:.0%}",
                "–" if cost["cache_bytes"] is None else f"{cost['cache_bytes'] / 1e9:.3g} GB",
                "–" if cost["hours"] is None else hours_text(cost["hours"]),
                "–" if cost["peak_memory_mb"] is None else f"{cost['peak_memory_mb']:,.0f} MB",
                catch,
            ]
        )
    head = ["arm", "parameters (without position tables)", "multiply-adds", "steps", "a step"]
    head += ["teacher's share", "cache", "training, all seeds", "peak memory"]
    head += [f"reaches {study['reference']}'s end after"]
    return ["## Costs", _table(head, rows), *_latency(study)]


def _latency(study: Mapping[str, Any]) -> list[str]:
    latency = study["latency"]
    if latency is None:
        return ["Latency is measured once all runs are done."]
    size = "×".join(map(str, latency["size"]))
    head = ["network"]
    for batch, time in latency["networks"][study["reference"]].items():
        head += [f"batch {batch}, p50 ({time['rounds']} rounds)", "p95", f"to {study['reference']}"]
    told = (
        f"Latency, float32 eager, input {size}, on {latency['device']}; the networks take turns, arms of one "
        "architecture share a measurement. Memory: weights and tensors alive at once, inference of one picture."
    )
    return [told, _table([*head, "memory"], [[name, *cells] for name, cells in latency_rows(study)])]


def _arms(study: Mapping[str, Any]) -> list[str]:
    lines = []
    for arm in study["arms"]:
        if arm["reference"]:
            text = "the reference"
        else:
            text = "; ".join(arm["changes"]) or "no change"
        if not arm["same_start"]:
            text += " (another network or start: runs of a seed do not begin alike)"
        if not arm["paired"]:
            text += f" (seeds of its own: {', '.join(map(str, arm['seeds']))})"
        lines.append(f"- **{arm['name']}**: {one_line(text)}")
    return ["## Arms", "\n".join(lines)]


def _teachers(study: Mapping[str, Any]) -> list[str]:
    blocks = []
    for path, told in study["teachers"].items():
        means = "; ".join(
            f"{test} "
            + ", ".join(
                f"{metric} {value_cell(value, study['protocols'][metric])}" for metric, value in by.items()
            )
            for test, by in told["means"].items()
        )
        blocks.append(f"- {path} (SHA-256 {told['sha256'][:16]}…): {means}")
    return ["## Teachers", "\n".join(blocks)] if blocks else []


def _how(study: Mapping[str, Any]) -> list[str]:
    environment = study["environment"]
    packages = environment.get("packages", {})
    lines = [f"- command: `{study['command']}`", f"- seeds: {', '.join(map(str, study['seeds']))}"]
    if environment:
        lines.append(
            f"- {environment.get('device')}, {environment.get('threads')} threads, Python {environment.get('python')}, "
            + ", ".join(f"{name} {version}" for name, version in packages.items())
        )
    lines += [f"- data {name}: fingerprint {digest}" for name, digest in study["data"].items()]
    return ["## How it was made", "\n".join(lines)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
