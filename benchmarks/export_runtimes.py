"""What leaving PyTorch gains in time and costs in exactness: exported networks beside eager spandrel, in one run.

    python benchmarks/export_runtimes.py [--rounds 9] [--threads 2] [--case compact swinir] [--only onnx int8]
    python benchmarks/export_runtimes.py --weights FILE.pth

Compact 32/32 x2 at 640x360 and SwinIR-light x2 at 160x160. The files are made by ``atelier export``'s own functions and
run by those of ``atelier restore``; the forms take turns (A B C A B C ...), and every runtime has the same number of
threads. "ratio": median time of eager spandrel over the form's. Errors are on a photograph that no calibration saw,
values not clamped, against this project's network in PyTorch float32. On a busy machine take ``--threads 1``: threads
that wait for each other at every layer make any other number meaningless there.

Weights. SwinIR: random, drawn so that no layer's signal dies and the network changes the picture visibly (its residual
has deviation 0.05). Compact: ``--weights``, a trained x2 Compact; one of another size is first transferred to 32/32
(least squares, ``--sweeps``). Without it, random likewise. Time does not depend on weights; int8's error does, so
of random weights it says little about trained ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from spandrel.architectures.Compact import Compact as SpandrelCompact
from spandrel.architectures.SwinIR import SwinIR as SpandrelSwinIR
from torch import Tensor, nn

from atelier.allocator import keep_freed_memory
from atelier.archs import SRVGGNetCompact, SwinIR, load_network, save_weights
from atelier.archs.compiling import compile_blocks
from atelier.archs.initialise import initialise
from atelier.archs.initialise_options import WeightInitOptions
from atelier.cli.transfer_pictures import calibration_crops
from atelier.compress import TransferOptions, transfer
from atelier.data.bundled import TRAIN_DEFAULT, VAL_DEFAULT, bundled_path
from atelier.errors import RunStopped, UserError
from atelier.evaluate.latency import measure_times
from atelier.export import FORMATS, export_model
from atelier.export.int8 import Int8Options, export_int8
from atelier.export.proof import compared, cut, read_picture
from atelier.restore import RestorationModel, load_model

NEEDED = ("onnx", "onnxscript", "onnxruntime", "openvino", "ncnn", "pnnx", "spandrel")
PICTURE = VAL_DEFAULT[0]
RESIDUAL = 0.05


@dataclass(frozen=True)
class Case:
    """A network, the class that spandrel has for it, and the input's height and width."""

    title: str
    options: dict[str, Any]
    ours: type[nn.Module]
    spandrel: type[nn.Module]
    size: tuple[int, int]
    init: str


