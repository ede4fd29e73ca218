"""One door for every network: trace, write, prove, and only then give the files their names."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from atelier import __version__
from atelier.archs.info import count_parameters
from atelier.archs.load import LoadedNetwork, load_network
from atelier.errors import UserError
from atelier.export.base import FORMATS, ExportFormat, Precision
from atelier.export.proof import SIZES, Network, Proof, prove, read_pictures
from atelier.export.trace import INPUT, OUTPUT, Door, SizeMattersError, Traced, first_line, trace
from atelier.files import atomic_files, require_writable, sha256_of
from atelier.restore.exported import facts_path, is_exported, open_exported
from atelier.restore.memory import is_out_of_memory, measure_cost
from atelier.restore.model import check_precision

_PROBE = 64
_ONE_SIZE = (
    "--size HEIGHTxWIDTH exports it for pictures of one size, and restore runs it in windows of that size"
)


@dataclass(frozen=True)
class Exported:
    """The files that were written (the main one first, the JSON last) and the proof."""

    files: tuple[Path, ...]
    proof: Proof


def export_model(
    source: Path,
    output: Path,
    kind: ExportFormat,
    pictures: Sequence[Path],
    *,
    precision: Precision = "fp32",
    size: tuple[int, int] | None = None,
    param_key: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Export a weight file and prove that the result is the same network.

    Args:
        source: a weight file of any architecture that :func:`atelier.archs.load_network` knows.
        output: the main file; its companions and ``output.json`` come beside it.
        kind: the format with its options.
        pictures: files to prove it on.
        precision: "fp32" or "fp16"; input and output are float32 either way.
        size: the only (height, width) that the file takes, one picture at a time; None: any. For networks whose steps
            depend on the size, and for runtimes that want to know it.
        param_key: entry of the weight file.
        say: gets one line for each step.

    Raises:
        UserError: what was given cannot be used. Nothing is under the final names then, or what was there before.
        RunStopped: the exported file is not the same network, or not finite. Likewise.
    """
    loaded = open_source(source, output, kind, param_key)
    facts = loaded.facts
    form, least_size = kind.form_of(loaded.net, facts)
    check_precision(precision, facts, bf16=False)
    inputs = read_pictures(pictures, facts.in_channels)
    say(
        f"{source}: {facts.architecture} x{facts.scale}, {facts.in_channels} to {facts.out_channels} channels"
    )
    wanted = precision == "fp16" or (kind.may_halve and facts.supports_half)
    half = copy.deepcopy(loaded.net).half() if wanted else None
    try:
        traced = _trace(half if half is not None and kind.half_graph else form, loaded, size)
        traced = replace(traced, least_size=max(traced.least_size, least_size))
        metadata = metadata_of(source, loaded, traced, kind, precision)
    except SizeMattersError as error:
        raise UserError(f"{error}; {_ONE_SIZE}") from error
    except RuntimeError as error:
        if size is None or not is_out_of_memory(error):
            raise
        raise UserError(
            f"--size {size[0]}x{size[1]}: the memory is not enough to run {facts.architecture} at this size"
        ) from error
    if size is not None and (facts.receptive_radius is None or 4 * facts.receptive_radius > min(size)):
        reach = (
            "the whole picture" if facts.receptive_radius is None else f"{facts.receptive_radius} pixels far"
        )
        say(
            f"note: {facts.architecture} sees {reach}, more than a quarter of {size[0]}x{size[1]}: pictures of other "
            "sizes, run in windows, will differ from the network's own, most near joints and edges"
        )
    finals = [*(output.with_suffix(suffix) for suffix in kind.suffixes), facts_path(output)]
    with atomic_files(finals) as written:
        kind.write(traced, written[0], metadata, precision)
        # Formats that cannot carry text are opened with the facts beside them.
        written[-1].write_text(json.dumps(metadata), encoding="utf-8")
        say(f"{kind.type} written, {sum(path.stat().st_size for path in written[:-1]):,} bytes; proving it")
        exported = open_exported(written[0], "cpu")
        proof = prove(
            loaded.net,
            exported,
            inputs,
            runtime=exported.session.runtime,
            precision=precision,
            half=_half_network(half),
            half_runtime=kind.open_in_half(written[0]),
            sizes=SIZES if size is None else (size,),
        )
        contents = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in written[:-1]
        }
        whole = {**metadata, "files": contents, "proof": proof.as_json()}
        written[-1].write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        del exported  # a runtime may hold its file open
    return Exported(tuple(finals), proof)


