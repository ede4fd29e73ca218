"""Small networks of every kind as weight files and as exported models, for tests of exporting and running them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from atelier.archs import DnCNN, MSRResNet1, RRDBNet, SRVGGNetCompact, SwinIR, save_weights
from atelier.data.bundled import bundled_path
from atelier.export import FORMATS, Exported, export_model

_WINDOWS: dict[str, Any] = {
    "img_size": 16,
    "window_size": 4,
    "embed_dim": 8,
    "depths": [2],
    "num_heads": [2],
    "mlp_ratio": 2,
    "upscale": 2,
    "upsampler": "pixelshuffledirect",
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "compact": lambda: SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2),
    "grey": lambda: SRVGGNetCompact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=4),
    "swinir": lambda: SwinIR(**_WINDOWS),
    "elsa": lambda: SwinIR(**_WINDOWS, attention="elsa", elsa={"kernel_size": 3, "group_width": 2}),
    "rrdb": lambda: RRDBNet(scale=2, num_feat=8, num_block=1, num_grow_ch=4),
    "rrdb1": lambda: RRDBNet(scale=1, num_feat=8, num_block=1, num_grow_ch=4),
    "dncnn": lambda: DnCNN(nc=8, nb=4),
    "msrresnet": lambda: MSRResNet1(nc=8, nb=2, upscale=3),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()
    for key, parameter in net.named_parameters():
        if key.endswith("bias_table"):  # near zero at the start, where a wrong index would not show
            nn.init.normal_(parameter)
    return net


def save_network(name: str, folder: Path) -> Path:
    net: Any = network(name)
    path = folder / f"{name}.pth"
    metadata = {"arch": net.options.type, "options": net.options.model_dump(mode="json", exclude={"type"})}
    save_weights(path, {"params": net.state_dict()}, metadata)
    return path


def pictures() -> list[Path]:
    return [bundled_path(name) for name in ("astronaut", "chelsea")]


def export_small(name: str, output: Path, **options: Any) -> Exported:
    kind = {".onnx": "onnx", ".xml": "openvino", ".param": "ncnn", ".pt2": "torch"}[output.suffix]
    output.parent.mkdir(parents=True, exist_ok=True)
    source = save_network(name, output.parent)
    return export_model(source, output, FORMATS.options_class(kind)(type=kind), pictures(), **options)
