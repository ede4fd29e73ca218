"""``atelier export --int8``: an ONNX file in int8, with what it loses in quality and gains in time.

Losses are measured on pictures: PSNR and SSIM to the true picture for float32 and for int8, and PSNR of int8 to the
float32 network. Time is one run of onnxruntime on both files, taking turns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.export.calibration import METHODS, activation_ranges, calibration_crops
from atelier.export.exporting import Exported, metadata_of, open_source
from atelier.export.onnx_format import OnnxFormat, save_onnx
from atelier.export.proof import prove, read_picture, read_pictures
from atelier.export.quantise import SIXTEEN_BIT_OPSET, Layer, find_layers, quantised
from atelier.export.trace import trace
from atelier.files import atomic_files, sha256_of
from atelier.images import from_tensor, imresize
from atelier.metrics import psnr, ssim
from atelier.restore.exported import facts_path, open_exported
from atelier.restore.model import RestorationModel

if TYPE_CHECKING:
    import onnx

WARN_BELOW: Final = 35.0
"""dB to the float32 network under which a warning is given."""

LARGEST: Final = 512
"""Side of a validation picture, at most; larger ones are cut to their middle."""

_TIMED = (128, 128)
_PROBES = 4

Say = Callable[[str], None]
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Int8Options:
    """How to quantise.

    Attributes:
        calibration: pictures of the kind that the network will be given.
        validation: true pictures, reduced bicubically to the network's input; none: ``calibration`` serves.
        validation_lq: inputs of ``validation``, of the same names or with xSCALE behind; none: made from it.
        method: of calibration.
        activations: bits.
        keep_ends: leave the first and the last layer in float32.
        max_drop: dB of PSNR that may be lost; layers stay in float32 until it is so. None: no limit.
    """

    calibration: Sequence[Path]
    validation: Sequence[Path] = ()
    validation_lq: Sequence[Path] = ()
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


@dataclass(frozen=True)
class Quality:
    """Means over the pictures. ``to_float`` is in dB over RGB, clamped; None: not a bit differs."""

    psnr: float
    ssim: float
    to_float: float | None = None


@dataclass(frozen=True)
class Int8Report:
    """What int8 costs and gains; :meth:`lines` is for people, ``asdict`` for the JSON beside the model."""

    pictures: str
    protocol: str
    float32: Quality
    int8: Quality
    kept: tuple[str, ...]
    layers: int
    method: str
    activations: int
    bytes_float32: int
    bytes_int8: int
    milliseconds_float32: float
    milliseconds_int8: float
    timed: str
    sensitivity: dict[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """dB of PSNR lost."""
        return self.float32.psnr - self.int8.psnr

    def lines(self) -> list[str]:
        """A small table."""
        closeness = "identical" if self.int8.to_float is None else f"{self.int8.to_float:.2f} dB"
        gain = self.milliseconds_float32 / self.milliseconds_int8
        kept = f"; in float32: {', '.join(self.kept)}" if self.kept else ""
        rows = [
            f"int8 weights a channel, {self.activations}-bit activations ({self.method}), "
            f"{self.layers - len(self.kept)} of {self.layers} layers{kept}",
            f"on {self.pictures}, {self.protocol}:",
            f"  float32  PSNR {self.float32.psnr:.2f} dB, SSIM {self.float32.ssim:.4f}, {self.bytes_float32:,} bytes, "
            f"{self.milliseconds_float32:.1f} ms",
            f"  int8     PSNR {self.int8.psnr:.2f} dB, SSIM {self.int8.ssim:.4f}, {self.bytes_int8:,} bytes, "
            f"{self.milliseconds_int8:.1f} ms ({gain:.2f} times as fast; {self.timed})",
            f"  lost     PSNR {self.drop:.2f} dB, SSIM {self.float32.ssim - self.int8.ssim:.4f}; "
            f"PSNR to the float32 network {closeness}",
        ]
        if self.int8.to_float is not None and self.int8.to_float < WARN_BELOW:
            rows.append(
                f"  warning: under {WARN_BELOW:g} dB to the float32 network; try --keep-ends, --activations 16 or "
                "--max-drop"
            )
        return rows


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
    samples, named = _samples(options, facts.in_channels, facts.out_channels, facts.scale)
    proof_inputs = read_pictures(proof_pictures, facts.in_channels)
    crops = calibration_crops(options.calibration, facts.in_channels)
    traced = trace(loaded.net, facts.in_channels, name=facts.architecture, size_multiple=facts.size_multiple)
    metadata = {**metadata_of(source, loaded, traced, kind, "fp32"), "precision": "int8"}
    whole = kind.graph(traced)
    layers = find_layers(whole)
    say(f"{facts.architecture} x{facts.scale}: {len(layers)} layers; calibrating on {len(crops)} crops")
    ranges = activation_ranges(whole, crops, options.method, options.activations)
    judge = _Judge(samples, runner(whole), facts.scale)
    kept = {layers[0].name, layers[-1].name} if options.keep_ends else set()

    def attempt(keep: set[str]) -> onnx.ModelProto:
        chosen = [each for each in layers if each.name not in keep]
        return quantised(whole, ranges, chosen, options.activations)

    model = attempt(kept)
    quality = judge(runner(model))
    sensitivity: dict[str, float] = {}
    if options.max_drop is not None and judge.float32.psnr - quality.psnr > options.max_drop:
        say(f"all in int8: {_step(judge, quality)}; measuring each layer alone")
        sensitivity = _sensitivity(
            judge, layers, lambda layer: quantised(whole, ranges, [layer], options.activations)
        )
        for name in sorted(sensitivity, key=lambda each: -sensitivity[each]):
            if name in kept:
                continue
            kept.add(name)
            if len(kept) == len(layers):
                raise UserError(
                    f"--max-drop {options.max_drop}: no layer can be int8 within this limit; allow more, or take "
                    "--activations 16"
                )
            model = attempt(kept)
            quality = judge(runner(model))
            say(f"{name} in float32 ({len(kept)} of {len(layers)}): {_step(judge, quality)}")
            if judge.float32.psnr - quality.psnr <= options.max_drop:
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


def _step(judge: _Judge, quality: Quality) -> str:
    return f"PSNR {quality.psnr:.2f} dB, {judge.float32.psnr - quality.psnr:.2f} dB lost"


def _sensitivity(
    judge: _Judge, layers: Sequence[Layer], alone: Callable[[Layer], onnx.ModelProto]
) -> dict[str, float]:
    """Name -> mean square error to float32 where this layer alone is int8."""
    return {layer.name: judge.error(runner(alone(layer)), _PROBES) for layer in layers}


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


class _Judge:
    """Measures networks on the validation pictures; knows what the float32 network gave there."""

    def __init__(self, samples: Sequence[tuple[Tensor, Tensor]], float32: Run, scale: int) -> None:
        self.samples, self.scale = samples, scale
        self.answers = [float32(lq).clamp(0, 1) for lq, _ in samples]
        self.float32 = self._quality(self.answers)

    def __call__(self, run: Run) -> Quality:
        answers = [run(lq).clamp(0, 1) for lq, _ in self.samples]
        errors = [float((a - b).square().mean()) for a, b in zip(answers, self.answers, strict=True)]
        mean = sum(errors) / len(errors)
        found = self._quality(answers)
        return Quality(found.psnr, found.ssim, -10 * math.log10(mean) if mean else None)

    def error(self, run: Run, count: int) -> float:
        """Mean square error to float32 on the first ``count`` pictures."""
        pairs = zip(self.samples[:count], self.answers, strict=False)
        errors = [float((run(lq).clamp(0, 1) - answer).square().mean()) for (lq, _), answer in pairs]
        return sum(errors) / len(errors)

    def _quality(self, answers: Sequence[Tensor]) -> Quality:
        values = []
        for answer, (_, gt) in zip(answers, self.samples, strict=True):
            a, b = from_tensor(answer[0], "uint8"), from_tensor(gt[0], "uint8")
            settings: dict[str, Any] = {"crop_border": self.scale, "y": a.shape[2] == 3}
            values.append((min(psnr(a, b, **settings), 100.0), ssim(a, b, **settings)))
        first, second = (sum(each) / len(values) for each in zip(*values, strict=True))
        return Quality(first, second)


def _samples(
    options: Int8Options, channels: int, out_channels: int, scale: int
) -> tuple[list[tuple[Tensor, Tensor]], str]:
    """Pairs (lq, gt), each [1, C, h, w] in [0, 1], and what they are called in the report."""
    if scale == 1 and not options.validation_lq:
        raise UserError(
            "--int8: the loss of a network of scale 1 is measured on pairs; give --validation and --validation-lq"
        )
    paths = options.validation or options.calibration
    partners = _partners(options, scale)
    named = (
        f"{len(paths)} validation pictures" if options.validation else f"{len(paths)} CALIBRATION pictures"
    )
    samples = []
    for place, path in enumerate(paths):
        gt = read_picture(path, out_channels)[None]
        if partners:
            lq = read_picture(partners[place], channels)[None]
            if [side * scale for side in lq.shape[-2:]] != list(gt.shape[-2:]):
                raise UserError(
                    f"{partners[place]} is {lq.shape[-1]}x{lq.shape[-2]}, {path} is "
                    f"{gt.shape[-1]}x{gt.shape[-2]}; the scale is {scale}"
                )
            height, width = (min(side, LARGEST // scale) for side in lq.shape[-2:])
            lq = lq[..., :height, :width].contiguous()
            gt = gt[..., : height * scale, : width * scale].contiguous()
        else:
            height, width = (min(side, LARGEST) // scale * scale for side in gt.shape[-2:])
            top, left = (gt.shape[-2] - height) // 2, (gt.shape[-1] - width) // 2
            gt = gt[..., top : top + height, left : left + width].contiguous()
            if min(height, width) < 16 * scale:
                raise UserError(f"{path}: too small to measure on, {gt.shape[-1]}x{gt.shape[-2]} pixels")
            # As files hold it: 8 bit.
            lq = (imresize(gt, scale=1 / scale).clamp(0, 1) * 255).round() / 255
        samples.append((lq, gt))
    return samples, named


def _partners(options: Int8Options, scale: int) -> list[Path]:
    """For each picture of ``validation`` its input: ``baby.png``, or ``babyx2.png`` as in Set5."""
    if not options.validation_lq:
        return []
    by_name = {each.stem: each for each in options.validation_lq}
    found = [by_name.get(each.stem) or by_name.get(f"{each.stem}x{scale}") for each in options.validation]
    lacking = [each.name for each, lq in zip(options.validation, found, strict=True) if lq is None]
    if lacking:
        raise UserError(
            f"--validation-lq has no picture for {', '.join(lacking[:3])}{' ...' if lacking[3:] else ''}: inputs are "
            f"called as the true pictures, or with x{scale} behind ({options.validation[0].stem}x{scale}.png)"
        )
    return [each for each in found if each is not None]


def _milliseconds(*paths: Path) -> list[float]:
    from atelier.evaluate.latency import measure_times

    models = []
    for path in paths:
        net = open_exported(path, "cpu")
        models.append(RestorationModel(net, net.facts, device="cpu"))
    return [1e3 * each.median for each in measure_times(models, _TIMED, warmups=1, rounds=7)]
