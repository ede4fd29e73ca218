"""VGG features and the perceptual loss that compares them."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.losses.module import Loss, shape_text
from atelier.losses.perceptual import (
    RANDOM,
    Criterion,
    PerceptualLossOptions,
    VggType,
    layer_names,
    weight_places,
)

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CONNECT_TIMEOUT_S = 20.0

DISTANCES: dict[Criterion, Callable[[Tensor], Tensor]] = {
    "l1": lambda difference: difference.abs().mean(),
    "l2": lambda difference: difference.square().mean(),
    "fro": lambda difference: difference.square().sum().sqrt(),
}


class VggFeatures(nn.Module):
    """Named intermediate tensors of torchvision's VGG, frozen and always in eval mode.

    Args:
        layers: names to return (see :func:`atelier.losses.perceptual.layer_names`); nothing deeper is built.
        weights: a path, ``random`` (tests), or None to search and download.

    Calling it with N×3×H×W or N×1×H×W (repeated to three channels) gives ``{name: N×C×h×w}``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: list[str],
        vgg_type: VggType = "vgg19",
        *,
        weights: str | None = None,
        use_input_norm: bool = True,
        range_norm: bool = False,
    ) -> None:
        super().__init__()
        names = layer_names(vgg_type)
        self.wanted = frozenset(layers)
        self.names = names[: max(names.index(layer) for layer in layers) + 1]
        self.use_input_norm, self.range_norm = use_input_norm, range_norm
        self.features = _load_features(vgg_type, len(self.names), weights)
        for before, layer in zip(self.names, self.features[1:], strict=False):
            # torchvision's ReLU overwrites its input, which must survive where it is one of the results.
            if isinstance(layer, nn.ReLU):
                layer.inplace = before not in self.wanted
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> VggFeatures:
        """Stays in eval mode: a frozen network whose batch statistics moved would not be frozen."""
        return super().train(False)

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        """Features by name; raises :class:`~atelier.errors.UserError` unless there are 1 or 3 channels."""
        if picture.shape[1] not in (1, 3):
            raise UserError(
                f"PerceptualLoss compares pictures of 1 or 3 channels, given {shape_text(picture)}"
            )
        current = picture.expand(-1, 3, -1, -1)
        if self.range_norm:
            current = (current + 1) / 2
        if self.use_input_norm:
            current = (current - self.mean) / self.std
        found: dict[str, Tensor] = {}
        for name, layer in zip(self.names, self.features, strict=True):
            current = layer(current)
            if name in self.wanted:
                found[name] = current
        return found


