"""A model over a file or a folder: names, what is done already, bad files, reading and writing beside the model."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from atelier.errors import RunStopped, UserError
from atelier.images import list_images, read_image, write_image
from atelier.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atelier.images import Picture

T = TypeVar("T")

EXTENSIONS = ("auto", "png", "jpg", "webp", "tif")

RestorePixels = Callable[["NDArray[Any]", Callable[[int, int], None]], "NDArray[Any]"]
"""``restore(pixels, on_tile) -> pixels``."""

_AHEAD = 2
"""Pictures decoded ahead of the model, and finished ones waiting for the encoder: bounds memory."""

_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What stops every further picture as well."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One picture to read and where its result goes."""

    source: Path
    target: Path

    def is_done(self) -> bool:
        """Results appear under their name only when complete, so an existing file counts unless it is older."""
        try:
            return self.target.is_file() and self.target.stat().st_mtime >= self.source.stat().st_mtime
        except OSError:
            return False


@dataclass
class FolderReport:
    """What became of the pictures: how many were restored or skipped, and which failed, with the reason."""

    done: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{self.done} restored"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped (done already; --overwrite repeats them)")
        if self.failed:
            parts.append(f"{len(self.failed)} failed:")
        lines = [", ".join(parts), *(failure_line(path, reason) for path, reason in self.failed)]
        return "\n".join(lines)


def failure_line(path: Path | str, reason: str) -> str:
    """A line of the report: the file once, also where the reason names it already."""
    return f"  {reason}" if reason.startswith(f"{path}") else f"  {path}: {reason}"


def plan_jobs(
    source: Path, output: Path | str, *, suffix: str = "out", ext: str = "auto", required: bool = True
) -> list[Job]:
    """Which pictures are restored and what the results are called.

    ``source/a/x.png`` becomes ``output/a/x_out.png``. Where two sources would get one name (``x.png`` and
    ``x.jpg`` with ``ext="png"``) each carries its own format in the name (``x_png_out.png``,
    ``x_jpg_out.png``). Earlier results found among the sources are not restored again. A single file may be
    given an output *file* name.

    Args:
        source: a picture, or a folder (searched recursively).
        output: the folder of the results, made when needed; for a single picture also a file name, see
            :func:`names_picture`.
        suffix: appended to the stem as ``_suffix``; "" for none.
        ext: format of the results; "auto" keeps each picture's own.
        required: a folder without pictures is an error (it may hold films instead).

    Raises:
        UserError: nothing to restore, or a result would overwrite its own source.
    """
    if ext not in EXTENSIONS:
        raise UserError(f"unknown --ext '{ext}'; allowed: {', '.join(EXTENSIONS)}")
    if Path(suffix).name != suffix or suffix in (".", ".."):
        raise UserError(f"--suffix '{suffix}' is no part of a file name")
    if source.is_file():
        if names_picture(output):
            jobs = [Job(source, Path(output))]
        else:
            jobs = _name_results(source.parent, [source], Path(output), suffix, ext)
    elif source.is_dir():
        pictures = not_results(list_images(source), source, Path(output))
        jobs = _name_results(source, pictures, Path(output), suffix, ext)
        results = {job.target.resolve() for job in jobs}
        if suffix:
            jobs = [job for job in jobs if job.source.resolve() not in results]
        if not jobs and required:
            raise UserError(f"no pictures in {source}; known formats: {', '.join(_IMAGE_SUFFIXES)}")
    else:
        raise UserError(f"input {source} does not exist")
    for job in jobs:
        if job.source.resolve() == job.target.resolve():
            raise UserError(
                f"{job.source} would be overwritten by its own result; choose another -o or --suffix"
            )
    return jobs


def names_picture(output: Path | str) -> bool:
    """Whether ``output`` is a picture's name: not a folder's, neither one that exists nor ``name.png/``."""
    path = Path(output)
    return path.suffix.lower() in _IMAGE_SUFFIXES and not str(output).endswith("/") and not path.is_dir()


def not_results(paths: list[Path], source: Path, output: Path) -> list[Path]:
    """``paths`` below ``source`` without those below an ``output`` that lies in it."""
    inside = output.resolve() != source.resolve() and output.resolve().is_relative_to(source.resolve())
    return [path for path in paths if not (inside and path.resolve().is_relative_to(output.resolve()))]


def first_gap(sources: Iterable[Path]) -> Path | None:
    """The first picture that is missing in a folder of numbered ones (``000001.png``, ``shot_12.png``), or None.

    Only where all pictures of a folder are named alike and more than half of the numbers between the first and the
    last are there: others are numbered for another reason than being frames of a film.
    """
    folders: dict[Path, list[Path]] = {}
    for source in sources:
        folders.setdefault(source.parent, []).append(source)
    for folder, pictures in sorted(folders.items()):
        found = [re.fullmatch(r"(.*?)(\d+)", picture.stem, re.DOTALL) for picture in pictures]
        fitting = [each for each in found if each is not None]
        forms = {(each[1], picture.suffix) for each, picture in zip(found, pictures, strict=True) if each}
        if len(fitting) < len(pictures) or len(forms) != 1:
            continue
        numbers = {int(each[2]) for each in fitting}
        first, last = min(numbers), max(numbers)
        if last - first + 1 == len(numbers) or last - first + 1 >= 2 * len(numbers):
            continue
        missing = next(number for number in range(first, last) if number not in numbers)
        ((prefix, suffix),) = forms
        width = min(len(each[2]) for each in fitting)
        return folder / f"{prefix}{missing:0{width}d}{suffix}"
    return None


