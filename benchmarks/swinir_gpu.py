"""SwinIR on a GPU: forward and training step of every form against spandrel's module, as one Markdown table.

    python benchmarks/swinir_gpu.py [--case lightweight denoiser] [--batch 16] [--rounds 9] [--only TEXT ...]
    python benchmarks/swinir_gpu.py --device cpu --rounds 1 --small      # proves that the code runs, measures nothing

A step is forward, L1 loss, backward and a fused Adam update, drop path 0. bf16 means autocast with float32 weights.
"ratio" is against spandrel's module under bf16 autocast, whose aim is 3. "of peak" is the rate of the convolutions and
matrix products (forward once, backward twice) over the best bf16 matrix product of this device, measured first.
"memory" is the most that tensors held at once, weights, optimiser and workspace included. "error" is the largest
difference to spandrel's float32 output over that output's largest value. A form that cannot run says why in its row.
Without the device the script ends with code 2.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from swinir_cases import CASES, Case, largest_difference, pair
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from atelier.archs.compiling import repeated_parts
from atelier.archs.info import count_macs
from atelier.archs.swinir_attention import WindowAttention, fused_attention
from atelier.archs.swinir_windows import Groups

AIM = 3.0
SMALL = Case(
    "tiny, 16x16",
    {"img_size": 16, "window_size": 4, "img_range": 1.0, "mlp_ratio": 2, "drop_path_rate": 0.0}
    | {"upscale": 1, "in_chans": 1, "embed_dim": 12, "depths": [2], "num_heads": [2], "upsampler": ""},
    (2, 1, 16, 16),
)


class Padded(WindowAttention):
    """The fused call with heads filled up with zeros to a multiple of 8 channels.

    The memory-efficient kernel takes no other width, and official networks have heads of 30 or 10; a form that is
    not forced falls back to plain products there without a word.
    """

    multiple = 8

    def forward(self, rows: Tensor, biases: Tensor, groups: Groups) -> Tensor:  # type: ignore[override]
        out = self.mix(self.wide(rows), biases, groups)
        dim = rows.shape[-1] // self.num_heads
        out = out.unflatten(-1, (self.num_heads, -1))[..., :dim].flatten(-2)
        return self.proj(out.flatten(0, 1))

    def wide(self, rows: Tensor) -> Tensor:
        """[n*N, C] to q, k and v [n, N, 3, h, d filled up]."""
        dim = rows.shape[-1] // self.num_heads
        qkv = self.qkv(rows).view(-1, self.window_size**2, 3, self.num_heads, dim)
        return F.pad(qkv, (0, -dim % self.multiple))

    def mix(self, qkv: Tensor, biases: Tensor, groups: Groups) -> Tensor:
        """[n, N, 3, h, d] to [n, N, h * d]."""
        # Only this kernel, so that the row cannot show another one; the CPU has none of that name.
        forced = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]) if qkv.is_cuda else nullcontext()
        with forced:
            return fused_attention(qkv, biases, groups, self.scale)


class Flex(Padded):
    """FlexAttention: the learned bias and the masks enter as ``score_mod``, all kinds of window in one call."""

    multiple = 16

    def mix(self, qkv: Tensor, biases: Tensor, groups: Groups) -> Tensor:
        kinds = torch.cat([torch.full((count,), kind, device=qkv.device) for count, kind in groups])

        def with_bias(score: Tensor, window: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return score + biases[kinds[window], head, q, k]

        q, k, v = (each.contiguous() for each in qkv.permute(2, 0, 3, 1, 4).unbind(0))
        call = _compiled_flex() if qkv.is_cuda else flex_attention
        mixed = call(q, k, v, score_mod=with_bias, scale=self.scale)
        return mixed.transpose(1, 2).flatten(2)


_flex: list[Callable[..., Tensor]] = []


def _compiled_flex() -> Callable[..., Tensor]:
    if not _flex:
        _flex.append(torch.compile(flex_attention))
    return _flex[0]


ATTENTIONS: dict[str, type[WindowAttention] | None] = {"sdpa": None, "padded": Padded, "flex": Flex}


@dataclass(frozen=True)
class Form:
    """One row: which network, in which numbers, and what is done to it."""

    title: str
    ours: bool = True
    precision: str = "bf16"
    channels_last: bool = False
    attention: str = "sdpa"
    compile: str | None = None
    graph: bool = False


FP32 = Form("spandrel fp32", ours=False, precision="fp32")
REFERENCE = Form("spandrel bf16", ours=False)
_BEST = Form("ours bf16, channels_last", channels_last=True)
FORMS = (
    FP32,
    Form("spandrel TF32", ours=False, precision="tf32"),
    REFERENCE,
    Form("ours fp32", precision="fp32"),
    Form("ours TF32", precision="tf32"),
    Form("ours bf16"),
    _BEST,
    replace(_BEST, title="+ memory-efficient SDPA, learned bias", attention="padded"),
    replace(_BEST, title="+ FlexAttention, learned bias", attention="flex"),
    replace(_BEST, title="+ compiled blocks", compile="default"),
    replace(_BEST, title="+ compiled blocks, memory-efficient SDPA", compile="default", attention="padded"),
    replace(_BEST, title="+ compiled blocks with CUDA graphs", compile="reduce-overhead"),
    replace(_BEST, title="+ one CUDA graph", graph=True),
    replace(_BEST, title="+ one CUDA graph, memory-efficient SDPA", graph=True, attention="padded"),
)


def why_not(form: Form, device: torch.device) -> str | None:
    """What keeps a form from running here, known beforehand."""
    if device.type != "cuda":
        if form.precision == "tf32":
            return "TF32 is a number format of CUDA devices"
        if form.graph or form.compile == "reduce-overhead":
            return "CUDA graphs need a CUDA device"
    if form.compile and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return "torch.compile needs a C++ compiler"
    return None


@contextmanager
def numbers(form: Form, device: torch.device) -> Iterator[None]:
    """The number format of a form, and of it alone."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = form.precision == "tf32"
    # Weights that are converted once and kept would belong to the graph's first capture.
    cast = torch.autocast(
        device.type, torch.bfloat16, enabled=form.precision == "bf16", cache_enabled=not form.graph
    )
    try:
        with cast:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def network(form: Form, nets: tuple[nn.Module, nn.Module], device: torch.device) -> nn.Module:
    """A copy of spandrel's network or ours, made into ``form``."""
    net = copy.deepcopy(nets[form.ours]).to(device)
    if form.channels_last:
        net = net.to(memory_format=torch.channels_last)
    kind = ATTENTIONS[form.attention]
    if kind is not None:
        for module in net.modules():
            if type(module) is WindowAttention:
                module.__class__ = kind
    if form.compile:
        torch._dynamo.reset()
        for part in repeated_parts(net):
            part.compile(mode=form.compile)
    return net


