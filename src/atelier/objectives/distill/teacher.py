"""The teacher: a trained network that answers, never learns, and stays bit for bit what it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from atelier.archs.compiling import compile_blocks
from atelier.archs.facts import NetworkFacts
from atelier.archs.load import load_network, options_of
from atelier.archs.weights import StateFile, read_weights
from atelier.errors import RunStopped, UserError
from atelier.files import sha256_of
from atelier.objectives.base import Heritage, Setting
from atelier.objectives.distill.options import TeacherOptions
from atelier.randomness import Streams

# Half precision is taken where it costs less than half a grey level's noise: 10 log10(1 / (0.5 / 255)²) ≈ 54 dB.
_HALF_IS_GOOD_DB = 55.0
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher:
    """A network in evaluation mode, frozen, outside every optimiser, average, wrapper and checkpoint.

    Args:
        net: the network; it is frozen and set to evaluation mode at every level.
        facts: what it is.
        options: precision, micro-batches, self-ensemble.
        device: where the run computes.
        digest: names its weights (the file's SHA-256).
        title: for messages: ``distill.teacher[0]``.
        learned: False for an untrained twin.
    """

    def __init__(
        self,
        net: nn.Module,
        facts: NetworkFacts,
        options: TeacherOptions,
        device: torch.device,
        digest: str,
        title: str,
        *,
        learned: bool = True,
    ) -> None:
        self.learned = learned
        self.net = net.to(device).requires_grad_(False).eval()
        self.facts, self.options, self.digest, self.title = facts, options, digest, title
        self.device = device
        self._half: torch.dtype | None = _HALVES.get(options.precision)
        self._undecided = options.precision == "auto" and device.type == "cuda"
        self.half_db: float | None = None
        self.compiled = options.compile is True or (options.compile == "auto" and device.type == "cuda")
        if self.compiled:
            compile_blocks(self.net)
        self._fingerprint = fingerprint(self.net)

    @property
    def precision_asked(self) -> str:
        """``fp32``, ``bf16``, ``fp16``; ``auto`` where the first batch decides (on a GPU)."""
        asked = self.options.precision
        return "fp32" if asked == "auto" and self.device.type != "cuda" else asked

    @property
    def precision(self) -> str:
        """What it computes in now."""
        return next((name for name, dtype in _HALVES.items() if dtype == self._half), "fp32")

    def settle(self, precision: str) -> None:
        """Compute in ``precision`` from now on, whatever the first batch would decide."""
        self._half, self._undecided = _HALVES.get(precision), False

    @torch.no_grad()
    def output(self, lq: Tensor) -> Tensor:
        """What it makes of ``lq`` [N, C, H, W] in [0, 1]: float32, not clamped; the mean over 8 views if asked for."""
        views = eight_views() if self.options.self_ensemble == 8 else [(_same, _same)]
        total = None
        for there, back in views:
            seen = back(self._forward(there(lq)))
            total = seen if total is None else total + seen
        assert total is not None
        return total / len(views)

    @torch.no_grad()
    def output_and_taps(
        self, lq: Tensor, collect: Callable[[], list[Tensor]]
    ) -> tuple[Tensor | None, list[Tensor]]:
        """(output, features of the plain view in float32, as ``collect`` hands them out).

        The output is None under self-ensemble, where it takes passes of its own: :meth:`output`.
        """
        pieces = [(self._run(piece), collect()) for piece in self._micro(lq)]
        features = [
            torch.cat([feature.float() for feature in same]) if len(pieces) > 1 else same[0].float()
            for same in zip(*(taps for _, taps in pieces), strict=True)
        ]
        if self.options.self_ensemble == 8:
            return None, features
        return torch.cat([out for out, _ in pieces]), features

    def verify(self) -> None:
        """Raises :class:`~atelier.errors.RunStopped` where a weight or buffer is not what it was at the start."""
        if fingerprint(self.net) != self._fingerprint:
            raise RunStopped(
                f"{self.title}: the teacher's weights changed while the student learned; what was learned from it "
                "cannot be trusted"
            )

    def _forward(self, lq: Tensor) -> Tensor:
        return torch.cat([self._run(piece) for piece in self._micro(lq)])

    def _micro(self, lq: Tensor) -> Sequence[Tensor]:
        return [lq] if self.options.batch == "auto" else torch.split(lq, self.options.batch)

    def _run(self, lq: Tensor) -> Tensor:
        if self._undecided:
            self._decide(lq)
        with self._cast(self._half):
            out: Tensor = self.net(lq)
        return out.float()

    def _cast(self, dtype: torch.dtype | None) -> AbstractContextManager[None]:
        """The run's own autocast does not reach the teacher: its precision is an option of its own."""
        if dtype is None:
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, dtype)

    def _decide(self, lq: Tensor) -> None:
        """bf16 where its output on this batch is within 55 dB of float32's."""
        self._undecided = False
        with self._cast(None):
            exact = self.net(lq)
        with self._cast(torch.bfloat16):
            error = (self.net(lq).float() - exact).square().mean()
        self.half_db = float(-10 * torch.log10(error.clamp_min(1e-12)))
        self._half = torch.bfloat16 if self.half_db >= _HALF_IS_GOOD_DB else None