def open_source(source: Path, output: Path, kind: ExportFormat, param_key: str | None) -> LoadedNetwork:
    """The network to export, after a look at whether ``output`` can be written and packages are there.

    Raises:
        UserError: one of these, or the weight file cannot be used.
    """
    if is_exported(source):
        raise UserError(f"{source} is an exported model; export the weight file that it came from")
    if not source.is_file():
        raise UserError(
            f"model file {source} does not exist" if not source.exists() else f"{source} is no file"
        )
    kind.require_packages()
    files = [output.with_suffix(suffix) for suffix in kind.suffixes]
    for path in files:
        if path.exists() and path.samefile(source):
            raise UserError(f"-o {output} would write over the model {source}")
    _keep_others_files(output, kind)
    require_writable(output)
    return load_network(source, param_key=param_key)


def _keep_others_files(output: Path, kind: ExportFormat) -> None:
    """ncnn's and OpenVINO's second file have the same name; neither program allows another one."""
    for other in FORMATS:
        main, *seconds = FORMATS.options_class(other).suffixes
        shared = set(seconds) & set(kind.suffixes[1:])
        if other != kind.type and shared and output.with_suffix(main).exists():
            raise UserError(
                f"-o {output} would write over {output.with_suffix(shared.pop()).name}, which belongs to "
                f"{output.with_suffix(main)} ({other}); give another name or folder"
            )


def _trace(net: nn.Module, loaded: LoadedNetwork, size: tuple[int, int] | None) -> Traced:
    facts = loaded.facts
    halved = next((each.dtype for each in net.parameters()), torch.float32) == torch.float16
    return trace(
        net,
        facts.in_channels,
        name=facts.architecture,
        size_multiple=facts.size_multiple,
        precision="fp16" if halved else "fp32",
        fixed=size,
    )


def _half_network(half: nn.Module | None) -> Network | None:
    return None if half is None else Door(half, True).eval()


def metadata_of(
    source: Path, loaded: LoadedNetwork, traced: Traced, kind: ExportFormat, precision: Precision
) -> dict[str, Any]:
    """What :class:`atelier.restore.exported.ExportedFacts` reads, and where the file came from."""
    facts = loaded.facts
    module = traced.program.module()
    probe = traced.example if traced.fixed else torch.zeros(1, facts.in_channels, _PROBE, _PROBE)
    try:
        with torch.no_grad():
            cost = measure_cost(module, module, probe, ())
    except AssertionError as error:  # what the trace took for granted and did not say before
        raise SizeMattersError(
            f"{facts.architecture} cannot be exported with open height and width: its steps depend on the size of the "
            f"picture ({first_line(error)})"
        ) from None

    def port(name: str, channels: int) -> dict[str, Any]:
        order = "grey" if channels == 1 else "RGB"
        return {"name": name, "layout": "NCHW", "dtype": "float32", "range": [0, 1], "channel_order": order}

    return {
        "format": kind.type,
        "architecture": facts.architecture,
        "options": facts.options,
        "scale": facts.scale,
        "in_channels": facts.in_channels,
        "out_channels": facts.out_channels,
        "input": port(INPUT, facts.in_channels),
        "output": {**port(OUTPUT, facts.out_channels), "clamped": False},
        "open_axes": ["batch", "height", "width"],
        "size_multiple": facts.size_multiple,
        "receptive_radius": facts.receptive_radius,
        "least_size": traced.least_size,
        # Networks of this house subtract their means themselves, and pad to whole windows inside the graph.
        "normalisation": {"mean": [0.0], "std": [1.0]},
        "precision": precision,
        "parameters": count_parameters(loaded.net)[0],
        "memory": {
            "bytes_per_pixel": cost.bytes_per_pixel,
            "elements_per_pixel": cost.elements_per_pixel,
        },
        **kind.facts(),
        **({"open_axes": [], "size": list(traced.example.shape[-2:])} if traced.fixed else {}),
        "source": {
            "file": source.name,
            "sha256": sha256_of(source),
            "param_key": loaded.report.param_key,
        },
        "versions": {"atelier": __version__, "torch": str(torch.__version__), **kind.versions()},
    }
