"""Pictures of ``atelier transfer``: crops to calibrate on, and held-out pictures to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atelier.data.bundled import TRAIN_DEFAULT, VAL_DEFAULT, bundled_path
from atelier.degrade.codec import jpeg_round_trip
from atelier.errors import UserError
from atelier.files import sha256_of
from atelier.images import imresize, list_images, read_image, to_tensor
from atelier.randomness import Streams

CROPS, SIDE = 64, 64
_LARGEST = 160  # side of a held-out input; its middle is used
_SPOILT = 0.3


@dataclass(frozen=True)
class HeldOut:
    """One picture to judge by: name, input [1, C, h, w], ground truth [1, C, H, W] where it is known."""

    name: str
    lq: Tensor
    gt: Tensor


def calibration_crops(
    folder: Path | None, scale: int, channels: int, seed: int
) -> tuple[Tensor, list[dict[str, str]]]:
    """(crops [N, C, side, side] in [0, 1], name and SHA-256 of the files they were cut from).

    A folder's pictures are taken as they are. Without one, bundled photographs are reduced by ``scale``, and by 1.6
    times that. Of the crops, three in ten get mild noise or JPEG blocks.

    Raises:
        UserError: the folder is absent or holds no picture.
    """
    paths = (
        [bundled_path(name) for name in TRAIN_DEFAULT] if folder is None else _listed(folder, "--calibration")
    )
    shrink = (1.0, 1.6) if folder is None else (1.0,)
    pictures = []
    for path in paths:
        pixels = _pixels(path, channels)
        pictures += [_reduced(pixels, scale * each) if folder is None else pixels for each in shrink]
    side = min(SIDE, *(length for each in pictures for length in each.shape[:2]))
    crops = []
    for k in range(CROPS):
        pixels = pictures[k % len(pictures)]
        streams = Streams(seed, 0, k)
        place = streams("calibration crop")
        top, left = (int(place.integers(length - side + 1)) for length in pixels.shape[:2])
        crops.append(to_tensor(_spoilt(pixels[top : top + side, left : left + side], streams)))
    return torch.stack(crops), [{"name": path.name, "sha256": sha256_of(path)} for path in paths]


def held_out_pictures(
    folder: Path | None, scale: int, channels: int
) -> tuple[list[HeldOut], list[dict[str, str]]]:
    """Pictures, reduced by ``scale`` (bicubic), at most 160 pixels a side; and name and SHA-256 of their files.

    Raises:
        UserError: the folder is absent or holds no picture.
    """
    paths = [bundled_path(name) for name in VAL_DEFAULT] if folder is None else _listed(folder, "--gt")
    found = []
    for path in paths:
        pixels = _pixels(path, channels)
        height, width = (min(length // scale, _LARGEST) * scale for length in pixels.shape[:2])
        if not height or not width:
            raise UserError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} is too small for scale {scale}")
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        gt = np.ascontiguousarray(pixels[top : top + height, left : left + width])
        lq = imresize(gt, 1 / scale) if scale > 1 else gt
        found.append(HeldOut(path.stem, to_tensor(lq)[None], to_tensor(gt)[None]))
    return found, [{"name": path.name, "sha256": sha256_of(path)} for path in paths]


def require_disjoint(calibration: Sequence[dict[str, str]], held_out: Sequence[dict[str, str]]) -> None:
    """Raises :class:`UserError` where a file is in both lists: it would judge what it helped to make."""
    known = {each["sha256"]: each["name"] for each in calibration}
    for each in held_out:
        if each["sha256"] in known:
            raise UserError(
                f"{each['name']} is held out and also calibrates (as {known[each['sha256']]}); take it out of one"
            )


def _listed(folder: Path, flag: str) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{flag} {folder} is no folder")
    paths = list(list_images(folder))
    if not paths:
        raise UserError(f"{flag} {folder} holds no picture")
    return paths


def _pixels(path: Path, channels: int) -> Any:
    """uint8 H x W x ``channels`` (1 or 3); alpha is left out, grey is repeated, colour is averaged by BT.601."""
    pixels = read_image(path).pixels
    if pixels.dtype != np.uint8:
        top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
        pixels = np.rint(np.clip(pixels / top, 0, 1) * 255).astype(np.uint8)
    pixels = pixels[:, :, :1] if pixels.shape[2] < 3 else pixels[:, :, :3]
    if channels == 1 and pixels.shape[2] == 3:
        return np.rint(pixels @ np.array([[0.299], [0.587], [0.114]])).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(pixels, channels, axis=2) if pixels.shape[2] < channels else pixels)


def _reduced(pixels: Any, by: float) -> Any:
    return imresize(pixels, 1 / by) if by > 1 else pixels


def _spoilt(pixels: Any, streams: Streams) -> Any:
    draw = streams("calibration degradation")
    pixels = np.ascontiguousarray(pixels)
    if draw.random() >= _SPOILT:
        return pixels
    if draw.random() < 0.5:
        return jpeg_round_trip(pixels, int(draw.integers(60, 96)))
    noisy = pixels + draw.normal(0, draw.uniform(1, 8), pixels.shape)
    return np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)
