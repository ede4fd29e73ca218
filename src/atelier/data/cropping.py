"""``atelier data crop``: cut large pictures into overlapping sub-images, as BasicSR's preparation does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atelier.data.manifest import same_work
from atelier.data.pngs import check_level, png_bytes
from atelier.data.sources import FileSource, open_folders
from atelier.data.templates import plain_stem
from atelier.data.workers import work_through
from atelier.errors import UserError
from atelier.files import atomic_write


@dataclass
class CropReport:
    """What was (or, in a dry run, would be) done.

    Attributes:
        pictures: how many pictures were cut.
        written: sub-images written now.
        present: sub-images that were there already.
        small: pictures smaller than a crop, which give nothing.
        failed: pictures that could not be read, with the reason.
    """

    pictures: int = 0
    written: int = 0
    present: int = 0
    small: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every picture could be read and at least one gave sub-images."""
        return self.pictures > 0 and not self.failed

    def lines(self, dry_run: bool = False) -> list[str]:
        """The report as text."""
        verb = "would be written" if dry_run else "written"
        out = [f"{self.pictures} pictures, {self.written} sub-images {verb}, {self.present} there already"]
        for title, found in (
            ("smaller than the crop, left out", self.small),
            ("cannot be read", self.failed),
        ):
            if found:
                out += [f"{title}: {len(found)}", *(f"  {entry}" for entry in found)]
        if not self.pictures:
            out.append("nothing was cut: every picture is smaller than the crop or cannot be read")
        return out


def crop_starts(length: int, crop: int, step: int, thresh: int) -> list[int]:
    """Where crops of ``crop`` pixels start along a side of ``length``: every ``step``, and one at the end.

    The last one, flush with the end, is added when more than ``thresh`` pixels would be left over.
    """
    if length < crop:
        return []
    starts = list(range(0, length - crop + 1, step))
    if length - (starts[-1] + crop) > thresh:
        starts.append(length - crop)
    return starts


