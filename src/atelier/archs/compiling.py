"""Regional ``torch.compile``: the repeated parts of a network, compiled once and shared by all of them."""

from __future__ import annotations

from torch import nn


def repeated_parts(net: nn.Module) -> list[nn.Module]:
    """The innermost modules that stand several times, of one class and with weights, in a ``ModuleList``.

    For SwinIR these are its layers. A network without such a list (a plain chain of convolutions) is one part.
    """
    parts: list[nn.Module] = []
    for module in net.modules():
        if not isinstance(module, nn.ModuleList) or len({type(item) for item in module}) != 1:
            continue
        if any(isinstance(inner, nn.ModuleList) for item in module for inner in item.modules()):
            continue
        parts += [item for item in module if any(True for _ in item.parameters())]
    return parts or [net]


def compile_blocks(net: nn.Module) -> None:
    """Compile :func:`repeated_parts` in place; names of weights stay as they are.

    Compiling part by part keeps the warm-up at the price of one layer instead of the whole network
    (fixed shapes, one region).
    """
    for part in repeated_parts(net):
        part.compile()
