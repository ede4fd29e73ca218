"""The room's door: names without torch, and a list that archs needs and may not import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import atelier.compress
from atelier.archs.load import INHERITING
from atelier.compress.inherit import FAMILIES


def test_options_need_no_torch() -> None:
    code = "import atelier.compress as room, atelier.compress.options, sys; dir(room); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_every_public_name_is_there() -> None:
    assert dir(atelier.compress) == sorted(atelier.compress.__all__)
    for name in atelier.compress.__all__:
        assert getattr(atelier.compress, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'grow'"):
        _ = atelier.compress.grow


def test_messages_offer_inherit_where_there_are_rules() -> None:
    assert tuple(FAMILIES) == INHERITING
