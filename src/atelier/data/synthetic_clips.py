"""Short films with exactly known motion, made of two photographs: the offline material for video colouring.

A photograph is turned, scaled and shifted slowly; a disc cut out of another one flies in front of it. Motion,
validity and occlusion follow from the two maps, so they are exact where optical flow could only estimate them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from atelier.data.bundled import bundled_path, check_names

#: The photographs that training clips are made of; none of them is in :data:`HELD_OUT`.
TRAINING: tuple[str, ...] = ("astronaut", "coffee", "rocket", "motorcycle_left")
#: The photograph that only evaluation sees.
HELD_OUT: tuple[str, ...] = ("chelsea",)

#: Ranges of what is drawn (per frame where it is a speed).
_ZOOM, _TURN, _FIRST_ANGLE, _SPEED = 0.01, 0.01, 0.2, 2.0
_RADIUS, _TEXTURE = 0.18, 1.5
#: At 1 % a frame a longer clip could shrink to nothing; half the first scale is the least that is reached.
LONGEST = 50

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clip:
    """A film of T frames with its motion.

    Attributes:
        rgb: frames, uint8 ``[T, S, S, 3]``, sRGB.
        flow: backward flow, float32 ``[T, 2, S, S]``: (x, y) in pixels from frame t to frame t - 1 on frame t's grid,
            so that frame t at x is frame t - 1 at x + flow. Frame 0 has no predecessor: zeros.
        valid: bool ``[T, S, S]``: the same surface is seen at t - 1, inside the picture. False at frame 0.
        occluded: bool ``[T, S, S]``: the place at t - 1 is inside the picture but shows the other surface.
    """

    rgb: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    occluded: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Background:
    """The map of frame t: a place x in the crop lies at ``centre + t·speed + scale(t)·R(angle(t))·(x - middle)``."""

    middle: Floats
    centre: Floats
    speed: Floats
    scale: float
    zoom: float
    angle: float
    turn: float

    def _matrix(self, t: int) -> Floats:
        angle = self.angle + self.turn * t
        cos, sin = np.cos(angle), np.sin(angle)
        return self.scale * (1 + self.zoom * t) * np.array([[cos, -sin], [sin, cos]])

    def to_source(self, places: Floats, t: int) -> Floats:
        """Where crop places ``[..., 2]`` lie in the photograph, both as (x, y)."""
        result: Floats = (places - self.middle) @ self._matrix(t).T + self.centre + self.speed * t
        return result

    def from_source(self, places: Floats, t: int) -> Floats:
        """The inverse of :meth:`to_source`."""
        inverse = np.linalg.inv(self._matrix(t))
        result: Floats = (places - self.centre - self.speed * t) @ inverse.T + self.middle
        return result


def synthetic_clip(
    background: npt.NDArray[np.uint8],
    foreground: npt.NDArray[np.uint8],
    frames: int,
    size: int,
    stream: np.random.Generator,
) -> Clip:
    """A clip of ``frames`` square frames with exact backward flow.

    The background's scale starts anywhere between one source pixel a pixel and 80 % of the photograph's shorter side
    across the crop, its angle within ±0.2; both change by up to 1 % (0.01 radian) a frame, while the crop moves up to
    2 px a frame and axis. The disc (radius 0.18 of the side) starts in the middle 40 % and moves at up to 2 px a frame
    and axis. Pixels are taken bilinearly, beyond the photograph by reflection.

    Args:
        background: the photograph behind, ``H×W×3`` uint8; its shorter side at least 1.25 ``size``.
        foreground: the photograph that the disc is cut from, ``H×W×3`` uint8.
        frames: number of frames, 1 to :data:`LONGEST`.
        size: side of the frames in pixels, at least 8.
        stream: what everything is drawn from, for example ``Streams(seed, step, sample)("clip")``.

    Raises:
        ValueError: for pictures or numbers that are not as described.
    """
    _check(background, foreground, frames, size)
    height, width = background.shape[:2]
    scale = float(stream.uniform(1.0, 0.8 * min(height, width) / size))
    camera = _Background(
        middle=np.full(2, (size - 1) / 2),
        scale=scale,
        zoom=float(stream.uniform(-_ZOOM, _ZOOM)),
        turn=float(stream.uniform(-_TURN, _TURN)),
        angle=float(stream.uniform(-_FIRST_ANGLE, _FIRST_ANGLE)),
        speed=stream.uniform(-_SPEED, _SPEED, 2) * scale,
        centre=stream.uniform(0.4, 0.6, 2) * (width - 1, height - 1),
    )
    start = stream.uniform(0.3, 0.7, 2) * size
    speed = stream.uniform(-_SPEED, _SPEED, 2)
    cut_from = stream.uniform(0.4, 0.6, 2) * (foreground.shape[1] - 1, foreground.shape[0] - 1)

    grid: Floats = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).astype(np.float64)
    rgb = np.empty((frames, size, size, 3), np.uint8)
    flow = np.zeros((frames, 2, size, size), np.float32)
    valid = np.zeros((frames, size, size), np.bool_)
    occluded = np.zeros_like(valid)
    before = np.zeros((size, size), np.bool_)
    for t in range(frames):
        offset = grid - (start + speed * t)
        disc = np.hypot(offset[..., 0], offset[..., 1]) <= _RADIUS * size
        behind = camera.to_source(grid, t)
        picture = _bilinear(background, behind)
        picture[disc] = _bilinear(foreground, cut_from + _TEXTURE * offset[disc])
        rgb[t] = np.rint(picture)
        if t:
            earlier = np.where(disc[..., None], grid - speed, camera.from_source(behind, t - 1))
            flow[t] = np.moveaxis(earlier - grid, -1, 0)
            inside = ((earlier >= 0) & (earlier <= size - 1)).all(axis=-1)
            x, y = np.moveaxis(np.rint(earlier).clip(0, size - 1).astype(np.intp), -1, 0)
            same = before[y, x] == disc
            valid[t], occluded[t] = inside & same, inside & ~same
        before = disc
    return Clip(rgb, flow, valid, occluded)


def bundled_clip(names: Sequence[str], frames: int, size: int, stream: np.random.Generator) -> Clip:
    """:func:`synthetic_clip` of bundled colour photographs: background and disc are drawn from ``names``.

    The two are different photographs where more than one is named.

    Raises:
        ValueError: for an unknown name, or as :func:`synthetic_clip`.
        UserError: where scikit-image's pictures are not installed.
    """
    check_names(list(names))
    behind = int(stream.integers(len(names)))
    others = [name for name in names if name != names[behind]] or list(names)
    front = others[int(stream.integers(len(others)))]
    return synthetic_clip(photograph(names[behind]), photograph(front), frames, size, stream)


@lru_cache(maxsize=8)
def photograph(name: str) -> npt.NDArray[np.uint8]:
    """A bundled colour photograph, ``H×W×3`` uint8, read once a process; not to be written to."""
    from atelier.images.files import read_image

    pixels = read_image(bundled_path(name)).pixels[:, :, :3]
    pixels.setflags(write=False)
    return pixels.astype(np.uint8, copy=False)


def _check(
    background: npt.NDArray[np.uint8], foreground: npt.NDArray[np.uint8], frames: int, size: int
) -> None:
    for role, picture in (("background", background), ("foreground", foreground)):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"the {role} must be H×W×3 of uint8, not {picture.shape} of {picture.dtype}")
    if not 1 <= frames <= LONGEST:
        raise ValueError(f"frames must be 1 to {LONGEST}, given {frames}")
    if size < 8:
        raise ValueError(f"size must be at least 8, given {size}")
    height, width = background.shape[:2]
    if 0.8 * min(height, width) < size:
        raise ValueError(
            f"a background of {width}×{height} is too small for frames of {size}: its shorter side must be at least "
            f"{int(np.ceil(size / 0.8))}"
        )


def _bilinear(picture: npt.NDArray[np.uint8], places: Floats) -> Floats:
    """Values ``[..., 3]`` at (x, y) places ``[..., 2]``, float64; OpenCV's remap would round places to 1/32 px."""
    height, width = picture.shape[:2]
    corner = np.floor(places)
    (right, down) = np.moveaxis(places - corner, -1, 0)[..., None]
    x0, y0 = np.moveaxis(corner.astype(np.intp), -1, 0)
    x1, y1 = _reflected(x0 + 1, width), _reflected(y0 + 1, height)
    x0, y0 = _reflected(x0, width), _reflected(y0, height)
    upper = picture[y0, x0] * (1 - right) + picture[y0, x1] * right
    lower = picture[y1, x0] * (1 - right) + picture[y1, x1] * right
    result: Floats = upper * (1 - down) + lower * down
    return result


def _reflected(index: npt.NDArray[np.intp], length: int) -> npt.NDArray[np.intp]:
    """Indices mirrored at the edge pixels, which are not repeated."""
    period = max(2 * (length - 1), 1)
    folded = np.abs(index) % period
    result: npt.NDArray[np.intp] = np.minimum(folded, period - folded)
    return result
