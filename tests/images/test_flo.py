"""Flow files: what was written comes back, and what is no flow file is named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from atelier.errors import UserError
from atelier.images.flo import read_flo


def test_it_reads_the_format(tmp_path: Path) -> None:
    """A file written byte by byte: 3 wide, 2 high, x = 10 y + column, y = its negative half."""
    data = struct.pack("<f2i", 202021.25, 3, 2)
    for row in range(2):
        for column in range(3):
            data += struct.pack("<2f", 10 * row + column, -(10 * row + column) / 2)
    assert data[:4] == b"PIEH"
    (tmp_path / "a.flo").write_bytes(data)
    flow = read_flo(tmp_path / "a.flo")
    assert flow.shape == (2, 2, 3) and flow.dtype == np.float32 and flow.flags.c_contiguous
    assert flow[0].tolist() == [[0, 1, 2], [10, 11, 12]]
    assert flow[1].tolist() == [[0, -0.5, -1], [-5, -5.5, -6]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin"),
        (b"PNG and so on....", "does not begin"),
        (struct.pack("<f2i", 202021.25, 4, 4) + bytes(8), "says 4×4, which takes 140 bytes, but it has 20"),
        (struct.pack("<f2i", 202021.25, -1, -4) + bytes(32), "-1×-4"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "b.flo"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_flo(path)
    assert "b.flo" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read flow .*none\.flo: No such file"):
        read_flo(tmp_path / "none.flo")
