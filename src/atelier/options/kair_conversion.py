"""One conversion of a KAIR file."""

from __future__ import annotations

from atelier.options import foreign
from atelier.options.kair_table import TABLE


class Conversion(foreign.Conversion):
    """Keys that KAIR does not know may be a fork's own: they are named and ignored, unless they look misspelt."""

    table = TABLE
    sections_read = ("path", "netG", "train")
    data_sets = ("train", "test")
    strict = False
