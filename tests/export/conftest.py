from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exports import export_small


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """``exported("compact", ".onnx")``: the main file, exported once for all tests; not to be changed."""
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, suffix: str) -> Path:
        if (name, suffix) not in made:
            pytest.importorskip(
                {".onnx": "onnxruntime", ".xml": "openvino", ".param": "ncnn", ".pt2": "torch"}[suffix]
            )
            output = tmp_path_factory.mktemp("exported") / f"{name}{suffix}"
            export_small(name, output)
            made[name, suffix] = output
        return made[name, suffix]

    return make
