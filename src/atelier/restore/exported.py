"""Exported models (``.onnx``, ``.param``, ...) as networks: what is known of them, and one call for all.

A runtime is one module with ``open_session(path, device) -> Session`` and ``files_of(path) -> list[Path]`` (what it
reads, the main file first), and one line in :data:`RUNTIMES`. What a runner
has to know (:class:`ExportedFacts`) stands in the model file itself and again in ``FILE.json`` beside it; a model that
another program made needs the latter, written by hand.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.files import sha256_of
from atelier.restore.fixed_size import run_at_size
from atelier.restore.memory import Cost

RUNTIMES: Final[dict[str, str]] = {
    ".onnx": "atelier.restore.runtime_onnx",
    ".param": "atelier.restore.runtime_ncnn",
    ".xml": "atelier.restore.runtime_openvino",
    ".pt2": "atelier.restore.runtime_torch",
}
"""Suffix of a model's main file -> the module that opens it."""

METADATA_KEY: Final = "atelier"
"""Name under which a model file holds its facts as JSON."""

_EXAMPLE = (
    '{"scale": 4, "in_channels": 3, "out_channels": 3, "input": {"range": [0, 1], "channel_order": "RGB"}, '
    '"output": {"range": [0, 1], "channel_order": "RGB"}}'
)


class _Model(BaseModel):
    # Facts of later versions must not make a file unreadable.
    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Port(_Model):
    """One side of a model. ``range``: the values of black and white; pictures are N×C×H×W."""

    range: tuple[float, float]
    channel_order: Literal["RGB", "BGR", "grey"]
    name: str | None = None


class Normalisation(_Model):
    """What a runner does to each channel, ``(value - mean) / std``, after the range and before the network."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


class Memory(_Model):
    """What one input pixel costs, from a run of the exported graph in PyTorch."""

    bytes_per_pixel: float = Field(gt=0)
    elements_per_pixel: float = Field(gt=0)


class ExportedFacts(_Model):
    """What a runner has to know; written by ``atelier export``, read by ``atelier restore``.

    ``receptive_radius`` is in input pixels, None where it is not bounded or not known. ``least_size`` is the smallest
    side in pixels that the graph takes, ``size`` its (height, width) where it takes one only. ``normalisation`` is what
    is left to the runner: nothing, in files of ours.
    """

    architecture: str = "exported network"
    scale: int = Field(ge=1)
    in_channels: int = Field(ge=1)
    out_channels: int = Field(ge=1)
    input: Port
    output: Port
    size_multiple: int = Field(1, ge=1)
    receptive_radius: int | None = Field(None, ge=0)
    least_size: int = Field(1, ge=1)
    size: tuple[PositiveInt, PositiveInt] | None = None
    normalisation: Normalisation = Normalisation()
    precision: str = "fp32"
    parameters: int | None = None
    memory: Memory | None = None

    # The numbers of the file are what they are: no runner may change the format of its arithmetic.
    @property
    def supports_half(self) -> bool:
        """False: the precision was chosen at export."""
        return False

    @property
    def supports_bfloat16(self) -> bool:
        """False: the precision was chosen at export."""
        return False


@dataclass(frozen=True)
class Session:
    """An open model file.

    Attributes:
        run: N×C×H×W float32 on ``device`` in the file's own ranges to the result, likewise.
        runtime: name, version and device of what runs it, for reports.
        metadata: the JSON found in the file; None where there is none.
        in_channels, out_channels: as far as the graph states them.
        size: (height, width) of a graph that takes one size only.
        device: where ``run`` wants its input.
    """

    run: Callable[[Tensor], Tensor]
    runtime: str
    metadata: str | None = None
    in_channels: int | None = None
    out_channels: int | None = None
    size: tuple[int, int] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class ExportedNetwork(nn.Module):
    """A session as a network of this house: N×C×H×W float32, RGB or grey, in [0, 1], on any device."""

    def __init__(self, session: Session, facts: ExportedFacts) -> None:
        super().__init__()
        self.session, self.facts = session, facts

    @property
    def stated_cost(self) -> Cost | None:
        """What a pixel costs: torch cannot watch what happens in another runtime."""
        memory = self.facts.memory
        return None if memory is None else Cost(memory.bytes_per_pixel, memory.elements_per_pixel)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] in [0, 1] to [B, out, H*scale, W*scale], not clamped."""
        facts = self.facts
        if min(x.shape[-2:]) < facts.least_size:
            raise UserError(
                f"this model takes pictures from {facts.least_size}x{facts.least_size} pixels up, not "
                f"{x.shape[-1]}x{x.shape[-2]}"
            )
        values = _scaled(_ordered(x.to(self.session.device, torch.float32), facts.input), facts.input)
        mean, std = (
            torch.tensor(each, device=values.device).view(1, -1, 1, 1)
            for each in (facts.normalisation.mean, facts.normalisation.std)
        )
        if facts.normalisation != Normalisation():
            values = (values - mean) / std
        if facts.size is None:
            result = self.session.run(values.contiguous())
        else:
            result = run_at_size(
                self.session.run,
                values,
                facts.size,
                facts.scale,
                receptive_radius=facts.receptive_radius,
                multiple=facts.size_multiple,
            )
        return _ordered(_unscaled(result, facts.output), facts.output).to(x.device)