def gap_warning(missing: Path) -> str:
    """The line that tells of a picture found by :func:`first_gap`."""
    return f"warning: {missing} is missing between numbered pictures; the work goes on with the others"


def _name_results(root: Path, pictures: list[Path], output: Path, suffix: str, ext: str) -> list[Job]:
    tail = f"_{suffix}" if suffix else ""

    def target(path: Path, mark: str = "") -> Path:
        kind = path.suffix.lower() if ext == "auto" else f".{ext}"
        return output / path.relative_to(root).parent / f"{path.stem}{mark}{tail}{kind}"

    # Compared without case: on some file systems A.png and a.png are one file.
    wanted = Counter(str(target(path)).casefold() for path in pictures)
    taken = {name for name, count in wanted.items() if count == 1}
    jobs = []
    for path in pictures:
        choice = target(path)
        if wanted[str(choice).casefold()] > 1:
            number = 1
            choice = target(path, f"_{path.suffix[1:].lower()}")
            while str(choice).casefold() in taken:
                number += 1
                choice = target(path, f"_{path.suffix[1:].lower()}_{number}")
            taken.add(str(choice).casefold())
        jobs.append(Job(path, choice))
    return jobs


def restore_folder(
    restore: RestorePixels,
    jobs: list[Job],
    *,
    claims: Iterable[int] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> FolderReport:
    """Restore every picture of ``jobs`` that is not done already; one bad file does not stop the others.

    The next pictures are decoded and the last ones encoded in two threads while the model works. Colour
    profile and resolution of a source go into its result.

    Args:
        restore: pixels in, restored pixels out, for example a bound :meth:`RestorationModel.restore`.
        jobs: from :func:`plan_jobs`.
        claims: where other processes share the work, which of ``jobs`` are this one's, as they are handed out
            (:meth:`atelier.ranks.Crew.claims`); None: all.
        overwrite: repeat what is done already.
        quiet: show no progress.

    Raises:
        UserError: the output folder cannot be written.
        RunStopped: the disk is full (results so far are complete).
    """
    report = FolderReport()

    def begin(job: Job) -> bool:
        done = job.is_done() and not overwrite
        report.skipped += done
        return not done

    todo: Iterable[Job]
    if claims is None:
        todo = [job for job in jobs if overwrite or not job.is_done()]
        report.skipped = len(jobs) - len(todo)
        _prepare_folders(todo)
    else:
        _prepare_folders(jobs)
        todo = (job for job in _claimed(jobs, claims, lambda count: bar.advance(count)) if begin(job))
    each = 1 if claims is None else 0  # claims count what all processes have begun
    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    writing: list[tuple[Job, Future[None]]] = []

    def attempt(job: Job, outcome: Callable[[], T]) -> tuple[bool, T | None]:
        """Whether it went well, and the outcome; a failure is noted."""
        try:
            return True, outcome()
        except Exception as error:
            if stops_everything(error):
                total = len(jobs) - report.skipped
                message = f"{error}; stopped after {report.done} of {total} pictures, which are complete"
                raise RunStopped(message) from error
            report.failed.append((job.source, _reason(error)))
        bar.advance(each, note=job.source.name)
        return False, None

    def finish(waiting: int) -> None:
        """Wait for the oldest results until at most ``waiting`` are left."""
        while len(writing) > waiting:
            job, future = writing.pop(0)
            written, _ = attempt(job, future.result)
            if written:
                report.done += 1
                bar.advance(each, note=job.source.name)

    with progress("Restoring", len(jobs), done=report.skipped, quiet=quiet) as bar:
        try:
            for job, future in _read_ahead(reader, todo):
                _, picture = attempt(job, future.result)
                if picture is None:
                    continue

                def on_tile(done: int, total: int, name: str = job.source.name) -> None:
                    bar.advance(0, note=f"{name} {done}/{total}" if total > 1 else name)

                _, pixels = attempt(job, partial(restore, picture.pixels, on_tile))
                if pixels is not None:
                    writing.append((job, writer.submit(write_image, job.target, pixels, like=picture)))
                    finish(_AHEAD)
            finish(0)
        finally:
            reader.shutdown(cancel_futures=True)
            writer.shutdown()
    return report


def _claimed(jobs: list[Job], claims: Iterable[int], count: Callable[[int], None]) -> Iterator[Job]:
    """The jobs that are claimed; ``count`` hears how many more than before are begun, by whomever."""
    begun = 0
    for index in claims:
        count(index - begun)
        begun = index
        yield jobs[index]
    count(len(jobs) - begun)


def _read_ahead(reader: ThreadPoolExecutor, jobs: Iterable[Job]) -> Iterator[tuple[Job, Future[Picture]]]:
    """Jobs in order with their pictures, at most ``_AHEAD`` of them decoded before they are asked for."""
    rest = iter(jobs)
    reading = [(job, reader.submit(read_image, job.source)) for job in islice(rest, _AHEAD)]
    while reading:
        current = reading.pop(0)
        reading += [(job, reader.submit(read_image, job.source)) for job in islice(rest, 1)]
        yield current


def _prepare_folders(jobs: list[Job]) -> None:
    for folder in sorted({job.target.parent for job in jobs}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the output folder {folder}: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise UserError(f"no permission to write into the output folder {folder}")


def stops_everything(error: BaseException | None) -> bool:
    """Whether what comes next would fail as well: a full disk, a file system that cannot be written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FATAL:
            return True
        error = error.__cause__
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, (UserError, OSError)):
        return str(error)
    # A fault of the network or ours: the others shall not suffer, but its traceback must not be lost.
    _log.error("unexpected error", exc_info=error)
    return f"{type(error).__name__}: {error}"
