"""The room's door: names without torch, options without torch, everything in its place."""

from __future__ import annotations

import subprocess
import sys

import pytest

import atelier.archs
from atelier.archs import NETWORKS, NetworkOptions
from atelier.errors import UserError

HEAVY = ("torch", "torchvision", "cv2", "spandrel", "safetensors")


@pytest.mark.parametrize(
    "statement",
    [
        "import atelier.archs; dir(atelier.archs)",
        "from atelier.archs import swinir_options, compact_options, network_options, registry, facts, load_report",
        "from atelier.archs import NETWORKS; [NETWORKS.options_class(name)() for name in NETWORKS]",
        "from atelier.archs.swinir_options import SwinIROptions as S; S.recognises({}); S().model_dump_json()",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    code = f"{statement}\nimport sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_loading_our_own_files_leaves_spandrel_alone() -> None:
    code = "import atelier.archs.load, sys; print('torch' in sys.modules, 'spandrel' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "False"]


def test_every_public_name_is_there() -> None:
    assert dir(atelier.archs) == sorted(atelier.archs.__all__)
    for name in atelier.archs.__all__:
        assert getattr(atelier.archs, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'SwinIr'"):
        _ = atelier.archs.SwinIr


def test_the_registry() -> None:
    assert NETWORKS.names()[:2] == ["SwinIR", "SRVGGNetCompact"]
    for name in NETWORKS:
        options_class = NETWORKS.options_class(name)
        assert issubclass(options_class, NetworkOptions)
        assert options_class.model_fields["type"].default == name
        assert set(options_class.model_fields) > options_class.not_in_shapes
        assert options_class.scale_key in {None, *options_class.model_fields}
    with pytest.raises(UserError, match=r"unknown network 'swinir'.*did you mean 'SwinIR'"):
        NETWORKS.options_class("swinir")
