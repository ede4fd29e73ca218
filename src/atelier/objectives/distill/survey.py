"""What could be tapped in a network: every module's output, looked at while two small trial pictures pass through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from atelier.archs.network_options import NetworkOptions
from atelier.errors import UserError
from atelier.objectives.distill.layout import Layout, Shape, Size, find_layout

_SMALLEST = 8


@dataclass(frozen=True)
class Place:
    """One output that can be tapped.

    Attributes:
        name: the module's name, with ``#k`` where it is called several times in a forward pass.
        module: the module's name.
        call: which call, from 1.
        layout: how its output becomes a map.
        depth: 0 to 1: how much of the body has run (see :class:`Survey`).
        changes: whether the network changes the output in place afterwards, so that a tap must copy it.
    """

    name: str
    module: str
    call: int
    layout: Layout
    depth: float
    changes: bool


@dataclass
class Survey:
    """The result: what can be tapped, in the order in which it is computed, and why the rest cannot.

    The body is cut by the network's declared stages, for other networks by the items of their longest list in which
    at least half of the layers run; the end of stage j of n is at depth j/n, and between two ends every layer counts
    the same.
    """

    places: dict[str, Place] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)


@dataclass
class _Call:
    module: str
    number: int
    shape: Shape | None
    changes: bool
    is_layer: bool
    layers: int


def declared_options(root: nn.Module) -> NetworkOptions | None:
    """The options of a network of the registry; None for any other."""
    options = getattr(root, "options", None)
    return options if isinstance(options, NetworkOptions) else None


def survey(outer: nn.Module, root: nn.Module, channels: int) -> Survey:
    """Sends two trial pictures through ``outer`` and looks at the modules of ``root``, which is part of it.

    The network is as before afterwards: modes, buffers and random numbers are untouched, nothing is compiled.

    Raises:
        UserError: the network does not take the trial pictures.
    """
    options = declared_options(root)
    requirements = getattr(outer, "_requirements", None)
    multiple = options.size_multiple if options else int(getattr(requirements, "multiple_of", 1))
    smallest = max(_SMALLEST, int(getattr(requirements, "minimum", 0)))
    unit = multiple * -(-_SMALLEST // multiple)
    start = unit * max(2, -(-smallest // unit))
    sizes = (start, start + unit), (start + 1, start + 2 * unit + 1)
    channels = options.in_channels if options else channels
    found = Survey()
    first, second = (_calls(outer, root, channels, size) for size in sizes)
    for call in first:
        found.calls[call.module] = max(call.number, found.calls.get(call.module, 0))
    depths = _depths(first, _stage_ends(first, _stages(first, root, options)))
    others = {(call.module, call.number): call for call in second}
    for call, depth in zip(first, depths, strict=True):
        several = found.calls[call.module] > 1
        name = f"{call.module}#{call.number}" if several else call.module
        other = others.get((call.module, call.number))
        layout = None
        if call.shape and other and other.shape:
            layout = find_layout(call.shape, other.shape, sizes, multiple)
        if layout is None:
            found.refused[name] = _reason(call, other, sizes)
        else:
            found.places[name] = Place(name, call.module, call.number, layout, depth, call.changes)
    for name, _ in root.named_modules():
        if name and name not in found.calls:
            found.refused[name] = "is not called in a forward pass"
    return found


def _reason(call: _Call, other: _Call | None, sizes: tuple[Size, Size]) -> str:
    if call.shape is None:
        return "gives no single tensor"
    if other is None or other.shape is None:
        return "is not called alike for inputs of different sizes"
    shapes = [
        f"{'×'.join(map(str, shape))} for one picture of {size[0]}×{size[1]}"
        for shape, size in zip((call.shape, other.shape), sizes, strict=True)
    ]
    return f"gives {' and '.join(shapes)}: no map of the picture, neither B×C×H×W, B×H×W×C nor B×tokens×C"


def _calls(outer: nn.Module, root: nn.Module, channels: int, size: Size) -> list[_Call]:
    """All calls of modules inside ``root``, in the order in which they return."""
    calls: list[_Call] = []
    kept: list[tuple[_Call, Tensor, int]] = []
    numbers: dict[str, int] = {}
    layers = 0

    def looks(name: str, leaf: bool) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal layers
            layers += leaf
            numbers[name] = numbers.get(name, 0) + 1
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            calls.append(_Call(name, numbers[name], shape, False, leaf, layers))
            if isinstance(output, Tensor):
                kept.append((calls[-1], output, output._version))

        return look

    like = next(root.parameters(), torch.zeros(0))
    handles = [
        module.register_forward_hook(looks(name, not any(True for _ in module.children())))
        for name, module in root.named_modules()
        if name
    ]
    try:
        with _plain(outer), torch.no_grad():
            outer(torch.zeros(1, channels, *size, device=like.device, dtype=like.dtype))
    except (UserError, RuntimeError, ValueError) as error:
        raise UserError(
            f"taps: the network does not take a trial picture of {channels}×{size[0]}×{size[1]}, which shows how its "
            f"features lie: {str(error).strip().splitlines()[0]}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    for call, output, version in kept:
        call.changes = output._version != version
    return calls


@contextmanager
def _plain(net: nn.Module) -> Iterator[None]:
    """``net`` in evaluation mode and not compiled; both are put back."""
    modules = list(net.modules())
    before = [(module.training, module._compiled_call_impl) for module in modules]
    for module in modules:
        module.training, module._compiled_call_impl = False, None
    try:
        yield
    finally:
        for module, (training, compiled) in zip(modules, before, strict=True):
            module.training, module._compiled_call_impl = training, compiled


def _stages(calls: list[_Call], root: nn.Module, options: NetworkOptions | None) -> list[str]:
    """Names of the body's stages; empty where the network has no list in which half of its layers run."""
    if options and options.stages:
        return list(options.stages)
    best: list[str] = []
    for name, module in root.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        prefix = f"{name}." if name else ""
        if 2 * sum(call.is_layer and call.module.startswith(prefix) for call in calls) < calls[-1].layers:
            continue
        items = [
            prefix + place for place, item in module.named_children() if any(True for _ in item.parameters())
        ]
        best = items if len(items) > max(1, len(best)) else best
    return best


def _stage_ends(calls: list[_Call], stages: list[str]) -> list[int]:
    """After how many layers each stage has run; the whole network is one stage where there are none."""
    last = {call.module: call.layers for call in calls}
    ends = sorted({last[stage] for stage in stages if stage in last})
    return ends or [max((call.layers for call in calls), default=1)]


def _depths(calls: list[_Call], ends: list[int]) -> list[float]:
    depths = []
    for call in calls:
        done = sum(end <= call.layers for end in ends)
        if done < len(ends):
            start = ends[done - 1] if done else 0
            depths.append((done + (call.layers - start) / (ends[done] - start)) / len(ends))
        else:
            depths.append(1.0)
    return depths
