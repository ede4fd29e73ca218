"""Changes of reference pictures, so that a matcher learns meaning and not equal values.

In this order: hue, saturation, brightness, permutation of the channels, mirror, thin-plate spline. What is drawn is a
function of the sample's streams alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from atelier.data.clip_sources import Colours, RawClip
from atelier.randomness import Streams

if TYPE_CHECKING:
    from atelier.data.clip_options import AugmentOptions

Floats = npt.NDArray[np.float32]
#: All orders of the channels but the one they have.
_ORDERS = tuple(permutations(range(3)))[1:]
#: Control points move by up to this share of the shorter side times the strength.
_SHIFT = 0.15


@dataclass(frozen=True)
class ColourChange:
    """Hue in degrees; saturation and brightness as factors; the order of the channels, None as it is."""

    hue: float = 0.0
    saturation: float = 1.0
    brightness: float = 1.0
    order: tuple[int, ...] | None = None

    @property
    def changes(self) -> bool:
        """False where pictures stay bit for bit."""
        return self != ColourChange()


@dataclass(frozen=True)
class ShapeChange:
    """Mirrored or not; shifts (x, y) of the five inner control points in shares of the shorter side, None for none."""

    mirror: bool = False
    shifts: tuple[tuple[float, float], ...] | None = None


def draw_colours(options: AugmentOptions, stream: np.random.Generator) -> ColourChange:
    """One change of colours; always takes the same count of numbers from the stream."""
    hue, saturation, brightness, permute, which = (float(each) for each in stream.random(5))
    low, high = options.saturation
    dark, bright = options.brightness
    return ColourChange(
        hue=options.hue * (2 * hue - 1),
        saturation=low + (high - low) * saturation,
        brightness=dark + (bright - dark) * brightness,
        order=_ORDERS[int(which * len(_ORDERS))] if permute < options.permute else None,
    )


def draw_shape(options: AugmentOptions, stream: np.random.Generator) -> ShapeChange:
    """One change of shape."""
    mirror, bend = stream.random(2)
    reach = _SHIFT * options.tps_strength
    inner = tuple((float(x), float(y)) for x, y in reach * (2 * stream.random((5, 2)) - 1))
    return ShapeChange(bool(mirror < options.flip), inner if bend < options.tps else None)


def augmented(clip: RawClip, options: AugmentOptions, streams: Streams) -> RawClip:
    """The clip with its exemplars changed; with ``apply_to: both`` frames and anchors get the same colours.

    Anchors keep their shape, and without ``both`` their colours: they are the true picture of a frame.
    """
    if not options.changes:
        return clip
    both = options.apply_to == "both"
    common = draw_colours(options, streams("augment colours")) if both else ColourChange()
    references: list[Colours] = []
    for number, (picture, role) in enumerate(zip(clip.references, clip.roles, strict=True)):
        if role != "exemplar":
            references.append(recoloured(picture, common))
            continue
        colours = common if both else draw_colours(options, streams(f"augment colours {number}"))
        references.append(
            reshaped(recoloured(picture, colours), draw_shape(options, streams(f"augment shape {number}")))
        )
    return replace(clip, frames=[recoloured(frame, common) for frame in clip.frames], references=references)


def recoloured(picture: Colours, change: ColourChange) -> Colours:
    """RGB ``h×w×3`` of any depth with its colours changed, float32 in [0, 1]; the picture itself where none change.

    Hue and saturation are those of HSV.
    """
    import cv2

    if not change.changes:
        return picture
    rgb = _floats(picture)
    if change.hue or change.saturation != 1 or change.brightness != 1:
        hsv: Any = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + change.hue) % 360
        hsv[..., 1] = (hsv[..., 1] * change.saturation).clip(0, 1)
        hsv[..., 2] = (hsv[..., 2] * change.brightness).clip(0, 1)
        rgb = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
    return np.ascontiguousarray(rgb if change.order is None else rgb[..., list(change.order)])


def reshaped(picture: Colours, change: ShapeChange) -> Colours:
    """``h×w×3`` mirrored and bent, of the same size and type; what comes from outside is reflected."""
    import cv2

    if change.mirror:
        picture = picture[:, ::-1]
    if change.shifts is None:
        return np.ascontiguousarray(picture)
    x, y = bending(picture.shape[0], picture.shape[1], change.shifts)
    bent: Colours = cv2.remap(
        np.ascontiguousarray(picture), x, y, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return bent


def bending(height: int, width: int, shifts: Sequence[tuple[float, float]]) -> tuple[Floats, Floats]:
    """Where each pixel comes from, x and y ``[height, width]``: a thin-plate spline over 3×3 control points.

    The corners stay; ``shifts`` moves the five others (top, left, centre, right, bottom) in shares of the shorter side.
    Source: Bookstein, IEEE TPAMI 11 (1989): ``a + b x + c y + sum of w U(r)`` with U(r) = r² log r².
    """
    shorter = min(height, width)
    corner = np.array([width - 1, height - 1]) / shorter
    points = np.array([(x, y) for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)]) * corner
    moved = np.zeros((9, 2))
    moved[[1, 3, 4, 5, 7]] = shifts
    system = np.zeros((12, 12))
    system[:9, :9] = _plate(points[:, None] - points[None])
    system[:9, 9], system[:9, 10:] = 1, points
    system[9:, :9] = system[:9, 9:].T
    weights = np.linalg.solve(system, np.vstack([moved, np.zeros((3, 2))]))
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1) / shorter
    shift = weights[9] + places @ weights[10:]
    for point, weight in zip(points, weights[:9], strict=True):
        shift += _plate(places - point)[..., None] * weight
    result = ((places + shift) * shorter).astype(np.float32)
    return np.ascontiguousarray(result[..., 0]), np.ascontiguousarray(result[..., 1])


def _plate(offset: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    squared = (offset**2).sum(axis=-1)
    result: npt.NDArray[np.float64] = squared * np.log(np.where(squared > 0, squared, 1))
    return result


def _floats(picture: Colours) -> Floats:
    if picture.dtype == np.float32:
        return picture
    return np.ascontiguousarray(picture, np.float32) / np.float32(np.iinfo(picture.dtype).max)
