"""Pixels: read and write picture files, resize, colour spaces, and the way between arrays and tensors.

A picture in memory is a C-contiguous numpy array ``H×W×C`` in RGB order, ``uint8``, ``uint16`` or
``float32`` in [0, 1]; C is 1 (grey), 2 (grey + alpha), 3 (RGB) or 4 (RGB + alpha). Tensors are ``N×C×H×W``
float32 in [0, 1].

Names are loaded on first use, so importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier.images.colour import rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
    from atelier.images.files import (
        IMAGE_SUFFIXES,
        Picture,
        decode_image,
        image_shape,
        list_images,
        read_image,
        write_image,
    )
    from atelier.images.resize import imresize
    from atelier.images.tensors import from_tensor, to_tensor

__all__ = [
    "IMAGE_SUFFIXES",
    "Picture",
    "decode_image",
    "from_tensor",
    "image_shape",
    "imresize",
    "list_images",
    "read_image",
    "rgb_to_y",
    "rgb_to_ycbcr",
    "to_tensor",
    "write_image",
    "ycbcr_to_rgb",
]

_HOME = {
    "IMAGE_SUFFIXES": "files",
    "Picture": "files",
    "decode_image": "files",
    "from_tensor": "tensors",
    "image_shape": "files",
    "imresize": "resize",
    "list_images": "files",
    "read_image": "files",
    "rgb_to_y": "colour",
    "rgb_to_ycbcr": "colour",
    "to_tensor": "tensors",
    "write_image": "files",
    "ycbcr_to_rgb": "colour",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
