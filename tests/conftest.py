"""Fixtures shared by all rooms."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

# Two test processes on two cores: one thread each, or they fight. Set before torch is imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples at every run, however slow the machine: a red result means a changed program.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Shard caches of tests never touch the user's cache folder."""
    os.environ["ATELIER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def atelier_command() -> list[str]:
    """The command line in a fresh process."""
    return [sys.executable, "-m", "atelier"]
