"""Coloured films beside the true ones: every row over every film, frame by frame, as it would be written.

Rows are the modes of a colorizer, or results that are there already; grey and the truth always stand beside them,
because some measures are best where nothing was coloured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from atelier.errors import UserError
from atelier.evaluate.films import MEASURES, TRUTH, FilmMeasure, FilmMeter, beside_truth, film_result
from atelier.evaluate.results import MetricLike, Pixels, ValidationResult, as_dtype
from atelier.images.tensors import to_tensor
from atelier.metrics.fid import Fid
from atelier.metrics.lab import lab_of
from atelier.metrics.lpips import MeanLpips
from atelier.metrics.measured import Measured
from atelier.metrics.options import Metric
from atelier.metrics.psnr import psnr
from atelier.metrics.ssim import ssim
from atelier.metrics.warp_error import consistent

if TYPE_CHECKING:
    from torch import Tensor

#: Both flows of two neighbouring true frames, see :class:`atelier.colorize.modes.MotionFinder`.
FindMotion = Callable[[Pixels, Pixels], "tuple[Tensor, Tensor]"]

#: Of single frames, beside what every film is measured by.
METRICS: Mapping[str, MetricLike] = {
    "psnr": Metric("PSNR-RGB (8 bit, full size)", True, psnr),
    "ssim": Metric("SSIM-RGB (8 bit, full size)", True, ssim),
}
#: Over the whole set, where their weights are.
PERCEPTUAL: Mapping[str, FilmMeasure] = {
    "lpips": FilmMeasure("LPIPS (AlexNet 0.1)", False),
    "fid": FilmMeasure("FID (Inception v3, whole set)", False),
}
#: In the order of the table.
COLUMNS = (
    *("psnr", "ssim", "ab_psnr", "ab_ssim", "delta_ab", "ciede2000", "colourfulness", "colourfulness_share"),
    *("cdc", "cdc_off", "warp_error", "lpips", "fid"),
)


@dataclass(frozen=True)
class SeenFrame:
    """A frame in every row.

    Attributes:
        gt: the true one, ``H×W×3``.
        rows: row -> picture, all of one size.
        counts: False where its true colours were given: it is a neighbour and nothing else.
        begins: a scene after another begins here; nothing is compared across.
    """

    gt: Pixels
    rows: Mapping[str, Pixels]
    counts: bool = True
    begins: bool = False


@dataclass(frozen=True)
class ShownFrame:
    """A frame kept for the page: its number, why it is shown, and the pictures by row (the truth's among them)."""

    number: int
    why: str
    pictures: Mapping[str, Pixels]


@dataclass(frozen=True)
class FilmRows:
    """One film measured.

    Attributes:
        name: of the film.
        values: row -> measure -> mean over the frames that count, the truth last.
        numbers: of the frames that count.
        by_frame: row -> one mapping of values for each of ``numbers``.
        frames: how many frames there are at all.
        size: height and width.
        shown: frames for the page.
        scenes: first frames of the scenes, 0 first.
    """

    name: str
    values: Mapping[str, Mapping[str, float]]
    numbers: Sequence[int]
    by_frame: Mapping[str, Sequence[Mapping[str, float]]]
    frames: int
    size: tuple[int, int]
    shown: Sequence[ShownFrame]
    scenes: Sequence[int] = (0,)


@dataclass
class Colouring:
    """Several films measured, and how.

    Attributes:
        title: what was measured.
        where: the true films.
        judged: the row that the others stand beside.
        films: in order.
        perceptual: row -> ``lpips`` and ``fid`` over all films, or why there is none.
        facts: name -> text, for readers: references, parts, sizes.
    """

    title: str
    where: str
    judged: str
    films: Sequence[FilmRows]
    perceptual: Mapping[str, Mapping[str, Measured]]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        """Grey first, the truth last."""
        return list(self.films[0].values)

    def result(self, row: str) -> ValidationResult:
        """A row's values by film and their means, without the perceptual measures."""
        films = {film.name: film.values[row] for film in self.films}
        return film_result(self.where, films, METRICS, method=None if row == self.judged else row)

    def missing(self) -> dict[str, str]:
        """Measure -> why it has no value."""
        found = {}
        for each in self.perceptual.values():
            for name, measured in each.items():
                if measured.reason is not None:
                    found[name] = measured.reason
        return found


class _Perceptual:
    """LPIPS and FID of one row."""

    def __init__(self) -> None:
        self._lpips, self._fid = MeanLpips(), Fid()

    def add(self, picture: Pixels, gt: Pixels) -> None:
        pair = to_tensor(picture)[None], to_tensor(gt)[None]
        self._lpips.add(*pair)
        self._fid.add(*pair)

    def result(self) -> dict[str, Measured]:
        return {"lpips": self._lpips.result(), "fid": self._fid.result()}


def measure_films(
    films: Iterable[tuple[str, Iterable[SeenFrame]]],
    find_motion: FindMotion,
    *,
    judged: str,
    beside: str,
    title: str,
    where: str,
    facts: Mapping[str, str],
    seen: Callable[[str, int], None] = lambda film, frame: None,
) -> Colouring:
    """Measure films one after another; memory does not grow with their length.

    Args:
        films: (name, frames in order); all with the same rows.
        find_motion: the motion along which colours should stay.
        judged: the row whose worst frame against ``beside`` is shown.
        beside: another row.
        title, where, facts: see :class:`Colouring`.
        seen: told of every frame, for a progress bar.

    Raises:
        UserError: a film without frames that count, a grey one, pictures of another size than the truth.
    """
    perceptual: dict[str, _Perceptual] = {}
    measured = []
    for name, frames in films:
        film = _Film(name, find_motion, judged, beside, perceptual)
        for number, frame in enumerate(frames):
            film.add(number, frame)
            seen(name, number)
        measured.append(film.finish())
    if not measured:
        raise UserError(f"{where}: no films to measure")
    return Colouring(
        title, where, judged, measured, {row: each.result() for row, each in perceptual.items()}, dict(facts)
    )


class _Film:
    """One film on its way through the meters."""

    def __init__(
        self, name: str, find: FindMotion, judged: str, beside: str, perceptual: dict[str, _Perceptual]
    ) -> None:
        self._name, self._find, self._judged, self._beside = name, find, judged, beside
        self._perceptual = perceptual
        self._meters: dict[str, FilmMeter] = {}
        self._before: Pixels | None = None
        self._numbers: list[int] = []
        self._frames = 0
        self._scenes = [0]
        self._first: ShownFrame | None = None
        self._last: ShownFrame | None = None
        self._worst: tuple[float, ShownFrame] | None = None

    def add(self, number: int, frame: SeenFrame) -> None:
        gt = as_dtype(frame.gt, np.uint8)
        pictures = {row: as_dtype(picture, np.uint8) for row, picture in frame.rows.items()} | {TRUTH: gt}
        for row, picture in pictures.items():
            if picture.shape != gt.shape:
                raise UserError(
                    f"{self._name}, frame {number}: {row} is {picture.shape[1]}x{picture.shape[0]}, the truth "
                    f"{gt.shape[1]}x{gt.shape[0]}"
                )
        if not self._meters:
            self._meters = {row: FilmMeter(METRICS, truth=row == TRUTH, thorough=True) for row in pictures}
        motion = None
        if frame.begins:
            self._scenes.append(number)
        elif self._before is not None:
            flow, back = self._find(frame.gt, self._before)
            motion = flow, consistent(flow, back).float()
        for row, picture in pictures.items():
            self._meters[row].add(picture, gt, _ab(picture), motion, counts=frame.counts, begins=frame.begins)
            if frame.counts and row != TRUTH:
                self._perceptual.setdefault(row, _Perceptual()).add(picture, gt)
        self._before, self._frames = frame.gt, number + 1
        if frame.counts:
            self._numbers.append(number)
            self._keep(number, pictures)

    def _keep(self, number: int, pictures: Mapping[str, Pixels]) -> None:
        self._last = ShownFrame(number, "last", pictures)
        if self._first is None:
            self._first = ShownFrame(number, "first", pictures)
        gain = psnr(pictures[self._judged], pictures[TRUTH]) - psnr(pictures[self._beside], pictures[TRUTH])
        if self._worst is None or gain < self._worst[0]:
            self._worst = gain, ShownFrame(number, f"worst against {self._beside}", pictures)

    def finish(self) -> FilmRows:
        if self._first is None or self._last is None or self._worst is None:
            raise UserError(
                f"{self._name}: {self._frames} frames, none of which counts; frames whose true colours are given do not"
            )
        values = {row: meter.values() for row, meter in self._meters.items()}
        truth = values[TRUTH]
        if truth["colourfulness"] < 0.5:
            raise UserError(f"{self._name} is grey: it has no true colours to compare with")
        chosen = {each.number: each for each in (self._worst[1], self._last, self._first)}
        return FilmRows(
            self._name,
            {row: each if row == TRUTH else beside_truth(each, truth) for row, each in values.items()},
            self._numbers,
            {row: meter.by_frame() for row, meter in self._meters.items()},
            self._frames,
            (self._first.pictures[TRUTH].shape[0], self._first.pictures[TRUTH].shape[1]),
            [chosen[number] for number in sorted(chosen)],
            self._scenes,
        )


def _ab(picture: Pixels) -> Tensor:
    """a and b of an RGB picture in Lab units, ``[1, 2, H, W]``."""
    import torch

    lab: Any = lab_of(picture)
    return torch.from_numpy(np.ascontiguousarray(lab[..., 1:].transpose(2, 0, 1), np.float32))[None]


def described() -> dict[str, Any]:
    """Measure -> how it is read, in the order of the table."""
    known: dict[str, Any] = {**METRICS, **MEASURES, **PERCEPTUAL}
    return {name: known[name] for name in COLUMNS}
