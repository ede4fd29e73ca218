"""What ``atelier transfer`` does: read, transfer, judge, write."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.compact import SRVGGNetCompact
from atelier.archs.info import count_macs, count_parameters
from atelier.archs.load import load_network
from atelier.archs.weights import save_weights
from atelier.cli.transfer_pictures import HeldOut, calibration_crops, held_out_pictures, require_disjoint
from atelier.compress.closeness import Fidelity, fidelity
from atelier.compress.fold import fold_scale, to_grey
from atelier.compress.transfer_options import METHODS, TransferOptions
from atelier.compress.transferring import Transferred, check, ticks, transfer
from atelier.data.preview import write_sheet
from atelier.errors import UserError
from atelier.files import atomic_path, require_writable, sha256_of
from atelier.images import from_tensor, imresize
from atelier.progress import Progress, progress

_WARM_UP, _TIMED = 2, 7


@dataclass(frozen=True)
class Row:
    """One line of the table; what a plain enlargement has not, or has no meaning, is None."""

    name: str
    parameters: int | None
    macs_per_pixel: int | None
    bytes: int | None
    latency_ms: float | None
    latency_ratio: float | None
    to_source: Fidelity
    to_gt: float | None


def run_transfer(
    source: Path,
    output: Path,
    choices: Mapping[str, Any],
    *,
    calibration: Path | None = None,
    folded_scale: int | None = None,
    grey: bool = False,
    gt: Path | None = None,
    compare_methods: bool = False,
    sheet: Path | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """The whole command; arguments are its flags, ``choices`` those of :class:`TransferOptions`.

    Returns:
        The report, as it stands in ``OUTPUT.transfer.json``.

    Raises:
        UserError: a flag, a file or a combination of sizes that cannot be used; nothing has been written then.
    """
    options = _options(choices)
    if output.suffix not in (".pth", ".safetensors"):
        raise UserError(f"-o {output}: the name must end in .pth or .safetensors")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {sheet}: the name must end in .png")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"-o {output} is the source itself")
    net = _source(source, folded_scale, grey)
    scale, channels = net.options.upscale, net.options.num_in_ch
    crops, calibration_files = calibration_crops(calibration, scale, channels, options.seed)
    held, held_files = held_out_pictures(gt, scale, channels)
    require_disjoint(calibration_files, held_files)
    check(net, options, crops)
    report_path = output.with_name(output.name + ".transfer.json")
    for path in (output, report_path, *([] if sheet is None else [sheet])):
        require_writable(path)
    if output.exists():
        say(f"{output} exists: replacing it at the end")
    if calibration is None:
        say(f"calibration: {len(crops)} crops of bundled photographs (no --calibration given)")
    else:
        say(f"calibration: {len(crops)} crops of {len(calibration_files)} pictures in {calibration}")
    results = _results(net, options, crops, compare_methods, say)
    chosen = results[options.method]
    record = {
        "source": source.name,
        "source_sha256": sha256_of(source),
        "folded_scale": folded_scale,
        "grey": grey,
        **options.model_dump(mode="json"),
        "source_layers": list(chosen.steps),
        "kept": None if chosen.kept is None else [list(each) for each in chosen.kept],
        "calibration": calibration_files,
    }
    rows, pictures = _judged(net, results, record, output.suffix, held)
    report = {
        "transfer": record,
        "held_out": held_files,
        "table": [_plain(asdict(row)) for row in rows],
        "relative_errors": {
            name: [{"layer": i, "error": e} for i, e in zip(each.steps, each.errors, strict=False)]
            for name, each in results.items()
        },
    }
    for line in table_lines(rows):
        say(line)
    for name, each in results.items():
        # Nothing was left out or solved: a line of zeros would say no more.
        if any(error >= 5e-4 for error in each.errors):
            say(
                f"{name}: relative error before each activation: " + " ".join(f"{e:.3f}" for e in each.errors)
            )
    warned = useless(rows, options.method)
    if warned is not None:
        say(warned)
    # Both files or none: the report takes its name only once the weights have theirs.
    with atomic_path(report_path) as waiting:
        waiting.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        _save(output, chosen.net, record)
    if sheet is not None:
        write_sheet(sheet, *_tiles(pictures))
        say(f"pictures: {sheet}")
    say(f"written: {output}")
    return report


def _options(choices: Mapping[str, Any]) -> TransferOptions:
    try:
        return TransferOptions.model_validate(dict(choices))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{name} {first['input']}: {first['msg']}") from None


def _source(path: Path, folded_scale: int | None, grey: bool) -> SRVGGNetCompact:
    net = load_network(path).net
    if not isinstance(net, SRVGGNetCompact):
        raise UserError(f"{path} holds a {type(net).__name__}; transfer takes an SRVGGNetCompact")
    if folded_scale is not None:
        net = fold_scale(net, folded_scale)
    return to_grey(net) if grey else net


def _results(
    net: SRVGGNetCompact, options: TransferOptions, crops: Tensor, every: bool, say: Callable[[str], object]
) -> dict[str, Transferred]:
    wanted = [options]
    if every:
        wanted = [options.model_copy(update={"method": name}) for name in METHODS]
    results: dict[str, Transferred] = {}
    for number, each in enumerate(wanted, 1):
        title = f"{each.method} ({number} of {len(wanted)})" if every else each.method
        steps = ticks(net, each)
        with progress(title, max(steps, 1), "steps") as bar:
            try:
                results[each.method] = transfer(net, each, crops, tick=bar.advance)
                if not steps:
                    bar.advance()
            except UserError as error:
                if each.method == options.method:
                    raise
                say(f"{each.method}: left out: {error}")
    return results


@torch.no_grad()
def _judged(
    net: SRVGGNetCompact,
    results: Mapping[str, Transferred],
    record: Mapping[str, Any],
    suffix: str,
    held: Sequence[HeldOut],
) -> tuple[list[Row], dict[str, list[Tensor]]]:
    """The table, and the pictures by row name; the last picture list is the ground truth.

    At scale 1 the input is the ground truth: it is the plain row, and nothing is compared with the ground truth.
    Sizes are those of files with one ``record``, so that equal networks have equal sizes.
    """
    scale = net.options.upscale
    truth = [each.gt for each in held]
    pictures: dict[str, list[Tensor]] = {"input": truth}
    if scale > 1:
        pictures = {
            "nearest": [F.interpolate(each.lq, scale_factor=scale, mode="nearest") for each in held],
            "bicubic": [imresize(each.lq, float(scale)).clamp(0, 1) for each in held],
        }
    nets = {"source": net, **{name: each.net for name, each in results.items()}}
    with progress("measuring", len(nets) * (len(held) + _WARM_UP + _TIMED), "forwards") as bar:
        for name, known in nets.items():
            pictures[name] = []
            for one in held:
                pictures[name].append(known(one.lq).clamp(0, 1))
                bar.advance()
        latencies = _latencies(nets, held[0].lq, bar)
    rows = []
    for name, outputs in pictures.items():
        network = nets.get(name)
        macs = None if network is None else count_macs(network, net.options.num_in_ch, (8, 8)).total // 64
        comparable = scale > 1 and outputs[0].shape == truth[0].shape
        rows.append(
            Row(
                name=name,
                parameters=None if network is None else count_parameters(network)[0],
                macs_per_pixel=macs,
                bytes=None if network is None else _bytes(network, record, suffix),
                latency_ms=latencies.get(name),
                latency_ratio=latencies[name] / latencies["source"] if name in latencies else None,
                to_source=fidelity(outputs, pictures["source"]),
                to_gt=fidelity(outputs, truth).psnr if comparable else None,
            )
        )
    return rows, {**pictures, "gt": truth}


def useless(rows: Sequence[Row], method: str) -> str | None:
    """A warning where the network of ``method`` is further from its source than the plain first row."""
    plain, found = rows[0], next(each for each in rows if each.name == method)
    if found.to_source.psnr >= plain.to_source.psnr:
        return None
    what = "the unchanged input" if plain.name == "input" else f"plain {plain.name} upsampling"
    advice = (
        "use --method least-squares" if method != "least-squares" else "use more --num-feat or --num-conv"
    )
    return (
        f"warning: {method} is worse than {what} ({found.to_source.psnr:.2f} dB to the source, "
        f"{plain.name} {plain.to_source.psnr:.2f} dB): {advice}"
    )


def _save(path: Path, net: SRVGGNetCompact, record: Mapping[str, Any]) -> None:
    """Write ``net`` with what is needed to build it and how it came about."""
    metadata = {
        "arch": net.options.type,
        "options": net.options.model_dump(mode="json", exclude={"type"}),
        "transfer": dict(record),
    }
    state = net.state_dict()
    save_weights(path, {"params": state, "params_ema": state}, metadata)


def _bytes(net: SRVGGNetCompact, record: Mapping[str, Any], suffix: str) -> int:
    """Size of the network's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"net{suffix}"
        _save(path, net, record)
        return path.stat().st_size


