"""LPIPS, the learned perceptual distance (Zhang et al., CVPR 2018), version 0.1 on AlexNet features."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from atelier.errors import UserError
from atelier.metrics.measured import Measured
from atelier.metrics.options import Metric, MetricOptions

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

#: torchvision's file of AlexNet trained on ImageNet.
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
#: The five ReLU outputs of ``torchvision.models.alexnet().features`` that are compared.
_TAPS = (1, 4, 7, 9, 11)
#: Channel shift and scale on pictures in [-1, 1]: ImageNet's mean and deviation, as the authors rounded them.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-10
#: Below this AlexNet's last pooling has nothing left.
_LEAST = 32


class WeightsMissing(UserError):
    """LPIPS cannot be computed here: a weight file is not on this machine, and none is fetched unasked."""


class Lpips:
    """The distance with its weights loaded, float32 on the CPU.

    Args:
        alexnet: torchvision's AlexNet file; None looks in ``experiments/pretrained_models`` and torch's cache.
        linear: the authors' ``alex.pth`` of version 0.1; None takes the installed package ``lpips``'s own.

    Raises:
        WeightsMissing: one of the files is not there.
        UserError: a file does not hold what it should.
    """

    def __init__(self, alexnet: Path | None = None, linear: Path | None = None) -> None:
        import torch
        from torchvision import models

        alexnet_path, linear_path = find_weights(alexnet, linear)
        with torch.device("meta"):
            self._features = models.alexnet(weights=None).features.eval()
        stored = _read(alexnet_path)
        try:
            own = {name: stored[f"features.{name}"] for name in self._features.state_dict()}
            self._features.load_state_dict(own, assign=True)
        except (KeyError, RuntimeError) as error:
            raise UserError(f"lpips: {alexnet_path} does not hold AlexNet's features: {error}") from error
        weights = _read(linear_path)
        self._linear = []
        for index, tap in enumerate(_TAPS):
            channels = int(self._features[tap - 1].out_channels)
            weight = weights.get(f"lin{index}.model.1.weight")
            if weight is None or tuple(weight.shape) != (1, channels, 1, 1):
                raise UserError(
                    f"lpips: {linear_path} does not hold lin{index}.model.1.weight of 1×{channels}×1×1; "
                    "expected is alex.pth of LPIPS version 0.1"
                )
            self._linear.append(weight.float())
        self._features.requires_grad_(False)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances ``N`` of pictures ``N×3×H×W`` in [0, 1]; 0 for equal ones, the order does not matter."""
        import torch

        with torch.no_grad():
            total = torch.zeros(first.shape[0])
            pairs = zip(self._taps(first), self._taps(second), self._linear, strict=True)
            for one, other, weight in pairs:
                squared = (_unit(one) - _unit(other)).square()
                total += (squared * weight).sum(dim=1).mean(dim=(1, 2))
        return total

    def _taps(self, picture: Tensor) -> list[Tensor]:
        import torch

        shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
        current = (picture.float() * 2 - 1 - shift) / scale
        found = []
        for index, layer in enumerate(self._features[: _TAPS[-1] + 1]):
            current = layer(current)
            if index in _TAPS:
                # torchvision's next ReLU works in place, but on the next convolution's output, never on this one.
                found.append(current)
        return found


class MeanLpips:
    """LPIPS averaged over frames, or the reason why it cannot be measured; arguments as :class:`Lpips`."""

    def __init__(self, alexnet: Path | None = None, linear: Path | None = None) -> None:
        self._network: Lpips | None = None
        self._missing: str | None = None
        self._sum, self._count = 0.0, 0
        try:
            self._network = Lpips(alexnet, linear)
        except WeightsMissing as missing:
            self._missing = "weights not available: " + str(missing).removeprefix("weights missing: ")

    def add(self, restored: Tensor, gt: Tensor) -> None:
        """Frames ``[N, 3, H, W]`` in [0, 1], sides of 32 and more; the network sees them in [-1, 1]."""
        if self._network is not None:
            self._sum += float(self._network(restored, gt).sum())
            self._count += len(restored)

    def result(self) -> Measured:
        """The mean, or why there is none."""
        if self._missing is not None:
            return Measured(None, self._missing)
        if self._count == 0:
            return Measured(None, "no frames were measured")
        return Measured(self._sum / self._count)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + _EPS)


def find_weights(alexnet: Path | None = None, linear: Path | None = None) -> tuple[Path, Path]:
    """Both weight files, given or found without any network; raises :class:`WeightsMissing` saying what to do."""
    import torch

    from atelier.losses.perceptual import weight_places

    places = [alexnet] if alexnet is not None else weight_places(ALEXNET_FILE, torch.hub.get_dir())
    backbone = next((place for place in places if place.is_file()), None)
    if backbone is None:
        looked = " and ".join(str(place) for place in places)
        raise WeightsMissing(f"weights missing: AlexNet ({ALEXNET_FILE}) is not at {looked}")
    if linear is None:
        package = find_spec("lpips")
        if package is None or package.origin is None:
            raise WeightsMissing(
                "weights missing: pip install 'atelier[metrics]' brings LPIPS's own small ones"
            )
        linear = Path(package.origin).parent / "weights" / "v0.1" / "alex.pth"
    if not linear.is_file():
        raise WeightsMissing(f"weights missing: {linear} does not exist")
    return backbone, linear


def _read(path: Path) -> dict[str, Any]:
    import torch

    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"lpips: {path} cannot be read as a PyTorch weight file: {error}") from error
    return stored if isinstance(stored, dict) else {}


class LPIPSOptions(MetricOptions):
    """LPIPS 0.1 (AlexNet); needs weight files on this machine and never downloads them."""

    type: Literal["lpips"] = "lpips"
    alexnet: Path | None = Field(
        None, description="torchvision's AlexNet file; null: experiments/pretrained_models, torch's cache"
    )
    linear: Path | None = Field(None, description="LPIPS 0.1's alex.pth; null: the installed package lpips")
    label: ClassVar[str] = "LPIPS"
    natural_sense: ClassVar[Literal["higher", "lower"]] = "lower"
    smallest: ClassVar[int] = _LEAST

    def build(self, scale: int, channels: int = 3) -> Metric:
        """The metric with its weights loaded; errors as :class:`Lpips`."""
        if self.test_y_channel:
            raise UserError("metric lpips: it is defined on RGB pictures; remove test_y_channel")
        crop = scale if self.crop_border is None else self.crop_border
        distance = self.function()

        def measure(restored: npt.NDArray[Any], gt: npt.NDArray[Any]) -> float:
            return distance(restored, gt, crop_border=crop)

        return Metric(
            f"LPIPS (AlexNet 0.1, crop {crop})",
            self.better == "higher",
            measure,
            self.smallest + 2 * crop,
        )

    def function(self) -> Callable[..., float]:
        """LPIPS of two pictures ``H×W×C``; grey ones count as RGB of three equal channels."""
        import torch

        from atelier.metrics.prepare import comparable

        network = Lpips(self.alexnet, self.linear)

        def distance(a: npt.NDArray[Any], b: npt.NDArray[Any], *, crop_border: int = 0) -> float:
            first, second, peak = comparable(a, b, crop_border=crop_border, y=False, least=_LEAST)
            tensors = [
                torch.from_numpy(planes / peak).permute(2, 0, 1)[None].float().expand(-1, 3, -1, -1)
                for planes in (first, second)
            ]
            return float(network(*tensors))

        return distance
