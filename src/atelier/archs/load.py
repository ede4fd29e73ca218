"""From a weight file to a working network, and weights into a network that exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from atelier.archs.facts import NetworkFacts, facts_of
from atelier.archs.load_report import LoadMode, LoadReport
from atelier.archs.network_options import NetworkOptions
from atelier.archs.registry import DISCRIMINATORS, NETWORKS
from atelier.archs.weights import StateFile, read_weights
from atelier.errors import UserError
from atelier.files import sha256_of

INHERITING: Final = ("SwinIR", "SRVGGNetCompact")
"""Networks that :mod:`atelier.compress` can carry into another size."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in evaluation mode on the CPU, what it is, and what was read.

    ``transfer`` is the record of ``atelier transfer`` (source, its SHA-256, method), where the file has one.
    """

    net: nn.Module
    facts: NetworkFacts
    report: LoadReport
    transfer: Mapping[str, Any] | None = None


@runtime_checkable
class HoldsFrozen(Protocol):
    """A network whose files may leave out parts that it has from elsewhere."""

    def with_frozen(self, file: StateFile) -> Mapping[str, Tensor]:
        """The file's tensors and the parts left out; a :class:`UserError` where they are not the file's."""

    def file_record(self) -> Mapping[str, Any]:
        """What its files say about those parts, beside the weights."""


def load_network(path: Path | str, *, param_key: str | None = None) -> LoadedNetwork:
    """The network that a weight file holds; architecture and hyper-parameters from metadata, keys and shapes.

    Our own architectures are built by us, everything else by spandrel.

    Raises:
        UserError: an unreadable file (see :func:`read_weights`), an unknown architecture, or metadata that contradict
            the tensors.
    """
    file = read_weights(path, param_key)
    options = options_of(file)
    if options is None:
        return _through_spandrel(file)
    if options.works_on == "clips":
        raise UserError(
            f"{_name(file)} colours films ({options.type}); use: atelier colorize -m {_name(file)}"
        )
    with torch.random.fork_rng(
        devices=()
    ):  # the weights drawn here are replaced; nobody's numbers should shift
        net = options.build()
    report, values = compare(net, file)
    _require_complete(report)
    net.load_state_dict(values)
    transfer = file.metadata.get("transfer")
    record = transfer if isinstance(transfer, Mapping) else None
    return LoadedNetwork(net.eval(), facts_of(options), report, record)


def load_state(
    net: nn.Module,
    state_file: StateFile,
    mode: Literal["strict", "flexible"] = "strict",
    *,
    min_loaded: float = 0.0,
) -> LoadReport:
    """Copy weights into ``net``, by name and shape; constants of the architecture in the file are checked and ignored.

    Args:
        net: receives the weights.
        state_file: the weights.
        mode: "strict": every tensor must fit; "flexible": those that fit are copied and the report names the rest.
            For "inherit" see :func:`atelier.compress.start_from`.
        min_loaded: share in [0, 1] of the network's numbers that "flexible" must find in the file.

    Raises:
        UserError: something does not fit ("strict"), or less than ``min_loaded`` or nothing at all ("flexible").
            Nothing was copied then.
    """
    report, values = compare(net, state_file, mode)
    if mode == "strict":
        _require_complete(report, _other_modes(net, state_file, report))
    else:
        require_usable(report, min_loaded, inheritable=_can_inherit(net, state_file))
    net.load_state_dict(values, strict=mode == "strict")
    return report


def load_whole(net: nn.Module, state_file: StateFile) -> LoadReport:
    """The strict load of a network that knows no other mode: the message for a file that does not fit advises none.

    Raises:
        UserError: naming the tensors of the network and of the file that found no partner. Nothing was copied then.
    """
    report, values = compare(net, state_file)
    _require_complete(report)
    net.load_state_dict(values)
    return report


def compare(
    net: nn.Module, file: StateFile, mode: LoadMode = "strict"
) -> tuple[LoadReport, dict[str, Tensor]]:
    """(what fits by name and shape and what does not, the tensors that fit); nothing is copied."""
    state, ignored = _without_constants(net, file)
    own = net.state_dict()
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    report = LoadReport(
        path=file.path,
        sha256=_sha256(file),
        param_key=file.param_key,
        mode=mode,
        loaded=tuple(key for key in own if key in fits),
        mismatched={
            key: (tuple(state[key].shape), tuple(value.shape))
            for key, value in own.items()
            if key in state and key not in fits
        },
        missing=tuple(key for key in own if key not in state),
        unexpected=tuple(key for key in state if key not in own),
        ignored=ignored,
        elements_total=sum(value.numel() for value in own.values()),
        elements_loaded=sum(value.numel() for value in fits.values()),
    )
    return report, fits


def require_usable(report: LoadReport, min_loaded: float, *, inheritable: bool = False) -> None:
    """Refuse a load that reuses less than ``min_loaded`` of the network's numbers, or nothing at all.

    Args:
        report: of the load that was tried.
        min_loaded: share in [0, 1].
        inheritable: whether ``load: inherit`` would reuse more.

    Raises:
        UserError: with how much there was, and what else can be done.
    """
    if report.reused > 0 and min_loaded <= report.reused:
        return
    wanted = f"less than min_loaded {min_loaded:g}" if report.reused else "nothing at all"
    instead = "use path.load=inherit, or " if inheritable else ""
    override = " (path.min_loaded=0 loads it all the same)" if report.reused else ""
    raise UserError(
        f"NOTHING USABLE in {report.source}: {report.reuse()} would be reused, {wanted}; "
        f"{instead}start fresh (path.resume=never, or no path.pretrain_network_g){override}"
    )


def _without_constants(net: nn.Module, file: StateFile) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """(the file's tensors without constants of the architecture, ignored key -> why)."""
    options = getattr(net, "options", None)
    if isinstance(net, HoldsFrozen):
        return net.with_frozen(file), {}
    if not isinstance(options, NetworkOptions):
        return file.state, {}
    told = file.metadata.get("options")
    if isinstance(told, Mapping) and file.metadata.get("arch") == options.type:
        try:
            options.check_origin(told)
        except UserError as error:
            raise UserError(f"{_name(file)}: {error}") from None
    try:
        return options.network_state(file.state)
    except UserError as error:
        # Constants of another window are right for the network they were saved with, and wrong for this one.
        own = options_of(file)
        try:
            if own is not None and own != options:
                return own.network_state(file.state)
        except UserError:
            pass
        raise UserError(f"{_name(file)}: {error}") from None


def _can_inherit(net: nn.Module, file: StateFile) -> bool:
    options = getattr(net, "options", None)
    if not isinstance(options, NetworkOptions) or options.type not in INHERITING:
        return False
    try:
        old = options_of(file)
    except UserError:
        return False
    return old is not None and old.type == options.type and old != options


def _other_modes(net: nn.Module, file: StateFile, report: LoadReport) -> list[str]:
    """What the other modes of loading would do with a file that does not fit."""
    if report.complete:
        return []
    modes = []
    if _can_inherit(net, file):
        modes.append("path.load=inherit would carry what was learned into this network")
    if report.loaded:
        modes.append(f"path.load=flexible would reuse {report.reuse()}")
    return ["; ".join(modes)] if modes else ["No other mode of loading would find anything to reuse."]


def options_of(file: StateFile) -> NetworkOptions | None:
    """The options of the network in ``file``; None when it is none of ours.

    Metadata win over what can be inferred, because some options leave no trace in the shapes; where the shapes do
    speak, both must agree.

    Raises:
        UserError: metadata and tensors contradict each other, or the tensors fit no complete network.
    """
    inferred = _inferred(file)
    arch, given = file.metadata.get("arch"), file.metadata.get("options")
    if not isinstance(arch, str) or arch not in NETWORKS or not isinstance(given, Mapping):
        return inferred
    options_class = NETWORKS.options_class(arch)
    try:
        told = options_class.model_validate(dict(given))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise UserError(
            f"{_name(file)}: its metadata are no {arch} options: {place} {problem['msg']}"
        ) from None
    if inferred is None:
        return told
    differences = _differences(told, inferred)
    if differences:
        raise UserError(
            f"{_name(file)}: metadata and tensors contradict each other: {'; '.join(differences)}"
        )
    return told


def _differences(told: NetworkOptions, inferred: NetworkOptions) -> list[str]:
    if told.type != inferred.type:
        return [f"arch is {told.type}, the tensors are those of {inferred.type}"]
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in told.build().state_dict().items()}
    # Through the shapes as well, because different numbers may mean the same tensors (mlp_ratio is rounded).
    seen = type(told).from_shapes(shapes)
    return [
        f"{key} is {getattr(told, key)!r}, the tensors say {getattr(inferred, key)!r}"
        for key in type(told).model_fields
        if key not in told.not_in_shapes and getattr(seen, key) != getattr(inferred, key)
    ]


