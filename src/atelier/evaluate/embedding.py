"""Sample pictures inside the report: cropped where they are large, stored without loss, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atelier.errors import UserError
from atelier.evaluate.results import Pixels, as_dtype
from atelier.evaluate.run_record import SampleFiles
from atelier.images import read_image

#: Largest side of an embedded picture, in pixels of the gt: what two columns of the page show pixel for pixel.
MAX_SIDE = 512
#: Below this side pictures are not cropped further, whatever they cost.
MIN_SIDE = 128


@dataclass(frozen=True)
class Layer:
    """One version of a picture: ``lq``, ``bicubic``, ``restored`` or ``gt``."""

    kind: str
    label: str
    uri: str


@dataclass(frozen=True)
class EmbeddedPicture:
    """All versions of one picture, cut to the same window.

    Attributes:
        layers: in the order lq, bicubic, restored, gt; only those that exist.
        width, height: of the window in gt pixels.
        iteration: of the restored picture; None where it has none.
        notes: what was done to the pictures or is missing, one phrase each.
    """

    layers: list[Layer]
    width: int
    height: int
    iteration: int | None
    notes: list[str] = field(default_factory=list)

    @property
    def zoom(self) -> int:
        """How many times small pictures are enlarged, by whole pixels, to be looked at."""
        return max(1, MAX_SIDE // self.width)

    @property
    def kinds(self) -> list[str]:
        """The kinds of the layers."""
        return [layer.kind for layer in self.layers]


def embed(samples: SampleFiles, max_bytes: int) -> EmbeddedPicture | None:
    """Read and encode one picture's versions, in at most about ``max_bytes`` of base64 text.

    Pictures larger than the window are cut to its middle, never scaled, so every shown pixel is a pixel of the
    file. None when the restored picture cannot be read.
    """
    notes: list[str] = []
    restored = _read(samples.restored, notes)
    if restored is None:
        return None
    height, width = restored.shape[:2]
    versions: dict[str, tuple[Pixels, int]] = {}
    for kind, path in samples.others.items():
        pixels = _read(path, notes)
        if pixels is None:
            continue
        scale = height // pixels.shape[0] if kind == "lq" else 1
        if scale < 1 or (pixels.shape[0] * scale, pixels.shape[1] * scale) != (height, width):
            notes.append(f"{kind} has another size than the restored picture and is left out")
            continue
        versions[kind] = pixels, scale
    versions["restored"] = restored, 1
    scale = versions["lq"][1] if "lq" in versions else 1
    ordered = {
        _label(kind, scale): (kind, *versions[kind])
        for kind in ("lq", "bicubic", "restored", "gt")
        if kind in versions
    }
    named = [Version(kind, label, pixels, times) for label, (kind, pixels, times) in ordered.items()]
    return embed_versions(named, max_bytes, iteration=samples.iteration, notes=notes)


@dataclass(frozen=True)
class Version:
    """One version of a picture in memory; ``times`` is how many gt pixels its pixels stand for, a side."""

    kind: str
    label: str
    pixels: Pixels
    times: int = 1


def embed_versions(
    versions: Sequence[Version],
    max_bytes: int,
    *,
    iteration: int | None = None,
    notes: Sequence[str] = (),
) -> EmbeddedPicture:
    """Encode versions of one picture, the last of them at gt's size, in about ``max_bytes`` of base64 text.

    Pictures larger than the window are cut to its middle, never scaled.
    """
    height, width = versions[-1].pixels.shape[:2]
    scale, side = max(version.times for version in versions), MAX_SIDE
    while True:
        window = middle_window(height, width, side, scale)
        layers = cut_layers(versions, window)
        total = sum(len(layer.uri) for layer in layers)
        if total <= max_bytes or side <= MIN_SIDE:
            break
        side = max(MIN_SIDE, int(min(side, max(height, width)) * (max_bytes / total) ** 0.5 * 0.95))
    cut_height, cut_width = window[2:]
    said = list(notes)
    if (cut_height, cut_width) != (height, width):
        said.insert(0, f"the middle {cut_width}×{cut_height} of {width}×{height} pixels")
    if any(version.pixels.dtype != np.uint8 for version in versions):
        said.append("shown in 8 bit")
    return EmbeddedPicture(layers, cut_width, cut_height, iteration, said)


def cut_layers(versions: Sequence[Version], window: tuple[int, int, int, int]) -> list[Layer]:
    """The versions cut to ``window`` (top, left, height, width in gt pixels), encoded without loss."""
    return [
        Layer(version.kind, version.label, _data_uri(_cut(version.pixels, version.times, window)))
        for version in versions
    ]


def _read(path: Path, notes: list[str]) -> Pixels | None:
    try:
        return read_image(path).pixels
    except UserError:
        notes.append(f"{path.name} cannot be read")
        return None


def _label(kind: str, scale: int) -> str:
    labels = {
        "lq": f"lq (pixels enlarged ×{scale})" if scale > 1 else "lq (input)",
        "bicubic": "bicubic",
        "restored": "restored",
        "gt": "gt (original)",
    }
    return labels[kind]


def middle_window(height: int, width: int, side: int, scale: int) -> tuple[int, int, int, int]:
    """Top, left, height, width of the middle window, aligned to whole lq pixels."""
    cut_height, cut_width = (min(length, side) // scale * scale for length in (height, width))
    top, left = ((height - cut_height) // 2 // scale * scale, (width - cut_width) // 2 // scale * scale)
    return top, left, cut_height, cut_width


def _cut(pixels: Pixels, scale: int, window: tuple[int, int, int, int]) -> Pixels:
    top, left, height, width = (value // scale for value in window)
    return pixels[top : top + height, left : left + width]


def _data_uri(pixels: Pixels) -> str:
    from PIL import Image, features

    eight = as_dtype(pixels, np.uint8)
    if eight.shape[2] == 1:
        eight = eight[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(eight))
    buffer = io.BytesIO()
    kind = "webp" if features.check("webp") else "png"
    if kind == "webp":
        if image.mode == "LA":
            image = image.convert("RGBA")
        image.save(buffer, "WEBP", lossless=True, quality=20, method=1, exact=True)
    else:
        image.save(buffer, "PNG")
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