def crop_subimages(
    source: Path,
    target: Path,
    *,
    crop: int = 480,
    step: int = 240,
    thresh: int = 0,
    filename_tmpl: str = "{}",
    keep_suffix: bool = False,
    level: int = 3,
    workers: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> CropReport:
    """Cut every picture below ``source`` into ``target/SUB/NAME_s001.png``, numbered row by row from 001.

    Files appear whole or not at all, and what is already there and newer than its picture is kept, so a stopped
    run continues when it is started again. For x2 pairs cut gt with 480/240 and lq with 240/120.

    Args:
        source: folder with pictures (and subfolders, which are kept).
        target: folder for the sub-images; must not lie in ``source`` nor be it.
        crop: side of a sub-image in pixels.
        step: distance between starts.
        thresh: fewer left-over pixels than this at an end give no extra sub-image.
        filename_tmpl: how the names of these (LQ) pictures follow from their gt's; the mark is taken off.
        keep_suffix: ``a.png`` gives ``a_png_s001.png``, so that ``a.bmp`` may lie beside it.
        level: PNG compression of 8-bit pictures, 0 to 9.
        workers: processes; None: one a core.
        dry_run: only count, from the pictures' headers.
        quiet: no progress bar.

    Raises:
        UserError: the sizes make no sense, the folder has no pictures, two pictures would get the same names,
            ``target`` holds sub-images of other settings or of another source's picture of that name, or nothing
            can be written there.
    """
    if crop < 1 or step < 1 or thresh < 0:
        raise UserError(f"crop {crop} and step {step} must be at least 1, thresh {thresh} at least 0")
    check_level(level)
    pictures = pictures_to_change(source, target, "crop")
    bases = [_base(item.stem, filename_tmpl) for item in pictures.items]
    if keep_suffix:
        bases = with_suffixes(pictures, bases)
    none_twice(pictures, bases, "_s001.png")
    settings: dict[str, Any] = {"crop": crop, "step": step, "thresh": thresh, "keep_suffix": keep_suffix}
    settings["filename_tmpl"] = filename_tmpl if filename_tmpl != "{}" else False
    same_work(target / "crop_settings.json", settings, source, bases, dry_run)
    jobs = [
        _Job(item.place, str(target / base), crop, step, thresh, level, dry_run)
        for item, base in zip(pictures.items, bases, strict=True)
    ]
    report = CropReport()
    for part in work_through(
        _crop_one, jobs, "cropping", workers=1 if dry_run else workers, quiet=quiet or dry_run
    ):
        report.pictures += part.pictures
        report.written += part.written
        report.present += part.present
        report.small += part.small
        report.failed += part.failed
    return report


def pictures_to_change(source: Path, target: Path, verb: str) -> FileSource:
    """The pictures of a folder whose changed versions go to another folder.

    Raises:
        UserError: ``target`` lies in ``source``; ``source`` is an LMDB or holds no pictures.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{target} lies in {source}: what is written would be read as pictures next time")
    pictures = open_folders([source], f"the folder to {verb}")
    if not isinstance(pictures, FileSource):
        raise UserError(f"{source} is an LMDB; {verb} the pictures it was made of")
    return pictures


def with_suffixes(pictures: FileSource, bases: list[str]) -> list[str]:
    """The names with the suffix of their picture: ``a`` of ``a.PNG`` becomes ``a_png``."""
    return [
        f"{base}_{item.name.rpartition('.')[2].lower()}"
        for item, base in zip(pictures.items, bases, strict=True)
    ]


def none_twice(pictures: FileSource, bases: list[str], ending: str, *, flag: bool = True) -> None:
    """Raises :class:`UserError` where two pictures would be written under one name.

    ``flag`` tells whether the command has ``--keep-suffix`` to get around it.
    """
    twice = [base for base, count in Counter(bases).items() if count > 1]
    if not twice:
        return
    clash = [item.place for item, base in zip(pictures.items, bases, strict=True) if base == twice[0]]
    more = f" (and {len(twice) - 1} more names)" if len(twice) > 1 else ""
    way = f"--keep-suffix keeps the suffix in the names (a.png gives a_png{ending}), or rename them"
    raise UserError(
        f"these would all be written as {twice[0]}{ending}: {', '.join(clash)}{more}; "
        + (way if flag else "rename them")
    )


def _base(stem: str, filename_tmpl: str) -> str:
    folder, slash, last = stem.rpartition("/")
    return folder + slash + plain_stem(last, filename_tmpl)


@dataclass(frozen=True)
class _Job:
    place: str
    base: str
    crop: int
    step: int
    thresh: int
    level: int
    dry_run: bool


def _crop_one(job: _Job) -> CropReport:
    """Cut one picture; skips the decoding when every sub-image is there."""
    from atelier.images import image_shape, read_image

    path, base, crop = Path(job.place), Path(job.base), job.crop
    try:
        height, width, _ = image_shape(path)
        rows, columns = (crop_starts(length, crop, job.step, job.thresh) for length in (height, width))
        places = [(y, x) for y in rows for x in columns]
        if not places:
            return CropReport(small=[f"{path}: {height}x{width}"])
        targets = [base.with_name(f"{base.name}_s{index:03d}.png") for index in range(1, len(places) + 1)]
        missing = [k for k, file in enumerate(targets) if not newer(file, path)]
        done = CropReport(pictures=1, written=len(missing), present=len(places) - len(missing))
        if job.dry_run or not missing:
            return done
        picture = read_image(path)
        files = {}
        for k in missing:
            y, x = places[k]
            files[targets[k]] = png_bytes(
                picture.pixels[y : y + crop, x : x + crop].copy(), job.level, picture
            )
    except UserError as error:
        return CropReport(failed=[once(str(path), str(error))])
    # A file that cannot be written (full disk) is no fault of the picture: it ends the run.
    for file, data in files.items():
        atomic_write(file, data)
    return done


def newer(file: Path, source: Path) -> bool:
    """Whether ``file`` is there and was written after ``source``."""
    try:
        return file.stat().st_mtime_ns > source.stat().st_mtime_ns
    except OSError:
        return False


def once(place: str, error: str) -> str:
    """The file's name and the error, which usually names the file itself."""
    return error if place in error else f"{place}: {error}"
