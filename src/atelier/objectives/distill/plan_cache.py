"""Answers of a teacher, kept for the next run: exact, because a sample is a function of (seed, step, number).

One folder holds one teacher's answers to one kind of input (``lq``, upcycled ``tiles``, the reduced ``zoom``). Its name
is a hash of everything that decides them, so that runs share a folder only where they would compute the same, and arms
that need different kinds share those they have in common. What the key cannot see (the pixels in the files, how they
are cut and degraded) is held by a number a sample, computed from the input that the teacher would get; where it
differs, the cache is refused.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from atelier.errors import RunStopped, UserError
from atelier.files import atomic_write
from atelier.objectives.distill.answer_shards import (
    CHANNELS_LAST,
    PLAIN,
    AnswerStore,
    Found,
    Layout,
    differences,
)
from atelier.objectives.distill.codec import Codec
from atelier.objectives.distill.options import PlanCacheOptions
from atelier.randomness import Streams

if TYPE_CHECKING:
    from atelier.objectives.base import Setting
    from atelier.objectives.distill.teacher import Teacher

Kind = Literal["lq", "tiles", "zoom"]

_VERSION = 1
_GB = 1e9
#: More than stored numbers and another order of summing explain: a tenth of a grey level.
TOLERANCE = 0.1 / 255
#: On a GPU, inputs are compared there and the outcome is looked at once in so many answers.
_LOOK_EVERY = 100


@dataclass(frozen=True)
class Moment:
    """Whose answers are asked for.

    Attributes:
        step: from 1.
        numbers: the samples' places in the step's batch over all ranks.
        fill: whether what is computed is stored; reading is always allowed.
    """

    step: int
    numbers: Sequence[int]
    fill: bool = True


class PlanCache:
    """One teacher's answers, by kind of input.

    Args:
        teacher: whose; it is not called here.
        options: ``distill.cache``.
        setting: the run; its ``plan`` is known.
        kinds: kinds of input that are asked for.
        tiles: tiles of a sample, for that kind.
    """

    def __init__(
        self,
        teacher: Teacher,
        options: PlanCacheOptions,
        setting: Setting,
        kinds: Collection[Kind],
        tiles: int,
    ) -> None:
        if setting.plan is None:
            raise ValueError("a plan cache needs the run's plan")
        self.teacher, self.options, self.setting = teacher, options, setting
        self.codec = Codec(options.format)
        self.root = folder_of(options, setting)
        self.keys: dict[Kind, dict[str, Any]] = {}
        self.stores: dict[Kind, AnswerStore] = {}
        for kind in kinds:
            key = self._key(kind, tiles)
            digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).digest()
            shape = answer_shape(kind, setting, tiles)
            layout = Layout(shape, self.codec, setting.together, setting.samples // setting.together)
            self.keys[kind] = key
            self.stores[kind] = AnswerStore(self.root / f"{kind}-{digest.hex()[:20]}", digest, layout)
        self._known: set[Kind] = set()
        self._to_verify = options.verify
        self._worst: float | None = None
        self._foreign: Tensor | None = None
        self._read = self._made = self._saturated = self._values = 0

    def answer(self, kind: Kind, inputs: Tensor, at: Moment, compute: Callable[[], Tensor]) -> Tensor:
        """What the teacher says to ``inputs`` (samples × C × H × W, several in a row of one sample), float32.

        It is what the store holds, or ``compute()`` as the store will hold it: the same numbers in either case.

        Raises:
            UserError: the stored answers belong to other inputs, or differ from the teacher's where they are verified.
            RunStopped: the teacher's answer is not finite.
        """
        store = self.stores[kind]
        self._check_folder(kind)
        digests = input_digests(inputs, len(at.numbers))
        found = store.find(at.step, at.numbers)
        if found is not None:
            self._compare(kind, at, found, digests)
            answers = self._decoded(found, inputs.device)
            if at.fill:
                self._read += len(at.numbers)
                if self._to_verify > 0:
                    self._to_verify -= 1
                    self._verify(kind, at, answers, compute())
            return answers
        self._settle(kind)
        live = compute()
        if not bool(live.isfinite().all()):
            raise RunStopped(
                f"{self.teacher.title}: its answer at step {at.step} is not finite; it is not stored"
            )
        stored, outside = self.codec.encode(live.reshape(len(at.numbers), *store.layout.shape))
        plain = live.is_contiguous() or not live.is_contiguous(memory_format=torch.channels_last)
        order = PLAIN if plain else CHANNELS_LAST
        if at.fill and store.is_slot(at.numbers):
            self._describe(kind)
            store.put(at.step, at.numbers, stored, digests.cpu().numpy(), outside, order)
            self._note_precision(kind)
            self._made += len(at.numbers)
            self._saturated += int(outside.sum())
            self._values += stored.size
        return self._decoded(Found(stored, np.zeros(0, np.int64), order), inputs.device)

    @torch.no_grad()
    def difference(self, kind: Kind, inputs: Tensor, at: Moment) -> float | None:
        """How far the stored answers are from what the teacher says now; None where they are not there.

        Raises:
            UserError: the stored answers belong to other inputs.
        """
        self._check_folder(kind)
        found = self.stores[kind].find(at.step, at.numbers)
        if found is None:
            return None
        self._compare(kind, at, found, input_digests(inputs, len(at.numbers)).cpu())
        self._settle(kind)
        live = self.codec.seen_through(self.teacher.output(inputs))
        return float((live - self._decoded(found, inputs.device)).abs().max())

    def holds(self, kinds: Sequence[Kind], step: int, numbers: Sequence[int]) -> bool:
        """Whether the answers to ``kinds`` of input for these samples of ``step`` are there, in sound files."""
        return all(self.stores[kind].find(step, numbers) is not None for kind in kinds)

    def coverage(self, last: int) -> float:
        """The share of steps 1 to ``last`` that is stored, of the kind of which least is."""
        return min((store.coverage(last) for store in self.stores.values()), default=0.0)

    def lines(self) -> list[str]:
        """For the start of the log: how large it will be, how much is there, and why a like one does not serve."""
        last, found = self.setting.total_iter, []
        for kind, store in self.stores.items():
            share = store.coverage(last)
            line = (
                f"plan cache of {self.teacher.title}, {kind}: {store.layout.step_bytes / 1e6:.3g} MB a step as "
                f"{self.options.format}, {store.layout.step_bytes * last / _GB:.3g} GB for {last:,} steps, "
                f"{share:.0%} is there: {store.folder}"
            )
            nearest = self._nearest(kind) if not share else None
            found.append(line + (f"; {nearest}" if nearest else ""))
        return found

    def sizes(self) -> dict[str, int]:
        """Folder -> bytes on disk."""
        return {str(store.folder): _size(store.folder) for store in self.stores.values()}

    def remarks(self) -> list[str]:
        """What was mended since the last call."""
        found = [note for store in self.stores.values() for note in store.notes]
        for store in self.stores.values():
            store.notes.clear()
        return found

    def close(self) -> list[str]:
        """Write what is only in memory; what was read, made and lost, in a line.

        Raises:
            UserError: the stored answers belong to other inputs (told late on a GPU).
        """
        for store in self.stores.values():
            store.flush()
        self._look()
        if not self._read + self._made:
            return []
        line = f"plan cache of {self.teacher.title}: {self._read:,} answers read, {self._made:,} computed and stored"
        if self._saturated:
            line += (
                f"; {self._saturated:,} of {self._values:,} stored values lay outside of what {self.options.format} "
                "holds and were clipped"
            )
        if self._worst is not None:
            line += f"; verified against the teacher, largest difference {self._worst:.1e}"
        self._read = self._made = self._saturated = self._values = 0
        return [line]

    # what answers depend on

    def _key(self, kind: Kind, tiles: int) -> dict[str, Any]:
        options, setting = self.teacher.options, self.setting
        key: dict[str, Any] = {
            "version": _VERSION,
            "input": kind,
            "format": self.options.format,
            "teacher": {
                "sha256": self.teacher.digest,
                "param_key": options.param_key,
                "code": code_digest(self.teacher.net),
                "precision": self.teacher.precision_asked,
                "compiled": self.teacher.compiled,
                "batch": options.batch,
                "self_ensemble": options.self_ensemble,
            },
            "software": {"torch": torch.__version__, "device": setting.device.type},
            "plan": {
                "seed": setting.seed,
                "scale": setting.scale,
                "channels": list(setting.channels),
                "lq_size": setting.lq_size,
                "samples": setting.samples,
                "together": setting.together,
                **(setting.plan or {}),
            },
        }
        if kind == "tiles":
            key["upcycle"] = {"tiles": tiles}
        return key

    def _settle(self, kind: Kind) -> None:
        """``precision: auto`` on a GPU is decided once for a cache, by the run that begins it."""
        if self.teacher.precision_asked == "auto":
            with suppress(FileNotFoundError):
                self.teacher.settle((self.stores[kind].folder / "precision").read_text())

    def _note_precision(self, kind: Kind) -> None:
        path = self.stores[kind].folder / "precision"
        if self.teacher.precision_asked == "auto" and not path.exists():
            atomic_write(path, self.teacher.precision)

    # the folder

    def _check_folder(self, kind: Kind) -> None:
        """A folder that says of itself that it is another cache is refused."""
        if kind in self._known:
            return
        path = self.stores[kind].folder / "key.json"
        there = read_key(path)
        if there is None:
            return  # nothing there yet; every file holds the key's hash as well
        wrong = differences(there, json.loads(json.dumps(self.keys[kind])))
        if wrong:
            raise UserError(
                f"plan cache: {path.parent} was made with another {', '.join(wrong)} than its name says; move it away, "
                "or name another distill.cache.dir"
            )
        self._known.add(kind)

    def _describe(self, kind: Kind) -> None:
        path = self.stores[kind].folder / "key.json"
        if not path.exists():
            atomic_write(path, json.dumps(self.keys[kind], indent=1))

    def _nearest(self, kind: Kind) -> str | None:
        """Of the caches that serve other runs, the one with the fewest differences, and which they are."""
        own = json.loads(json.dumps(self.keys[kind]))
        others: list[tuple[list[str], str]] = []
        for path in self.root.glob(f"{kind}-*/key.json"):
            with suppress(UserError):
                key = read_key(path)
                if key is not None:
                    others.append((differences(key, own), path.parent.name))
        if not others:
            return None
        wrong, name = min(others, key=lambda each: (len(each[0]), each[1]))
        return f"{name} does not serve: it differs in {', '.join(wrong)}" if wrong else None

    # what comes back

    def _decoded(self, found: Found, device: torch.device) -> Tensor:
        values = self.codec.decode(found.answers, device)
        values = values.reshape(-1, *values.shape[-3:])
        return (
            values.contiguous(memory_format=torch.channels_last) if found.order == CHANNELS_LAST else values
        )

    def _compare(self, kind: Kind, at: Moment, found: Found, digests: Tensor) -> None:
        stored = torch.from_numpy(np.array(found.inputs))
        if digests.device.type != "cpu":
            # Nothing in a step waits for the device: what differs is gathered there.
            same = stored.pin_memory().to(digests.device, non_blocking=True) == digests
            worst = torch.where(same, 0, at.step).max()
            self._foreign = worst if self._foreign is None else torch.maximum(self._foreign, worst)
            if self._read // len(at.numbers) % _LOOK_EVERY == 0:
                self._look()
            return
        wrong = (stored != digests).nonzero().flatten().tolist()
        if wrong:
            raise self._stale(at.step, kind, f"sample {at.numbers[wrong[0]]} of ")

    def _look(self) -> None:
        step = int(self._foreign.item()) if self._foreign is not None else 0
        self._foreign = None
        if step:
            raise self._stale(step, next(iter(self.stores)), "")

    def _stale(self, step: int, kind: Kind, which: str) -> UserError:
        return UserError(
            f"plan cache: {which}step {step} is not the picture that the teacher saw when {self.stores[kind].folder} "
            "was made: pictures of the training set, or how they are degraded, changed since; delete that folder, or "
            "name another distill.cache.dir"
        )

    def _verify(self, kind: Kind, at: Moment, answers: Tensor, live: Tensor) -> None:
        difference = float((self.codec.seen_through(live) - answers).abs().max())
        self._worst = max(difference, self._worst or 0.0)
        if difference > TOLERANCE + self.codec.error:
            raise UserError(
                f"plan cache: {self.stores[kind].folder}: at step {at.step} the stored answer is {difference:.1e} away "
                f"from the teacher's (allowed {TOLERANCE + self.codec.error:.1e}); delete that folder"
            )


def answer_shape(kind: Kind, setting: Setting, tiles: int) -> tuple[int, ...]:
    """The shape of one sample's answer."""
    channels = setting.channels[1]
    if kind == "zoom":
        side = setting.lq_size // setting.scale * setting.scale
        return (channels, side, side)
    side = setting.lq_size * setting.scale
    return (channels, side, side) if kind == "lq" else (tiles, channels, side, side)


