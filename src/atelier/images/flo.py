"""Flow files of the Middlebury benchmark (``.flo``; Baker et al., IJCV 2011)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atelier.errors import UserError

#: The four bytes "PIEH", which are this number in little-endian float32.
_MAGIC = np.float32(202021.25)
_HEADER_BYTES = 12


def read_flo(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """The flow of a file, float32 ``[2, H, W]``: (x, y) displacements in pixels, on the grid the file was made for.

    Raises:
        UserError: naming the file, where it is missing, no flow file, or not of the length its header says.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read flow {path}: {error.strerror or error}") from error
    if len(data) < _HEADER_BYTES or np.frombuffer(data, "<f4", 1)[0] != _MAGIC:
        raise UserError(f"cannot read flow {path}: it does not begin as a .flo file does (202021.25)")
    width, height = (int(side) for side in np.frombuffer(data, "<i4", 2, offset=4))
    wanted = _HEADER_BYTES + 8 * width * height
    if width < 1 or height < 1 or len(data) != wanted:
        raise UserError(
            f"cannot read flow {path}: its header says {width}×{height}, which takes {wanted} bytes, "
            f"but it has {len(data)}"
        )
    pairs = np.frombuffer(data, "<f4", offset=_HEADER_BYTES).reshape(height, width, 2)
    return np.ascontiguousarray(pairs.transpose(2, 0, 1), dtype=np.float32)
