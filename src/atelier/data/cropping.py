"""``atelier data crop``: cut large pictures into overlapping sub-images, as BasicSR's preparation does."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from atelier.data.sources import FileSource, open_folders
from atelier.errors import UserError
from atelier.files import atomic_write
from atelier.progress import progress


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


def plain_stem(stem: str, filename_tmpl: str = "{}") -> str:
    """The name without the mark that LQ files carry (``0001x4`` -> ``0001``), so that sub-images pair by name.

    With a template of its own (``{}x2``) exactly that is taken off. Without one, an x with 2, 3, 4 or 8 goes when it
    ends the stem and follows a digit, as in DIV2K: ``0001x4``, but not ``fox2`` (BasicSR's script makes it ``fo``).

    Raises:
        UserError: the name does not fit the template.
    """
    if filename_tmpl == "{}":
        return re.sub(r"(?<=\d)x[2348]$", "", stem)
    before, _, after = filename_tmpl.partition("{}")
    if len(stem) <= len(before + after) or not (stem.startswith(before) and stem.endswith(after)):
        raise UserError(f"the name '{stem}' does not fit the file name template '{filename_tmpl}'")
    return stem[len(before) : len(stem) - len(after)]


def crop_subimages(
    source: Path,
    target: Path,
    *,
    crop: int = 480,
    step: int = 240,
    thresh: int = 0,
    filename_tmpl: str = "{}",
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
        dry_run: only count, from the pictures' headers.
        quiet: no progress bar.

    Raises:
        UserError: the sizes make no sense, the folder has no pictures, two pictures would get the same names, or
            ``target`` holds sub-images of other settings.
    """
    if crop < 1 or step < 1 or thresh < 0:
        raise UserError(f"crop {crop} and step {step} must be at least 1, thresh {thresh} at least 0")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{target} lies in {source}: the sub-images would be read as pictures next time")
    pictures = open_folders([source], "the folder to crop")
    if not isinstance(pictures, FileSource):
        raise UserError(f"{source} is an LMDB; crop the pictures it was made of")
    bases = [_base(item.stem, filename_tmpl) for item in pictures.items]
    twice = [base for base, count in Counter(bases).items() if count > 1]
    if twice:
        clash = [item.place for item, base in zip(pictures.items, bases, strict=True) if base == twice[0]]
        raise UserError(f"these would all be written as {twice[0]}_s001.png: {', '.join(clash)}; rename them")
    _same_settings(target, {"crop": crop, "step": step, "thresh": thresh}, dry_run)
    report = CropReport()

    def one(number: int) -> CropReport:
        return _crop_one(pictures, number, target / bases[number], (crop, step, thresh), dry_run)

    with (
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
        progress("cropping", len(pictures), quiet=quiet) as bar,
    ):
        for part in pool.map(one, range(len(pictures))):
            report.pictures += part.pictures
            report.written += part.written
            report.present += part.present
            report.small += part.small
            report.failed += part.failed
            bar.advance()
    return report


def _same_settings(target: Path, settings: dict[str, int], dry_run: bool) -> None:
    """Sub-images of other sizes have the same names; continuing among them would mix two sets."""
    note = target / "crop_settings.json"
    if note.is_file():
        before = json.loads(note.read_text())
        if before != settings:
            raise UserError(
                f"{target} holds sub-images made with {before}, now asked for {settings}; choose another"
            )
    elif not dry_run:
        atomic_write(note, json.dumps(settings))


def _base(stem: str, filename_tmpl: str) -> str:
    folder, slash, last = stem.rpartition("/")
    return folder + slash + plain_stem(last, filename_tmpl)


def _crop_one(
    pictures: FileSource, number: int, base: Path, sizes: tuple[int, int, int], dry_run: bool
) -> CropReport:
    """Cut one picture; skips the decoding when every sub-image is there."""
    from atelier.images import read_image, write_image

    crop, step, thresh = sizes
    path = Path(pictures.items[number].place)
    try:
        height, width, _ = pictures.shape(number)
        rows, columns = crop_starts(height, crop, step, thresh), crop_starts(width, crop, step, thresh)
        places = [(y, x) for y in rows for x in columns]
        if not places:
            return CropReport(small=[f"{path}: {height}x{width}"])
        changed = path.stat().st_mtime_ns
        targets = [base.with_name(f"{base.name}_s{index:03d}.png") for index in range(1, len(places) + 1)]
        missing = [
            k for k, file in enumerate(targets) if not (file.is_file() and file.stat().st_mtime_ns > changed)
        ]
        done = CropReport(pictures=1, written=len(missing), present=len(places) - len(missing))
        if dry_run or not missing:
            return done
        picture = read_image(path)
    except UserError as error:
        return CropReport(failed=[str(error)])
    for k in missing:
        y, x = places[k]
        write_image(targets[k], picture.pixels[y : y + crop, x : x + crop].copy(), like=picture)
    return done