class PerceptualLoss(Loss):
    """Weighted sums over layers: ``percep`` compares features, ``style`` their Gram matrices."""

    def __init__(self, options: PerceptualLossOptions) -> None:
        super().__init__()
        self.options = options
        self.vgg = VggFeatures(
            list(options.layer_weights),
            options.vgg_type,
            weights=options.vgg_weights,
            use_input_norm=options.use_input_norm,
            range_norm=options.range_norm,
        )

    def terms(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """``percep`` and/or ``style``, each times its own weight and ``loss_weight``."""
        options = self.options
        with torch.no_grad():
            wanted = self.vgg(target)
        seen = self.vgg(prediction)
        result: dict[str, Tensor] = {}
        if options.perceptual_weight:
            result["percep"] = options.loss_weight * options.perceptual_weight * self._compare(seen, wanted)
        if options.style_weight:
            seen = {name: gram_matrix(features) for name, features in seen.items()}
            wanted = {name: gram_matrix(features) for name, features in wanted.items()}
            result["style"] = options.loss_weight * options.style_weight * self._compare(seen, wanted)
        return result

    def _compare(self, seen: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
        """Weighted sum over the layers of the distances between ``seen`` and ``wanted``."""
        distance = DISTANCES[self.options.criterion]
        weights = self.options.layer_weights
        return torch.stack([w * distance(seen[name] - wanted[name]) for name, w in weights.items()]).sum()


def gram_matrix(features: Tensor) -> Tensor:
    """Channel products N×C×C of N×C×H×W features, divided by C·H·W (Johnson et al., 2016)."""
    count, channels, height, width = features.shape
    flat = features.reshape(count, channels, height * width)
    return flat @ flat.transpose(1, 2) / (channels * height * width)


def _load_features(vgg_type: VggType, depth: int, weights: str | None) -> nn.Sequential:
    """The first ``depth`` layers with their weights; shaped without memory, so nothing is drawn."""
    from torchvision import models

    with torch.device("meta"):
        features: nn.Sequential = models.get_model(vgg_type, weights=None).features[:depth]
    state = _random_state(features) if weights == RANDOM else _state_from_file(features, vgg_type, weights)
    features.load_state_dict(state, assign=True)
    return features


def _random_state(features: nn.Sequential) -> dict[str, Tensor]:
    """Fixed random weights, scaled so that signals keep their size (He et al., 2015); tests only."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, like in features.state_dict().items():
        if like.dim() == 4:
            scale = (2 / (like.shape[1] * like.shape[2] * like.shape[3])) ** 0.5
            state[name] = torch.randn(like.shape, generator=generator) * scale
        elif name.endswith("running_var") or (name.endswith("weight") and like.dim() == 1):
            state[name] = torch.ones(like.shape)
        else:
            state[name] = torch.zeros(like.shape, dtype=like.dtype)
    return state


def _state_from_file(features: nn.Sequential, vgg_type: VggType, weights: str | None) -> dict[str, Tensor]:
    """The tensors ``features`` needs, read from ``weights`` or found; raises UserError naming the file."""
    path = Path(weights).expanduser() if weights is not None else _find_or_download(vgg_type)
    if not path.is_file():
        raise UserError(
            f"vgg_weights: there is no file '{weights}'; give the path of a {vgg_type} weight file"
        )
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"vgg_weights: '{path}' cannot be read as a PyTorch weight file: {error}") from error
    state: dict[str, Tensor] = {}
    for name, like in features.state_dict().items():
        tensor = stored.get(f"features.{name}") if isinstance(stored, Mapping) else None
        if not isinstance(tensor, Tensor) or tensor.shape != like.shape:
            given = shape_text(tensor) if isinstance(tensor, Tensor) else "nothing"
            raise UserError(
                f"vgg_weights: '{path}' does not hold {vgg_type}: 'features.{name}' should be "
                f"{shape_text(like)}, found {given}"
            )
        state[name] = tensor.to(like.dtype).clone()  # a copy, so that the file's other 400 MB are let go
    return state


def _find_or_download(vgg_type: VggType) -> Path:
    """The weight file of torchvision's ``vgg_type``: found in one of the known places or downloaded there."""
    from torchvision import models

    url: str = models.get_model_weights(vgg_type).IMAGENET1K_V1.url
    places = weight_places(url.rpartition("/")[2], torch.hub.get_dir())
    for place in places:
        if place.is_file():
            return place
    target = places[-1]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _connect_timeout():
            # Written to a temporary name beside the target, its hash compared with the one in the file's
            # name.
            torch.hub.download_url_to_file(url, str(target), hash_prefix=target.stem.rpartition("-")[2])
    except (URLError, OSError, RuntimeError) as error:
        searched = ", ".join(f"'{place}'" for place in places)
        raise UserError(
            f"PerceptualLoss needs the weights of {vgg_type}: not found at {searched}, and downloading {url} "
            f"failed ({error}). Either connect this computer to the network once and start again, or copy "
            f"the file from that address to '{places[0]}' (or anywhere else, named by 'vgg_weights: PATH' in "
            "the loss's options), or switch the perceptual term off: train.perceptual_opt=~"
        ) from error
    return target


@contextmanager
def _connect_timeout() -> Iterator[None]:
    """An address that swallows packets must give the message above soon, not hang the start of a run."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
