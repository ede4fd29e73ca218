"""Where a student's and its teacher's features are strong: kept by a run, painted in its report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atelier.evaluate.embedding import Layer, Version, cut_layers
from atelier.evaluate.results import Pixels
from atelier.files import atomic_write

FILE = "feature_maps.npz"
#: From nothing to the map's largest value: black, violet, orange, pale yellow; brightness rises evenly.
COLOURS = ((8, 8, 20), (98, 30, 110), (214, 78, 72), (251, 176, 60), (252, 250, 200))

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeaturePair:
    """One pair of taps on one picture.

    Attributes:
        title: which modules, as the log tells them.
        student, teacher: H×W, the mean of |feature| over channels.
    """

    title: str
    student: Map
    teacher: Map


@dataclass(frozen=True)
class FeatureRow:
    """A pair as the report shows it: painted maps and the value that the brightest colour stands for."""

    title: str
    layers: list[tuple[Layer, str]]
    width: int
    height: int


def write_feature_maps(folder: Path, lq: Pixels, pairs: Sequence[FeaturePair]) -> None:
    """Keep the maps of ``pairs`` on the picture ``lq`` (H×W×C) in the run's folder."""
    content = io.BytesIO()
    arrays = {
        f"{side}_{k}": getattr(pair, side) for k, pair in enumerate(pairs) for side in ("student", "teacher")
    }
    np.savez_compressed(content, lq=lq, titles=np.array([pair.title for pair in pairs]), **arrays)
    atomic_write(folder / FILE, content.getvalue())


def feature_rows(folder: Path) -> tuple[Layer | None, list[FeatureRow]]:
    """The picture and its rows; (None, []) where the run kept no maps or they cannot be read."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as kept:
            lq: Pixels = kept["lq"]
            pairs = [
                FeaturePair(str(title), kept[f"student_{k}"], kept[f"teacher_{k}"])
                for k, title in enumerate(kept["titles"])
            ]
    except (OSError, ValueError, KeyError):
        return None, []
    return _layer("lq", lq), [_row(pair) for pair in pairs]


def _row(pair: FeaturePair) -> FeatureRow:
    layers = []
    for side in ("student", "teacher"):
        values: Map = getattr(pair, side)
        largest = float(values.max())
        layers.append((_layer(side, paint(values)), f"up to {largest:.3g}, mean {float(values.mean()):.3g}"))
    height, width = pair.student.shape
    return FeatureRow(pair.title, layers, width, height)


def paint(values: Map) -> Pixels:
    """H×W values from 0 to their largest in :data:`COLOURS`; H×W×3 uint8."""
    largest = float(values.max())
    places = np.clip(values / largest, 0, 1) * (len(COLOURS) - 1) if largest > 0 else np.zeros_like(values)
    colours = np.array(COLOURS, np.float64)
    steps = np.arange(len(COLOURS))
    painted = np.stack([np.interp(places, steps, colours[:, channel]) for channel in range(3)], axis=-1)
    colour: Pixels = np.rint(painted).astype(np.uint8)
    return colour


def _layer(kind: str, pixels: Pixels) -> Layer:
    return cut_layers([Version(kind, kind, pixels)], (0, 0, *pixels.shape[:2]))[0]
