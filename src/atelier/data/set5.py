"""``atelier data prepare-set5``: the layout in which BasicSR's option files look for a benchmark set.

``GTmod12`` holds the pictures cut to multiples of 12 pixels, so that x2, x3 and x4 divide them, ``LRbicx2`` ... their
versions by MATLAB's bicubic under the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atelier.data.cropping import newer, none_twice, once, pictures_to_change
from atelier.data.manifest import same_work
from atelier.data.pngs import png_bytes
from atelier.data.workers import work_through
from atelier.errors import UserError
from atelier.files import atomic_write

MULTIPLE = 12


@dataclass
class BenchmarkReport:
    """What was (or, in a dry run, would be) done.

    Attributes:
        pictures: how many pictures the set has.
        written: files written now, gt and lq.
        present: files that were there already.
        failed: pictures that cannot be used, with the reason.
    """

    pictures: int = 0
    written: int = 0
    present: int = 0
    failed: list[str] = field(default_factory=list)

    def lines(self, dry_run: bool = False) -> list[str]:
        """The report as text."""
        verb = "would be written" if dry_run else "written"
        out = [f"{self.pictures} pictures, {self.written} files {verb}, {self.present} there already"]
        if self.failed:
            out += [f"cannot be used: {len(self.failed)}", *(f"  {entry}" for entry in self.failed)]
        return out


def prepare_benchmark(
    source: Path,
    target: Path,
    scales: Sequence[int],
    *,
    workers: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> BenchmarkReport:
    """Write ``target/GTmod12/NAME.png`` and ``target/LRbicxS/NAME.png`` for every picture below ``source``.

    Args:
        source: folder with clean pictures.
        target: the benchmark's folder; must not lie in ``source``.
        scales: divisors of 12.
        workers: processes; None: one a core.
        dry_run: only count.
        quiet: no progress bar.

    Raises:
        UserError: a scale that does not divide 12, no pictures, or names that clash, also with another source's in
            ``target``.
    """
    if not scales or any(scale < 2 or MULTIPLE % scale for scale in scales):
        raise UserError(
            f"--scale {' '.join(map(str, scales))}: give 2, 3, 4, 6 or 12, which divide {MULTIPLE}"
        )
    pictures = pictures_to_change(source, target, "prepare")
    names = [item.stem for item in pictures.items]
    none_twice(pictures, names, ".png", flag=False)
    same_work(target / "set5_settings.json", {}, source, names, dry_run)
    jobs = [
        (item.place, item.stem, str(target), tuple(sorted(set(scales))), dry_run) for item in pictures.items
    ]
    report = BenchmarkReport()
    for part in work_through(
        _one, jobs, "preparing", workers=1 if dry_run else workers, quiet=quiet or dry_run
    ):
        report.pictures += part.pictures
        report.written += part.written
        report.present += part.present
        report.failed += part.failed
    return report


def _one(job: tuple[str, str, str, tuple[int, ...], bool]) -> BenchmarkReport:
    from atelier.images import image_shape, imresize, read_image

    place, stem, target, scales, dry_run = job
    path = Path(place)
    try:
        height, width = (length - length % MULTIPLE for length in image_shape(path)[:2])
        if not height or not width:
            raise UserError(f"{path}: a side below {MULTIPLE} pixels")
        wanted = {Path(target, "GTmod12", f"{stem}.png"): 1}
        wanted |= {Path(target, f"LRbicx{scale}", f"{stem}.png"): scale for scale in scales}
        missing = {file: scale for file, scale in wanted.items() if not newer(file, path)}
        report = BenchmarkReport(1, len(missing), len(wanted) - len(missing))
        if dry_run or not missing:
            return report
        picture = read_image(path)
        gt = picture.pixels[:height, :width].copy()
        files = {
            file: png_bytes(gt if scale == 1 else imresize(gt, 1 / scale), 4, picture)
            for file, scale in missing.items()
        }
    except UserError as error:
        return BenchmarkReport(failed=[once(place, str(error))])
    for file, data in files.items():
        atomic_write(file, data)
    return report
