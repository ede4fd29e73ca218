"""The proof that an exported file computes what the network computes: both run on the same real pictures.

The reference is the network itself in PyTorch, float32, on the CPU. Values are compared as they come, not clamped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from atelier.errors import RunStopped, UserError
from atelier.export.base import Precision
from atelier.images import imresize, read_image, rgb_to_y, to_tensor

Network = Callable[[Tensor], Tensor]

SIZES: Final = ((48, 64), (64, 40), (37, 53))
"""Heights and widths of the pictures; the last is odd, and none is the size of the trace."""

BATCHES: Final = (1, 2)

NEEDED: Final = len(SIZES) * sum(BATCHES)
"""More pictures than this are not looked at."""


@dataclass(frozen=True)
class Tolerance:
    """Limits for values in [0, 1]: largest absolute error, and PSNR in dB over all of a run's values."""

    largest: float
    psnr: float


TOLERANCES: Final[dict[str, Tolerance]] = {
    "fp32": Tolerance(largest=1e-4, psnr=90.0),
    "fp16": Tolerance(largest=2e-2, psnr=60.0),
    # What int8 may lose is for the user to judge; this only rules out that it is another network.
    "int8": Tolerance(largest=1.0, psnr=20.0),
}


@dataclass(frozen=True)
class Run:
    """One comparison. ``psnr`` is None where not a bit differs."""

    size: tuple[int, int]
    batch: int
    pictures: tuple[str, ...]
    largest: float
    mean: float
    psnr: float | None

    def within(self, tolerance: Tolerance) -> bool:
        """Whether the errors are allowed."""
        return self.largest <= tolerance.largest and (self.psnr is None or self.psnr >= tolerance.psnr)