def folder_of(options: PlanCacheOptions, setting: Setting) -> Path:
    """``distill.cache.dir``; by default a folder beside the run's cache of decoded pictures."""
    return options.dir if options.dir is not None else (setting.cache_root or Path()) / "teachers"


def check_room(caches: Sequence[PlanCache]) -> None:
    """Raise :class:`~atelier.errors.UserError` where the caches of a run would not fit, before anything is computed."""
    if not caches:
        return
    first = caches[0]
    own = {store.folder: store.layout for cache in caches for store in cache.stores.values()}
    last = first.setting.total_iter
    needed = sum(layout.files(last) * layout.offsets()[-1] for layout in own.values())
    sizes = {path: _size(path) for path in first.root.glob("*") if path.is_dir()}
    others = {path: size for path, size in sizes.items() if path not in own}
    smaller = "choose distill.cache.format: uint16, " if first.options.format == "fp32" else ""
    remedy = f"raise distill.cache.max_gb, {smaller}train fewer steps, or set source: online"
    if needed + sum(others.values()) > first.options.max_gb * _GB:
        largest = sorted(others, key=lambda path: -others[path])[:5]
        raise UserError(
            f"plan cache: {last:,} steps need {needed / _GB:.3g} GB beside the {sum(others.values()) / _GB:.3g} GB of "
            f"others in {first.root}, more than distill.cache.max_gb {first.options.max_gb:g} allows; {remedy}"
            + "".join(f"\n  {others[path] / _GB:8.3f} GB  {path}" for path in largest)
        )
    place = next(path for path in (first.root, *first.root.absolute().parents) if path.exists())
    missing = needed - sum(size for path, size in sizes.items() if path in own)
    free = shutil.disk_usage(place).free
    if missing > free:
        raise UserError(
            f"plan cache: {missing / _GB:.3g} GB are still to be written, but the disk of {first.root} has "
            f"{free / _GB:.3g} GB free; {remedy}"
        )