CASES = {
    "compact": Case(
        "Compact 32/32 x2, 640x360",
        {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 32, "num_conv": 32, "upscale": 2},
        SRVGGNetCompact,
        SpandrelCompact,
        (360, 640),
        "kaiming_normal",
    ),
    "swinir": Case(
        "SwinIR-light x2, 160x160",
        {"upscale": 2, "in_chans": 3, "img_size": 64, "window_size": 8, "img_range": 1.0, "mlp_ratio": 2}
        | {"embed_dim": 60, "depths": [6] * 4, "num_heads": [6] * 4, "upsampler": "pixelshuffledirect"},
        SwinIR,
        SpandrelSwinIR,
        (160, 160),
        "xavier_normal",
    ),
}
SMALL = Case(
    "Compact 8/2 x2, 64x48",
    {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_conv": 2, "upscale": 2},
    SRVGGNetCompact,
    SpandrelCompact,
    (48, 64),
    "kaiming_normal",
)


def random_network(case: Case, picture: Tensor) -> nn.Module:
    """Weights whose signal neither dies nor grows, with a residual of the deviation :data:`RESIDUAL`."""
    torch.manual_seed(0)
    net = case.ours(**case.options).eval()
    initialise(net, WeightInitOptions.model_validate({"type": case.init}))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias_table"):  # near zero at the start, where a wrong index would not show
                nn.init.normal_(parameter)
        last = [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1]
        with_residual = net(picture)
        weight, bias = last.weight.clone(), last.bias
        last.weight.zero_()
        scale = RESIDUAL / float((with_residual - net(picture)).std())
        last.weight.copy_(weight * scale)
        if bias is not None:
            bias.mul_(scale)
    return net


def trained_compact(path: Path, options: dict[str, Any], sweeps: int) -> nn.Module:
    """A trained Compact of the wanted size, transferred where it has another.

    Raises:
        UserError: it is none, or has another scale or other channels.
    """
    source = load_network(path).net
    if not isinstance(source, SRVGGNetCompact):
        raise UserError(f"--weights {path} is no Compact network")
    if (source.options.upscale, source.options.num_in_ch, source.options.num_out_ch) != (2, 3, 3):
        raise UserError(f"--weights {path}: a network of scale 2 from RGB to RGB is needed")
    size = {key: options[key] for key in ("num_feat", "num_conv")}
    if (source.options.num_feat, source.options.num_conv) == (size["num_feat"], size["num_conv"]):
        return source
    crops, _ = calibration_crops(None, 2, 3, 0)
    return transfer(source, TransferOptions.model_validate({**size, "sweeps": sweeps}), crops).net


def forms_of(net: Any, case: Case, folder: Path) -> dict[str, Callable[[], RestorationModel]]:
    """Title -> what opens this form, from the weight file that all of them start with."""
    source = folder / "net.pth"
    metadata = {
        "arch": net.options.type,
        "options": net.options.model_dump(mode="json", exclude={"type"}),
    }
    save_weights(source, {"params": net.state_dict()}, metadata)
    proof = [bundled_path(name) for name in VAL_DEFAULT]

    def spandrel() -> RestorationModel:
        warnings.filterwarnings("ignore", message="torch.meshgrid")
        reference = case.spandrel(**case.options)
        state = torch.load(source, weights_only=True)["params"]
        reference.load_state_dict(state)
        return RestorationModel(reference, load_model(source, device="cpu").facts, device="cpu")

    def compiled() -> RestorationModel:
        model = load_model(source, device="cpu")
        compile_blocks(model.net)
        return model

    def exported(suffix: str) -> RestorationModel:
        kind = {".onnx": "onnx", ".xml": "openvino", ".param": "ncnn"}[suffix]
        output = folder / f"{kind}{suffix}"  # two formats have a .bin beside them
        export_model(source, output, FORMATS.options_class(kind).model_validate({}), proof)
        return load_model(output, device="cpu")

    def int8() -> RestorationModel:
        output = folder / "int8.onnx"
        options = Int8Options([bundled_path(name) for name in TRAIN_DEFAULT], proof)
        _, report = export_int8(source, output, options, proof)
        print("\n".join(report.lines()), file=sys.stderr, flush=True)
        return load_model(output, device="cpu")

    return {
        "spandrel eager": spandrel,
        "PyTorch eager": lambda: load_model(source, device="cpu"),
        "PyTorch compiled": compiled,
        "onnxruntime fp32": lambda: exported(".onnx"),
        "onnxruntime int8": int8,
        "OpenVINO": lambda: exported(".xml"),
        "ncnn": lambda: exported(".param"),
    }


def table(case: Case, net: nn.Module, weights: str, rounds: int, only: list[str]) -> None:
    """Open every form, compare it with PyTorch float32, then time all of them in turns."""
    picture = cut(read_picture(bundled_path(PICTURE), 3), case.size)[None].contiguous()
    rows: dict[str, list[str]] = {}
    models: dict[str, RestorationModel] = {}
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        expected = net(picture)
        for title, opened in forms_of(net, case, Path(name)).items():
            if only and title != "spandrel eager" and not any(text.lower() in title.lower() for text in only):
                continue
            print(f"{case.title}: {title}", file=sys.stderr, flush=True)
            try:
                with torch.inference_mode(False):
                    model = opened()
                run = compared(model.net(picture), expected, case.size, (PICTURE,), title)
            except (UserError, RunStopped) as error:
                rows[title] = [f"refused: {str(error).splitlines()[0]}"] + [""] * 5
                continue
            except RuntimeError as error:  # a compiler that is missing or stops, in torch's many types
                rows[title] = [f"not run: {type(error).__name__}: {str(error).strip().splitlines()[0]}"]
                rows[title] += [""] * 5
                continue
            models[title] = model
            psnr = "identical" if run.psnr is None else f"{run.psnr:.1f} dB"
            rows[title] = [f"{run.largest:.1e}", f"{run.mean:.1e}", psnr]
        timings = measure_times(list(models.values()), case.size, warmups=2, rounds=rounds)
    base = timings[0].median
    for title, timing in zip(models, timings, strict=True):
        spread = f"{1e3 * timing.lower:.1f} to {1e3 * timing.upper:.1f}"
        rows[title] = [f"{1e3 * timing.median:.1f}", spread, f"{base / timing.median:.2f}", *rows[title]]
    for title, cells in rows.items():
        print(f"| {' | '.join([case.title, weights, title, *cells])} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and of every runtime")
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="forms with this in their title"
    )
    parser.add_argument("--weights", type=Path, help="a trained Compact x2")
    parser.add_argument("--sweeps", type=int, default=0, help="of the transfer, where one is needed")
    parser.add_argument("--small", action="store_true", help="a tiny network in place of --case")
    arguments = parser.parse_args()
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        print(
            f"export_runtimes.py needs {', '.join(missing)}: pip install 'atelier[export]'", file=sys.stderr
        )
        return 2
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    head = f"torch {torch.__version__}, {arguments.threads} threads each, {torch.backends.cpu.get_cpu_capability()}"
    print(f"{head}; medians of {arguments.rounds}, taken in turn\n", flush=True)
    print("| network | weights | form | ms | quartiles | ratio | largest error | mean error | PSNR |")
    print("|---|---|---|" + "---:|" * 6, flush=True)
    for case in [SMALL] if arguments.small else [CASES[key] for key in arguments.case]:
        picture = cut(read_picture(bundled_path(PICTURE), 3), (64, 64))[None]
        if case.ours is SRVGGNetCompact and arguments.weights is not None:
            try:
                net = trained_compact(arguments.weights, case.options, arguments.sweeps)
            except UserError as error:
                print(f"export_runtimes.py: {error}", file=sys.stderr)
                return 2
            weights = "trained"
        else:
            net, weights = random_network(case, picture), "random"
        table(case, net.eval(), weights, arguments.rounds, arguments.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
