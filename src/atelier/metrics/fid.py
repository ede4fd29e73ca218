"""Fréchet inception distance between two sets of frames (Heusel et al., NeurIPS 2017)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.errors import UserError
from atelier.metrics.measured import Measured

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    Floats = npt.NDArray[np.float64]

#: torchvision's file of Inception v3 trained on ImageNet.
INCEPTION_FILE = "inception_v3_google-0cc3c7bd.pth"
#: With fewer frames than features the covariances are singular and the number is mostly bias.
LEAST_FRAMES = 2048
_SIDE = 299


class FeatureStatistics:
    """Mean and covariance of feature vectors that come in portions; float64, constant memory."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Any = 0.0
        self._products: Any = 0.0

    def add(self, features: Floats) -> None:
        """More vectors ``[N, C]``."""
        wide = features.astype("float64")
        self.count += len(wide)
        self._sum = self._sum + wide.sum(axis=0)
        self._products = self._products + wide.T @ wide

    def mean(self) -> Floats:
        """``[C]``; at least one vector must have come."""
        result: Floats = self._sum / self.count
        return result

    def covariance(self) -> Floats:
        """Unbiased, ``[C, C]``; at least two vectors must have come."""
        import numpy as np

        mean = self.mean()
        result: Floats = (self._products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return result


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """|μ1 - μ2|² + tr(C1 + C2 - 2 (C1 C2)^½) of two normal distributions; 0 for equal ones.

    The trace of the root is taken from the eigenvalues of C1^½ C2 C1^½, which is symmetric as C1 C2 is not.
    """
    import numpy as np

    apart = first.mean() - second.mean()
    c1, c2 = first.covariance(), second.covariance()
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ c2 @ root)
    return float(apart @ apart + np.trace(c1) + np.trace(c2) - 2 * np.sqrt(inner.clip(0)).sum())


class Fid:
    """FID over a whole set of frames, on torchvision's Inception v3 (its 2,048 pooled features).

    Frames are resized to 299×299 (bilinear, antialiased) and shown as values in [-1, 1]. The numbers differ from those
    of other weights of the same network, so only tables made here may be compared.

    Args:
        weights: torchvision's file; None looks in ``experiments/pretrained_models`` and torch's cache. Nothing is
            downloaded: where it is missing, :meth:`result` says so.

    Raises:
        UserError: the file does not hold the network.
    """

    def __init__(self, weights: Path | None = None) -> None:
        import torch

        from atelier.losses.perceptual import weight_places

        places = [weights] if weights is not None else weight_places(INCEPTION_FILE, torch.hub.get_dir())
        found = next((place for place in places if place.is_file()), None)
        looked = " and ".join(str(place) for place in places)
        self._missing = (
            f"weights not available: Inception v3 ({INCEPTION_FILE}) is not at {looked}"
            if found is None
            else None
        )
        self._network = None if found is None else _inception(found)
        self._restored, self._gt = FeatureStatistics(), FeatureStatistics()

    def add(self, restored: Tensor, gt: Tensor) -> None:
        """Frames of both sets, sRGB ``[N, 3, H, W]`` in [0, 1]; nothing is computed where the weights are missing."""
        if self._network is None:
            return
        for statistics, frames in ((self._restored, restored), (self._gt, gt)):
            statistics.add(_features(self._network, frames))

    def result(self) -> Measured:
        """The distance, or why there is none: weights missing, or fewer than 2,048 frames."""
        if self._missing is not None:
            return Measured(None, self._missing)
        if self._restored.count < LEAST_FRAMES:
            return Measured(
                None,
                f"FID needs at least {LEAST_FRAMES} frames over the whole set; there are {self._restored.count}",
            )
        return Measured(frechet_distance(self._restored, self._gt))


def _features(network: nn.Module, frames: Tensor) -> Floats:
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        resized = F.interpolate(
            frames.float(), size=(_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True
        )
        result: Floats = network(2 * resized - 1).double().numpy()
    return result


def _inception(path: Path) -> nn.Module:
    import torch
    from torchvision import models

    with torch.device("meta"):
        network: nn.Module = models.inception_v3(
            weights=None, init_weights=False, aux_logits=True, transform_input=False
        )
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"fid: {path} does not hold torchvision's Inception v3: {first}") from error
    network.fc = torch.nn.Identity()
    return network.eval().requires_grad_(False)
