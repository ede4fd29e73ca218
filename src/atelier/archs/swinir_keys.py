"""Names of SwinIR's tensors: which files are SwinIR's, which attention each block has, and the ELSA fork's names.

A published fork of SwinIR keeps ELSA under ``attn.elsa_attention`` beside a position table and index that it never
uses. Read, the wrapper's name is dropped and the two are ignored; :func:`fork_state` writes all of it back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atelier.archs.network_options import Shapes
from atelier.archs.swinir_elsa_options import query_width
from atelier.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.archs.swinir_options import SwinIROptions

_BLOCK = re.compile(r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.(.+)")
_FORK = "elsa_attention."


def _with_bias(*modules: str) -> frozenset[str]:
    return frozenset(f"{module}.{end}" for module in modules for end in ("weight", "bias"))


_CONSTANTS = frozenset({"attn_mask", "attn.relative_position_index"})
_TABLE = "attn.relative_position_bias_table"
_AROUND = _with_bias("norm1", "norm2", "mlp.fc1", "mlp.fc2")
_WINDOW = _with_bias("attn.qkv", "attn.proj") | {_TABLE}
_ELSA = _with_bias("attn.qkv", "attn.hadamard_attn.0", "attn.hadamard_attn.2", "attn.proj") | {
    "attn.ghost_head"
}
_ELSA_FORK = frozenset(key.replace("attn.", "attn." + _FORK, 1) for key in _ELSA)

Blocks = dict[tuple[int, int], dict[str, tuple[int, ...]]]


def blocks_of(shapes: Shapes) -> Blocks:
    """(RSTB, block) -> name inside the block -> shape."""
    blocks: Blocks = {}
    for key, shape in shapes.items():
        match = _BLOCK.fullmatch(key)
        if match:
            blocks.setdefault((int(match[1]), int(match[2])), {})[match[3]] = shape
    return blocks


def are_swinir(shapes: Shapes) -> bool:
    """A plain first convolution, and in every block the tensors of window attention or of ELSA and no others.

    Relatives (HAT, SRFormer) share most names and have some of their own.
    """
    blocks = blocks_of(shapes)
    return (
        "conv_first.weight" in shapes
        and (0, 0) in blocks
        and all(
            (_TABLE in block and block.keys() <= _AROUND | _CONSTANTS | _WINDOW)
            or ("attn.ghost_head" in block and block.keys() <= _AROUND | _ELSA)
            or (
                f"attn.{_FORK}ghost_head" in block
                and block.keys() <= _AROUND | _CONSTANTS | _ELSA_FORK | {_TABLE}
            )
            for block in blocks.values()
        )
    )


def elsa_from_blocks(blocks: Blocks, heads: list[int], dim: int) -> dict[str, Any] | None:
    """The ``elsa:`` options these blocks were made with; None where none has ELSA.

    Fork names mean what the fork computes: inside windows, with both static filters where the shape leaves it open.
    ``scope``, ``border`` and ``qk_scale`` leave no trace in our own names; the defaults are assumed.

    Raises:
        UserError: ELSA in a choice of blocks that no option makes, or with a width that ``embed_dim`` does not give.
    """
    there = {place for place, block in blocks.items() if _ghost(block) is not None}
    if not there:
        return None
    first = blocks[min(there)]
    is_fork = f"attn.{_FORK}ghost_head" in first
    prefix = "attn." + (_FORK if is_fork else "")
    ghost, conv = first[prefix + "ghost_head"], first[prefix + "hadamard_attn.0.weight"]
    if query_width(dim, conv[1]) != conv[0]:
        raise UserError(
            f"hadamard_attn.0 has {conv[0]} channels in groups of {conv[1]}, which embed_dim {dim} does not give"
        )
    both = len(ghost) == 5
    return {
        "kernel_size": ghost[-1],
        "where": _where(there, blocks, len(heads)),
        "group_width": conv[1],
        "lam": int(both),
        "gamma": 1,
        **({"scope": "window"} if is_fork else {}),
    }


def heads_of(block: Mapping[str, tuple[int, ...]]) -> int:
    """Attention heads of one block."""
    ghost = _ghost(block)
    if ghost is None:
        return block[_TABLE][1]
    rows = next(shape[0] for key, shape in block.items() if key.endswith("hadamard_attn.2.weight"))
    return rows // ghost[-1] ** 2


def window_of(blocks: Blocks) -> int | None:
    """The window side, from any position table (the fork's unused one included); None where there is none.

    Raises:
        UserError: a table whose length is no (2w - 1) squared.
    """
    for (group, index), block in blocks.items():
        if _TABLE in block:
            rows = block[_TABLE][0]
            window = (math.isqrt(rows) + 1) // 2
            if (2 * window - 1) ** 2 != rows:
                name = f"layers.{group}.residual_group.blocks.{index}.{_TABLE}"
                raise UserError(f"{name} has {rows} rows, which is no (2w - 1) squared")
            return window
    return None


def _ghost(block: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    return block.get("attn.ghost_head", block.get(f"attn.{_FORK}ghost_head"))


def _where(there: set[tuple[int, int]], blocks: Blocks, groups: int) -> str | tuple[int, ...]:
    if there == set(blocks):
        return "all"
    if there == {place for place in blocks if place[1] % 2 == 0}:
        return "even"
    whole = tuple(group for group in range(groups) if (group, 0) in there)
    if there != {place for place in blocks if place[0] in whole}:
        raise UserError("its blocks with ELSA are neither all, nor the even ones, nor those of whole RSTBs")
    return whole


def own_names(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(``state`` under our names, ignored key -> why); names of our own files stay as they are."""
    wrapped = {key.split(_FORK)[0] for key in state if "attn." + _FORK in key}
    own: dict[str, Tensor] = {}
    ignored: dict[str, str] = {}
    for key, value in state.items():
        head, dot, last = key.rpartition(".")
        if head + dot in wrapped and last == "relative_position_bias_table":
            ignored[key] = "kept by the fork beside ELSA and never used: no gradient ever reached it"
        elif head + dot in wrapped and last == "relative_position_index":
            ignored[key] = "kept by the fork beside ELSA and never used"
        else:
            own[key.replace("attn." + _FORK, "attn.", 1)] = value
    return own, ignored


def fork_state(state: Mapping[str, Tensor], options: SwinIROptions) -> dict[str, Tensor]:
    """``state`` of an ELSA network under the fork's names and in its order, with its constants and unused tables.

    The fork then computes what this network does with ``border: fork``.

    Raises:
        UserError: the fork cannot compute this network (windows missing, or blocks without ELSA).
    """
    import torch

    from atelier.archs.swinir_files import official_state

    elsa = options.elsa
    if elsa is None or elsa.scope != "window" or elsa.where != "all" or elsa.group_width != 8:
        raise UserError(
            "the fork's files hold ELSA in every block, inside windows, with groups of 8: attention: elsa, "
            f"elsa: {{scope: window, where: all, group_width: 8}}; this network has attention: {options.attention}"
            + ("" if elsa is None else f", elsa: {elsa.model_dump(mode='json')}")
        )
    if elsa.qk_scale is not None:
        raise UserError(f"the fork's files hold no elsa.qk_scale; given {elsa.qk_scale}, allowed is null")
    rows = (2 * options.window_size - 1) ** 2
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        match = _BLOCK.fullmatch(key)
        if match is None or not match[3].startswith("attn."):
            renamed[key] = value
            continue
        if match[3] == "attn.ghost_head":
            heads = options.num_heads[int(match[1])]
            renamed[key.replace("ghost_head", "relative_position_bias_table")] = torch.zeros(
                rows, heads, dtype=value.dtype, device=value.device
            )
        renamed[key.replace(".attn.", f".attn.{_FORK}", 1)] = value
    return official_state(renamed, options.window_size, options.img_size)
