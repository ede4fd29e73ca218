"""Jobs that test processes run; a module of its own, so that they find it by name."""

from __future__ import annotations

import os
import sys


def loaded(_: int) -> tuple[bool, bool, int]:
    """Whether torch is loaded, whether OpenCV is, and which process this is."""
    import atelier.data.cropping
    import atelier.data.extract
    import atelier.data.lmdb_writer
    import atelier.data.meta_info_writer
    import atelier.data.multiscale
    import atelier.data.set5
    import atelier.data.subset  # noqa: F401
    from atelier.images import imresize, read_image  # noqa: F401

    return "torch" in sys.modules, "cv2" in sys.modules, os.getpid()


def die(number: int) -> int:
    """End the process as the system does when memory runs out."""
    if number == 1:
        os._exit(9)
    return number
