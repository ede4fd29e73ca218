"""Pictures and films shared out over processes and machines, and one report of all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.errors import RunStopped, UserError
from atelier.restore.folder import FolderReport, Job, failure_line, restore_folder, stops_everything

if TYPE_CHECKING:
    from atelier.ranks import Crew
    from atelier.restore.folder import RestorePixels
    from atelier.restore.video import FilmJob

_NAMED = 10
"""So many unfinished files are named; of others there is only the number."""


def restore_shared(
    restore: RestorePixels,
    jobs: list[Job],
    films: list[FilmJob],
    restore_one: Callable[[FilmJob], None],
    crew: Crew,
    *,
    model: str = "",
    overwrite: bool = False,
    quiet: bool = False,
) -> FolderReport | None:
    """Restore what is not done already, each picture and each film by one process of the crew.

    A process takes the next one when it is free, films first. Results appear under their names when they are whole, so
    after a stop the same command goes on, with any number of processes.

    Args:
        restore: pixels in, restored pixels out.
        jobs: all pictures, the same on every process.
        films: all films, likewise.
        restore_one: restores a film.
        crew: the processes.
        model: the model's digest, which must be the same on every process too.
        overwrite: repeat what is done already.
        quiet: show no progress.

    Returns:
        The report of all processes on the first one, None on the others.

    Raises:
        UserError: the output folder cannot be written.
        RunStopped: the disk is full, the processes do not see the same files, or one of them is gone; what is done is
            complete.
    """
    crew.require_same(_digest(jobs, films, model), "what is to be restored")
    report = FolderReport()
    for index in crew.claims(len(films)):
        film = films[index]
        if film.is_done() and not overwrite:
            report.skipped += 1
            continue
        try:
            restore_one(film)
        except UserError as error:
            if stops_everything(error):
                raise
            report.failed.append((Path(film.source), str(error)))
        else:
            report.done += 1
    claims = crew.claims(len(jobs)) if crew.place.world > 1 else None
    pictures = restore_folder(
        restore, jobs, claims=claims, overwrite=overwrite, quiet=quiet or not crew.first
    )
    mine = merged([report, pictures])
    shares = crew.gather(
        {
            "done": mine.done,
            "skipped": mine.skipped,
            "failed": [[str(path), why] for path, why in mine.failed],
        }
    )
    if shares is None:
        return None
    whole = merged(
        FolderReport(
            share.value["done"],
            share.value["skipped"],
            [(Path(path), why) for path, why in share.value["failed"]],
        )
        for share in shares
        if share.lost is None
    )
    lost = [f"process {share.rank} {share.lost}" for share in shares if share.lost is not None]
    if lost:
        raise RunStopped(f"{'; '.join(lost)}\n{_what_is_left(whole, jobs, films, overwrite)}")
    return whole


def device_of_process(device: str, local: int) -> str:
    """The device of one of several processes on a machine: ``auto`` and ``cuda`` give each the next GPU.

    Raises:
        UserError: one GPU was named for all of them, or there is none.
    """
    import torch

    if device.startswith("cuda:"):
        raise UserError(
            f"device {device} would be shared by all processes of a machine; leave it out and each takes its own GPU"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and not count:
        raise UserError("device cuda was asked for, but torch finds no GPU on this machine; use --device cpu")
    return f"cuda:{local % count}" if device in ("auto", "cuda") and count else device


def merged(reports: Iterable[FolderReport]) -> FolderReport:
    """One report of several; what failed is in the order of its names."""
    whole = FolderReport()
    for report in reports:
        whole.done += report.done
        whole.skipped += report.skipped
        whole.failed += report.failed
    whole.failed.sort(key=lambda entry: str(entry[0]))
    return whole


def _digest(jobs: list[Job], films: list[FilmJob], model: str) -> str:
    names = [f"{job.source}\0{job.target}" for job in jobs] + [
        f"{film.source}\0{film.target}" for film in films
    ]
    digest = hashlib.sha256("\n".join([*names, model]).encode()).hexdigest()
    return f"{len(jobs)} pictures, {len(films)} films, digest {digest[:12]}"


def _what_is_left(whole: FolderReport, jobs: list[Job], films: list[FilmJob], overwrite: bool) -> str:
    if overwrite:
        # An older result cannot be told from one of this run.
        return f"of the other processes: {whole}\nrun the same command again"
    failed = {path for path, _ in whole.failed}
    left = [str(job.source) for job in jobs if not job.is_done() and job.source not in failed]
    left += [film.source for film in films if not film.is_done() and Path(film.source) not in failed]
    total = len(jobs) + len(films)
    text = f"{total - len(left) - len(failed)} of {total} are done"
    if failed:
        text += f", {len(failed)} failed:" + "".join(
            f"\n{failure_line(path, why)}" for path, why in whole.failed
        )
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        text += f"\nnot done: {', '.join(left[:_NAMED])}{more}"
    return f"{text}\nthe same command goes on with what is not done"
