"""Archives of pictures through Ray Data: its streaming, its scheduler and its retries; only the work is ours.

Ray runs a block of pictures again when its worker dies. That repeats nothing that was finished: a result has its name
only when it is whole, and one that is there is passed over. The manifest beside the results has one line for each
picture; the driver writes it, as blocks come back.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from atelier.errors import RunStopped, UserError
from atelier.files import atomic_write
from atelier.progress import progress
from atelier.restore.folder import FolderReport, Job, restore_folder
from atelier.restore.recipe import Recipe

MANIFEST = "restored.jsonl"

_BATCH = 16
"""Pictures a worker takes at once."""

_MOST_BLOCKS = 4096
"""Ray keeps a record of each block; more pictures make larger blocks."""


class Worker:
    """One of Ray's actors: opens the model once, then restores batches.

    A user's error is a row like any other: an exception would reach the driver in Ray's wrapping, or be tried again.
    """

    def __init__(self, recipe: Recipe, since: float) -> None:
        self._since = since
        self._why = ""
        try:
            self._restore = recipe.bind(recipe.load())
        except UserError as error:
            self._why = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """``index``, ``source`` and ``target`` of pictures into ``index``, ``state`` and ``reason``."""
        jobs = [Job(Path(a), Path(b)) for a, b in zip(batch["source"], batch["target"], strict=True)]
        states = dict.fromkeys((job.source for job in jobs), ("done", ""))
        todo = []
        for job in jobs:
            if self._is_done(job):
                states[job.source] = ("skipped", "")
            else:
                todo.append(job)
        try:
            if self._why:
                raise UserError(self._why)
            report = restore_folder(self._restore, todo, overwrite=True, quiet=True)
            states |= {source: ("failed", reason) for source, reason in report.failed}
        except UserError as error:
            states |= {job.source: ("stop", str(error)) for job in todo}
        rows = [states[job.source] for job in jobs]
        return {
            "index": batch["index"],
            "state": np.array([state for state, _ in rows], dtype=object),
            "reason": np.array([reason for _, reason in rows], dtype=object),
        }

    def _is_done(self, job: Job) -> bool:
        return job.is_done() and job.target.stat().st_mtime >= self._since


def restore_with_ray(
    recipe: Recipe,
    jobs: list[Job],
    output: Path,
    *,
    workers: int = 2,
    overwrite: bool = False,
    quiet: bool = False,
) -> FolderReport:
    """Restore ``jobs`` by a pool of Ray actors: on the cluster of ``RAY_ADDRESS``, or on a Ray of this machine.

    Stopped at any time, the same call goes on. ``restored.jsonl`` in the output folder has one line for each picture:
    ``{"source", "target", "state": "done" or "failed", "reason"}``.

    Args:
        recipe: the model and its use; its file and all pictures must have the same paths on all machines.
        jobs: from :func:`atelier.restore.folder.plan_jobs`.
        output: where the results go, as given to :func:`plan_jobs`; the manifest is in that folder, or beside the
            picture that it names.
        workers: how many actors.
        overwrite: repeat what is done already.
        quiet: show no progress.

    Raises:
        UserError: Ray is not installed or has too few processors, the model cannot be used, the output folder cannot
            be written.
        RunStopped: the disk is full, or Ray gave up; what is done is complete.
    """
    if recipe.device.startswith("cuda:"):
        raise UserError(
            f"device {recipe.device} would be shared by all workers; leave it out and Ray deals out GPUs"
        )
    ray = _ray()
    # Found wrong here rather than in every worker; the GPU is left to them.
    replace(recipe, device="cpu", precision="auto").load()
    recipe = replace(recipe, weights=recipe.weights.resolve(), twin=_absolute(recipe.twin))
    report = FolderReport()
    folder = output.parent if any(job.target == output for job in jobs) else output
    with _ledger(folder / MANIFEST, overwrite) as (file, noted), _session(ray, workers):
        since = (folder / MANIFEST).stat().st_mtime if overwrite else 0.0
        waiting = set(range(len(jobs)))
        with progress("Restoring", len(jobs), quiet=quiet) as bar:
            for index, state, reason in _rows(ray, _pipeline(ray, recipe, jobs, workers, since)):
                if state == "stop":
                    raise RunStopped(f"{reason}; {report.done + report.skipped} of {len(jobs)} are complete")
                job = jobs[index]
                if index not in waiting:
                    raise RunStopped(
                        f"Ray has brought {job.source} twice; the results are whole, the report is not"
                    )
                waiting.remove(index)
                report.done += state == "done"
                report.skipped += state == "skipped"
                if state == "failed":
                    report.failed.append((job.source, reason))
                # Done, but the driver stopped before it could say so: it is said now.
                if state != "skipped" or str(job.target.absolute()) not in noted:
                    _note(file, job, "failed" if state == "failed" else "done", reason)
                bar.advance(note=job.source.name)
    if waiting:
        raise RunStopped(
            f"Ray has brought nothing of {len(waiting)} pictures, such as {jobs[min(waiting)].source}"
        )
    report.failed.sort(key=lambda entry: str(entry[0]))
    return report


def _ray() -> Any:
    # Ray reports its use to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its core calls every actor pool an error in the making; what matters reaches us as an exception.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"--engine ray needs Ray: pip install 'atelier[ray]' ({error})") from error
    return ray


def _absolute(twin: tuple[Path, float] | None) -> tuple[Path, float] | None:
    return None if twin is None else (twin[0].resolve(), twin[1])


@contextmanager
def _session(ray: Any, workers: int) -> Iterator[None]:
    """Within it Ray runs with processors for all workers; a Ray that was running before is left running."""
    ours = not ray.is_initialized()
    try:
        if ours and "RAY_ADDRESS" in os.environ:
            ray.init(log_to_driver=False, logging_level="error")
        elif ours:
            ray.init(
                address="local",
                num_cpus=max(workers, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray does not start: {str(error).partition(chr(10))[0]}") from error
    try:
        found = int(ray.cluster_resources().get("CPU", 0))
        if found < workers:
            raise UserError(f"--workers {workers}: Ray has {found} processors; give at most so many workers")
        yield
    finally:
        if ours:
            ray.shutdown()


def _pipeline(ray: Any, recipe: Recipe, jobs: list[Job], workers: int, since: float) -> Any:
    import pyarrow

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    size = max(_BATCH, -(-len(jobs) // _MOST_BLOCKS))
    # A few pictures are shared out as well.
    size = max(min(size, len(jobs) // (2 * workers)), 1)
    tables = [
        pyarrow.table(
            {
                "index": list(range(start, min(start + size, len(jobs)))),
                "source": [str(job.source.absolute()) for job in jobs[start : start + size]],
                "target": [str(job.target.absolute()) for job in jobs[start : start + size]],
            }
        )
        for start in range(0, len(jobs), size)
    ]
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0) if recipe.device != "cpu" else 0
    return ray.data.from_arrow(tables).map_batches(
        Worker,
        fn_constructor_args=(recipe, since),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=min(_BATCH, size),
        batch_format="numpy",
        num_cpus=max(int(resources.get("CPU", 1)) // workers, 1) if not gpus else 1,
        num_gpus=min(gpus / workers, 1) if gpus < workers else 1,
    )


def _rows(ray: Any, results: Any) -> Iterator[tuple[int, str, str]]:
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="numpy"):
            yield from zip(
                map(int, batch["index"]), map(str, batch["state"]), map(str, batch["reason"]), strict=True
            )
    except ray.exceptions.RayError as error:
        raise RunStopped(
            f"Ray gave up: {str(error).strip().splitlines()[-1]}; what is done is complete"
        ) from error


@contextmanager
def _ledger(path: Path, overwrite: bool) -> Iterator[tuple[IO[str], set[str]]]:
    """The manifest open for appending, and the results it names as done; a line that was cut off is dropped."""
    lines = path.read_text().splitlines() if path.exists() and not overwrite else []
    whole, noted = [], set()
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
            if entry["state"] == "done":
                whole.append(line)
                noted.add(entry["target"])
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines) - 1:
                raise UserError(
                    f"{path}, line {number + 1}: no line of a manifest; move the file away"
                ) from error
    # What failed is tried again, so its line goes.
    atomic_write(path, "".join(f"{line}\n" for line in whole))
    with path.open("a", buffering=1) as file:
        yield file, noted


def _note(file: IO[str], job: Job, state: str, reason: str) -> None:
    entry = {"source": str(job.source.absolute()), "target": str(job.target.absolute()), "state": state}
    file.write(json.dumps(entry | ({"reason": reason} if reason else {}), ensure_ascii=False) + "\n")
