"""A network as a program of plain operators that holds for every height, width and number of pictures."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.export.base import Precision

INPUT, OUTPUT = "data", "output"
"""Names of the two ends, those that the runtimes of this field expect."""

AXES = {0: "batch", 2: "height", 3: "width"}


class SizeMattersError(UserError):
    """What a network does depends on the size of the picture; for one size alone it may leave."""


class Door(nn.Module):
    """The network between float32 pictures; inside it computes in float16 where ``half``."""

    def __init__(self, net: nn.Module, half: bool) -> None:
        super().__init__()
        self.net, self.half_inside = net, half

    def forward(self, data: Tensor) -> Tensor:
        """[B, in, H, W] in [0, 1] to [B, out, H*scale, W*scale], not clamped."""
        result: Tensor = self.net(data.half() if self.half_inside else data)
        return result.float()


@dataclass(frozen=True)
class Traced:
    """A program with open batch, height and width.

    Attributes:
        program: of :class:`Door`, input ``data``.
        example: the input it was traced with; no value of it is in the program.
        least_size: the smallest height and width that the program takes.
        fixed: whether it takes the size of ``example`` only.
    """

    program: torch.export.ExportedProgram
    example: Tensor
    least_size: int
    fixed: bool = False


def trace(
    net: nn.Module,
    channels: int,
    *,
    name: str,
    size_multiple: int = 1,
    precision: Precision = "fp32",
    fixed: tuple[int, int] | None = None,
) -> Traced:
    """Trace ``net`` (evaluation mode, float32, CPU). For "fp16" it must have been turned to float16 before.
    With ``fixed`` the program holds for one picture of that height and width alone.

    Raises:
        SizeMattersError: what the network does depends on the size of the picture (``name`` stands in the message).
        UserError: it cannot be traced for the size ``fixed`` either, or that holds no whole windows.
    """
    height, width = (side * _steps(size_multiple) * size_multiple for side in (3, 5))
    example = torch.zeros(3, channels, height, width)
    if fixed is not None:
        _require_whole_windows(fixed, size_multiple, name)
        example = torch.zeros(1, channels, *fixed)
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(
                Door(_merged(net), precision == "fp16").eval(),
                (example,),
                dynamic_shapes=None if fixed else (dict.fromkeys(AXES, dynamic),),
                strict=False,
            )
    except UserError as error:
        raise SizeMattersError(f"{name}: {error}") from None
    except Exception as error:  # tracing runs any code, and fails with any error
        stopped = f"PyTorch's tracer stopped at {first_line(error)}"
        if fixed is not None:
            raise UserError(f"{name} cannot be exported: {stopped}") from error
        raise SizeMattersError(f"{name} cannot be exported with open height and width: {stopped}") from error
    return Traced(program, example, _least_size(program), fixed is not None)


def _merged(net: nn.Module) -> nn.Module:
    """``net``, or a copy whose convolutions were merged once and for all.

    SPAN's (arXiv 2311.12770, in spandrel) hold three convolutions and a skip, and write their product into a fourth
    one, ``eval_conv``, at every call; a tracer cannot follow a weight that is written.
    """
    if not any(_merges(module) for module in net.modules()):
        return net
    copied = copy.deepcopy(net)
    for module in copied.modules():
        if _merges(module):
            module.update_params()  # type: ignore[operator]
            module.update_params = lambda: None  # type: ignore[assignment]
    return copied


def _merges(module: nn.Module) -> bool:
    return isinstance(getattr(module, "eval_conv", None), nn.Module) and hasattr(module, "update_params")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """PyTorch's tracer and exporter remark on their own inside; what matters comes back as an error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _require_whole_windows(size: tuple[int, int], multiple: int, name: str) -> None:
    """A file of another size would pad inside, and would be run over pictures that were padded before."""
    if any(side % multiple for side in size):
        down, up = (
            "x".join(str(max(1, side // multiple + step) * multiple) for side in size) for step in (0, 1)
        )
        raise UserError(
            f"--size {size[0]}x{size[1]}: {name} takes multiples of {multiple} pixels; near are {down} and {up}"
        )


def _steps(multiple: int) -> int:
    """Windows in a third of the example's height, so that it has at least 24 rows."""
    return max(1, -(-8 // multiple))


def _least_size(program: torch.export.ExportedProgram) -> int:
    """The tracer writes 2 where 1 works as well, since it takes 1 for a size of its own; 3 and more are meant."""
    least = max((int(each.lower) for each in program.range_constraints.values()), default=1)
    return least if least > 2 else 1


def first_line(error: BaseException) -> str:
    """The first line of an error that is no empty one, cut to a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def causes(error: BaseException) -> list[str]:
    """The texts of an error and of those that led to it."""
    texts = []
    now: Any = error
    while now is not None:
        texts.append(str(now))
        now = now.__cause__
    return texts
