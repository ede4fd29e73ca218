"""``atelier export --int8``: an ONNX file in int8, with what it loses in quality and gains in time.

Losses are measured on pictures: PSNR and SSIM to the true picture for float32 and for int8, and PSNR of int8 to the
float32 network. Time is one run of onnxruntime on both files, taking turns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.export.calibration import METHODS, activation_ranges, calibration_crops
from atelier.export.exporting import Exported, metadata_of, open_source
from atelier.export.int8_loss import Int8Report, Judge, Quality, Run, pairs_of
from atelier.export.onnx_format import OnnxFormat, save_onnx
from atelier.export.proof import prove, read_pictures
from atelier.export.quantise import SIXTEEN_BIT_OPSET, Layer, find_layers, quantised
from atelier.export.trace import trace
from atelier.files import atomic_files, sha256_of
from atelier.restore.exported import facts_path, open_exported
from atelier.restore.model import RestorationModel

if TYPE_CHECKING:
    import onnx

_TIMED = (128, 128)
_FEW_LAYERS = 40
"""Up to so many layers each one's error is always told; every layer costs some seconds."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Int8Options:
    """How to quantise.

    Attributes:
        calibration: pictures of the kind that the network will be given.
        validation: true pictures by name (``animals/cat``), reduced bicubically to the network's input; none:
            ``calibration`` serves.
        validation_lq: inputs of ``validation``, by the same names or with xSCALE behind; none: made from it.
        method: of calibration.
        activations: bits.
        keep_ends: leave the first and the last layer in float32.
        max_drop: dB of PSNR that may be lost; layers stay in float32 until it is so. None: no limit.
    """

    calibration: Sequence[Path]
    validation: Mapping[str, Path] = field(default_factory=dict)
    validation_lq: Mapping[str, Path] = field(default_factory=dict)
    method: str = "percentile"
    activations: int = 8
    keep_ends: bool = False
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"--calibrate {self.method}: allowed are {', '.join(METHODS)}")
        if self.activations not in (8, 16):
            raise UserError(f"--activations {self.activations}: allowed are 8 and 16 bits")
        if self.max_drop is not None and not self.max_drop > 0:
            raise UserError(f"--max-drop {self.max_drop}: a number of dB above 0 is expected")
        if not self.calibration:
            raise UserError("--calibration: no pictures there")


