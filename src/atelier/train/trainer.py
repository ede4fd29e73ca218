"""The networks in training, one step at a time, and everything a resume needs to continue bit for bit.

The trainer knows nothing of files, folders or logs: :mod:`atelier.train.run` drives it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from atelier.archs.compiling import compile_blocks
from atelier.archs.initialise import initialise
from atelier.archs.load import HoldsFrozen, load_state
from atelier.archs.load_report import LoadReport
from atelier.archs.weights import kept_state, read_weights, save_weights
from atelier.compress.start import start_from
from atelier.data.stream import StepBatch
from atelier.errors import UserError
from atelier.options.schema import RunOptions
from atelier.randomness import Streams
from atelier.train.checkpoint import Checkpoint
from atelier.train.distributed import Ranks
from atelier.train.ema import EMA
from atelier.train.gradients import clip_gradients, gradient_norm
from atelier.train.health import Health
from atelier.train.kair_checkpoint import write_kair_files
from atelier.train.meters import Meters
from atelier.train.moments import Moments, carry_moments, same_moments
from atelier.train.optimizers import (
    averaged_weights,
    begin_at_weights,
    guarded_step,
    split_groups,
    take_up,
)
from atelier.train.regularizers import apply_regularizer
from atelier.train.setting import setting_of
from atelier.train.starting import Start

#: Begins the names of what a part records beside its terms (``Part.details``).
DETAIL = "detail/"
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Networks, optimisers, averages and counters of one run.

    Args:
        options: the run.
        ranks: this process among all of them.
        start: weights the generator begins with, loaded as ``path.load`` says; None: freshly drawn ones.
        calibration: inputs [N, C, H, W] for ``path.inherit.calibrate``, and for a start that is solved.
        data: the training data's fingerprint, which an objective may need to know its answers again.
    """

    def __init__(
        self,
        options: RunOptions,
        ranks: Ranks,
        start: Start | None = None,
        calibration: Sequence[Tensor] | None = None,
        data: str | None = None,
    ) -> None:
        self.options, self.ranks = options, ranks
        self.iteration = 0
        #: (step it began at, steps) of a rate that rises after inherited weights; None: no such rise.
        self.rise: tuple[int, int] | None = None
        train = options.train
        if train.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        torch.manual_seed(Streams(options.manual_seed, 0, 0).torch_seed("weights"))
        self.network_options = self._network_options()
        self.nets: dict[str, nn.Module] = {}
        for role, network in self.network_options.items():
            net = network.build().to(ranks.device)
            self.nets[role] = net.to(memory_format=torch.channels_last) if train.channels_last else net
        if train.weight_init is not None:
            initialise(self.nets["g"], train.weight_init)
        self.ema = EMA(self.nets["g"], train.ema_decay) if train.ema_decay > 0 else None
        self.start_report = self._begin_with(start, calibration) if start is not None else None
        self.start_report_d: LoadReport | None = None
        # What learns under a role: the network, and whatever an objective trains along with it.
        setting = setting_of(options, ranks.device, world=ranks.world, data=data)
        self.learners = options.objective.trained(self.nets, setting)
        self._wrapped = {role: self._wrap(role, net) for role, net in self.learners.items()}
        self.objective = options.objective.build(
            nets=self._wrapped | ({"g_average": self.ema.net} if self.ema is not None else {}),
            losses=train.all_losses,
            device=ranks.device,
            **self._adversarial(),
        )
        self.objective.begin(setting)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.schedules: dict[str, Callable[[int], float]] = {}
        for role, net in self.learners.items():
            optimizer_options = train.optimizer_of(role)
            groups = options.objective.groups(role, net, optimizer_options.lr)
            self.optimizers[role] = split_groups(
                optimizer_options.build(
                    [each for group in groups for each in group.parameters], ranks.device
                ),
                groups,
            )
            self.schedules[role] = train.scheduler.build(
                optimizer_options.lr, train.total_iter, train.warmup_iter
            )
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=train.precision == "fp16")
        self.health = Health(options.health)
        self.meters = Meters(ranks.device)

    def _begin_with(self, start: Start, calibration: Sequence[Tensor] | None) -> LoadReport:
        path = self.options.path
        report = start_from(
            self.nets["g"],
            start.weights,
            mode=start.mode(path.load),
            average=start.average,
            average_net=self.ema.net if self.ema is not None else None,
            average_mode=path.load_ema,
            options=path.inherit,
            min_loaded=path.min_loaded,
            calibration=calibration,
            solve=start.heritage is not None,
            quiet=not self.ranks.first,
        )
        self._as_on_first_rank()
        return report

    def _as_on_first_rank(self) -> None:
        """What was measured on a rank's own samples is the first rank's everywhere, the average included."""
        if self.ranks.world > 1:
            for net in (self.nets["g"], *([self.ema.net] if self.ema is not None else [])):
                for tensor in net.state_dict().values():
                    torch.distributed.broadcast(tensor, 0)

    def _adversarial(self) -> dict[str, Any]:
        """What an objective is handed only where the run has it, so that others need not know of it."""
        given = {"gan": self.options.train.gan_opt, "ldl": self.options.train.ldl_opt}
        return {name: loss for name, loss in given.items() if loss is not None}

    def _network_options(self) -> dict[str, Any]:
        found = {}
        for role in self.options.objective.needed_roles:
            network = getattr(self.options, f"network_{role}", None)
            if network is None:
                raise UserError(
                    f"objective {self.options.objective.type} trains network_{role}, but none is given"
                )
            found[role] = network
        return found

    def begin_discriminator(self) -> None:
        """Load ``path.pretrain_network_d``, if it is given; for a new run, before its first step.

        Raises:
            UserError: the file cannot be read or does not fit.
        """
        path = self.options.path
        if path.pretrain_network_d is not None:
            file = read_weights(path.pretrain_network_d, path.param_key_d)
            self.start_report_d = load_state(self.nets["d"], file, path.load_d, min_loaded=path.min_loaded)
            begin_at_weights(self.optimizers["d"])

    def carry_discriminator(self, state: Mapping[str, Any], checkpoint: Checkpoint) -> str | None:
        """Take over the discriminator of a checkpoint that a new run begins with, its moments by name.

        Returns:
            What became of it in one line; None where either side has no discriminator, or this run names a file for it.
        """
        if "d" not in self.nets or "d" not in checkpoint.models or self.start_report_d is not None:
            return None
        try:
            load_state(self.nets["d"], checkpoint.weights("d", state)[0])
        except UserError:
            return f"discriminator: {checkpoint.models['d'].name} holds another one; it starts anew"
        moments = self.carry_moments(state, self._trained_names("d"), role="d")
        return f"discriminator: goes on from {checkpoint.models['d'].name}; {moments.text()}"

    def _wrap(self, role: str, net: nn.Module) -> nn.Module:
        if self.options.train.compile and role == "g":
            compile_blocks(self.nets[role])
        if self.ranks.world == 1:
            return net
        devices = [self.ranks.device.index] if self.ranks.device.type == "cuda" else None
        # A term that starts later leaves its projector without a gradient until then.
        idle = net is not self.nets[role]
        return DistributedDataParallel(net, device_ids=devices, find_unused_parameters=idle)

    # one step

    def step(self, batch: StepBatch) -> None:
        """Train on this rank's share of step ``iteration + 1``.

        Nothing here waits for the device: losses are added up where they are and read at the next print.
        """
        step = self.iteration + 1
        # What networks draw themselves (dropout, drop path) is a function of seed, step and rank as well.
        torch.manual_seed(Streams(self.options.manual_seed, step, self.ranks.rank).torch_seed("network"))
        for role, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.schedules[role](step) * self._risen(step, role) * group.get("rate", 1.0)
            optimizer.zero_grad(set_to_none=True)
        accumulate = self.options.train.accumulate
        terms: dict[str, Tensor] = {}
        for index, micro in enumerate(batch.split(accumulate)):
            with self._sync(last=index == accumulate - 1):
                for name, value in self._micro_step(micro, step).items():
                    terms[name] = terms.get(name, 0) + value / accumulate
        norm = self._update(step, terms, batch.samples)
        self.meters.add(terms | ({"grad_norm": norm} if norm is not None else {}))
        self.iteration = step

    def _risen(self, step: int, role: str) -> float:
        """The share of its rate that a network with inherited weights learns at."""
        if self.rise is None or role != "g":
            return 1.0
        began, steps = self.rise
        return min(1.0, (step - began) / steps)

    def _micro_step(self, batch: StepBatch, step: int) -> dict[str, Tensor]:
        """Forward and backward of one micro-batch; the gradients stay in the parameters."""
        if self.options.train.channels_last:
            batch = batch.to(memory_format=torch.channels_last)
        terms: dict[str, Tensor] = {}
        parts = self.objective.parts(batch, step)
        while True:
            with self.autocast():
                part = next(parts, None)
            if part is None:
                return terms
            self.scaler.scale(part.total / self.options.train.accumulate).backward()  # type: ignore[no-untyped-call]
            terms.update(part.terms)
            terms.update({DETAIL + name: value for name, value in part.details.items()})

    def autocast(self) -> AbstractContextManager[None]:
        """The run's precision, under which an objective's parts are computed."""
        dtype = PRECISIONS[self.options.train.precision]
        if dtype is None:
            return nullcontext()
        return torch.autocast(self.ranks.device.type, dtype)

    def _sync(self, *, last: bool) -> ExitStack:
        """Ranks exchange gradients on the last micro-batch only."""
        stack = ExitStack()
        if not last:
            for net in self._wrapped.values():
                if isinstance(net, DistributedDataParallel):
                    stack.enter_context(net.no_sync())
        return stack

    def _update(self, step: int, terms: Mapping[str, Tensor], samples: Sequence[str]) -> Tensor | None:
        """Clip, step the optimisers of this step's roles, average; returns the generator's gradient norm."""
        norm_g: Tensor | None = None
        terms = {name: value for name, value in terms.items() if not name.startswith(DETAIL)}
        scaled = self.scaler.is_enabled()
        active = self.objective.active_roles(step)
        for role in active:
            optimizer = self.optimizers[role]
            self.scaler.unscale_(optimizer)
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            limit = self.options.train.grad_clip
            norm = gradient_norm(parameters) if limit is None else clip_gradients(parameters, limit)
            if role == "g":
                norm_g = norm
            self.health.watch(
                step, terms if role == active[0] else {}, norm, samples, role=role, scaled=scaled
            )
            if scaled:
                self.scaler.step(optimizer)
            else:
                guarded_step(optimizer, self.health.guard(norm))
        if scaled:
            self.scaler.update()
        regularizer = self.options.train.regularizer
        # KAIR leaves the weights of a step that is saved as the optimiser made them.
        saves = step % self.options.logger.save_checkpoint_freq == 0
        if regularizer is not None and "g" in active and not saves:
            apply_regularizer(self.nets["g"], regularizer, step)
        if self.ema is not None:
            self.ema.update()
        return norm_g

    # what is measured and saved

    @property
    def learning_rate(self) -> float:
        """The rate the generator's optimiser used in the last step."""
        return float(self.optimizers["g"].param_groups[0]["lr"])

    def evaluating(self) -> AbstractContextManager[None]:
        """Within it the networks hold the weights to validate and to save (schedule-free optimisers keep two sets)."""
        return averaged_weights(self.optimizers.values())

    def evaluation_net(self) -> tuple[nn.Module, bool]:
        """The network to validate, and whether it holds averaged weights."""
        if self.ema is not None:
            return self.ema.net, True
        return self.nets["g"], False

    def weight_writers(self) -> dict[str, Callable[[Path], None]]:
        """Role -> function that writes that network's weight file (``params`` and, for g, ``params_ema``)."""
        writers: dict[str, Callable[[Path], None]] = {
            role: partial(self._write_weights, role) for role in self.nets
        }
        for role, state in self.objective.files().items():
            writers[role] = partial(save_weights, states={"params": state}, metadata={"iter": self.iteration})
        return writers

    def _write_weights(self, role: str, path: Path) -> None:
        network = self.network_options[role]
        metadata = {
            "arch": network.type,
            "options": network.model_dump(mode="json", exclude={"type"}),
            "name": self.options.name,
            "iter": self.iteration,
            **_record_of(self.nets[role]),
        }
        with self.evaluating():
            states = {"params": self.nets[role].state_dict()}
            if role == "g" and self.ema is not None:
                states["params_ema"] = self.ema.state_dict()
            save_weights(path, states, metadata)

    def write_kair_files(self, models: Path) -> None:
        """The same checkpoint under KAIR's names (:mod:`atelier.train.kair_checkpoint`)."""
        with self.evaluating():
            write_kair_files(
                models,
                self.iteration,
                self.nets["g"],
                self.ema.net if self.ema is not None else None,
                self.optimizers["g"],
                self.objective.files().get("p", {}),
            )

    def state(self) -> dict[str, Any]:
        """Everything beside the weight files that a resume needs; tensors and plain values only."""
        state: dict[str, Any] = {
            "epoch": 0,
            "iter": self.iteration,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers.values()],
            "schedulers": [],
            "roles": list(self.optimizers),
            "parameters": {role: self._trained_names(role) for role in self.nets},
            "scaler": self.scaler.state_dict(),
            "objective": self.objective.state_dict(),
            "meters": self.meters.state_dict(),
            "rise": list(self.rise) if self.rise is not None else None,
        }
        if self.options.checkpoint_format == "safetensors":
            # A safetensors file holds one set of weights, so the trained and the averaged ones stand here.
            # What a weight file leaves out, as the record beside it says, this leaves out as well.
            state["params"] = {role: kept_state(net) for role, net in self.nets.items()}
            state["params_ema"] = kept_state(self.ema.net) if self.ema is not None else None
            state["records"] = {role: dict(_record_of(net)) for role, net in self.nets.items()}
        return state

    def load(self, state: Mapping[str, Any], checkpoint: Checkpoint) -> list[str]:
        """Continue from ``checkpoint``, whose ``load_state()`` is ``state``; returns what was restored.

        Raises:
            UserError: the checkpoint belongs to another network or other optimisers.
        """
        averaged: list[str] = []
        for role, net in self.nets.items():
            if role not in checkpoint.models:
                raise UserError(
                    f"the checkpoint of step {checkpoint.iteration} holds no network_{role}; start a run of another "
                    f"name from it: path.pretrain_network_g={checkpoint.models['g']}"
                )
            trained, average = checkpoint.weights(role, state)
            load_state(net, trained)
            if role == "g" and self.ema is not None:
                load_state(self.ema.net, average if average is not None else trained)
                averaged = [
                    "averaged weights" if average is not None else "an average that begins as the network"
                ]
        if list(state.get("roles", ["g"])) != list(self.optimizers):
            raise UserError(
                f"the checkpoint trained networks {state.get('roles')}, this run {list(self.optimizers)}"
            )
        # What an objective trains is loaded before an optimiser that may begin at it.
        if state.get("foreign"):
            self.objective.load_files(state.get("files") or {})
            carried = {
                role: self.carry_moments(state, self._trained_names(role), role) for role in self.optimizers
            }
            restored = ", ".join(f"network_{role}: {each.text()}" for role, each in carried.items())
        else:
            self.objective.load_state_dict(state.get("objective") or {})
            restored = self._load_optimizers(state)
        restored += self._load_scale(state.get("scaler"))
        self.meters.load_state_dict(state.get("meters") or {})
        self.iteration = int(state["iter"])
        began, steps = state.get("rise") or (0, 0)
        self.rise = (int(began), int(steps)) if steps else None
        weights = [f"weights of network_{role} ({checkpoint.models[role].name})" for role in self.nets]
        weights += averaged
        return [*weights, restored, f"step {self.iteration}", "place in the data plan"]

    def _load_optimizers(self, state: Mapping[str, Any]) -> str:
        kinds = []
        carried = self.objective.carried()
        for (role, optimizer), stored in zip(self.optimizers.items(), state["optimizers"], strict=True):
            kind = type(optimizer).__name__
            former = self._stored_type(state, role) if state.get("past") else kind
            if not same_moments(former, kind):
                begin_at_weights(optimizer)
                kinds.append(f"{kind}, which begins afresh: the checkpoint's are moments of {former}")
                continue
            if carried is not None:
                kinds.append(f"{kind}, {self._carry_on(state, role, carried)}")
                continue
            try:
                take_up(optimizer, stored)
            except (ValueError, KeyError) as error:
                raise UserError(f"the checkpoint's optimiser does not fit this run: {error}") from error
            kinds.append(kind)
        return f"optimiser ({', '.join(kinds)})"

    def _carry_on(self, state: Mapping[str, Any], role: str, carried: Mapping[str, str]) -> str:
        """Moments by name where an objective's own parameters are not the checkpoint's: how many, in words."""
        names = {name: name for name, _ in self.nets[role].named_parameters()}
        names |= {then: now for now, then in carried.items()}
        stored = state.get("parameters", {}).get(role, [])
        renamed = {**state, "parameters": {role: [names.get(each) for each in stored]}}
        moments = self.carry_moments(renamed, set(names.values()), role)
        total = len(moments.restored) + len(moments.reset)
        rest = (
            f", the others begin at zero{f': {moments.why}' if moments.why else ''}" if moments.reset else ""
        )
        return f"moments of {len(moments.restored)} of {total} parameters{rest}"

    def _load_scale(self, stored: Mapping[str, Any] | None) -> str:
        """Take up the scale of fp16's losses; what is to be said of it."""
        if not self.scaler.is_enabled():
            return ""
        if not stored:  # the steps so far were taken in another precision, or by another program
            return ", a loss scale that begins afresh: the checkpoint has none"
        self.scaler.load_state_dict(dict(stored))
        return ""

    def carry_moments(self, state: Mapping[str, Any], survivors: Collection[str], role: str = "g") -> Moments:
        """Take over a network's moments by name, for the parameters ``survivors`` alone (``train.moments``)."""
        begin_at_weights(self.optimizers[role])
        stored = dict(zip(state.get("roles", ["g"]), state.get("optimizers") or [], strict=False))
        return carry_moments(
            self.optimizers[role],
            self._trained_names(role),
            stored.get(role),
            state.get("parameters", {}).get(role, []),
            stored_type=self._stored_type(state, role),
            survivors=survivors,
        )

    def _stored_type(self, state: Mapping[str, Any], role: str) -> str:
        """The class of a checkpoint's optimiser; without its options Adam, which KAIR and BasicSR's files use."""
        past = state.get("past")
        train = past["train"] if past else {}
        optim = train.get(f"optim_{role}") or train.get("optim_g") or {"type": "Adam"}
        return str(optim["type"])

    def _trained_names(self, role: str) -> list[str]:
        """In the order of the optimiser; a network's own names, also where a projector learns beside it."""
        own = {id(each): name for name, each in self.nets[role].named_parameters()}
        named = self.learners[role].named_parameters()
        return [own.get(id(each), name) for name, each in named if each.requires_grad]


def _record_of(net: nn.Module) -> Mapping[str, Any]:
    """What a weight file says of parts that it may leave out; empty for most networks."""
    return net.file_record() if isinstance(net, HoldsFrozen) else {}
