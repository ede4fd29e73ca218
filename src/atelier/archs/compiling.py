"""Regional ``torch.compile``: the repeated blocks only, so that warm-up stays short."""

from __future__ import annotations

from torch import nn

from atelier.archs.swinir_block import SwinBlock


def compile_blocks(net: nn.Module) -> int:
    """Compile the blocks of ``net`` in place, whole networks without such blocks as one; names do not change.

    Returns how many modules were marked; compilation itself happens at their first call for each input size.
    """
    blocks: list[nn.Module] = [module for module in net.modules() if isinstance(module, SwinBlock)]
    blocks = blocks or [net]
    for block in blocks:
        block.compile()
    return len(blocks)
