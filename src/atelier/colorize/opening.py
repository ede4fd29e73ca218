"""From the names that a person gives to a colorizer that is ready to work, and what it is made of, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.archs.checks import checked
from atelier.colorize.flow_options import FLOWS, FlowOptions, RaftFlowOptions
from atelier.colorize.matcher_options import EXEMPLARS, ExemplarOptions, SwinTExCoOptions
from atelier.errors import UserError

if TYPE_CHECKING:
    import torch

    from atelier.colorize.system import FusionSystem

#: Told where nothing that was trained is in use.
UNTRAINED = (
    "no trained weights are in use: flow and matching follow lightness alone, so references must show the same scene "
    "(docs/colorize.md); `atelier train -opt options/colorize/tiny.yml` trains small networks in about a minute, then "
    "give -m experiments/colorize_tiny/models/net_g_best.pth"
)


@dataclass(frozen=True)
class WeightFiles:
    """What was named on the command line; None: not given.

    Attributes:
        model: a model file of ours, the whole system.
        memflow, swintexco, backbone, fusion: weights of single parts.
        flow, exemplar: which part, by its ``type:``; None: what the weights suggest, else ``dis`` and ``tiny``.
    """

    model: Path | None = None
    memflow: Path | None = None
    swintexco: Path | None = None
    backbone: Path | None = None
    fusion: Path | None = None
    flow: str | None = None
    exemplar: str | None = None

    def check(self) -> None:
        """Find what is missing before anything heavy is loaded.

        Raises:
            UserError: names that contradict each other, files that are not there, or SwinTExCo without a backbone.
        """
        for field in fields(self):
            path = getattr(self, field.name)
            if isinstance(path, Path) and not path.exists():
                raise UserError(f"{_OPTIONS[field.name]} {path} does not exist")
        for name in ("model", "memflow", "fusion"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise UserError(f"{_OPTIONS[name]} {path} is no file")
        if self.model is not None:
            contradicting = [
                name for name in ("fusion", "flow", "exemplar") if getattr(self, name) is not None
            ]
            if contradicting:
                raise UserError(
                    f"-m is a whole system; leave {', '.join(_OPTIONS[name] for name in contradicting)} out"
                )
            return
        self.flow_options()
        exemplar = self.exemplar_options()
        if isinstance(exemplar, SwinTExCoOptions):
            exemplar.backbone_file()

    def flow_options(self) -> FlowOptions:
        """Options of the source of flow."""
        kind = self.flow or ("memflow" if self.memflow is not None else "dis")
        if self.memflow is not None and kind != "memflow":
            raise UserError(f"--memflow_ckpt belongs to --flow memflow, not to --flow {kind}")
        if kind == "memflow" and self.memflow is None:
            raise UserError("--flow memflow needs its weights: --memflow_ckpt FILE; --flow dis needs none")
        given = {} if self.memflow is None else {"weights": self.memflow}
        return checked(FLOWS.options_class(kind), **given)

    def exemplar_options(self) -> ExemplarOptions:
        """Options of the matcher."""
        given = {"checkpoint": self.swintexco, "backbone_weights": self.backbone}
        given = {key: path for key, path in given.items() if path is not None}
        kind = self.exemplar or ("swintexco" if given else "tiny")
        if given and kind != "swintexco":
            raise UserError(
                f"--swintexco_ckpt and --backbone_weights belong to --exemplar swintexco, not to --exemplar {kind}"
            )
        return checked(EXEMPLARS.options_class(kind), **given)


_OPTIONS = {
    "model": "-m",
    "memflow": "--memflow_ckpt",
    "swintexco": "--swintexco_ckpt",
    "backbone": "--backbone_weights",
    "fusion": "--fusion_ckpt",
    "flow": "--flow",
    "exemplar": "--exemplar",
}


@dataclass(frozen=True)
class OpenedSystem:
    """A colorizer in evaluation mode.

    Attributes:
        system: on its device.
        parts: ``flow``, ``exemplar`` and ``fusion`` -> what it is and where its weights are from.
        notes: what must be known about the weights.
        digest: SHA-256 over all its tensors: the same files give the same one.
    """

    system: FusionSystem
    parts: Mapping[str, str]
    notes: tuple[str, ...]
    digest: str


def open_system(files: WeightFiles, device: torch.device | str = "cpu") -> OpenedSystem:
    """The colorizer that ``files`` describe; without any, one that needs no weights.

    Raises:
        UserError: see :meth:`WeightFiles.check`; weights that do not fit, by name.
    """
    files.check()
    import torch

    from atelier.colorize.model_files import digest

    if files.model is not None:
        from atelier.colorize.model_files import load_system

        loaded = load_system(
            files.model,
            memflow_ckpt=files.memflow,
            swintexco_ckpt=files.swintexco,
            backbone_weights=files.backbone,
        )
        system, notes = loaded.system, list(loaded.notes)
        parts = dict(line.split(": ", 1) for line in loaded.lines)
    else:
        # Numbers that are drawn only to be replaced shall shift nobody's.
        with torch.random.fork_rng(devices=()):
            system, parts, notes = _assembled(files)
    system.eval().requires_grad_(False)
    return OpenedSystem(system.to(device), parts, tuple(notes), digest(system))


def _assembled(files: WeightFiles) -> tuple[FusionSystem, dict[str, str], list[str]]:
    from atelier.colorize.checkpoints import load_fusion
    from atelier.colorize.system import FusionSystem

    fusion = None if files.fusion is None else load_fusion(files.fusion)
    exemplar = files.exemplar_options()
    matching = None if fusion is None else fusion.matching
    if isinstance(exemplar, SwinTExCoOptions) and exemplar.checkpoint is None and matching is None:
        raise UserError(
            "SwinTExCo's matching network has no weights: give its folder (--swintexco_ckpt DIR), or a fusion "
            "checkpoint that was trained with one (--fusion_ckpt FILE); --exemplar tiny needs none"
        )
    flow = files.flow_options()
    system = FusionSystem(flow=flow, exemplar=exemplar, fusion_net=None if fusion is None else fusion.fusion)
    notes = list(getattr(system.exemplar, "notes", ()))
    parts = {"flow": _flow_words(flow), "exemplar": _exemplar_words(system, exemplar)}
    if fusion is None:
        parts["fusion"] = "average by confidence, nothing to train"
    else:
        kind = getattr(getattr(fusion.fusion, "options", None), "type", type(fusion.fusion).__name__)
        parts["fusion"] = f"{kind}, weights of {files.fusion}"
        if matching is not None and isinstance(exemplar, SwinTExCoOptions):
            system.load_matching(matching)
            parts["exemplar"] += f", matching network of {files.fusion}"
        elif matching is not None:
            notes.append(
                f"{files.fusion} also holds SwinTExCo's matching network, which is not used with --exemplar "
                f"{exemplar.type}; --swintexco_ckpt or --backbone_weights bring the part it needs"
            )
    if all(path is None for path in (files.memflow, files.swintexco, files.fusion, files.backbone)) and not (
        isinstance(flow, RaftFlowOptions)
    ):
        notes.append(UNTRAINED)
    return system, parts, notes


def _flow_words(options: Any) -> str:
    if options.type == "dis":
        return "dis, OpenCV's dense inverse search without weights"
    if options.type == "raft":
        return f"raft, torchvision's {options.model} model"
    return f"{options.type}, weights of {getattr(options, 'weights', None)}"


def _exemplar_words(system: FusionSystem, options: Any) -> str:
    sources = getattr(system.exemplar, "sources", {})
    if sources:
        told = "; ".join(f"{name}: {source.text}" for name, source in sources.items())
        return f"{options.type} ({told})"
    if options.type == "tiny":
        return f"tiny, filters drawn from seed {options.seed}, untrained"
    return str(options.type)