def export_int8(
    source: Path,
    output: Path,
    options: Int8Options,
    proof_pictures: Sequence[Path],
    *,
    opset: int = 18,
    concat_skip: bool = False,
    param_key: str | None = None,
    say: Say = lambda _: None,
) -> tuple[Exported, Int8Report]:
    """Quantise a network and write ``output`` (``.onnx``) with its JSON.

    Raises:
        UserError: what was given cannot be used; nothing is written then.
        RunStopped: the result is not finite, or no longer the same network (under 20 dB).
    """
    kind = OnnxFormat(
        opset=max(opset, SIXTEEN_BIT_OPSET) if options.activations == 16 else opset, concat_skip=concat_skip
    )
    loaded = open_source(source, output, kind, param_key)
    facts = loaded.facts
    samples, named = pairs_of(
        options.calibration,
        options.validation,
        options.validation_lq,
        facts.in_channels,
        facts.out_channels,
        facts.scale,
    )
    proof_inputs = read_pictures(proof_pictures, facts.in_channels)
    crops = calibration_crops(options.calibration, facts.in_channels, say=say)
    traced = trace(loaded.net, facts.in_channels, name=facts.architecture, size_multiple=facts.size_multiple)
    metadata = {**metadata_of(source, loaded, traced, kind, "fp32"), "precision": "int8"}
    whole = kind.graph(traced)
    layers = find_layers(whole)
    say(f"{facts.architecture} x{facts.scale}: {len(layers)} layers; calibrating on {len(crops)} crops")
    ranges = activation_ranges(whole, crops, options.method, options.activations)
    judge = Judge(samples, runner(whole), facts.scale)
    kept = {layers[0].name, layers[-1].name} if options.keep_ends else set()
    if len(kept) == len(layers):
        raise UserError(
            f"--keep-ends: the network has only {len(layers)} layers, so none would be int8; leave it out"
        )

    def attempt(keep: set[str]) -> onnx.ModelProto:
        chosen = [each for each in layers if each.name not in keep]
        return quantised(whole, ranges, chosen, options.activations)

    model = attempt(kept)
    quality = judge(runner(model))
    sensitivity: dict[str, float] = {}
    limit = math.inf if options.max_drop is None else options.max_drop
    too_much = judge.float32.psnr - quality.psnr > limit
    if too_much or len(layers) <= _FEW_LAYERS:
        say(f"all in int8: {_step(judge, quality)}; measuring each layer alone")
        sensitivity = _sensitivity(
            judge, layers, lambda layer: quantised(whole, ranges, [layer], options.activations)
        )
    if too_much:
        for name in sorted(sensitivity, key=lambda each: -sensitivity[each]):
            if name in kept:
                continue
            kept.add(name)
            if len(kept) == len(layers):
                raise UserError(
                    f"--max-drop {limit:g}: no layer can be int8 within this limit; allow more, or take "
                    "--activations 16"
                )
            model = attempt(kept)
            quality = judge(runner(model))
            say(f"{name} in float32 ({len(kept)} of {len(layers)}): {_step(judge, quality)}")
            if judge.float32.psnr - quality.psnr <= limit:
                break
    with atomic_files([output, facts_path(output)]) as written:
        save_onnx(model, written[0], metadata)
        float_file = written[0].with_name("float32.onnx")
        save_onnx(whole, float_file, metadata)
        exported = open_exported(written[0], "cpu")
        proof = prove(loaded.net, exported, proof_inputs, runtime=exported.session.runtime, precision="int8")
        slow, fast = _milliseconds(float_file, written[0])
        report = Int8Report(
            named,
            f"PSNR-Y and SSIM-Y (BT.601, crop {facts.scale})",
            judge.float32,
            quality,
            tuple(each.name for each in layers if each.name in kept),
            len(layers),
            options.method,
            options.activations,
            float_file.stat().st_size,
            written[0].stat().st_size,
            slow,
            fast,
            f"median of 7 at {_TIMED[1]}x{_TIMED[0]}, {torch.get_num_threads()} threads, taking turns",
            sensitivity,
        )
        contents = {
            written[0].name: {"bytes": report.bytes_int8, "sha256": sha256_of(written[0])},
        }
        whole_json = {
            **metadata,
            "files": contents,
            "quantisation": asdict(report),
            "proof": proof.as_json(),
        }
        written[-1].write_text(json.dumps(whole_json, indent=2) + "\n", encoding="utf-8")
        del exported
    return Exported((output, facts_path(output)), proof), report


def _step(judge: Judge, quality: Quality) -> str:
    return f"PSNR {quality.psnr:.2f} dB, {judge.float32.psnr - quality.psnr:.2f} dB lost"


def _sensitivity(
    judge: Judge, layers: Sequence[Layer], alone: Callable[[Layer], onnx.ModelProto]
) -> dict[str, float]:
    """Name -> mean square error to float32 where this layer alone is int8."""
    return {layer.name: judge.error(runner(alone(layer))) for layer in layers}


def runner(model: onnx.ModelProto) -> Run:
    """A graph as a function of tensors, in onnxruntime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

    return run


def _milliseconds(*paths: Path) -> list[float]:
    from atelier.evaluate.latency import measure_times

    models = []
    for path in paths:
        net = open_exported(path, "cpu")
        models.append(RestorationModel(net, net.facts, device="cpu"))
    return [1e3 * each.median for each in measure_times(models, _TIMED, warmups=1, rounds=7)]
