"""``atelier data multiscale``: smaller versions of large pictures beside them, as Real-ESRGAN's preparation makes them.

``NAMET0.png``, ``NAMET1.png``, ``NAMET2.png`` at 0.75, 0.5 and 1/3 of the size, and ``NAMET3.png`` with a shortest edge
of 400 pixels (Wang et al., ICCVW 2021, training details), by Pillow's Lanczos filter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atelier.data.cropping import newer, none_twice, once, pictures_to_change, with_suffixes
from atelier.data.manifest import same_work
from atelier.data.pngs import check_level, png_bytes
from atelier.data.workers import work_through
from atelier.degrade.base import Pixels
from atelier.errors import UserError
from atelier.files import atomic_write

SCALES = (0.75, 0.5, 1 / 3)
SHORTEST = 400


@dataclass
class MultiscaleReport:
    """What was (or, in a dry run, would be) done.

    Attributes:
        pictures: how many pictures were resized.
        written: files written now.
        present: files that were there already.
        not_enlarged: pictures whose shortest edge is below the asked one and so give no ``T3``.
        failed: pictures that could not be read, with the reason.
    """

    pictures: int = 0
    written: int = 0
    present: int = 0
    not_enlarged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def lines(self, dry_run: bool = False) -> list[str]:
        """The report as text."""
        verb = "would be written" if dry_run else "written"
        out = [f"{self.pictures} pictures, {self.written} versions {verb}, {self.present} there already"]
        if self.not_enlarged:
            out.append(
                f"no T3, because it would be enlarged (--enlarge makes it all the same): {len(self.not_enlarged)}"
            )
            out += [f"  {entry}" for entry in self.not_enlarged]
        if self.failed:
            out += [f"cannot be read: {len(self.failed)}", *(f"  {entry}" for entry in self.failed)]
        return out


def version_sizes(
    height: int, width: int, *, shortest: int = SHORTEST, enlarge: bool = False
) -> list[tuple[int, int] | None]:
    """``(height, width)`` of T0 ... T3, rounded down as the original does (at least one pixel).

    The last is None where it would be larger than the picture and ``enlarge`` is False: enlarged pictures are blurred
    and make a poor ground truth.
    """
    sizes: list[tuple[int, int] | None] = [(max(1, int(height * s)), max(1, int(width * s))) for s in SCALES]
    if min(height, width) < shortest and not enlarge:
        return [*sizes, None]
    if width < height:
        return [*sizes, (int(shortest * height / width), shortest)]
    return [*sizes, (shortest, int(shortest * width / height))]


def make_versions(
    source: Path,
    target: Path,
    *,
    shortest: int = SHORTEST,
    enlarge: bool = False,
    keep_suffix: bool = False,
    level: int = 3,
    workers: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> MultiscaleReport:
    """Write the versions of every picture below ``source`` into ``target``; subfolders are kept.

    What is there and newer than its picture is kept, so a stopped run continues when it is started again.

    Args:
        source: folder with pictures.
        target: folder for the versions; must not lie in ``source`` nor be it.
        shortest: shortest edge of T3 in pixels.
        enlarge: make T3 of smaller pictures too, as the original does.
        keep_suffix: ``a.png`` gives ``a_pngT0.png``, so that ``a.bmp`` may lie beside it.
        level: PNG compression of 8-bit pictures, 0 to 9.
        workers: processes; None: one a core.
        dry_run: only count, from the pictures' headers.
        quiet: no progress bar.

    Raises:
        UserError: no pictures, names that clash, versions of other settings or of another source's picture in
            ``target``, or it cannot be written.
    """
    if shortest < 1:
        raise UserError(f"the shortest edge must be at least 1, not {shortest}")
    check_level(level)
    pictures = pictures_to_change(source, target, "resize")
    bases = [item.stem for item in pictures.items]
    if keep_suffix:
        bases = with_suffixes(pictures, bases)
    none_twice(pictures, bases, "T0.png")
    settings = {"shortest": shortest, "enlarge": enlarge, "keep_suffix": keep_suffix}
    same_work(target / "multiscale_settings.json", settings, source, bases, dry_run)
    jobs = [
        _Job(item.place, str(target / base), shortest, enlarge, level, dry_run)
        for item, base in zip(pictures.items, bases, strict=True)
    ]
    report = MultiscaleReport()
    for part in work_through(
        _one, jobs, "resizing", workers=1 if dry_run else workers, quiet=quiet or dry_run
    ):
        report.pictures += part.pictures
        report.written += part.written
        report.present += part.present
        report.not_enlarged += part.not_enlarged
        report.failed += part.failed
    return report


@dataclass(frozen=True)
class _Job:
    place: str
    base: str
    shortest: int
    enlarge: bool
    level: int
    dry_run: bool


def _one(job: _Job) -> MultiscaleReport:
    from atelier.images import image_shape, read_image

    path = Path(job.place)
    report = MultiscaleReport(pictures=1)
    try:
        height, width, _ = image_shape(path)
        sizes = version_sizes(height, width, shortest=job.shortest, enlarge=job.enlarge)
        if sizes[-1] is None:
            report.not_enlarged.append(f"{path}: {height}x{width}")
        wanted = {Path(f"{job.base}T{k}.png"): size for k, size in enumerate(sizes) if size is not None}
        missing = [file for file in wanted if not newer(file, path)]
        report.written, report.present = len(missing), len(wanted) - len(missing)
        if job.dry_run or not missing:
            return report
        picture = read_image(path)
        files = {
            file: png_bytes(lanczos(picture.pixels, wanted[file]), job.level, picture) for file in missing
        }
    except UserError as error:
        return MultiscaleReport(failed=[once(str(path), str(error))])
    for file, data in files.items():
        atomic_write(file, data)
    return report


def lanczos(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Pillow's Lanczos filter (three lobes, widened when shrinking) on ``H×W×C`` uint8 or uint16 pixels.

    8-bit pictures give what ``Image.resize`` gives. 16-bit ones, which Pillow knows in grey only, are computed in
    float32 a channel and rounded. Where there is transparency, colours are weighted by it.

    Raises:
        UserError: float pixels.
    """
    from PIL import Image

    if pixels.dtype == np.float32:
        raise UserError(
            "its pixels are floating point, which PNG cannot store; convert them to 16 bits first"
        )
    height, width = size
    if pixels.dtype == np.uint8:
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        out = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
        return np.ascontiguousarray(out.reshape(height, width, -1))
    planes = pixels.astype(np.float32)
    alpha = pixels.shape[2] in (2, 4)
    if alpha:
        planes[:, :, :-1] *= planes[:, :, -1:] / 65535
    done = [
        np.asarray(Image.fromarray(np.ascontiguousarray(p)).resize((width, height), Image.Resampling.LANCZOS))
        for p in np.moveaxis(planes, 2, 0)
    ]
    result = np.stack(done, axis=2)
    if alpha:
        result[:, :, :-1] /= np.maximum(result[:, :, -1:] / 65535, 1 / 65535)
    rounded: Pixels = np.rint(result).clip(0, 65535).astype(np.uint16)
    return rounded
