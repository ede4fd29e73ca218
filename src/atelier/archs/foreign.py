"""Networks of other families, found and built by spandrel from a state dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from spandrel import (  # type: ignore[import-untyped,unused-ignore]
    ImageModelDescriptor,
    ModelLoader,
    UnsupportedModelError,
)
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.facts import NetworkFacts
from atelier.archs.registry import NETWORKS
from atelier.archs.swinir import crop_to, is_open, pad_to_window
from atelier.errors import UserError


class ForeignNetwork(nn.Module):
    """A spandrel network that takes any input size: pads right and bottom, then crops the result.

    Padding reflects where the picture is large enough and repeats the edge where it is not.
    """

    def __init__(self, descriptor: ImageModelDescriptor[nn.Module]) -> None:
        super().__init__()
        self.net = descriptor.model
        self.scale = descriptor.scale
        self._requirements = descriptor.size_requirements
        # Some families return more than the picture; spandrel keeps the call that picks it out with the descriptor.
        self._call = cast(Callable[[nn.Module, Tensor], Tensor], descriptor._call_fn)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] in [0, 1] to [B, out, H*scale, W*scale], not clamped."""
        height, width = x.shape[-2:]
        # Some families (RCAN) work on their input in place; the caller's picture is not theirs.
        x = x.clone()
        if is_open(x):
            return self._openly(x)
        across, down = self._requirements.get_padding(width, height)
        if across or down:
            reflects = across < width and down < height
            x = F.pad(x, (0, across, 0, down), "reflect" if reflects else "replicate")
        return self._call(self.net, x)[..., : height * self.scale, : width * self.scale]

    def _openly(self, x: Tensor) -> Tensor:
        """For an exporter that leaves height and width open: no choice may depend on them."""
        needs = self._requirements
        if needs.square:
            raise UserError(
                "this architecture takes square pictures alone: it cannot leave with open height and width"
            )
        if needs.multiple_of == 1 and needs.minimum <= 1:
            # Nothing to crop, and runtimes such as ncnn cannot compute with sizes.
            return self._call(self.net, x)
        height, width = (side * self.scale for side in x.shape[-2:])
        return crop_to(
            self._call(self.net, pad_to_window(x, needs.multiple_of, needs.minimum)), height, width
        )


def network_from_state(state: Mapping[str, Tensor], name: str) -> tuple[nn.Module, NetworkFacts]:
    """(network in evaluation mode, its facts); ``name`` is the file, for messages.

    Raises:
        UserError: no architecture fits these tensors, or it takes more than one picture.
    """
    try:
        descriptor: Any = ModelLoader(device="cpu").load_from_state_dict(dict(state))
    except UnsupportedModelError:
        some = ", ".join(list(state)[:3])
        raise UserError(
            f"{name} holds no architecture that is known here or to spandrel (ours: {', '.join(NETWORKS)}); "
            f"its {len(state)} tensors begin with {some}"
        ) from None
    except (RuntimeError, ValueError, KeyError, IndexError, AssertionError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{name} looks like a known architecture but does not load: {' '.join(first[:2])}"
        ) from None
    if not isinstance(descriptor, ImageModelDescriptor):
        raise UserError(
            f"{name} is a {descriptor.architecture.name} network for {descriptor.purpose}: not supported"
        )
    descriptor.eval()
    facts = NetworkFacts(
        architecture=descriptor.architecture.name,
        scale=descriptor.scale,
        in_channels=descriptor.input_channels,
        out_channels=descriptor.output_channels,
        purpose=descriptor.purpose,
        size_multiple=descriptor.size_requirements.multiple_of,
        supports_half=descriptor.supports_half,
        supports_bfloat16=descriptor.supports_bfloat16,
        source="spandrel",
    )
    return ForeignNetwork(descriptor).eval(), facts
