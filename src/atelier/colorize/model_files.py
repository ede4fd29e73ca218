"""Model files of a colorizer: what they leave out, how that is verified, and opening them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atelier.archs.load import load_whole, options_of
from atelier.archs.load_report import LoadReport
from atelier.archs.weights import StateFile, read_weights
from atelier.colorize.flow_options import MemFlowFlowOptions
from atelier.colorize.matcher_options import SwinTExCoOptions
from atelier.colorize.system_options import FusionSystemOptions
from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.colorize.system import FusionSystem

#: Of a source: its weights were drawn, no file can give them again.
RANDOM = "random"
# Not used by fusion, so nobody misses it.
_OPTIONAL = "exemplar.colornet"


@dataclass(frozen=True)
class LoadedSystem:
    """A colorizer out of a model file, in evaluation mode.

    Attributes:
        system: with its weights, averaged ones where the file has them.
        report: what became of the file's tensors.
        lines: what is in use (flow, exemplar, fusion, with their weights), to be printed.
        notes: what must be known about these weights; empty where there is nothing.
    """

    system: FusionSystem
    report: LoadReport
    lines: tuple[str, ...]
    notes: tuple[str, ...]


def load_system(
    path: Path | str,
    *,
    device: torch.device | str | None = None,
    memflow_ckpt: Path | str | None = None,
    swintexco_ckpt: Path | str | None = None,
    backbone_weights: Path | str | None = None,
) -> LoadedSystem:
    """The colorizer that a model file of ours (``models/net_g_N.pth``) holds.

    A self-contained file (``network_g.save_frozen: true``) needs nothing else. Any other names the parts that did not
    learn: they are read from where they were in training, or from the places given here, and must be the same.

    Args:
        path: ``.pth`` or ``.safetensors``.
        device: where to; None: the CPU.
        memflow_ckpt: where MemFlow's weights are now.
        swintexco_ckpt: the same for SwinTExCo's folder.
        backbone_weights: the same for its backbone.

    Raises:
        UserError: no colorizer in the file, parts that are missing or not those of training, tensors that do not fit.
    """
    from atelier.colorize.system import FusionSystem

    file = read_weights(path)
    options = options_of(file)
    if not isinstance(options, FusionSystemOptions):
        what = f"it is {options.type}" if options is not None else "it does not say what it is"
        raise UserError(
            f"{path} holds no colorizer for films: {what}; a model file of a run with objective colorize is needed"
        )
    options = _moved(options, memflow_ckpt, swintexco_ckpt, backbone_weights)
    with torch.random.fork_rng(devices=()):  # nobody's numbers should shift
        if options.save_frozen:
            shapes = {
                key.removeprefix("exemplar."): shape
                for key, shape in file.shapes.items()
                if key.startswith("exemplar.")
            }
            system = FusionSystem(
                flow=options.flow.vacant(),
                exemplar=options.exemplar.vacant(shapes),
                fusion_net=options.fusion.build(),
            )
            system.options = options
        else:
            system = options.build()
    report = load_whole(system, file)
    record = _record(file)
    if options.save_frozen:
        _check_digests(system, record, str(path))
    system.eval()
    if device is not None:
        system.to(device)
    notes = file.metadata.get("notes") or ()
    return LoadedSystem(system, report, _lines(options, record, report), tuple(str(note) for note in notes))


def frozen_modules(system: nn.Module, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """By name, those of the modules that exist and hold tensors."""
    found = {}
    for name in names:
        module: Any = system
        for part in name.split("."):
            module = getattr(module, part, None)
        if isinstance(module, nn.Module) and module.state_dict():
            found[name] = module
    return found


def digest(module: nn.Module) -> str:
    """SHA-256 over all parameters and buffers that a state dict holds, with names, types and shapes."""
    whole = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        plain = tensor.detach().to("cpu").contiguous()
        whole.update(f"{name} {plain.dtype} {tuple(plain.shape)};".encode())
        whole.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def frozen_record(system: FusionSystem) -> dict[str, dict[str, str]]:
    """By name of a frozen part: ``source`` (for people) and ``sha256`` of its tensors."""
    return {
        name: {"source": _source(system, name), "sha256": digest(module)}
        for name, module in frozen_modules(system, system.frozen_parts).items()
    }


def with_frozen(system: FusionSystem, file: StateFile) -> dict[str, Tensor]:
    """The file's tensors, and those of ``system``'s frozen parts that it leaves out.

    Raises:
        UserError: a part is not the one that the file was trained with.
    """
    where = str(file.path or "a state in memory")
    state, record = dict(file.state), _record(file)
    own = frozen_modules(system, system.frozen_parts)
    lacking = [
        name
        for name in record
        if name not in own and name != _OPTIONAL and not any(key.startswith(f"{name}.") for key in state)
    ]
    if lacking:
        raise UserError(
            f"{where} was trained with {lacking[0]} from {record[lacking[0]].get('source')}, which this system has not"
        )
    for name, module in own.items():
        if any(key.startswith(f"{name}.") for key in state):
            continue
        if name in record:
            _check_digest(name, module, record, where)
        elif name != _OPTIONAL:
            raise UserError(f"{where} has no tensors of {name} and does not say with which it was trained")
        state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    return state


def _record(file: StateFile) -> Mapping[str, Mapping[str, str]]:
    told = file.metadata.get("frozen")
    return told if isinstance(told, Mapping) else {}


def _check_digests(system: FusionSystem, record: Mapping[str, Mapping[str, str]], where: str) -> None:
    for name, module in frozen_modules(system, system.frozen_parts).items():
        if name in record:
            _check_digest(name, module, record, where)


def _check_digest(name: str, module: nn.Module, record: Mapping[str, Mapping[str, str]], where: str) -> None:
    told, found = record[name], digest(module)
    if told.get("sha256") == found:
        return
    source = told.get("source", "an unnamed source")
    advice = (
        "weights that were drawn cannot be had again; train with network_g.save_frozen: true"
        if source.startswith(RANDOM)
        else "give the same weights"
    )
    raise UserError(
        f"{where} was trained with {name} from {source} (SHA-256 {str(told.get('sha256'))[:12]}…), but here it is "
        f"{found[:12]}…; {advice}"
    )


def _source(system: FusionSystem, name: str) -> str:
    if name == "flow":
        report = getattr(system.flow, "report", None)
        return str(report.source) if report is not None else f"{RANDOM} (allow_random)"
    told = getattr(system.exemplar, "sources", {}).get(name.removeprefix("exemplar."))
    return str(told.text) if told is not None else "a model file"


def _moved(
    options: FusionSystemOptions,
    memflow: Path | str | None,
    swintexco: Path | str | None,
    backbone: Path | str | None,
) -> FusionSystemOptions:
    """``options`` with the places that weights have now."""
    flow, exemplar = options.flow, options.exemplar
    if memflow is not None:
        if not isinstance(flow, MemFlowFlowOptions):
            raise UserError(f"--memflow_ckpt does nothing: the model's flow is {_kind(flow)}")
        flow = flow.model_copy(update={"weights": Path(memflow), "allow_random": False})
    given = {"checkpoint": swintexco, "backbone_weights": backbone}
    places = {key: Path(value) for key, value in given.items() if value is not None}
    if places:
        if not isinstance(exemplar, SwinTExCoOptions):
            raise UserError(
                f"--swintexco_ckpt and backbone weights do nothing: the model's exemplar is {_kind(exemplar)}"
            )
        exemplar = exemplar.model_copy(update=places)
    return options.model_copy(update={"flow": flow, "exemplar": exemplar})


def _lines(
    options: FusionSystemOptions, record: Mapping[str, Mapping[str, str]], report: LoadReport
) -> tuple[str, ...]:
    def told(prefix: str) -> str:
        parts = [
            f"{name.removeprefix('exemplar.')}: {entry.get('source')}"
            for name, entry in record.items()
            if name.split(".")[0] == prefix
        ]
        return f" ({'; '.join(parts)})" if parts else ""

    flow = "dis, without weights" if _kind(options.flow) == "dis" else f"{_kind(options.flow)}{told('flow')}"
    trained = "" if getattr(options.exemplar, "freeze", False) else ", trained with the fusion"
    return (
        f"flow: {flow}",
        f"exemplar: {_kind(options.exemplar)}{told('exemplar')}{trained}",
        f"fusion: {_kind(options.fusion)}, trained weights of {report.source}",
    )


def _kind(options: object) -> str:
    return str(getattr(options, "type", options))
