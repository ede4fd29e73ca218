"""``atelier experiment``: plan, train, measure, conclude."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atelier.errors import UserError, did_you_mean
from atelier.experiment.arms import changes_between
from atelier.experiment.dry_run import describe_plan
from atelier.experiment.manifest import DONE, FAILED, PENDING, Manifest
from atelier.experiment.measure import measured_by, read_result
from atelier.experiment.options import StudyOptions, load_study
from atelier.experiment.overlap import check_overlap
from atelier.experiment.plan import Plan, Run, make_plan
from atelier.files import atomic_write, sha256_of
from atelier.locks import RunLock, owner_of
from atelier.options.read import load_run_options
from atelier.options.write import diff_options
from atelier.train.folder import RunFolder

#: What may be changed later without any run being wrong; that it was is told in the report.
_TOLD = ("reference", "min_effect", "contrasts", "teacher")


@dataclass(frozen=True)
class StudyResult:
    """What a study left behind.

    Attributes:
        folder: ``experiments/NAME``.
        complete: every run is done.
        exit_code: 0; 1 where runs failed; 128 + signal number where a signal stopped it.
        study: the content of ``study.json``; None for a dry run.
    """

    folder: Path
    complete: bool
    exit_code: int
    study: dict[str, Any] | None

    def verdict(self, arm: str) -> str | None:
        """An arm's verdict against the reference, None for the reference itself."""
        arms = self.study["arms"] if self.study is not None else []
        return next((each["verdict"] for each in arms if each["name"] == arm), None)


