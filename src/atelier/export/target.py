"""``atelier export --target NAME``: what a device's tool chain takes, and what is known beforehand.

The folder holds the network at one fixed size in int8 (QDQ) and in float32, calibration pictures as raw float32 with
their list, the commands to run, and a report against the target's budget. Nothing here runs on the device.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from atelier.archs.info import count_macs, count_parameters, parse_size
from atelier.errors import RunStopped, UserError
from atelier.export.calibration import METHODS, activation_ranges, calibration_crops
from atelier.export.exporting import metadata_of, open_source
from atelier.export.int8 import runner
from atelier.export.int8_loss import WARN_BELOW
from atelier.export.onnx_format import OnnxFormat, save_onnx
from atelier.export.proof import TOLERANCES, cut, read_pictures
from atelier.export.quantise import SIXTEEN_BIT_OPSET, find_layers, quantised
from atelier.export.target_options import Target, find_target
from atelier.export.trace import Traced, trace
from atelier.files import describe_os_error, sha256_of
from atelier.restore.exported import facts_path

if TYPE_CHECKING:
    import onnx

MODEL: Final = "model.onnx"
FLOAT_MODEL: Final = "model_float.onnx"
LIST: Final = "input_list.txt"


#: The first opset with Gelu; before it a Gelu is written as Erf and four more.
_GELU_OPSET: Final = 20


@dataclass(frozen=True)
class Prepared:
    """The report's lines, and what is over the budget (parameters, macs, ...)."""

    lines: tuple[str, ...]
    over: tuple[str, ...]