def read_key(path: Path) -> dict[str, Any] | None:
    """The key that a cache's folder states; None where there is none.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"plan cache: {path} cannot be read ({error}); move {path.parent} away") from error
    if not isinstance(content, Mapping):
        raise UserError(f"plan cache: {path} holds no key; move {path.parent} away")
    return dict(content)


def code_digest(net: nn.Module) -> str:
    """SHA-256 over the source files in which the network's modules are defined; torch's own count by its version."""
    files = set()
    for kind in {type(module) for module in net.modules()}:
        if not kind.__module__.startswith("torch."):
            with suppress(TypeError, OSError):
                files.add(inspect.getfile(kind))
    contents = sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(contents).encode()).hexdigest()


def input_digests(inputs: Tensor, samples: int) -> Tensor:
    """``samples`` int64 on the inputs' device, functions of every bit of their float32 values.

    A sum of the values' bits times fixed odd random numbers, modulo 2**64: exact in any order, hence equal on every
    device; two inputs that differ in one value always differ in it, others but by a chance of about 2**-64.
    """
    bits = inputs.detach().float().contiguous().view(torch.int32).reshape(samples, -1)
    return (bits.to(torch.int64) * _factors(bits.shape[1], bits.device)).sum(1)


@lru_cache(maxsize=8)
def _factors(count: int, device: torch.device) -> Tensor:
    raw = Streams(0, 0, 0)("input digests").bit_generator.random_raw(count) | np.uint64(1)
    return torch.from_numpy(raw.view(np.int64)).to(device)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total
