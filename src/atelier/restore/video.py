"""A model over a film: names, what was done already, and frames that stand still restored once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atelier.errors import UserError
from atelier.images.files import list_files
from atelier.images.video import PIPE, VIDEO_SUFFIXES, open_video, sample_file
from atelier.images.video_encode import Encoding
from atelier.images.video_film import FilmReport, transform_film
from atelier.images.video_frames import fingerprint_of_frames, is_pattern, list_frames
from atelier.images.video_pictures import finished_pictures, picture_names
from atelier.images.video_segments import CONTAINERS
from atelier.images.video_targets import open_target
from atelier.restore.folder import first_gap, gap_warning, not_results

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atelier.images.video import VideoFrame
    from atelier.restore.folder import RestorePixels


@dataclass(frozen=True)
class FilmJob:
    """A film to read and where its result goes: files, ``-``, patterns such as ``%06d.png``, or a folder ``DIR/``."""

    source: str
    target: str

    def is_done(self) -> bool:
        """Whether the result is there, whole, and older than nothing of its source; pipes are always to do.

        Pictures are whole where their run has noted that it finished, with this very source, and none is missing.
        """
        if PIPE in (self.source, self.target):
            return False
        try:
            files = self._source_files()
            newest = max(
                path.stat().st_mtime for path in (*(files or [Path(self.source)]), *self._source_folder())
            )
            results = self._results(files)
            return all(each.is_file() and each.stat().st_mtime >= newest for each in results)
        except (OSError, UserError):
            return False

    def gap(self) -> Path | None:
        """The first picture that is missing in a folder of numbered frames, see :func:`first_gap`.

        Raises:
            UserError: the folder has no pictures.
        """
        return first_gap(list_frames(self.source)) if Path(self.source).is_dir() else None

    def _source_files(self) -> list[Path]:
        """The pictures of the source; none where it is a film."""
        is_film = not is_pattern(self.source) and not Path(self.source).is_dir()
        return [] if is_film else list_frames(self.source)

    def _source_folder(self) -> list[Path]:
        """The folder of the frames: its time tells of frames that are gone; not where the result itself changes it."""
        folder = Path(self.source).parent if is_pattern(self.source) else Path(self.source)
        into = Path(self.target) if self.target.endswith("/") else Path(self.target).parent
        return [folder] if folder.is_dir() and into.resolve() != folder.resolve() else []

    def _results(self, files: list[Path]) -> list[Path]:
        """What a finished run has written; a :class:`UserError` where that cannot be."""
        if is_pattern(self.target) or self.target.endswith("/"):
            of = fingerprint_of_frames(files) if files else sample_file(Path(self.source))
            results = finished_pictures(self.target, of)
            named = picture_names(self.target, self.source, files)
            if results is None or (files and results != [named(index) for index in range(len(files))]):
                raise UserError(f"{self.target} is unfinished, or was made of another source")
            return results
        if Path(self.target).suffix.lower() not in CONTAINERS:
            raise UserError(f"{self.target} is no film that can be written")
        return [Path(self.target)]


def plan_film(source: str, output: str, *, suffix: str = "out") -> FilmJob | None:
    """What is read and written where ``source`` is a film; None where it is a picture or a folder of pictures.

    A film is a file with a name of :data:`VIDEO_SUFFIXES`, ``-``, a pattern ``%06d.png``, or a folder of frames whose
    ``output`` is a film, a pattern or ``-``. An ``output`` that is none of these (:func:`names_film`) is a folder:
    ``film.mp4`` becomes ``output/film_out.mp4`` (``.mkv`` where its container cannot be written), ``in/%06d.png``
    ``output/%06d.png``.

    Raises:
        UserError: no such file, a pipe into a folder, a folder named as a file, or a result that cannot be: over its
            source, or under the name of a folder.
    """
    path = Path(source)
    named = names_film(output)
    if not (source == PIPE or is_pattern(source) or path.suffix.lower() in VIDEO_SUFFIXES or named):
        return None
    if source != PIPE and not is_pattern(source) and not path.exists():
        raise UserError(f"input {source} does not exist")
    if path.is_file() and path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(
            f"{source} is no film; known films: {', '.join(VIDEO_SUFFIXES)}, or a folder of frames"
        )
    if path.is_dir() and not named:
        return None
    if not named:
        require_folder_name(output)
    if named:
        target = output
    elif source == PIPE:
        raise UserError("a film from standard input needs a name: -o FILM.mp4, or -o - for standard output")
    elif is_pattern(source):
        target = str(Path(output) / path.name)
    else:
        kind = path.suffix if path.suffix.lower() in CONTAINERS else ".mkv"
        target = str(Path(output) / f"{path.stem}{'_' + suffix if suffix else ''}{kind}")
    job = FilmJob(source, target)
    _require_free([job])
    return job


def names_film(output: str) -> bool:
    """Whether ``output`` is ``-``, a pattern or a film's name: not a folder's, which exists or ends in ``/``."""
    if output == PIPE:
        return True
    if output.endswith("/") or Path(output).is_dir():
        return False
    return is_pattern(output) or Path(output).suffix.lower() in VIDEO_SUFFIXES


def _require_free(jobs: Sequence[FilmJob]) -> None:
    for job in jobs:
        if PIPE in (job.source, job.target):
            continue
        if Path(job.source).resolve() == Path(job.target).resolve():
            raise UserError(
                f"{job.source} would be overwritten by its own result; choose another -o or --suffix"
            )
        if Path(job.target).is_dir():
            raise UserError(f"cannot write {job.target}: it is a folder; choose another -o or --suffix")


def require_folder_name(output: str, kinds: Sequence[str] = (*CONTAINERS, "frames/%06d.png", PIPE)) -> None:
    """Refuse a folder whose name looks like a file: who wrote ``film.xyz`` did not want a folder of that name.

    A name without suffix (a number as in ``x1.5`` is none), a folder that exists and ``name.xyz/`` are folders.

    Args:
        output: as the user wrote it.
        kinds: what could have been named instead.

    Raises:
        UserError: the suffix, and all that is allowed.
    """
    suffix = Path(output).suffix
    if output.endswith("/") or not any(letter.isalpha() for letter in suffix) or Path(output).is_dir():
        return
    raise UserError(
        f"-o {output}: cannot write '{suffix}' here; allowed are {', '.join(kinds)}, or a folder: a name without "
        f"suffix, one that exists, or one that ends in / ({output}/)"
    )


def plan_films(source: Path, output: Path, *, suffix: str = "out") -> list[FilmJob]:
    """The films below a folder, each with its result: ``source/a/x.mp4`` becomes ``output/a/x_out.mp4``.

    A container that cannot be written becomes ``.mkv``; two films of one name carry their containers in it. Earlier
    results, and the parts of unfinished ones, are no sources.
    """
    found = [
        path
        for path in not_results(list_files(source, VIDEO_SUFFIXES), source, output)
        if not any(folder.endswith(".parts") for folder in path.relative_to(source).parts[:-1])
    ]
    tail = f"_{suffix}" if suffix else ""

    def target(path: Path, mark: str = "") -> Path:
        kind = path.suffix.lower() if path.suffix.lower() in CONTAINERS else ".mkv"
        return output / path.relative_to(source).parent / f"{path.stem}{mark}{tail}{kind}"

    wanted = Counter(str(target(path)).casefold() for path in found)
    jobs = []
    for path in found:
        alone = wanted[str(target(path)).casefold()] == 1
        jobs.append(FilmJob(str(path), str(target(path) if alone else target(path, f"_{path.suffix[1:]}"))))
    results = {Path(job.target).resolve() for job in jobs}
    _require_free(jobs)
    return [job for job in jobs if Path(job.source).resolve() not in results]


@dataclass
class RestoredFilm:
    """What became of a film.

    Attributes:
        film: frames and times.
        repeated: frames equal to the one before, which were not restored again.
        damaged: frames that were left out or follow damage, where that is allowed.
    """

    film: FilmReport
    repeated: int
    damaged: int

    def __str__(self) -> str:
        lines = [str(self.film)]
        if self.repeated:
            lines.append(f"{self.repeated} frames equal the one before them and were not restored again")
        if self.damaged:
            lines.append(f"{self.damaged} places of the source are damaged; what decodes was restored")
        return "\n".join(lines)


def restore_film(
    restore: RestorePixels,
    job: FilmJob,
    size: Callable[[int, int], tuple[int, int]],
    *,
    encoding: Encoding | None = None,
    options: Mapping[str, Any] | None = None,
    segment: int = 250,
    rate: Fraction | None = None,
    allow_damaged: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> RestoredFilm:
    """Restore a film as a stream: no frames on disk, memory that does not grow with the length.

    Decoding, restoring and encoding work at the same time. Stopped anywhere, the same call goes on and gives the
    same bytes as one that was never stopped (see :class:`atelier.images.video_segments.VideoWriter`).

    Args:
        restore: pixels in, restored pixels out (``H×W×3``, uint8 or uint16).
        size: from width and height of the source to those of the result.
        options: plain values of all that decides the pictures (the model's digest, tile, ...).
        rate: frames a second of numbered pictures (default 25).
        allow_damaged: take what decodes of a source that is cut off or damaged.
        overwrite: begin anew.
        quiet: show no progress.
        tell: takes a warning about the film, before work begins.

    Raises:
        UserError: bad input or output; finished segments stay.
    """
    source = open_video(job.source, rate=rate, allow_damaged=allow_damaged)
    last: list[tuple[NDArray[Any], NDArray[Any]]] = []
    repeated = 0

    def process(frame: VideoFrame, state: None) -> tuple[NDArray[Any], None]:
        nonlocal repeated
        if last and np.array_equal(last[0][0], frame.pixels):
            repeated += 1
        else:
            last[:] = [(frame.pixels, restore(frame.pixels, lambda done, total: None))]
        return last[0][1], state

    try:
        target = open_target(
            job.target,
            source,
            size(source.facts.width, source.facts.height),
            encoding,
            options=options,
            segment=segment,
            overwrite=overwrite,
        )
        if source.facts.caution:
            tell(source.facts.caution)
        if (missing := job.gap()) is not None:
            tell(gap_warning(missing))
        film = transform_film(source, target, process, None, title="Restoring", quiet=quiet)
    finally:
        source.close()
    return RestoredFilm(film, repeated, len(getattr(source, "damaged", ())))
