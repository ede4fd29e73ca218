"""Taps: features taken out of any network by the names of its modules, without touching its code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from atelier.archs.depths import proportional
from atelier.archs.foreign import ForeignNetwork
from atelier.errors import UserError
from atelier.objectives.distill.layout import Size
from atelier.objectives.distill.survey import declared_options, survey
from atelier.objectives.distill.tap_names import available, resolve

# The source of this toolkit's first recipe compares four places; more add cost and little else.
_MOST = 4


class Taps:
    """Keeps the outputs of named modules of a forward pass until :meth:`collect`.

    Only calls inside a forward pass of the network count, so what activation checkpointing computes again during the
    backward pass changes nothing. Copies of the network (averages) are not tapped. A compiled module may be tapped
    itself at any time; one inside a compiled module only before its first compiled call.

    Attributes:
        enabled: off, the network runs as if there were no taps.
    """

    def __init__(
        self,
        net: nn.Module,
        names: Literal["auto"] | Sequence[str] = "auto",
        size: Size = (64, 64),
        *,
        channels: int = 3,
        most: int | None = _MOST,
        where: str = "distill.taps",
    ) -> None:
        """Looks at the network with two trial pictures, then places the taps.

        Args:
            net: a network of the registry or of spandrel; wrapped in DDP or compiled, its own names count.
            names: names, globs and ``block#2`` for a second call, or ``auto``: the stages a registry network declares.
            size: (height, width) of the input that :attr:`shapes` are told for.
            channels: of the input, for a network that is not of the registry.
            most: how many of many stages ``auto`` takes, at even depths; None: all. SwinIR's few are always all taken.
            where: the key of ``names`` in the option file, for messages.

        Raises:
            UserError: a name that does not exist or cannot be tapped (the message lists what can), or ``auto`` for a
                network without declared stages.
        """
        self._outer = _unwrapped(net)
        root = self._outer.net if isinstance(self._outer, ForeignNetwork) else self._outer
        found = survey(self._outer, root, channels)
        if names == "auto":
            names = _auto(root, most)
            if not names:
                raise UserError(
                    f"{where}: auto knows the networks of the registry; name modules of this {type(root).__name__}; "
                    f"{available('', found, size)}"
                )
        self._size = size
        self._places = resolve(names, found, size, where)
        self._modules = dict(root.named_modules())
        self._record = _Record()
        self._handles: list[RemovableHandle] = []
        self._attach()

    @property
    def enabled(self) -> bool:
        """Whether forward passes are tapped."""
        return self._record.enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._record.enabled = value
        if not value:
            self._record.drop()

    @property
    def names(self) -> tuple[str, ...]:
        """The taps' names, in the order of :meth:`collect`."""
        return tuple(place.name for place in self._places)

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(C, H, W) of each tap for an input of the size given at the start."""
        return tuple(place.layout.shape(self._size) for place in self._places)

    @property
    def depths(self) -> tuple[float, ...]:
        """0 to 1 for each tap: how much of the body has run."""
        return tuple(place.depth for place in self._places)

    def keep(self, places: Sequence[int]) -> None:
        """Keep only the taps at these places (from 0), in this order; the others no longer hold any memory."""
        self._places = [self._places[place] for place in places]
        self.remove()
        self._attach()

    def collect(self) -> list[Tensor]:
        """The features of the last forward pass, B×C×H×W with the graph attached; they are handed out once.

        Raises:
            RuntimeError: no forward pass with the taps enabled came before, or a tap was not reached by it.
            UserError: a tap that no longer is what the trial pictures showed, or that lies outside the graph.
        """
        record = self._record
        if record.size is None:
            raise RuntimeError("taps: collect() needs a forward pass before it, with the taps enabled")
        size, record.size = record.size, None
        kept, record.kept = record.kept, {}
        features = []
        for place in self._places:
            key = (place.module, place.call)
            if key not in kept:
                raise RuntimeError(
                    f"taps: '{place.name}' was not reached; inside a compiled module, taps must be placed before its "
                    "first compiled call"
                )
            output, version = kept[key]
            if version is not None and output._version != version:
                raise UserError(
                    f"taps: '{place.name}' was changed in place after it was taken; tap the next module"
                )
            if record.trains and not output.requires_grad:
                raise UserError(
                    f"taps: no gradient reaches '{place.name}': nothing before it is trained, or it lies inside a "
                    "reentrant activation checkpoint; tap the module around it"
                )
            try:
                features.append(place.layout.view(output, size))
            except UserError as error:
                raise UserError(f"taps: '{place.name}' {error}") from None
        return features

    def remove(self) -> None:
        """Take the taps off the network; what was kept is dropped."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._record.drop()

    def _attach(self) -> None:
        record = self._record
        self._handles.append(self._outer.register_forward_pre_hook(_Begin(record)))
        self._handles.append(self._outer.register_forward_hook(_End(record)))
        for name in dict.fromkeys(place.module for place in self._places):
            here = [place for place in self._places if place.module == name]
            wanted = frozenset(place.call for place in here)
            copied = frozenset(place.call for place in here if place.changes)
            keep = _Keep(record, name, wanted, copied)
            self._handles.append(self._modules[name].register_forward_hook(keep))


@dataclass
class _Record:
    """What the hooks of one network share. ``live``: a forward pass is under way and tapped."""

    enabled: bool = True
    live: bool = False
    trains: bool = False
    size: Size | None = None
    calls: dict[str, int] = field(default_factory=dict)
    kept: dict[tuple[str, int], tuple[Tensor, int | None]] = field(default_factory=dict)

    def drop(self) -> None:
        self.kept, self.size = {}, None


class _Hook:
    """A hook that stays behind when its module is copied or stored: the copy gets one that does nothing."""

    def __init__(self, record: _Record) -> None:
        self.record = record

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _no_hook, ()


class _Begin(_Hook):
    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        record = self.record
        record.live = record.enabled
        if record.live:
            record.size = (inputs[0].shape[-2], inputs[0].shape[-1])
            record.calls, record.kept = {}, {}


class _End(_Hook):
    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.record.live:
            self.record.live = False
            self.record.trains = isinstance(output, Tensor) and output.requires_grad


class _Keep(_Hook):
    def __init__(self, record: _Record, name: str, wanted: frozenset[int], copied: frozenset[int]) -> None:
        super().__init__(record)
        self.name, self.wanted, self.copied = name, wanted, copied

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        record = self.record
        if not record.live:
            return
        call = record.calls.get(self.name, 0) + 1
        record.calls[self.name] = call
        if call in self.wanted:
            kept = output.clone() if call in self.copied else output
            unknown = torch.compiler.is_compiling() or kept.is_inference()
            record.kept[self.name, call] = (kept, None if unknown else kept._version)


def _no_hook() -> Callable[..., None]:
    return _nothing


def _nothing(*_: Any) -> None:
    return None


def _unwrapped(net: nn.Module) -> nn.Module:
    """The network inside DDP and ``torch.compile``."""
    while True:
        if isinstance(net, DistributedDataParallel | DataParallel):
            net = net.module
        elif isinstance(inner := getattr(net, "_orig_mod", None), nn.Module):
            net = inner
        else:
            return net


def _auto(root: nn.Module, most: int | None) -> list[str]:
    """The stages that a network of the registry declares; of many, those at even depths."""
    options = declared_options(root)
    if options is None:
        return []
    stages = options.stages
    if options.few_stages or most is None or len(stages) <= most:
        return list(stages)
    return [stages[place - 1] for place in proportional(len(stages), most)]