def prepare_target(
    source: Path,
    output: Path,
    name: str,
    calibration: Sequence[Path],
    pictures: Sequence[Path],
    *,
    targets: Path | None = None,
    size: str | None = None,
    method: str = "percentile",
    activations: int | None = None,
    concat_skip: bool = False,
    param_key: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Write the folder ``output`` and return the report.

    Args:
        source: a weight file.
        output: the folder; it must not exist, or be empty.
        name: of the target.
        calibration: pictures as the network will be given.
        pictures: what the loss of int8 is measured on.
        targets: a file with more targets.
        size: HEIGHTxWIDTH instead of the target's.
        method: of calibration.
        activations: bits instead of the target's.
        concat_skip: see :mod:`atelier.export.skip`.
        param_key: entry of the weight file.
        say: gets one line for each step.

    Raises:
        UserError: what was given cannot be used, or the target lacks an operator. Nothing is written then.
        RunStopped: the result is not the same network, or not finite. Likewise.
    """
    target = find_target(name, targets)
    if method not in METHODS:
        raise UserError(f"--calibrate {method}: allowed are {', '.join(METHODS)}")
    bits = activations or target.activations
    if bits not in (8, 16):
        raise UserError(f"--activations {bits}: allowed are 8 and 16 bits")
    if output.suffix or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise UserError(
            f"-o {output}: --target writes a new folder; give a name without suffix that is not in use"
        )
    height, width = parse_size(size or target.size)
    opset = max(target.opset, SIXTEEN_BIT_OPSET) if bits == 16 else target.opset
    kind = OnnxFormat(opset=opset, concat_skip=concat_skip)
    loaded = open_source(source, output.with_suffix(".onnx"), kind, param_key)
    facts = loaded.facts
    traced = trace(
        loaded.net,
        facts.in_channels,
        name=facts.architecture,
        size_multiple=facts.size_multiple,
        fixed=(height, width),
    )
    whole, lacking = _graph(kind, traced, target)
    if "Erf" in lacking and "Gelu" in target.operators and opset < _GELU_OPSET:
        say(
            f"opset {_GELU_OPSET} in place of {opset}: {name} runs Gelu, but not the Erf that stands for it before"
        )
        kind = OnnxFormat(opset=_GELU_OPSET, concat_skip=concat_skip)
        whole, lacking = _graph(kind, traced, target)
    if lacking:
        hint = "; --concat-skip writes the skip without Resize" if lacking == ["Resize"] else ""
        raise UserError(
            f"{name} does not run the operators {', '.join(lacking)} that {facts.architecture} uses{hint} "
            f"(its list: {target.operators_from or targets})"
        )
    crops = calibration_crops(calibration, facts.in_channels, (height, width), say=say)
    tests = [cut(picture, (height, width))[None] for _, picture in read_pictures(pictures, facts.in_channels)]
    say(
        f"{facts.architecture} at {height}x{width}: every operator is on {name}'s list; "
        f"calibrating on {len(crops)} crops"
    )
    ranges = activation_ranges(whole, crops, method, bits)
    model = quantised(whole, ranges, find_layers(whole, slopes=True), bits)
    closeness = _closeness(loaded.net, whole, model, tests)
    metadata = metadata_of(source, loaded, traced, kind, "fp32")
    temporary: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        for graph, path, precision in (
            (model, temporary / MODEL, "int8"),
            (whole, temporary / FLOAT_MODEL, "fp32"),
        ):
            facts_of_file = {**metadata, "precision": precision}
            save_onnx(graph, path, facts_of_file)
            contents = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}}
            facts_path(path).write_text(
                json.dumps({**facts_of_file, "files": contents}, indent=2) + "\n", encoding="utf-8"
            )
        _write_calibration(temporary, crops, target.raw_layout)
        found = {
            "parameters": count_parameters(loaded.net)[0],
            "macs": count_macs(loaded.net, facts.in_channels, (height, width)).total,
            "activation_bytes": peak_activations(whole) * bits // 8,
            "file_bytes": (temporary / MODEL).stat().st_size,
        }
        budget: dict[str, Any] = target.budget.model_dump()
        over = [key for key, value in found.items() if budget[key] and value > budget[key]]
        lines = _report(target, name, found, closeness, over)
        report = {
            "target": name,
            **metadata,
            "precision": "int8",
            "measured": found,
            "budget": budget,
            "over_budget": over,
            "psnr_to_float32": closeness,
        }
        (temporary / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(_readme(target, name, bits, lines), encoding="utf-8")
        temporary.chmod(0o755)
        temporary.replace(output)
    except OSError as error:
        raise UserError(describe_os_error(error, output)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    wrote = f"wrote {output}/: {MODEL} and {FLOAT_MODEL} with their .json, {LIST}, calibration/, README.md, report.json"
    return Prepared((*lines, wrote), tuple(over))


def _graph(kind: OnnxFormat, traced: Traced, target: Target) -> tuple[onnx.ModelProto, list[str]]:
    """The program as ONNX, and its operators that the target does not run."""
    whole = kind.graph(traced)
    return whole, sorted({node.op_type for node in whole.graph.node} - set(target.operators))


def _closeness(
    net: torch.nn.Module, whole: onnx.ModelProto, model: onnx.ModelProto, tests: Sequence[Tensor]
) -> float | None:
    """PSNR in dB of int8 to float32, clamped; None: identical. The float32 graph is proved on the way."""
    run_whole, run_int8 = runner(whole), runner(model)
    total = 0.0
    with torch.no_grad():
        for x in tests:
            expected, exact, rough = net(x), run_whole(x), run_int8(x)
            if not bool(torch.isfinite(exact).all() & torch.isfinite(rough).all()):
                raise RunStopped(
                    "the exported network gives NaN or infinity on the proof's pictures; nothing written"
                )
            largest = float((exact - expected).abs().max())
            if largest > TOLERANCES["fp32"].largest:
                raise RunStopped(
                    f"the float32 graph at this size is not the same network: largest error {largest:.2g}"
                )
            total += float((rough.clamp(0, 1) - expected.clamp(0, 1)).square().mean())
    psnr = -10 * math.log10(total / len(tests)) if total else None
    if psnr is not None and psnr < TOLERANCES["int8"].psnr:
        raise RunStopped(
            f"int8 is no longer the same network: {psnr:.1f} dB to float32; try --activations 16"
        )
    return psnr


def peak_activations(model: onnx.ModelProto) -> int:
    """Elements alive at once, at most, when the nodes of a graph of fixed sizes run in their order.

    A tensor lives from the node that gives it to the last that takes it; what a node takes and gives is alive together.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {
        each.name: math.prod(dim.dim_value for dim in each.type.tensor_type.shape.dim)
        for each in (*graph.input, *graph.value_info, *graph.output)
    }
    constants = {each.name for each in graph.initializer}
    last = {name: place for place, node in enumerate(graph.node) for name in node.input}
    last |= {each.name: len(graph.node) for each in graph.output}
    alive = {each.name for each in graph.input}
    peak = 0
    for place, node in enumerate(graph.node):
        alive |= {name for name in node.output if name}
        peak = max(peak, sum(sizes.get(name, 0) for name in alive - constants))
        alive = {name for name in alive if last.get(name, -1) > place}
    return peak


def _write_calibration(folder: Path, crops: Sequence[Tensor], layout: str) -> None:
    (folder / "calibration").mkdir()
    names = []
    for number, crop in enumerate(crops):
        values = crop.permute(0, 2, 3, 1) if layout == "NHWC" else crop
        name = f"calibration/{number:03d}.raw"
        (folder / name).write_bytes(values.contiguous().numpy().astype("<f4").tobytes())
        names.append(name)
    (folder / LIST).write_text("\n".join(names) + "\n", encoding="ascii")


def _report(
    target: Target, name: str, found: dict[str, int], closeness: float | None, over: Sequence[str]
) -> list[str]:
    lines = [f"{name}: {target.description}"]
    limits: dict[str, Any] = target.budget.model_dump()
    for key, value in found.items():
        limit = limits[key]
        verdict = "no limit" if limit is None else f"{'within' if value <= limit else 'OVER'} {limit:,}"
        lines.append(f"  {key.replace('_', ' '):<18} {value:>15,}  {verdict}")
    if limits["milliseconds"] is not None:
        lines.append(
            f"  {'milliseconds':<18} {'not measured':>15}  limit {limits['milliseconds']:g}, on the device"
        )
    lines.append(
        "  int8 to float32    "
        + ("identical" if closeness is None else f"{closeness:.2f} dB (onnxruntime, CPU)")
    )
    if closeness is not None and closeness < WARN_BELOW:
        lines.append(f"  warning: under {WARN_BELOW:g} dB to the float32 network; try --activations 16")
    lines.append("  not run here: the device's tool chain, its compiler and the device itself")
    if over:
        lines.append(f"  over budget: {', '.join(over).replace('_', ' ')}")
    return lines


def _readme(target: Target, name: str, bits: int, lines: Sequence[str]) -> str:
    values = {"model": MODEL, "float_model": FLOAT_MODEL, "list": LIST, "activations": bits}
    commands = (
        "\n".join(f"    {_filled(line, values, name)}" for line in target.commands) or "    (none stated)"
    )
    report = "\n".join(f"    {line}" for line in lines)
    return f"""# {name}

{target.description}

* `{MODEL}`: int8 in QDQ form, fixed size, batch 1; input `data`, output `output`, N×C×H×W, [0, 1], RGB or grey.
* `{FLOAT_MODEL}`: the same network in float32.
* `{LIST}`: the raw little-endian float32 pictures in `calibration/`, {target.raw_layout}, [0, 1]. Whether your
  version of the tools wants NCHW or NHWC stands in its documents; `raw_layout` in the targets' file changes it.
* `{MODEL}.json`, `{FLOAT_MODEL}.json`: what a runner has to know of each, as in its metadata.
* `report.json`: the numbers below and where the files came from.

## Commands

Untried: neither the tool chain nor the device was at hand when this folder was made. Names and flags differ between
versions of the tools.

{commands}

## Against the budget

{report}

Operators were checked against a list ({target.operators_from or "the targets' file"}),
not by the compiler. The time on the device is unknown until it is measured there.
"""


def _filled(line: str, values: dict[str, Any], name: str) -> str:
    try:
        return line.format(**values)
    except (KeyError, IndexError, ValueError):
        raise UserError(
            f"target {name}: '{line}': allowed in braces are {', '.join(values)}; write other braces twice"
        ) from None
