"""What the rest of the house needs to know of a loaded network, wherever it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atelier.archs.network_options import NetworkOptions


@dataclass(frozen=True)
class NetworkFacts:
    """Facts of one network.

    Attributes:
        architecture: name in option files, or spandrel's name of the architecture.
        scale: output side over input side.
        in_channels, out_channels: channels of input and output pictures.
        purpose: "SR" or "Restoration" (spandrel also knows "FaceSR" and "Inpainting").
        size_multiple: tile sides are best multiples of this; every network pads other sizes by itself.
        receptive_radius: how far an output pixel sees, in input pixels; None where it is not bounded or not known.
        supports_half, supports_bfloat16: whether the number format is safe.
        source: "atelier" or "spandrel".
        options: every hyper-parameter, for our own networks.
    """

    architecture: str
    scale: int
    in_channels: int
    out_channels: int
    purpose: str
    size_multiple: int = 1
    receptive_radius: int | None = None
    supports_half: bool = True
    supports_bfloat16: bool = True
    source: str = "atelier"
    options: dict[str, Any] | None = None


def facts_of(options: NetworkOptions) -> NetworkFacts:
    """The facts of a network that is described by our own options."""
    return NetworkFacts(
        architecture=options.type,
        scale=options.scale,
        in_channels=options.in_channels,
        out_channels=options.out_channels,
        purpose="SR" if options.scale > 1 else "Restoration",
        size_multiple=options.size_multiple,
        receptive_radius=options.receptive_radius,
        supports_half=options.supports_half,
        options=options.model_dump(mode="json", exclude={"type"}),
    )
