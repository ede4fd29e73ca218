"""Coloured films measured against the true ones: one meter for every row of the table that is always shown whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from atelier.evaluate.results import Described, MetricLike, Pixels, ValidationResult, decimals
from atelier.metrics.cdc import cdc, colour_histogram
from atelier.metrics.colour_difference import ab_psnr, ciede2000, colour_differences
from atelier.metrics.colourfulness import colourfulness
from atelier.metrics.warp_error import WarpError

if TYPE_CHECKING:
    from torch import Tensor

#: Whose colours a row shows, worst guess first; the last one is what a network is judged by.
ROWS = ("grey", "exemplar", "flow", "average", "fused")
TRUTH = "ground truth"


@dataclass(frozen=True)
class FilmMeasure:
    """How one number of a film is read."""

    protocol: str
    higher_is_better: bool


#: What is measured beside the metrics of single pictures; colourfulness and CDC mean something only beside the truth's.
MEASURES: Mapping[str, FilmMeasure] = {
    "ab_psnr": FilmMeasure("PSNR-ab (peak 255)", True),
    "ab_ssim": FilmMeasure("SSIM-ab (mean of both planes)", True),
    "delta_ab": FilmMeasure("mean |Δab| (Lab units)", False),
    "ciede2000": FilmMeasure("CIEDE2000", False),
    "colourfulness": FilmMeasure("colourfulness (Hasler-Süsstrunk)", True),
    "colourfulness_share": FilmMeasure("colourfulness, share of the truth's", True),
    "cdc": FilmMeasure("CDC (d 1, 2, 4)", False),
    "cdc_off": FilmMeasure("CDC, distance to the truth's", False),
    "warp_error": FilmMeasure("warp error (ab, Lab units)", False),
}


class FilmMeter:
    """One row of one film, frame by frame; nothing of a frame is kept but its histogram.

    Args:
        metrics: metrics of single pictures, of which the mean over frames is taken.
        truth: the row is the true film itself: only what needs no comparison is measured.
        thorough: measure every difference of colour; else PSNR-ab and CIEDE2000.
    """

    def __init__(
        self, metrics: Mapping[str, MetricLike], *, truth: bool = False, thorough: bool = False
    ) -> None:
        self._metrics = {} if truth else dict(metrics)
        self._truth, self._thorough = truth, thorough
        self._sums: dict[str, list[float]] = {}
        self._histograms: list[Pixels] = []
        self._scenes: list[int] = []
        self._scene = 0
        self._warp, self._pairs = WarpError(), 0
        self._last: Tensor | None = None

    def add(
        self,
        rgb: Pixels,
        gt: Pixels,
        ab: Tensor,
        motion: tuple[Tensor, Tensor] | None,
        *,
        counts: bool = True,
        begins: bool = False,
    ) -> None:
        """The next frame.

        Args:
            rgb: as it would be written, ``H×W×3`` uint8.
            gt: the true frame, the same.
            ab: its colours in Lab units, ``[1, 2, H, W]``.
            motion: backward flow ``[1, 2, H, W]`` to the frame before and where it holds ``[1, 1, H, W]``; None for the
                first frame.
            counts: False for a frame whose true colours were given: it only is a neighbour.
            begins: a scene begins here: the frame before, of another one, is no neighbour.
        """
        if begins:
            self._last, self._scene = None, self._scene + 1
        if motion is not None and self._last is not None:
            self._warp.add(ab, self._last, *motion)
            self._pairs += int(bool(motion[1].any()))
        self._last = ab
        if not counts:
            return
        values = {name: float(metric(rgb, gt)) for name, metric in self._metrics.items()}
        if self._thorough and not self._truth:
            values |= colour_differences(rgb, gt)
        elif not self._truth:
            values |= {"ab_psnr": ab_psnr(rgb, gt), "ciede2000": ciede2000(rgb, gt)}
        values["colourfulness"] = colourfulness(rgb)
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)
        self._histograms.append(colour_histogram(rgb))
        self._scenes.append(self._scene)

    def by_frame(self) -> list[dict[str, float]]:
        """The values of each frame that counted, as far as single frames have any."""
        return [dict(zip(self._sums, each, strict=True)) for each in zip(*self._sums.values(), strict=True)]

    def values(self) -> dict[str, float]:
        """Means over frames; not-a-number where the film is too short for a measure."""
        values = {name: math.fsum(each) / len(each) for name, each in self._sums.items()}
        together = any(one == other for one, other in pairwise(self._scenes))
        values["cdc"] = cdc(self._histograms, scenes=self._scenes) if together else math.nan
        values["warp_error"] = self._warp.value() if self._pairs else math.nan
        return values


def beside_truth(row: Mapping[str, float], truth: Mapping[str, float]) -> dict[str, float]:
    """A row's values with those that are only told against the truth's."""
    vivid = truth["colourfulness"]
    return {
        **row,
        "colourfulness_share": row["colourfulness"] / vivid if vivid else math.nan,
        "cdc_off": abs(row["cdc"] - truth["cdc"]),
    }


def film_result(
    name: str,
    films: Mapping[str, Mapping[str, float]],
    metrics: Mapping[str, MetricLike],
    *,
    iteration: int = 0,
    method: str | None = None,
) -> ValidationResult:
    """One row over all films of a set: ``metrics`` first, then :data:`MEASURES` (those that the row has)."""
    have = set.intersection(*(set(values) for values in films.values()))
    known: dict[str, Described] = {**metrics, **MEASURES}
    every = {key: value for key, value in known.items() if key in have}
    ordered = {film: {key: values[key] for key in every} for film, values in films.items()}
    return ValidationResult.of(name, ordered, every, iteration=iteration, method=method)


def films_text(rows: Mapping[str, ValidationResult]) -> str:
    """The table, one line a row, as plain aligned text; what a row does not have is a dash."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row.metrics))
    lines = [["", *columns]]
    for title, row in rows.items():
        cells = []
        for key in columns:
            mean = row.metrics.get(key)
            blank = mean is None or math.isnan(mean.value)
            cells.append("–" if mean is None or blank else f"{mean.value:.{decimals(mean.protocol)}f}")
        lines.append([title, *cells])
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns) + 1)]

    def text(line: Sequence[str]) -> str:
        return "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        )

    return "\n".join(text(line) for line in lines)