def run(
    source: str | Path | dict[str, Any] | StudyOptions,
    *,
    dry_run: bool = False,
    report_only: bool = False,
    jobs: int | None = None,
    devices: Sequence[str] = (),
    only: Sequence[str] = (),
    restart: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> StudyResult:
    """Run a study, or go on with it.

    Args:
        source: the study file, or its content.
        dry_run: check everything and print plan, disk and time; train nothing.
        report_only: write the results of what is done; train nothing.
        jobs: processes at once; default: one per device, else one.
        devices: CUDA devices to use, such as ``("0", "1")``; empty: what PyTorch takes.
        only: train these arms alone.
        restart: arms to train anew; their runs are kept under another name.
        say: prints a line.

    Raises:
        UserError: anything the user can mend, in one message.
    """
    study = load_study(source)
    for option, given in (("--only", only), ("--restart", restart)):
        if report_only and given:
            raise UserError(f"{option} {given[0]}: --report-only trains nothing; leave one of them out")
    for arm in (*only, *restart):
        if arm not in study.arms:
            raise UserError(f"no arm '{arm}'{did_you_mean(arm, study.arms)} arms: {', '.join(study.arms)}")
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: at least 1 process must run")
    slots: list[str | None] = list(devices) or [None]
    slots = (slots * (jobs or len(slots)))[: jobs or len(slots)]
    command = f"atelier experiment {source if isinstance(source, str | Path) else 'FILE'}"
    plan = make_plan(study)
    manifest = Manifest(plan.own)
    known = manifest.read()
    if known.get("steps"):
        plan = _fixed_plan(study, known)
    plan = _recognised(plan, known)
    prints = check_overlap(plan) | _hashes_of_weights(plan)
    if study.pictures:
        from atelier.experiment.report_pictures import check_named

        check_named(plan)
    threads = int(known.get("threads") or max(1, _threads() // len(slots)))
    if dry_run:
        begun = {key: entry for key, entry in known["runs"].items() if entry.get("state", PENDING) != PENDING}
        _refuse_edited(plan, begun, restart)
        _refuse_other_tests(plan, known, prints, begun=bool(begun))
        say(describe_plan(plan, known, threads=threads))
        return StudyResult(plan.root, False, 0, None)
    from atelier.experiment.runner import Runner

    runner = Runner(plan, manifest, slots, threads, only, say)
    if not report_only:
        if not known.get("steps") and (study.budget.seconds is not None or study.budget.equal != "steps"):
            plan = runner.plan = _fix_budget(plan, manifest, say, threads=threads, device=slots[0])
        with manifest.edit() as data:
            _adopt(plan, manifest, data, prints, restart, say)
            data.setdefault("threads", threads)
        for warning in plan.warnings:
            say(f"note: {warning}")
        stop = runner.go()
        code = stop.exit_code
    else:
        _refuse_edited(plan, known["runs"])
        if "told" in known:
            with manifest.edit() as data:
                _note_later_changes(plan, data, data["runs"])
                data["told"] = _told(plan.study)
        code = 0
    told = write_results(plan, manifest, command)
    failed = [each for each in told["missing"] if each["state"] == FAILED]
    say(_closing(told, plan, stopped=code != 0))
    return StudyResult(plan.root, told["complete"], code or (1 if failed else 0), told)


def write_results(plan: Plan, manifest: Manifest, command: str) -> dict[str, Any]:
    """Write results.csv, summary.csv, study.json, report.md and report.html; returns the content of study.json."""
    from atelier.experiment.analysis import analyse
    from atelier.experiment.latency import latencies
    from atelier.experiment.markdown import report_markdown, summary_csv
    from atelier.experiment.report import write_study_report
    from atelier.experiment.results import collect, results_csv

    lock = RunLock.take(plan.own / "report.lock", wait=True)
    assert lock is not None
    try:
        results = collect(plan)
        told = analyse(results, manifest.read(), command=command)
        told = _plain({**told, "latency": latencies(results, list(told["teachers"]))})
        atomic_write(plan.root / "results.csv", results_csv(results))
        atomic_write(plan.root / "summary.csv", summary_csv(told))
        atomic_write(plan.root / "study.json", json.dumps(told, indent=1) + "\n")
        atomic_write(plan.root / "report.md", report_markdown(told))
        write_study_report(told, results, plan.root / "report.html")
    finally:
        lock.release()
    assert isinstance(told, dict)
    return told


def _plain(value: Any) -> Any:
    """As it comes back from JSON, which has no infinite numbers (the PSNR of equal pictures): null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _hashes_of_weights(plan: Plan) -> dict[str, str]:
    """Weight files that runs begin with or learn from -> SHA-256; a file that is missing is the run's to tell."""
    files: dict[str, Path] = {}
    for arm in plan.arms.values():
        options = arm.options
        named = [options.path.pretrain_network_g, options.path.pretrain_network_ema]
        named += [teacher.weights for teacher in getattr(options.objective, "teacher", ())]
        files |= {f"weights {path}": path for path in named if path is not None and path.is_file()}
    return {name: sha256_of(path) for name, path in files.items()}


def _threads() -> int:
    """CPU threads for all processes together."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fixed_plan(study: StudyOptions, known: Mapping[str, Any]) -> Plan:
    """The plan with the steps that were fixed when the study began."""
    if known["budget"] != study.budget.model_dump(mode="json"):
        raise UserError(
            f"the budget changed since the study '{study.name}' began; its steps were fixed then. Undo that, or give "
            "the study another name"
        )
    new = [name for name in study.arms if name not in known["steps"]]
    if new:
        raise UserError(
            f"arm '{new[0]}' was added after the budget of this study was timed; arms timed on different days do not "
            "get equal budgets. Give the study another name"
        )
    return make_plan(study, {name: known["steps"][name] for name in study.arms})


def _fix_budget(
    plan: Plan, manifest: Manifest, say: Callable[[str], None], *, threads: int, device: str | None
) -> Plan:
    """Time or count the arms once and keep the steps; another runner that does it is waited for."""
    from atelier.experiment.budget import steps_of_arms

    lock = RunLock.take(plan.own / "budget.lock", wait=True)
    assert lock is not None
    try:
        known = manifest.read()
        if not known.get("steps"):
            environment = {"CUDA_VISIBLE_DEVICES": device} if device is not None else None
            steps, costs = steps_of_arms(plan, say, threads=threads, environment=environment)
            with manifest.edit() as data:
                data["steps"], data["cost_of_a_step"] = steps, costs
                data["budget"] = plan.study.budget.model_dump(mode="json")
            known = manifest.read()
            say("steps: " + ", ".join(f"{name} {count:,}" for name, count in steps.items()))
    finally:
        lock.release()
    return _fixed_plan(plan.study, known)


def _adopt(
    plan: Plan,
    manifest: Manifest,
    data: dict[str, Any],
    prints: Mapping[str, str],
    restart: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Compare the plan with what has begun; refuse what would mix two studies, note what weakens one."""
    runs: dict[str, dict[str, Any]] = data["runs"]
    begun = {key: entry for key, entry in runs.items() if entry.get("state", PENDING) != PENDING}
    for run_ in plan.runs:
        if run_.arm in restart and run_.key in begun:
            _set_aside(run_, manifest, say)
            del begun[run_.key]
            runs[run_.key] = {}
    _refuse_edited(plan, begun)
    _refuse_other_tests(plan, data, prints, begun=bool(begun))
    _note_later_changes(plan, data, begun)
    for run_ in plan.runs:
        entry = runs.setdefault(run_.key, {})
        entry.setdefault("state", PENDING)
        entry["digest"] = run_.digest
        if entry["state"] == DONE and read_result(run_) is None:
            entry["state"] = PENDING
    data["measured_by"], data["data"] = measured_by(plan.study), dict(prints)
    data["told"] = _told(plan.study)


def _refuse_edited(plan: Plan, begun: Mapping[str, Mapping[str, Any]], restart: Sequence[str] = ()) -> None:
    """Raise where runs have begun with other options than the study asks for now; ``restart``: arms to begin anew."""
    edited = [
        run_
        for run_ in plan.runs
        if run_.arm not in restart and begun.get(run_.key, {}).get("digest") not in (None, run_.digest)
    ]
    if edited:
        raise UserError(_edited(plan, edited))


def _recognised(plan: Plan, known: Mapping[str, Any]) -> Plan:
    """The plan with the digests under which its runs began, where nothing but the list of options grew since.

    A later version of the toolkit knows more options; at their defaults they change no run.
    """
    runs = known.get("runs", {})
    found = []
    for run_ in plan.runs:
        digest = runs.get(run_.key, {}).get("digest")
        before = plan.own / "options" / run_.arm / f"seed_{run_.seed}.yml"
        if digest is not None and digest != run_.digest and before.exists():
            try:
                same = not changes_between(load_run_options(before), run_.options)
            except UserError:  # a version that no longer knows one of its options
                same = False
            run_ = replace(run_, digest=digest) if same else run_
        found.append(run_)
    return replace(plan, runs=tuple(found))


def _set_aside(run_: Run, manifest: Manifest, say: Callable[[str], None]) -> None:
    path = manifest.lock_path(run_.key)
    lock = RunLock.take(path)
    if lock is None:
        raise UserError(
            f"--restart {run_.arm}: {run_.key} is in the hands of {owner_of(path)}; stop that first"
        )
    try:
        old = RunFolder(run_.folder).archive()
    finally:
        lock.release()
    if old is not None:
        say(f"{run_.key}: the earlier run was kept as {old}")


def _edited(plan: Plan, edited: Sequence[Run]) -> str:
    lines = []
    for arm in dict.fromkeys(run_.arm for run_ in edited):
        first = next(run_ for run_ in edited if run_.arm == arm)
        before = plan.own / "options" / arm / f"seed_{first.seed}.yml"
        lines.append(f"arm '{arm}' is not what it was when its runs began")
        if before.exists():
            changes = changes_between(load_run_options(before), first.options)
            lines[-1] += ":\n" + "\n".join(f"  {change.in_full()}" for change in changes)
    names = " ".join(f"--restart {arm}" for arm in dict.fromkeys(run_.arm for run_ in edited))
    return "\n".join(
        [*lines, f"undo that, or train it anew with {names} (its runs are kept under another name)"]
    )


def _refuse_other_tests(
    plan: Plan, data: Mapping[str, Any], prints: Mapping[str, str], *, begun: bool
) -> None:
    if not begun:
        return
    if data.get("measured_by") not in (None, measured_by(plan.study)):
        raise UserError(
            f"test, metrics or primary of the study '{plan.study.name}' changed since it began; what judges is fixed "
            "beforehand. Undo that, or give the study another name"
        )
    before = data.get("data", {})
    changed = [name for name, digest in prints.items() if before.get(name, digest) != digest]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: not what it was when the study '{plan.study.name}' began (names, sizes or pairing "
            "of pictures; the content of weights). Put it back, or give the study another name"
        )


def _told(study: StudyOptions) -> dict[str, Any]:
    told = {key: study.model_dump(mode="json")[key] for key in _TOLD}
    arms = {name: study.seeds_of(name) for name in study.arms}
    return {**told, "metric": study.primary.metric, "arms": arms}


def _note_later_changes(plan: Plan, data: dict[str, Any], begun: Mapping[str, Any]) -> None:
    """What was changed after results could be seen belongs into the report."""
    done = sum(entry.get("state") == DONE for entry in begun.values())
    if not done or "told" not in data:
        return
    changes = diff_options(data["told"], _told(plan.study))
    before, now = data["told"]["contrasts"], plan.study.contrasts
    later = [list(pair) for pair in now if list(pair) not in [list(each) for each in before]]
    data["later_contrasts"] = [*data.get("later_contrasts", []), *later]
    notes = data.setdefault("notes", [])
    notes += [f"changed after {done} runs were done: {change}" for change in changes]


def _closing(told: Mapping[str, Any], plan: Plan, *, stopped: bool) -> str:
    lines = [f"{arm['name']}: {arm['verdict']}" for arm in told["arms"] if arm["verdict"] is not None]
    if stopped:
        lines.append("stopped; the same command goes on")
    elif told["missing"]:
        lines.append(f"{len(told['missing'])} runs are missing, see the report")
    return "\n".join([*lines, f"report: {plan.root / 'report.html'}"])