@dataclass(frozen=True)
class Proof:
    """What was compared with what, and the runs.

    Attributes:
        runtime: what ran the file.
        precision, tolerance: of the file.
        runs: the file against the network.
        half_arithmetic: the network in PyTorch's float16.
        half_problem: why that is no use, where the file holds float32 and is right in float32.
        half_runtime: the file in its runtime with float16 arithmetic asked for, against the network.
    """

    runtime: str
    precision: str
    tolerance: Tolerance
    runs: tuple[Run, ...]
    half_arithmetic: Run | None = None
    half_problem: str | None = None
    half_runtime: tuple[Run, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the file beside the model; ``psnr`` null: not a bit differs."""
        return {"reference": f"PyTorch {torch.__version__}, fp32, CPU", **asdict(self)}

    def lines(self) -> list[str]:
        """A table, one line a run."""
        rows = [f"{self.runtime} against PyTorch fp32 (allowed: {_limits(self.tolerance)})"]
        rows += [_line(f"{each.batch} of {each.size[0]}x{each.size[1]} (HxW)", each) for each in self.runs]
        if self.half_arithmetic is not None:
            rows.append(_line("in fp16 arithmetic", self.half_arithmetic))
        if self.half_runtime:
            worst = max(self.half_runtime, key=lambda each: each.largest)
            rows.append(_line("fp16 asked for", worst))
            if self.half_runtime == self.runs:
                rows.append("    (not a number differs: on this processor the runtime stays in float32)")
        if self.half_problem is not None:
            rows.append(f"  warning: {self.half_problem}")
        return rows


def _limits(tolerance: Tolerance) -> str:
    return f"largest error {tolerance.largest:g}, PSNR {tolerance.psnr:g} dB"


def _line(label: str, run: Run) -> str:
    psnr = "identical" if run.psnr is None else f"{run.psnr:.1f} dB"
    return f"  {label:<18} largest error {run.largest:.2e}, mean {run.mean:.2e}, PSNR {psnr}"


def read_pictures(paths: Sequence[Path], channels: int) -> list[tuple[str, Tensor]]:
    """(name, [C, H, W] float32 in [0, 1]) of the first :data:`NEEDED` files in ``channels``, without alpha.

    Raises:
        UserError: no file, one that cannot be read, or a network of other channels than 1 or 3.
    """
    if not paths:
        raise UserError("--pictures: there is no picture to prove the export on")
    if channels not in (1, 3):
        raise UserError(
            f"the network takes {channels} channels; pictures for the proof have 1 (grey) or 3 (RGB)"
        )
    return [(path.name, read_picture(path, channels)) for path in paths[:NEEDED]]


def read_picture(path: Path, channels: int) -> Tensor:
    """[C, H, W] float32 in [0, 1] of a file in ``channels`` (1 or 3), without alpha."""
    tensor = to_tensor(read_image(path).pixels)
    colour = tensor[: 1 if tensor.shape[0] < 3 else 3]
    if channels == 1 and colour.shape[0] == 3:
        colour = rgb_to_y(colour[None])[0]
    return colour.expand(channels, -1, -1).contiguous()


def prove(
    reference: Network,
    exported: Network,
    pictures: Sequence[tuple[str, Tensor]],
    *,
    runtime: str,
    precision: Precision | Literal["int8"],
    half: Network | None = None,
    half_runtime: Network | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Proof:
    """Run both networks on every size with one and with two pictures.

    Args:
        reference: the network in PyTorch, float32.
        exported: the file in its runtime.
        pictures: what to cut the inputs from; they take turns.
        runtime: what runs ``exported``.
        precision: of the file; sets the tolerance.
        half: the network in float16 arithmetic, run once more where the runtime itself may have used float32. For a
            file of float32 a failure there is a warning: the file is right, and some programs will compute so.
        half_runtime: the file with float16 arithmetic asked for, where its runtime has that choice.
        sizes: heights and widths.

    Raises:
        RunStopped: a result is not finite, has another shape, or is over the tolerance.
    """
    tolerance = TOLERANCES[precision]
    runs, half_runs = [], []
    turn = 0
    with torch.no_grad():
        for size in sizes:
            for batch in BATCHES:
                chosen = [pictures[(turn + place) % len(pictures)] for place in range(batch)]
                turn += batch
                x = torch.stack([cut(picture, size) for _, picture in chosen])
                names = tuple(name for name, _ in chosen)
                expected = _finite(reference(x), "PyTorch fp32")
                runs.append(compared(exported(x), expected, size, names, runtime))
                if half_runtime is not None:
                    where = f"{runtime} in float16 arithmetic"
                    half_runs.append(compared(half_runtime(x), expected, size, names, where))
        halved, problem = None, None
        if half is not None:
            try:
                result = _finite(half(x), "float16 arithmetic (PyTorch)")
                halved = compared(result, expected, size, names, "float16 arithmetic")
            except RunStopped:
                if precision == "fp16":
                    raise
                problem = (
                    "in float16 arithmetic this network gives NaN or infinity, so pictures turn black in programs that "
                    "compute so (ncnn-vulkan programs do); switch their fp16 off"
                )
    proof = Proof(runtime, precision, tolerance, tuple(runs), halved, problem, tuple(half_runs))
    wrong = [each for each in runs if not each.within(tolerance)]
    in_half = [*half_runs, *([halved] if halved else [])]
    inexact = [each for each in in_half if not each.within(TOLERANCES["fp16"])]
    if precision == "fp16":
        wrong += inexact
    elif inexact and problem is None:
        worst = max(each.largest for each in inexact)
        proof = replace(proof, half_problem=f"in float16 arithmetic this network errs by up to {worst:.2g}")
    if wrong:
        first = (
            f"the exported {precision} model is not the same network: {len(wrong)} runs over the tolerance"
        )
        raise RunStopped("\n".join([first, *proof.lines()]))
    return proof


def cut(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of ``picture`` [C, H, W]; one that is too small is enlarged first."""
    height, width = size
    factor = max(height / picture.shape[1], width / picture.shape[2])
    if factor > 1:
        larger = (
            max(height, math.ceil(picture.shape[1] * factor)),
            max(width, math.ceil(picture.shape[2] * factor)),
        )
        picture = imresize(picture[None], size=larger)[0].clamp(0, 1)
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    return picture[:, top : top + height, left : left + width]


def _finite(result: Tensor, where: str) -> Tensor:
    wrong = int((~torch.isfinite(result)).sum())
    if wrong:
        raise RunStopped(
            f"{where} gives NaN or infinity for {wrong} of {result.numel()} values on the proof's pictures; "
            "nothing was written" + ("; export with --precision fp32" if "16" in where else "")
        )
    return result


def compared(
    result: Tensor, expected: Tensor, size: tuple[int, int], names: tuple[str, ...], runtime: str
) -> Run:
    """How far ``result`` is from ``expected`` [B, C, H, W], values as they come; ``runtime`` stands in messages.

    Raises:
        RunStopped: another shape, or a value that is not finite.
    """
    if result.shape != expected.shape:
        raise RunStopped(f"{runtime} gives {tuple(result.shape)}, PyTorch {tuple(expected.shape)}")
    error = (_finite(result, runtime).double() - expected.double()).abs()
    mse = float(error.square().mean())
    psnr = -10 * math.log10(mse) if mse else None
    return Run(size, len(names), names, float(error.max()), float(error.mean()), psnr)