def read_teacher(options: TeacherOptions, setting: Setting, place: int) -> Teacher:
    """The teacher of ``distill.teacher[place]``.

    Raises:
        UserError: the file cannot be read, or the network has another scale or other channels than the run.
    """
    title = f"distill.teacher[{place}]"
    _require_file(options, place)
    try:
        loaded = load_network(options.weights, param_key=options.param_key)
    except UserError as error:
        raise UserError(f"{title}: {error}") from None
    facts = loaded.facts
    _require_same_task(
        options, setting, place, facts.architecture, facts.scale, (facts.in_channels, facts.out_channels)
    )
    if facts.source != "atelier" and setting.lq_size % facts.size_multiple:
        raise UserError(
            f"{title}.weights: {facts.architecture} works in steps of {facts.size_multiple} pixels, the run's lq crops "
            f"have {setting.lq_size}; make datasets.train.gt_size a multiple of {facts.size_multiple * setting.scale}"
        )
    return Teacher(loaded.net, facts, options, setting.device, sha256_of(options.weights), title)


def _require_file(options: TeacherOptions, place: int) -> None:
    if not options.weights.is_file():
        what = "is a folder" if options.weights.is_dir() else "does not exist"
        raise UserError(
            f"distill.teacher[{place}].weights: {options.weights} {what}; "
            f"distill.teacher.{place}.weights=FILE names the teacher"
        )


def _require_same_task(
    options: TeacherOptions,
    setting: Setting,
    place: int,
    architecture: str,
    scale: int,
    channels: tuple[int, int],
) -> None:
    title = f"distill.teacher[{place}].weights: {options.weights}"
    if scale != setting.scale:
        raise UserError(f"{title} is a x{scale} network ({architecture}); the run is x{setting.scale}")
    if channels != setting.channels:
        raise UserError(
            f"{title} takes {channels[0]} and gives {channels[1]} channels; "
            f"the student takes {setting.channels[0]} and gives {setting.channels[1]}"
        )


def heritage_of(options: TeacherOptions, setting: Setting, *, random: bool) -> Heritage:
    """The first teacher's weights as what the student begins with; ``random``: those of its untrained twin.

    Raises:
        UserError: the file cannot be read, or the network has another scale or other channels than the run.
    """
    _require_file(options, 0)
    file = read_weights(options.weights, options.param_key)
    own = options_of(file)
    title = f"distill.teacher[0] ({options.weights})"
    if own is None:  # of another program: who makes the start knows whether it can be used
        return Heritage(title, "distill.start", file)
    _require_same_task(options, setting, 0, own.type, own.scale, (own.in_channels, own.out_channels))
    if not random:
        return Heritage(title, "distill.start", file)
    net = own.build()
    _draw_anew(net, setting.seed, 0)
    drawn = StateFile(own.file_state(net.state_dict()), None, file.metadata)
    return Heritage(f"an untrained twin of {title}", "distill.start", drawn, real=False)


def random_twin(teacher: Teacher, options: TeacherOptions, setting: Setting, place: int) -> Teacher:
    """An untrained network of the teacher's architecture, drawn from the run's seed: what a control learns from."""
    title = f"distill.teacher[{place}] (random)"
    net = load_network(options.weights, param_key=options.param_key).net
    _draw_anew(net, setting.seed, place)
    # Two twins of one file are different networks, and their cached answers must not be taken for each other's.
    drawn = f"random/{teacher.digest}/{setting.seed}" + (f"/{place}" if place else "")
    digest = hashlib.sha256(drawn.encode()).hexdigest()
    return Teacher(net, teacher.facts, options, setting.device, digest, title, learned=False)


def _draw_anew(net: nn.Module, seed: int, place: int) -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(Streams(seed, 0, place).torch_seed("random_teacher"))
        for module in net.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif not list(module.children()):
                for parameter in module.parameters(recurse=False):
                    nn.init.trunc_normal_(parameter, std=0.02)


def fingerprint(net: nn.Module) -> str:
    """SHA-256 over the bytes of all parameters and buffers, names included."""
    digest = hashlib.sha256()
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def eight_views() -> list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """The eight flips and quarter turns of a picture [..., H, W], each with its inverse."""

    def view(turns: int, mirrored: bool) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        def there(x: Tensor) -> Tensor:
            return torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))

        def back(x: Tensor) -> Tensor:
            turned = torch.rot90(x, -turns, (-2, -1))
            return turned.flip(-1) if mirrored else turned

        return there, back

    return [view(turns, mirrored) for mirrored in (False, True) for turns in range(4)]


def _same(x: Tensor) -> Tensor:
    return x