def forward_of(form: Form, net: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    @torch.no_grad()
    def run() -> Tensor:
        if form.compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        with numbers(form, x.device):
            return net(x)

    net.eval()
    return run


def step_of(form: Form, net: nn.Module, x: Tensor, target: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True, capturable=form.graph)

    def run() -> None:
        if form.compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        with numbers(form, x.device):
            loss = F.l1_loss(net(x).float(), target)
        loss.backward()
        optimizer.step()

    net.train()
    return run


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    """``run`` captured as one CUDA graph, after three calls on a stream of its own as capturing asks."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def measured(run: Callable[[], object], rounds: int, calls: int, device: torch.device) -> tuple[float, float]:
    """(seconds of one call, median over ``rounds`` of ``calls`` each; peak bytes, 0 where the device counts none)."""
    cuda = device.type == "cuda"
    for _ in range(3 if cuda else 1):
        run()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        if cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / calls)
    return sorted(times)[rounds // 2], float(torch.cuda.max_memory_allocated()) if cuda else 0.0


def product_rate(device: torch.device, side: int, rounds: int) -> float:
    """Floating-point operations a second of the best bf16 product of two square matrices."""
    a, b = (torch.rand(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2.0 * side**3 / measured(lambda: a @ b, rounds, 5, device)[0]


@dataclass(frozen=True)
class Part:
    """What was measured of the forward pass or of the step; where it could not run, ``reason`` says why."""

    seconds: float = 0.0
    memory: float = 0.0
    error: float = 0.0
    reason: str = ""

    def cells(self, base: Part | None, flops: float, rate: float) -> list[str]:
        """it/s, ratio, share of the peak, memory."""
        if self.reason:
            return [f"not run here: {self.reason}", "", "", ""]
        ratio = f"{base.seconds / self.seconds:.2f}" if base is not None and base.seconds else ""
        memory = f"{self.memory / 1e6:.0f} MB" if self.memory else ""
        return [f"{1 / self.seconds:.1f}", ratio, f"{100 * flops / self.seconds / rate:.1f} %", memory]


def attempt(measure: Callable[[], Part]) -> Part:
    """What a device or a version of PyTorch refuses belongs into the table, and the other rows below it."""
    try:
        return measure()
    except Exception as error:
        said = str(error).strip().partition("\n")[0].replace("|", "/")
        return Part(reason=f"{type(error).__name__}: {said.partition('. ')[0][:120]}")


def run_form(
    form: Form, nets: tuple[nn.Module, nn.Module], x: Tensor, expected: Tensor, rounds: int, calls: int
) -> tuple[Part, Part]:
    """(forward pass, training step) of one form."""
    reason = why_not(form, x.device)
    if reason is not None:
        return Part(reason=reason), Part(reason=reason)

    def forward() -> Part:
        run = forward_of(form, network(form, nets, x.device), x)
        error = largest_difference(run(), expected) / expected.abs().max().item()
        return Part(*measured(graphed(run) if form.graph else run, rounds, calls, x.device), error)

    def step() -> Part:
        run = step_of(form, network(form, nets, x.device), x, torch.rand_like(expected))
        return Part(*measured(graphed(run) if form.graph else run, rounds, calls, x.device))

    return attempt(forward), attempt(step)


def table(case: Case, device: torch.device, rounds: int, calls: int, rate: float, only: list[str]) -> None:
    """Prints the rows of one network as they are measured; ratios are empty above the reference's row."""
    nets = pair(case)
    batch, channels, height, width = case.input_shape
    flops = 2.0 * batch * count_macs(nets[1], channels, (height, width)).total
    x = torch.rand(case.input_shape, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.no_grad(), numbers(FP32, device):
        expected = copy.deepcopy(nets[0]).to(device)(x)
    base: tuple[Part | None, Part | None] = (None, None)
    for form in FORMS:
        if only and form is not REFERENCE and not any(text in form.title for text in only):
            continue
        forward, step = run_form(form, nets, x, expected, rounds, calls)
        base = (forward, step) if form is REFERENCE else base
        cells = [case.title, form.title, *forward.cells(base[0], flops, rate)]
        cells += [*step.cells(base[1], 3 * flops, rate), "" if forward.reason else f"{forward.error:.1e}"]
        print(f"| {' | '.join(cells)} |", flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="forms with this in their title"
    )
    parser.add_argument("--small", action="store_true", help="a tiny network in place of --case and --batch")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "swinir_gpu.py: no CUDA device here; --device cpu --rounds 1 --small shows that it runs",
            file=sys.stderr,
        )
        return 2
    # Eager FlexAttention says that it is slow; on the CPU that is known.
    warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    rate = product_rate(device, 64 if arguments.small else 8192, arguments.rounds)
    print(f"torch {torch.__version__}, {name}; best bf16 matrix product {rate / 1e12:.2f} TFLOP/s; ", end="")
    print(f"medians of {arguments.rounds}; aim: {AIM:.0f}x {REFERENCE.title}\n")
    print(
        "| network | form | forward it/s | ratio | of peak | memory | step it/s | ratio | of peak | memory | error |"
    )
    print("|---|---|" + "---:|" * 9, flush=True)
    cases = [CASES[key] for key in arguments.case]
    for case in (
        [SMALL]
        if arguments.small
        else [replace(each, input_shape=(arguments.batch, *each.input_shape[1:])) for each in cases]
    ):
        table(case, device, arguments.rounds, 1 if arguments.small else 10, rate, arguments.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
