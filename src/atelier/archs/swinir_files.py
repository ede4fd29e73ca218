"""SwinIR weight files: the constants official files carry, and options read off tensor shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atelier.archs.network_options import Shapes
from atelier.archs.swinir_keys import blocks_of, elsa_from_blocks, heads_of, window_of
from atelier.archs.swinir_options import MARKER
from atelier.archs.swinir_windows import official_mask, relative_position_index
from atelier.errors import UserError

_ASSUMED_WINDOW = 8
_TABLE, _INDEX, _MASK = "attn.relative_position_bias_table", "attn.relative_position_index", "attn_mask"


def official_state(state: Mapping[str, Tensor], window: int, mask_size: int) -> dict[str, Tensor]:
    """``state`` with ``attn_mask`` (for maps of ``mask_size``) and ``relative_position_index`` in official order.

    All blocks share the same two tensors, which a ``.pth`` file stores once.
    """
    device = next((value.device for value in state.values()), torch.device("cpu"))
    on_meta = device.type == "meta"
    mask = official_mask(window, mask_size).to(device if on_meta else "cpu")
    index = relative_position_index(window, torch.device("cpu")).to(device if on_meta else "cpu")
    complete: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith((_MASK, _INDEX)):
            continue
        if ".blocks." in key and key.endswith(".norm1.weight"):
            block = key.removesuffix("norm1.weight")
            if int(block.split(".")[-2]) % 2:
                complete[block + _MASK] = mask
        complete[key] = value
        if key.endswith(_TABLE):
            complete[key.removesuffix(_TABLE) + _INDEX] = index
    return complete


def without_constants(state: Mapping[str, Tensor], window: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(``state`` without masks and indices, ignored key -> why).

    Raises:
        UserError: an index is not the one of ``window``; its table would be read in another order.
    """
    expected = relative_position_index(window, torch.device("cpu"))
    own: dict[str, Tensor] = {}
    ignored: dict[str, str] = {}
    for key, value in state.items():
        if key.endswith("." + _MASK):
            ignored[key] = "a constant of the input size, computed when needed"
        elif key.endswith("." + _INDEX):
            if value.device.type != "meta" and not torch.equal(value.cpu().to(torch.int64), expected):
                raise UserError(f"{key} is not the relative-position index of window_size {window}")
            ignored[key] = "a constant of window_size, equal to the computed one"
        else:
            own[key] = value
    return own, ignored


def options_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """Constructor arguments of the SwinIR that left these tensors.

    ``img_range`` is not in the shapes; the field's rule is 255 for a window of 7 without an upsampler (the official
    JPEG networks), else 1.
    """
    embed_dim, in_chans = shapes["conv_first.weight"][:2]
    blocks = blocks_of(shapes)
    groups = len({group for group, _ in blocks})
    depths = [sum(group == i for group, _ in blocks) for i in range(groups)]
    for i, depth in enumerate(depths):
        for j in range(depth):
            if (i, j) not in blocks:
                raise UserError(f"not a complete SwinIR file: layers.{i} has no block {j}")
    if not blocks:
        raise UserError("not a complete SwinIR file: it has no layers")
    heads = [heads_of(blocks[i, 0]) for i in range(groups)]
    elsa = elsa_from_blocks(blocks, heads, embed_dim)
    # Only networks with ELSA alone hold no trace of the window; their own files say it.
    window = window_of(blocks) or _ASSUMED_WINDOW
    block = "layers.0.residual_group.blocks.0."
    if block + "mlp.fc1.bias" not in shapes:
        raise UserError(f"not a complete SwinIR file: {block}mlp.fc1.bias is missing")
    upsampler, upscale = _head(shapes, in_chans)
    masks = [shape for key, shape in shapes.items() if key.endswith("." + _MASK)]
    if "absolute_pos_embed" in shapes:
        img_size = math.isqrt(shapes["absolute_pos_embed"][1])
    else:
        img_size = math.isqrt(masks[0][0]) * window if masks else 64
    return {
        "img_size": img_size if img_size > window else 2 * window,
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": tuple(depths),
        "num_heads": tuple(heads),
        "window_size": window,
        "mlp_ratio": _ratio(shapes[block + "mlp.fc1.bias"][0], embed_dim),
        "qkv_bias": any(key.endswith("qkv.bias") for key in blocks[0, 0]),
        "ape": "absolute_pos_embed" in shapes,
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "upscale": upscale,
        "img_range": 255.0 if window == 7 and upsampler == "" else 1.0,
        "upsampler": upsampler,
        "resi_connection": "1conv" if "conv_after_body.weight" in shapes else "3conv",
        **({} if elsa is None else {"attention": "elsa", "elsa": elsa}),
        **({MARKER: True} if MARKER in shapes else {}),
    }


def _ratio(hidden: int, dim: int) -> float:
    """A ``mlp_ratio`` for which the constructor's ``int(dim * mlp_ratio)`` is exactly ``hidden``."""
    ratio = hidden / dim
    while int(dim * ratio) < hidden:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _head(shapes: Shapes, channels: int) -> tuple[str, int]:
    """(upsampler, upscale) of these tensors."""
    if "conv_up1.weight" in shapes:
        return "nearest+conv", 4 if "conv_up2.weight" in shapes else 2
    if "conv_before_upsample.0.weight" in shapes:
        scale = 1
        steps = [
            shape for key, shape in shapes.items() if key.startswith("upsample.") and key.endswith(".weight")
        ]
        for shape in steps:
            scale *= math.isqrt(shape[0] // shape[1])
        return "pixelshuffle", scale
    if "upsample.0.weight" in shapes:
        return "pixelshuffledirect", math.isqrt(shapes["upsample.0.weight"][0] // channels)
    return "", 1
