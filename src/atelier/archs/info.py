"""What ``atelier info`` says about a weight file: facts, parameters, multiply-adds, memory."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from atelier.archs.alive import AliveTensors
from atelier.archs.load import LoadedNetwork, load_network
from atelier.archs.swinir_options import SwinIROptions
from atelier.errors import UserError

_ATTENTION = ("bmm", "attention")


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one picture.

    Attributes:
        total: convolutions and matrix products, the two of attention included.
        attention: the products q k^T and p v alone.
    """

    total: int
    attention: int


def parse_size(text: str) -> tuple[int, int]:
    """``"360x640"`` to (height, width), both at least 1."""
    match = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)
    if match is None or 0 in (size := (int(match[1]), int(match[2]))):
        raise UserError(f"size must be HEIGHTxWIDTH with both at least 1, such as 64x64; given '{text}'")
    return size


def count_parameters(net: nn.Module) -> tuple[int, int]:
    """(all parameters, parameters without relative-position bias tables); published counts use one or the other."""
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    tables = sum(count for name, count in sizes.items() if name.endswith("relative_position_bias_table"))
    return sum(sizes.values()), sum(sizes.values()) - tables


def count_by_defaults(net: nn.Module) -> int | None:
    """Parameters of a SwinIR made from only the sizes of ``net``, the rest left to the official constructor's defaults.

    The defaults are mlp_ratio 4 and no upsampler; a published count (swinir-knowledge-distillation: 891,123 and 5.51 %
    of the teacher, for networks of 988,959 and 8.31 %) was taken so. None for other networks, and where it is the same.
    """
    options = getattr(net, "options", None)
    if not isinstance(options, SwinIROptions) or options.attention != "window":
        return None
    sizes = ("img_size", "in_chans", "embed_dim", "depths", "num_heads", "window_size")
    with torch.device("meta"):
        bare = SwinIROptions(**{key: getattr(options, key) for key in sizes}).build()
    count = count_parameters(bare)[0]
    return count if count != count_parameters(net)[0] else None


