"""Networks that several test files of this room build: the official variants, small ones, lively weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atelier.archs import save_weights
from atelier.archs.network_options import NetworkOptions
from atelier.archs.swinir_options import SwinIROptions


@dataclass(frozen=True)
class Official:
    """One official SwinIR and its published numbers (SwinIR, model zoo and paper).

    Attributes:
        options: constructor arguments.
        parameters, without_tables: parameters with and without relative-position tables.
        entries: tensors of the published file.
        constants: numbers in masks and indices of that file.
    """

    options: dict[str, Any]
    parameters: int
    without_tables: int
    entries: int
    constants: int


_MEDIUM = {"embed_dim": 180, "depths": (6,) * 6, "num_heads": (6,) * 6, "window_size": 8, "mlp_ratio": 2.0}
_SMALL = {"embed_dim": 60, "depths": (6,) * 4, "num_heads": (6,) * 4, "window_size": 8, "mlp_ratio": 2.0}
_LARGE = {"embed_dim": 240, "depths": (6,) * 9, "num_heads": (8,) * 9, "window_size": 8, "mlp_ratio": 2.0}
_JPEG = {**_MEDIUM, "window_size": 7, "img_size": 126, "img_range": 255.0}

OFFICIAL: dict[str, Official] = {
    **{
        f"swinir_classical_x{scale}_s{side}": Official(
            {**_MEDIUM, "img_size": side, "upsampler": "pixelshuffle", "upscale": scale}, *numbers, constants
        )
        for side, constants in ((48, 2_801_664), (64, 4_866_048))
        for scale, numbers in {
            2: (11_752_487, 11_703_887, 548),
            3: (11_937_127, 11_888_527, 548),
            4: (11_900_199, 11_851_599, 550),
            8: (12_047_911, 11_999_311, 552),
        }.items()
    },
    **{
        f"swinir_lightweight_x{scale}": Official(
            {**_SMALL, "upsampler": "pixelshuffledirect", "upscale": scale}, *numbers, 366, 3_244_032
        )
        for scale, numbers in {2: (910_152, 877_752), 3: (918_267, 885_867), 4: (929_628, 897_228)}.items()
    },
    "swinir_real_m_x2": Official(
        {**_MEDIUM, "upsampler": "nearest+conv", "upscale": 2}, 11_678_631, 11_630_031, 550, 4_866_048
    ),
    "swinir_real_m_x4": Official(
        {**_MEDIUM, "upsampler": "nearest+conv", "upscale": 4}, 11_715_559, 11_666_959, 552, 4_866_048
    ),
    "swinir_real_l_x4": Official(
        {**_LARGE, "upsampler": "nearest+conv", "upscale": 4, "resi_connection": "3conv"},
        28_013_059,
        27_915_859,
        859,
        7_299_072,
    ),
    "swinir_gray_dn": Official(
        {**_MEDIUM, "img_size": 128, "in_chans": 1}, 11_497_681, 11_449_081, 544, 19_021_824
    ),
    "swinir_color_dn": Official({**_MEDIUM, "img_size": 128}, 11_504_163, 11_455_563, 544, 19_021_824),
    "swinir_jpeg_gray": Official({**_JPEG, "in_chans": 1}, 11_485_585, 11_449_081, 544, 14_089_068),
    "swinir_jpeg_color": Official(_JPEG, 11_492_067, 11_455_563, 544, 14_089_068),
}


def small_options(**changes: Any) -> dict[str, Any]:
    """A SwinIR of a few thousand parameters with everything that matters: two groups, shifts, unequal heads."""
    return {
        "img_size": 16,
        "embed_dim": 12,
        "depths": (2, 2),
        "num_heads": (2, 3),
        "window_size": 8,
        "mlp_ratio": 2.0,
        "drop_path_rate": 0.0,
        **changes,
    }


def small_swinir(**changes: Any) -> Any:
    """:func:`small_options` built and made lively, in evaluation mode."""
    return lively(SwinIROptions(**small_options(**changes)).build()).eval()


def on_meta(options: NetworkOptions) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return options.build()


def lively(net: nn.Module, seed: int = 0) -> Any:
    """Random weights under which every parameter matters; fresh ones leave biases and position tables near zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if name.endswith("relative_position_bias_table"):
                parameter.copy_(noise)
            elif "norm" in name:
                parameter.copy_(0.2 * noise + (1 if name.endswith("weight") else 0))
            elif parameter.ndim > 1:
                parameter.copy_(0.8 * noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(
                    0.1 * noise + (0.2 if ".body" in f".{name}" and name.endswith("weight") else 0)
                )
    return net


def picture(*shape: int, seed: int = 1) -> Tensor:
    """Uniform noise in [0, 1], the same at every call."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def save(net: Any, path: Path, **more: Any) -> Path:
    """``net`` as one of our own model files; ``more`` goes to :func:`save_weights`."""
    options = net.options.model_dump(mode="json", exclude={"type"})
    save_weights(path, {"params": net.state_dict()}, {"arch": net.options.type, "options": options}, **more)
    return path
