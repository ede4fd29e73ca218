"""What a run begins with: fresh weights, given ones, or those of a network that had another architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from atelier.archs.load import load_state, options_of
from atelier.archs.load_report import LoadMode
from atelier.archs.network_options import NetworkOptions
from atelier.archs.weights import StateFile, read_weights
from atelier.compress.inherit import FAMILIES
from atelier.data.batch import Batch
from atelier.data.stream import SampleStream
from atelier.errors import UserError
from atelier.objectives.base import Heritage
from atelier.options.base import Options
from atelier.options.schema import RunOptions
from atelier.randomness import Streams
from atelier.train.checkpoint import Checkpoint
from atelier.train.setting import setting_of


@dataclass(frozen=True)
class Start:
    """Weights that a run's generator begins with, loaded by the rules of ``path.load``.

    Attributes:
        weights: of the network.
        average: of its average; None: the average starts as the network.
        heritage: set where an objective asks for them: they are inherited, whatever ``path.load`` says.
    """

    weights: StateFile
    average: StateFile | None = None
    heritage: Heritage | None = None

    def mode(self, load: LoadMode) -> LoadMode:
        """How they are loaded where ``path.load`` is ``load``."""
        return "inherit" if self.heritage is not None else load


@dataclass(frozen=True)
class Origin:
    """Where a run comes from.

    Attributes:
        checkpoint: what it was saved as, None for a fresh run.
        state: the checkpoint's training state; empty without one.
        start: weights that a new run begins with; None where the checkpoint is simply continued, or nothing is given.
        iteration: the step that the run stands at.
        changes: options of the network that are not the checkpoint's.
    """

    checkpoint: Checkpoint | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    start: Start | None = None
    iteration: int = 0
    changes: Sequence[str] = ()

    @property
    def continues(self) -> bool:
        """The same network at the next step: the run that was stopped goes on, bit for bit."""
        return self.checkpoint is not None and self.start is None


def origin_of(options: RunOptions, checkpoint: Checkpoint | None) -> Origin:
    """Decide between going on, beginning anew with what was learned, and beginning afresh.

    Raises:
        UserError: the architecture changed and ``path.load`` is strict; a weight file cannot be read.
    """
    path = options.path
    if checkpoint is None:
        heritage = options.objective.heritage(setting_of(options, torch.device("cpu")))
        if heritage is not None:
            check_heritage(heritage, options)
            return Origin(start=Start(heritage.file, heritage=heritage))
        start = given_start(options)
        if start is not None:
            check_task(options_of(start.weights), options, start.weights)
        kept = _iteration_of(start.weights) if start is not None and path.resume_iteration == "keep" else 0
        return Origin(start=start, iteration=kept)
    state = checkpoint.load_state()
    trained, average = checkpoint.weights("g", state)
    former = options_of(trained)
    changes = architecture_changes(former, options.network_g) if former is not None else []
    if not changes and (path.resume_iteration != "reset" or _was_reset(state, checkpoint, options)):
        return Origin(checkpoint, state, iteration=int(state["iter"]))
    if changes and path.load == "strict":
        raise UserError(
            f"{checkpoint.models['g']} holds another network: {', '.join(changes)}; undo that, or say "
            "path.load=inherit (carry over what was learned), path.load=flexible (load only what fits) or "
            "path.resume=never (start afresh; the older run is kept)"
        )
    kept = int(state["iter"]) if path.resume_iteration == "keep" else 0
    return Origin(checkpoint, state, Start(trained, average), kept, changes)


def _was_reset(state: Mapping[str, Any], checkpoint: Checkpoint, options: RunOptions) -> bool:
    """The checkpoint is of the run that began with this very reset: a second one would lose what it has done."""
    past = state.get("past")
    here = checkpoint.run.resolve() == options.run_dir.resolve()
    return here and past is not None and past["path"].get("resume_iteration") == "reset"


def check_task(old: NetworkOptions | None, options: RunOptions, file: StateFile) -> None:
    """Raise :class:`UserError` where strictly loaded weights are of a network for another task."""
    told = task_difference(old, options.network_g)
    if told is not None and options.path.load == "strict":
        raise UserError(
            f"{file.path} {told}: another task. path.load=inherit or path.load=flexible takes over what the two "
            "networks have in common"
        )


def check_heritage(heritage: Heritage, options: RunOptions) -> None:
    """Raise :class:`UserError` where no rule makes ``network_g`` out of what the objective wants it to begin as."""
    old, new = options_of(heritage.file), options.network_g
    if old is not None and old.type == new.type and old.type in FAMILIES:
        return
    held = f"a {old.type}" if old is not None else "a network of another program"
    raise UserError(
        f"{heritage.key}: {heritage.title} is {held}, network_g a {new.type}; known is how to make a smaller one of "
        f"the same type out of {' or '.join(FAMILIES)}. {heritage.key}=none begins at random"
    )


def task_difference(old: NetworkOptions | None, new: NetworkOptions) -> str | None:
    """How the tasks of two networks differ, in words; None where they do not, or nothing is known of the old one."""
    if old is None or (old.scale, old.in_channels) == (new.scale, new.in_channels):
        return None

    def kind(options: NetworkOptions) -> str:
        colours = {1: "grey", 3: "colour"}.get(options.in_channels, f"{options.in_channels}-channel")
        return f"{colours} pictures at x{options.scale}"

    return f"holds a network for {kind(old)}, this run trains one for {kind(new)}"


def _iteration_of(file: StateFile) -> int:
    """The step a weight file was saved at: its own record, else the number in its name."""
    recorded = file.metadata.get("iter")
    if isinstance(recorded, int):
        return recorded
    name = file.path.name if file.path is not None else ""
    match = re.fullmatch(r"(?:net_g_)?(\d+)(?:_[GE])?\.\w+", name)
    if match is None:
        raise UserError(
            f"path.resume_iteration: keep needs the step in the file's name, such as 995000_G.pth; given {file.path}"
        )
    return int(match[1])


def given_start(options: RunOptions) -> Start | None:
    """The files of ``path.pretrain_network_g`` and ``pretrain_network_ema``, None where none is given."""
    path = options.path
    if path.pretrain_network_g is None:
        return None
    average = path.pretrain_network_ema
    for key, given in (("pretrain_network_g", path.pretrain_network_g), ("pretrain_network_ema", average)):
        if given is not None and not given.is_file():
            raise UserError(
                f"path.{key}: {given}: there is no such weight file; give another, or path.{key}=~ for none"
            )
    return Start(
        read_weights(path.pretrain_network_g, path.param_key_g),
        read_weights(average) if average is not None else None,
    )


def architecture_changes(old: NetworkOptions, new: NetworkOptions) -> list[str]:
    """Options that gave the tensors other names or shapes (``network_g.embed_dim 96 -> 180``); empty if all agree."""
    if old == new:
        return []
    if old.type != new.type:
        return [f"network_g.type {old.type} -> {new.type}"]
    with torch.device("meta"):
        before, after = (
            {key: value.shape for key, value in each.build().state_dict().items()} for each in (old, new)
        )
    if before == after:
        return []
    return [
        f"network_g.{key} {_plain(getattr(old, key))} -> {_plain(getattr(new, key))}"
        for key in type(new).model_fields
        if key not in new.not_in_shapes and getattr(old, key) != getattr(new, key)
    ]


def _plain(value: object) -> object:
    if isinstance(value, Options):
        return "{" + ", ".join(f"{key}: {_plain(each)}" for key, each in value) + "}"
    return list(value) if isinstance(value, tuple) else value


def first_samples(data: SampleStream, count: int = 4) -> Batch:
    """The first ``count`` samples of the run's plan (of this rank's share), the same at every start."""
    batches: list[Batch] = []
    have = 0
    for batch in data.batches(1, count):
        if not isinstance(batch, Batch):
            raise UserError(
                "looking at the first samples needs pictures to train on; these samples hold other things"
            )
        batches.append(batch)
        have += len(batch)
        if have >= count:
            break
    return Batch(
        torch.cat([batch.lq for batch in batches])[:count],
        torch.cat([batch.gt for batch in batches])[:count],
        [name for batch in batches for name in batch.samples][:count],
        range(count),
    )


@torch.no_grad()
def start_losses(options: RunOptions, net: nn.Module, batch: Batch) -> tuple[float, float]:
    """(loss of ``net``, loss of the same network with the weights it was drawn with) on ``batch``."""
    torch.manual_seed(Streams(options.manual_seed, 0, 0).torch_seed("weights"))
    random = options.network_g.build().to(batch.lq.device)
    losses = []
    for each in (net, random):
        training = each.training
        each.eval()
        objective = options.objective.build(
            nets={"g": each}, losses=options.train.all_losses, device=batch.lq.device
        )
        losses.append(sum(float(part.total) for part in objective.parts(batch, 1) if part.role == "g"))
        each.train(training)
    return losses[0], losses[1]


@torch.no_grad()
def likeness(net: nn.Module, former: StateFile, batch: Batch) -> str | None:
    """How near ``net`` is to the network of ``former`` on ``batch``, in words; None where they are of other tasks."""
    old = options_of(former)
    options = getattr(net, "options", None)
    if not isinstance(options, NetworkOptions) or old is None:
        return None
    if (old.scale, old.in_channels) != (options.scale, options.in_channels):
        return None
    other = old.build().to(batch.lq.device).eval()
    load_state(other, former)
    training = net.training
    net.eval()
    error = (net(batch.lq).clamp(0, 1) - other(batch.lq).clamp(0, 1)).square().mean().item()
    net.train(training)
    psnr = "equal" if error == 0 else f"PSNR {-10 * math.log10(error):.2f} dB"
    return f"outputs against the older network's on {len(batch)} samples: {psnr}"


def check_start_losses(
    inherited: float, random: float, *, same_task: bool = True, heritage: Heritage | None = None
) -> str:
    """One line with both; a :class:`UserError` where what was inherited is no better than chance.

    For another task the head is new, and its first output says little of the body: then the line only tells. So it does
    for a start that is chance by design.
    """
    line = f"start loss on 4 samples: inherited {inherited:.4g}, random {random:.4g}"
    if heritage is not None and not heritage.real:
        return f"{line} (a control: nothing was learned)"
    if not inherited < random and heritage is not None:
        raise UserError(
            f"{line}: {heritage.title} made as small as network_g is no better than a random start, so the run would "
            f"only lose by it; {heritage.key}=none begins at random"
        )
    if not inherited < random and not same_task:
        return f"{line} (the head is new: what counts here is the inherited body)"
    if not inherited < random:
        raise UserError(
            f"{line}: what was inherited is no better than a random start, so the run would only lose by it; "
            "use path.load=flexible, or check that the weights belong to this task"
        )
    return line