def count_macs(net: nn.Module, channels: int, size: tuple[int, int]) -> Cost:
    """Multiply-adds of one picture of ``size`` (height, width), counted operator by operator on tensors without data.

    Counted are convolutions and matrix products (PyTorch's flop counter, halved); normalisation, activation, softmax
    and additions are not. Networks that pad the picture are counted on the padded one.
    """
    shadow = copy.deepcopy(net).to("meta").eval()
    with torch.no_grad(), _Products() as products:
        shadow(torch.empty(1, channels, *size, device="meta"))
    return Cost(products.total // 2, products.attention // 2)


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the floating-point operations of every convolution and matrix product, by PyTorch's own formulas."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.attention = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # As in AliveTensors: PyTorch's own counter imports the compiler, seconds for a count of milliseconds.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            count = int(formula(*args, **(kwargs or {}), out_val=result))
            self.total += count
            if any(word in str(func) for word in _ATTENTION):
                self.attention += count
        return result


def peak_memory(net: nn.Module, channels: int, size: tuple[int, int]) -> int:
    """Bytes of tensors alive at once, at most, during one evaluation on the CPU, weights and input left out.

    Every tensor that an operator returns is followed until it is released; what an operator needs inside itself is
    not seen. The second evaluation is measured, when masks and other things made once exist already.
    """
    x = torch.rand(1, channels, *size)
    with torch.no_grad():
        net(x)
        with AliveTensors([x, *net.parameters(), *net.buffers()]) as alive:
            net(x)
    peak: int = alive.peak
    return peak


def describe(model: Path | str, *, size: tuple[int, int] = (64, 64), param_key: str | None = None) -> str:
    """The lines of :func:`describe_lines` as one page."""
    return "\n".join(describe_lines(model, size=size, param_key=param_key))


def describe_lines(
    model: Path | str, *, size: tuple[int, int] = (64, 64), param_key: str | None = None
) -> Iterator[str]:
    """A page of facts about a weight file, line by line: what is known at once before what takes a run to know.

    Args:
        model: the file.
        size: (height, width) of the input for multiply-adds and memory.
        param_key: entry of the file, see :func:`read_weights`.

    Raises:
        UserError: the file cannot be loaded.
    """
    loaded = load_network(model, param_key=param_key)
    facts, (parameters, without_tables) = loaded.facts, count_parameters(loaded.net)
    rows = [
        ("file", f"{model}, {Path(model).stat().st_size / 1e6:.2f} MB"),
        ("weights", _weights_line(loaded)),
        *_origin(loaded.transfer),
        ("architecture", facts.architecture + (" (through spandrel)" if facts.source == "spandrel" else "")),
        ("purpose", facts.purpose),
        ("scale", f"x{facts.scale}"),
        ("channels", f"{facts.in_channels} in, {facts.out_channels} out"),
        ("parameters", f"{parameters:,}"),
    ]
    if without_tables != parameters:
        rows.append(("", f"{without_tables:,} without relative-position tables"))
    yield from _lines(rows)
    at = f"for {size[0]}x{size[1]} (height x width)"
    yield from _lines(_cost_rows(loaded.net, facts.in_channels, size, at))
    peak = peak_memory(loaded.net, facts.in_channels, size)
    rows = [
        (
            "peak memory",
            f"{peak / 1e6:.1f} MB of tensors in one forward {at}, CPU, float32, beside the weights",
        ),
        ("precision", _precision(facts.supports_half, facts.supports_bfloat16)),
    ]
    if facts.options is not None:
        rows.append(("options", ", ".join(f"{key}: {value}" for key, value in facts.options.items())))
    if without_tables != parameters:
        conventions = (
            "two conventions are published: parameters with or without the tables, multiply-adds with or "
            "without the attention products; compare like with like"
        )
        rows.append(("note", conventions))
    by_defaults = count_by_defaults(loaded.net)
    if by_defaults is not None:
        counted = (
            f"{by_defaults:,} parameters are counted where only the sizes are given and mlp_ratio 4 and no "
        )
        defaults = (
            "upsampler (the constructor's defaults) take the place of the rest; that is another network"
        )
        rows.append(("", counted + defaults))
    yield from _lines(rows)


def _lines(rows: list[tuple[str, str]]) -> Iterator[str]:
    return (f"{title:<14}{text}" for title, text in rows)


def _weights_line(loaded: LoadedNetwork) -> str:
    key = f"entry '{loaded.report.param_key}'" if loaded.report.param_key else "bare"
    ignored = f", {len(loaded.report.ignored)} constants ignored" if loaded.report.ignored else ""
    return f"{key}, {len(loaded.report.loaded)} tensors{ignored}"


def _origin(transfer: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What a file of ``atelier transfer`` came from; whatever else may stand in the record is left alone."""
    if transfer is None:
        return []
    how = [str(transfer.get("method", "method not said"))]
    shown = ("sweeps", "polish") if how == ["least-squares"] else ("polish",)  # other methods make no sweeps
    how += [f"{key} {transfer[key]}" for key in shown if transfer.get(key)]
    how += [f"folded to x{transfer['folded_scale']}"] * bool(transfer.get("folded_scale"))
    how += ["grey"] * bool(transfer.get("grey"))
    digest = str(transfer.get("source_sha256", "not said"))
    return [("transferred", f"from {transfer.get('source', 'a file')} ({', '.join(how)}), SHA-256 {digest}")]


def _cost_rows(net: nn.Module, channels: int, size: tuple[int, int], at: str) -> list[tuple[str, str]]:
    try:
        cost = count_macs(net, channels, size)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        # A foreign network may make tensors of its own in forward, which then are not on the meta device.
        return [
            (
                "multiply-adds",
                f"not counted: this network does not run without data ({str(error).splitlines()[0]})",
            )
        ]
    rows = [("multiply-adds", f"{cost.total / 1e9:.3f} G {at}; convolutions and matrix products")]
    if cost.attention:
        rows.append(("", f"{(cost.total - cost.attention) / 1e9:.3f} G without the attention products"))
    return rows


def _precision(half: bool, bfloat16: bool) -> str:
    offered = ["float32"] + ["float16"] * half + ["bfloat16"] * bfloat16
    refused = ["float16"] * (not half) + ["bfloat16"] * (not bfloat16)
    return ", ".join(offered) + (f" (not {', '.join(refused)}: not safe)" if refused else "")