def _latencies(nets: Mapping[str, nn.Module], x: Tensor, bar: Progress) -> dict[str, float]:
    """Median milliseconds on ``x``; the networks take turns, so that a busy moment meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in nets}
    for turn in range(_WARM_UP + _TIMED):
        for name, net in nets.items():
            start = time.perf_counter()
            net(x)
            if turn >= _WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start))
            bar.advance()
    return {name: statistics.median(each) for name, each in times.items()}


def table_lines(rows: Sequence[Row]) -> list[str]:
    """The table as text."""
    lines = [
        f"{'':14}{'parameters':>11}{'MACs/px':>9}{'bytes':>10}{'ms':>8}{'ratio':>7}"
        f"{'to source':>11}{'max':>7}{'to gt':>8}  colour shift R G B in 1/255"
    ]
    for row in rows:
        near = row.to_source
        lines.append(
            f"{row.name:14}{_cell(row.parameters, 11, ',')}{_cell(row.macs_per_pixel, 9, ',')}"
            f"{_cell(row.bytes, 10, ',')}{_cell(row.latency_ms, 8, '.1f')}{_cell(row.latency_ratio, 7, '.2f')}"
            f"{near.psnr:8.2f} dB{near.max_error:7.3f}{_cell(row.to_gt, 8, '.2f')}  "
            + " ".join(f"{each:+.2f}" for each in near.shift)
        )
    return lines


def _cell(value: float | None, width: int, style: str) -> str:
    return f"{'–' if value is None else format(value, style):>{width}}"


def _plain(value: Any) -> Any:
    """JSON has no infinity: equal pictures have a PSNR of null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tiles(pictures: Mapping[str, Sequence[Tensor]]) -> tuple[list[Any], list[str]]:
    """The first picture every way, RGB uint8, and its labels."""
    tiles = []
    for outputs in pictures.values():
        first = outputs[0]
        tiles.append(from_tensor(first if first.shape[1] == 3 else first.expand(-1, 3, -1, -1)))
    return tiles, list(pictures)
