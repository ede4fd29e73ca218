"""The tables of networks and discriminators; a new one is one line here."""

from __future__ import annotations

from atelier.archs.discriminator_options import DiscriminatorOptions
from atelier.archs.network_options import NetworkOptions
from atelier.options.base import Registry

__all__ = ["DISCRIMINATORS", "NETWORKS", "DiscriminatorOptions", "NetworkOptions"]

NETWORKS: Registry[NetworkOptions] = Registry(
    "network",
    {
        "SwinIR": "atelier.archs.swinir_options:SwinIROptions",
        "SRVGGNetCompact": "atelier.archs.compact_options:SRVGGNetCompactOptions",
        "RRDBNet": "atelier.archs.rrdbnet_options:RRDBNetOptions",
        "DnCNN": "atelier.archs.dncnn_options:DnCNNOptions",
        "MSRResNet1": "atelier.archs.msrresnet_options:MSRResNet1Options",
        "FusionSystem": "atelier.colorize.system_options:FusionSystemOptions",
    },
)

DISCRIMINATORS: Registry[DiscriminatorOptions] = Registry(
    "discriminator",
    {
        "UNetDiscriminatorSN": "atelier.archs.unet_discriminator_options:UNetDiscriminatorSNOptions",
        "ColourDiscriminatorSN": "atelier.archs.colour_discriminator_options:ColourDiscriminatorSNOptions",
        "VGGStyleDiscriminator": "atelier.archs.vgg_discriminator_options:VGGStyleDiscriminatorOptions",
    },
)