def _inferred(file: StateFile) -> NetworkOptions | None:
    shapes = file.shapes
    for name in NETWORKS:
        options_class = NETWORKS.options_class(name)
        if options_class.recognises(shapes):
            try:
                return options_class.from_shapes(shapes)
            except (UserError, ValidationError, KeyError, IndexError) as error:
                reason = (
                    error if isinstance(error, UserError) else f"tensors are missing or misshapen ({error})"
                )
                raise UserError(f"{_name(file)} looks like {name}, but {reason}") from None
    return None


def _through_spandrel(file: StateFile) -> LoadedNetwork:
    # spandrel's import alone takes as long as torch's; most files are ours.
    from atelier.archs.foreign import network_from_state

    arch = file.metadata.get("arch")
    if isinstance(arch, str) and arch in DISCRIMINATORS:
        raise UserError(
            f"{_name(file)} holds a discriminator ({arch}), which makes no pictures; use the net_g file"
        )
    if isinstance(arch, str) and isinstance(file.metadata.get("options"), Mapping) and arch not in NETWORKS:
        raise UserError(
            f"{_name(file)} was written by the network '{arch}' of a plug-in; name its module with --plugin "
            "(in Python: import it before loading)"
        )
    net, facts = network_from_state(file.state, _name(file))
    elements = sum(value.numel() for value in file.state.values())
    report = LoadReport(
        path=file.path,
        sha256=_sha256(file),
        param_key=file.param_key,
        mode="strict",
        loaded=tuple(file.state),
        mismatched={},
        missing=(),
        unexpected=(),
        ignored={},
        elements_total=elements,
        elements_loaded=elements,
    )
    return LoadedNetwork(net, facts, report)


def _sha256(file: StateFile) -> str | None:
    return sha256_of(file.path) if file.path is not None and file.path.is_file() else None


def _require_complete(report: LoadReport, advice: Sequence[str] = ()) -> None:
    if not report.complete:
        raise UserError(
            "\n".join([f"{report.source} does not fit the network:", *report.problems(), *advice])
        )


def _name(file: StateFile) -> str:
    return str(file.path) if file.path is not None else "a state in memory"
