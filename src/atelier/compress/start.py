"""The start of a run from a weight file: strictly, with what fits, or with what can be carried over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from atelier.archs.load import compare, load_state, options_of, require_usable
from atelier.archs.load_report import Inherited, LoadMode, LoadReport
from atelier.archs.network_options import NetworkOptions
from atelier.archs.weights import StateFile
from atelier.compress.calibrate import calibrated
from atelier.compress.inherit import FAMILIES, InheritPlan, inherit_plan
from atelier.compress.options import InheritOptions
from atelier.compress.solved import solvable, solved
from atelier.errors import UserError

State = Mapping[str, Tensor]


def start_from(
    net: nn.Module,
    file: StateFile,
    *,
    mode: LoadMode,
    average: StateFile | None = None,
    average_net: nn.Module | None = None,
    average_mode: LoadMode | None = None,
    options: InheritOptions | None = None,
    min_loaded: float = 0.01,
    calibration: Sequence[Tensor] | None = None,
    solve: bool = False,
    quiet: bool = True,
) -> LoadReport:
    """Fill ``net``, freshly drawn, from ``file``, and ``average_net`` from ``average``.

    Args:
        net: one of our networks; its weights stand where the file has nothing.
        file: what was learned.
        mode: "strict", "flexible" or "inherit".
        average: averaged weights that belong to ``file``; None: ``average_net`` becomes a copy of ``net``.
        average_net: the average's network; same options as ``net``.
        average_mode: mode for the average; None: ``mode``. With "inherit" it is carried over by the same choices, and
            with the same fresh parts, as ``net``.
        options: of "inherit"; None: the defaults.
        min_loaded: share in [0, 1] of the network's numbers that must come from the file ("flexible", "inherit").
        calibration: pictures for ``options.calibrate``, see :func:`atelier.compress.calibrate.calibrated`, and for
            ``solve``.
        solve: "inherit" without an average of its own: weights of a smaller network are solved on ``calibration``
            where that is known how (:func:`atelier.compress.solved.solvable`), instead of cut out by the rules.
        quiet: no progress bar for it.

    Returns:
        The report on ``net``.

    Raises:
        UserError: the file cannot be used this way; ``net`` is unchanged then.
    """
    options = options if options is not None else InheritOptions()
    average_mode = average_mode if average_mode is not None else mode
    inheritance = (
        _Inheritance.between(net, file, options, calibration, solve=solve, quiet=quiet)
        if mode == "inherit" or (average is not None and average_mode == "inherit")
        else None
    )
    if mode == "inherit":
        assert inheritance is not None
        report, state = inheritance.carry(net, file)
        require_usable(report, min_loaded)
        net.load_state_dict(state)
    else:
        report = load_state(net, file, mode, min_loaded=min_loaded)
    if average_net is not None:
        # Also where an average follows: what it lacks is then the network's, not another fresh draw.
        average_net.load_state_dict(net.state_dict())
        if average is not None and average_mode != "inherit":
            try:
                load_state(average_net, average, average_mode, min_loaded=min_loaded)
            except UserError as error:
                raise UserError(f"the averaged weights (path.load_ema {average_mode}): {error}") from None
        elif average is not None:
            assert inheritance is not None
            average_net.load_state_dict(inheritance.carry(average_net, average)[1])
    return report


@dataclass(frozen=True)
class _Inheritance:
    """One plan for a network and its average.

    Attributes:
        old, new: both networks' options.
        plan: how the one becomes the other.
        fresh: the new network's state as drawn, on the CPU.
        calibration: pictures; None: LayerNorms are not adjusted.
        solving: pictures on which the weights are solved; None: the plan's rules make them.
        quiet: no progress bar.
    """

    old: NetworkOptions
    new: NetworkOptions
    plan: InheritPlan
    fresh: State
    calibration: Sequence[Tensor] | None
    solving: Sequence[Tensor] | None
    quiet: bool

    @classmethod
    def between(
        cls,
        net: nn.Module,
        file: StateFile,
        options: InheritOptions,
        calibration: Sequence[Tensor] | None,
        *,
        solve: bool,
        quiet: bool,
    ) -> _Inheritance:
        new = getattr(net, "options", None)
        old = options_of(file)
        if not isinstance(new, NetworkOptions) or old is None:
            what = "this network" if not isinstance(new, NetworkOptions) else _name(file)
            raise UserError(f"path.load=inherit knows {', '.join(FAMILIES)}; {what} is none of them")
        try:
            plan = inherit_plan(old, new, old.network_state(file.state)[0], options)
        except UserError as error:
            raise UserError(f"{_name(file)}: {error}") from None
        if options.calibrate and calibration is None:
            raise UserError("inherit.calibrate needs pictures to measure on")
        fresh = {key: value.detach().to("cpu", copy=True) for key, value in net.state_dict().items()}
        solving = calibration if solve and solvable(old, new) else None
        return cls(old, new, plan, fresh, calibration if options.calibrate else None, solving, quiet)

    def carry(self, net: nn.Module, file: StateFile) -> tuple[LoadReport, dict[str, Tensor]]:
        """(report, the state for ``net``) of one file, the network's or the average's."""
        try:
            old_state, ignored = self.old.network_state(file.state)
            state, inherited = self.plan.apply(old_state, self.fresh)
        except UserError as error:
            raise UserError(f"{_name(file)}: {error}") from None
        loaded, used = self.plan.loaded, self.plan.used
        if self.solving is not None:
            # Every weight of the old network has its part in what the new one is solved for.
            state, inherited = solved(self.old, old_state, self.new, self.solving, quiet=self.quiet)
            loaded, used = (), frozenset(old_state)
        if self.calibration is not None:
            state, adjusted = calibrated(self.old, old_state, self.new, state, self.calibration)
            loaded = tuple(key for key in loaded if key not in adjusted)
            for key in adjusted:
                shapes = tuple(old_state[key].shape), tuple(state[key].shape)
                inherited[key] = Inherited("LayerNorm, calibrated", *shapes, min(shapes)[0])
        plain, _ = compare(net, replace(file, state=old_state), "inherit")
        carried = {*loaded, *inherited}
        report = LoadReport(
            path=plain.path,
            sha256=plain.sha256,
            param_key=plain.param_key,
            mode="inherit",
            loaded=loaded,
            mismatched=plain.mismatched,
            # A tensor of the same name and shape that the rules do not take means something else there.
            missing=tuple(key for key in state if key in plain.missing or _other(key, plain, carried)),
            unexpected=tuple(key for key in old_state if key not in used),
            ignored=ignored,
            elements_total=plain.elements_total,
            elements_loaded=sum(self.fresh[key].numel() for key in loaded),
            inherited=inherited,
            elements_inherited=sum(each.elements for each in inherited.values()),
        )
        return report, state


def _other(key: str, plain: LoadReport, carried: set[str]) -> bool:
    return key in plain.loaded and key not in carried


def _name(file: StateFile) -> str:
    return str(file.path) if file.path is not None else "a state in memory"