def _ordered(x: Tensor, port: Port) -> Tensor:
    return x.flip(1) if port.channel_order == "BGR" else x


def _scaled(x: Tensor, port: Port) -> Tensor:
    black, white = port.range
    return x if (black, white) == (0, 1) else x * (white - black) + black


def _unscaled(x: Tensor, port: Port) -> Tensor:
    black, white = port.range
    return x if (black, white) == (0, 1) else (x - black) / (white - black)


def is_exported(path: Path | str) -> bool:
    """Whether ``path`` is named like a model of another runtime."""
    return Path(path).suffix.lower() in RUNTIMES


def model_files(path: Path) -> list[Path]:
    """``path`` and the files beside it that its runtime reads (weights), those that exist; the JSON is none of them."""
    found: list[Path] = importlib.import_module(RUNTIMES[path.suffix.lower()]).files_of(path)
    return [each for each in found if each.is_file()]


def facts_path(path: Path) -> Path:
    """``FILE.json``: the facts beside a model file."""
    return path.with_name(f"{path.name}.json")


def open_exported(path: Path | str, device: torch.device | str | None = None) -> ExportedNetwork:
    """An exported model, ready to run.

    Args:
        path: its main file (:data:`RUNTIMES`).
        device: "cpu", "cuda", "cuda:N"; "auto" or None: the best one that the runtime has.

    Raises:
        UserError: no such file, the runtime's package is missing, the runtime cannot run it (an operator that it
            lacks is named), or nobody says what the model takes and gives.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"model file {path} does not exist" if not path.exists() else f"{path} is no file")
    _require_companions(path)
    session: Session = importlib.import_module(RUNTIMES[path.suffix.lower()]).open_session(
        path, "auto" if device is None else str(device)
    )
    return ExportedNetwork(session, read_facts(path, session))


def _require_companions(path: Path) -> None:
    """The files beside ``path`` are those that were exported with it, as far as its JSON says which these are.

    Runtimes read foreign weights without a word, or fail with a message about shapes.
    """
    try:
        told = json.loads(facts_path(path).read_text(encoding="utf-8"))
        stated = {name: each["sha256"] for name, each in told["files"].items() if name != path.name}
        ours = path.name in told["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # absent, written by hand, or told properly by read_facts
    for name, expected in stated.items() if ours else ():
        beside = path.with_name(name)
        if beside.is_file() and sha256_of(beside) != expected:
            raise UserError(
                f"{beside} is not the file that was exported with {path}: another export has written over it; export "
                f"{path.name} again, each format to a name or folder of its own"
            )


def read_facts(path: Path, session: Session) -> ExportedFacts:
    """What the model file, or the JSON beside it, says of the model.

    Raises:
        UserError: neither says it, or what they say cannot be, or the graph contradicts it.
    """
    beside = facts_path(path)
    if session.metadata is not None:
        where, text = str(path), session.metadata
    elif beside.is_file():
        where, text = str(beside), beside.read_text(encoding="utf-8", errors="replace")
    else:
        raise UserError(
            f"{path} does not say what it takes and gives (it was not written by atelier export): scale, channels, "
            f"value range and channel order are missing; write them into {beside}, for example {_EXAMPLE}"
        )
    try:
        told: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: no JSON ({error})") from None
    if not isinstance(told, dict):
        raise UserError(f"{where}: a JSON object is expected, such as {_EXAMPLE}")
    graph = {
        "in_channels": session.in_channels,
        "out_channels": session.out_channels,
        "size": session.size,
    }
    known = {key: value for key, value in graph.items() if value is not None}
    try:
        facts = ExportedFacts.model_validate(known | told)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
            + ("" if each["type"] == "missing" else f", given {each['input']!r}")
            for each in error.errors()
        )
        raise UserError(f"{where}: {problems}; an example: {_EXAMPLE}") from None
    for key, value in known.items():
        if getattr(facts, key) != value:
            raise UserError(f"{where}: {key} is {getattr(facts, key)}, the model itself has {value}")
    for port in (facts.input, facts.output):
        if port.range[0] == port.range[1]:
            raise UserError(f"{where}: range {list(port.range)} has the same value for black and white")
    return facts
