"""Colour distribution consistency: how much the colours of a film change from frame to frame (Liu et al., TCVC, 2021).

Grey films score as well as true ones, so the number means nothing without colourfulness and the truth's own value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atelier.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Frames that are compared lie so far apart.
DISTANCES = (1, 2, 4)


def colour_histogram(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Counts ``[3, 256]`` of an RGB frame ``H×W×3`` of uint8: all that a film's frames need to leave behind.

    Raises:
        UserError: another shape or type.
    """
    import numpy as np

    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
        raise UserError(f"a colour histogram needs a frame H×W×3 of uint8, given {frame.shape} {frame.dtype}")
    return np.stack([np.bincount(frame[..., channel].ravel(), minlength=256) for channel in range(3)])


def cdc(
    histograms: Sequence[npt.NDArray[np.int64]],
    distances: Sequence[int] = DISTANCES,
    scenes: Sequence[int] | None = None,
) -> float:
    """Mean Jensen-Shannon divergence (natural logarithm) between frames i and i + d.

    The mean is over channels and frames for each d, then over d; a d that the film is too short for is left out.

    Args:
        histograms: one of :func:`colour_histogram` a frame, in order.
        distances: the values of d.
        scenes: the scene of each frame; frames of two scenes are not compared. None: it is all one.

    Returns:
        0 for a film that never changes, at most ln 2.

    Raises:
        UserError: fewer than two frames, or no two of one scene that lie a distance apart.
    """
    import numpy as np

    if len(histograms) <= min(distances):
        raise UserError(f"CDC compares frames; the film has {len(histograms)}")
    shares = np.stack(histograms).astype(np.float64)
    shares /= shares.sum(axis=-1, keepdims=True)
    of = np.zeros(len(histograms), int) if scenes is None else np.asarray(scenes)
    found = []
    for d in distances:
        together = of[:-d] == of[d:]
        if together.any():
            found.append(_divergence(shares[:-d][together], shares[d:][together]).mean())
    if not found:
        raise UserError(f"CDC compares frames of one scene; of {len(histograms)} frames no two are")
    return float(np.mean(found))


def _divergence(p: npt.NDArray[Any], q: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Jensen-Shannon divergence over the last axis."""
    import numpy as np

    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(each > 0, each * np.log(each / middle), 0) for each in (p, q)]
    result: npt.NDArray[Any] = (parts[0] + parts[1]).sum(axis=-1) / 2
    return result
