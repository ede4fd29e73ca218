"""A folder of stored answers: files of some steps each, whole or absent, every byte under a SHA-256.

A file holds, for ``steps`` successive steps, the samples that one forward pass of one process sees (a *slot*: samples
``slot * together`` and following of the step's batch over all ranks). Ranks and micro-batches therefore never share a
file. Several runs may fill one folder at once without locks: a file is replaced by a rename, what it held before is
merged into it, and the worst that two simultaneous replacements can do is to lose work, which is then done again.

A file is one buffer: SHA-256 of the rest (32 bytes), the cache's key (32), one byte a step (0 absent, 1 there, 2 there
and in channels-last order), 8 bytes a sample that identify its input, 4 that count saturated values, the answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atelier.errors import UserError
from atelier.files import atomic_path, describe_os_error
from atelier.objectives.distill.codec import Codec, Numbers

_HASH = 32
_HEAD = 2 * _HASH
_ALIGN = 64
_SHARD_BYTES = 32 * 10**6
_MOST_STEPS = 64
ABSENT, PLAIN, CHANNELS_LAST = 0, 1, 2


@dataclass(frozen=True)
class Layout:
    """Sizes that follow from a cache's key.

    Attributes:
        shape: of one sample's answer.
        codec: how it is stored.
        together: samples of one forward pass.
        slots: forward passes of one step, over all ranks.
    """

    shape: tuple[int, ...]
    codec: Codec
    together: int
    slots: int

    @property
    def step_bytes(self) -> int:
        """Answers of one step in all slots."""
        return self.slots * self.together * int(np.prod(self.shape)) * self.codec.dtype.itemsize

    @property
    def steps(self) -> int:
        """Steps in a file: few enough that the files being filled take some 32 MB of memory together."""
        return max(1, min(_MOST_STEPS, _SHARD_BYTES // self.step_bytes))

    def offsets(self) -> tuple[int, int, int, int]:
        """Where inputs, counts and answers begin, and the size of a file."""
        samples = self.steps * self.together
        inputs = _up(_HEAD + self.steps, 8)
        counts = inputs + 8 * samples
        answers = _up(counts + 4 * samples, _ALIGN)
        return inputs, counts, answers, answers + self.steps * self.step_bytes // self.slots

    def files(self, last: int) -> int:
        """How many files steps 1 to ``last`` take."""
        return -(-last // self.steps) * self.slots


class Shard:
    """Views into one file's buffer, in memory or mapped."""

    def __init__(self, buffer: Numbers, layout: Layout) -> None:
        inputs, counts, answers, _ = layout.offsets()
        samples = (layout.steps, layout.together)
        self.buffer = buffer
        self.present = buffer[_HEAD : _HEAD + layout.steps]
        self.inputs = buffer[inputs:counts].view("<i8").reshape(samples)
        self.saturated = buffer[counts : counts + 4 * layout.steps * layout.together]
        self.saturated = self.saturated.view("<i4").reshape(samples)
        self.answers = buffer[answers:].view(layout.codec.dtype).reshape(*samples, *layout.shape)

    def take(self, other: Shard, place: int) -> None:
        """Copy one step from ``other``."""
        for name in ("present", "inputs", "saturated", "answers"):
            getattr(self, name)[place] = getattr(other, name)[place]


@dataclass(frozen=True)
class Found:
    """Stored answers of some samples of a step.

    Attributes:
        answers: N×shape as stored.
        inputs: N int64, what identified their inputs.
        order: :data:`PLAIN` or :data:`CHANNELS_LAST`.
    """

    answers: Numbers
    inputs: Numbers
    order: int


@dataclass
class _Open:
    block: int
    shard: Shard | None
    stamp: tuple[int, ...] | None
    dirty: bool = False


class AnswerStore:
    """Reads and fills one folder; one file a slot is open at a time.

    Args:
        folder: made at the first write.
        key: 32 bytes that name what the answers depend on; a file with another one is refused.
        layout: sizes.

    Attributes:
        notes: what went wrong and was mended, to be told and cleared by the owner.
    """

    def __init__(self, folder: Path, key: bytes, layout: Layout) -> None:
        self.folder, self.key, self.layout = folder, key, layout
        self.notes: list[str] = []
        self._open: dict[int, _Open] = {}

    def find(self, step: int, numbers: Sequence[int]) -> Found | None:
        """The answers for samples ``numbers`` of step ``step`` (from 1); None unless all of them are there.

        Raises:
            UserError: a file of another cache.
        """
        block, place = divmod(step - 1, self.layout.steps)
        parts: list[tuple[Numbers, Numbers]] = []
        order = PLAIN
        for slot, inside in self._by_slot(numbers):
            shard = self._shard(block, slot, place)
            if shard is None or not shard.present[place]:
                return None
            order = int(shard.present[place])
            parts.append((shard.answers[place, inside], shard.inputs[place, inside]))
        if len(parts) == 1:
            return Found(*parts[0], order)
        return Found(
            np.concatenate([answers for answers, _ in parts]),
            np.concatenate([each for _, each in parts]),
            order,
        )

    def is_slot(self, numbers: Sequence[int]) -> bool:
        """Whether ``numbers`` are one whole forward pass, which alone is stored."""
        first, together = numbers[0], self.layout.together
        return first % together == 0 and list(numbers) == list(range(first, first + together))

    def put(
        self,
        step: int,
        numbers: Sequence[int],
        answers: Numbers,
        inputs: Numbers,
        saturated: Numbers,
        order: int,
    ) -> None:
        """Keep the answers for one slot; they reach the disk when their file's last step has passed, or by flush.

        Raises:
            UserError: the folder cannot be written.
        """
        block, place = divmod(step - 1, self.layout.steps)
        slot = numbers[0] // self.layout.together
        self._shard(block, slot, place)
        current = self._open[slot]
        if not current.dirty:
            size = self.layout.offsets()[-1]
            buffer = np.zeros(size, np.uint8) if current.shard is None else np.array(current.shard.buffer)
            current.shard, current.dirty = Shard(buffer, self.layout), True
        assert current.shard is not None
        current.shard.inputs[place], current.shard.saturated[place] = inputs, saturated
        current.shard.answers[place], current.shard.present[place] = answers, order
        if place == self.layout.steps - 1:
            self._flush(slot)

    def flush(self) -> None:
        """Write what is only in memory."""
        for slot in self._open:
            self._flush(slot)

    def coverage(self, last: int) -> float:
        """The share of steps 1 to ``last`` that is there; looks at the files' beginnings alone."""
        size, have = self.layout.offsets()[-1], 0
        for path, block, _ in self.shards():
            steps = min(self.layout.steps, last - block * self.layout.steps)
            with suppress(OSError):
                if steps > 0 and path.stat().st_size == size:
                    with path.open("rb") as file:
                        head = file.read(_HEAD + steps)
                    have += sum(1 for each in head[_HEAD:] if each)
        return have / max(1, last * self.layout.slots)

    def passes(self) -> Iterator[tuple[int, int]]:
        """(step, slot) of everything that is stored; every file's SHA-256 is checked, damage is noted."""
        for _, block, slot in self.shards():
            shard = self.load(block, slot)
            places = np.flatnonzero(shard.present).tolist() if shard is not None else []
            yield from ((block * self.layout.steps + place + 1, slot) for place in places)

    def shards(self) -> Iterator[tuple[Path, int, int]]:
        """(path, block, slot) of every file, in order of steps."""
        for path in sorted(self.folder.glob("[0-9]*-[0-9]*.bin")):
            first, slot = path.stem.split("-")
            if first.isdigit() and slot.isdigit() and int(slot) < self.layout.slots:
                yield path, (int(first) - 1) // self.layout.steps, int(slot)

    def load(self, block: int, slot: int) -> Shard | None:
        """A file's content, mapped; None where there is none or it is damaged, which is noted.

        Raises:
            UserError: a sound file of another cache.
        """
        path = self._path(block, slot)
        try:
            buffer: Numbers = np.memmap(path, dtype=np.uint8, mode="r")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._damaged(path, str(error))
            return None
        if len(buffer) != self.layout.offsets()[-1]:
            self._damaged(path, f"{len(buffer)} bytes instead of {self.layout.offsets()[-1]}")
            return None
        if hashlib.sha256(buffer[_HASH:].data).digest() != buffer[:_HASH].tobytes():
            self._damaged(path, "its content is not what its SHA-256 says")
            return None
        if buffer[_HASH:_HEAD].tobytes() != self.key:
            raise UserError(
                f"plan cache: {path} belongs to another cache (its key is {buffer[_HASH:_HEAD].tobytes().hex()[:16]}, "
                f"here {self.key.hex()[:16]}); move it away"
            )
        return Shard(buffer, self.layout)

    def _damaged(self, path: Path, reason: str) -> None:
        note = f"plan cache: {path} is damaged ({reason}); its answers are computed again and the file is replaced"
        if note not in self.notes:
            self.notes.append(note)

    def _by_slot(self, numbers: Sequence[int]) -> list[tuple[int, slice | list[int]]]:
        together = self.layout.together
        if self.is_slot(numbers):
            return [(numbers[0] // together, slice(None))]
        groups: dict[int, list[int]] = {}
        for number in numbers:
            groups.setdefault(number // together, []).append(number % together)
        if [
            number for slot, inside in groups.items() for number in (slot * together + k for k in inside)
        ] != list(numbers):
            raise ValueError(
                f"plan cache: samples {list(numbers)} are not in the order of their forward passes"
            )
        return list(groups.items())

    def _shard(self, block: int, slot: int, place: int) -> Shard | None:
        """The open file of a slot; looked for again while ``place`` is missing, since another run may have written."""
        current = self._open.get(slot)
        if current is not None and current.block != block:
            self._flush(slot)
            current = None
        if current is None:
            stamp = self._stamp(block, slot)
            current = self._open[slot] = _Open(block, self.load(block, slot) if stamp else None, stamp)
        elif current.shard is None or not current.shard.present[place]:
            stamp = self._stamp(block, slot)
            if stamp != current.stamp:
                self._merge(current, self.load(block, slot), stamp)
        return current.shard

    def _merge(self, current: _Open, stored: Shard | None, stamp: tuple[int, ...] | None) -> None:
        current.stamp = stamp
        if not current.dirty or current.shard is None:
            current.shard = stored
        elif stored is not None:
            # What is on disk may have taught another run already, so it stays.
            for place in np.flatnonzero(stored.present):
                current.shard.take(stored, int(place))

    def _flush(self, slot: int) -> None:
        current = self._open[slot]
        if not current.dirty or current.shard is None:
            return
        path = self._path(current.block, slot)
        stamp = self._stamp(current.block, slot)
        if stamp != current.stamp:
            self._merge(current, self.load(current.block, slot), stamp)
        buffer = current.shard.buffer
        buffer[_HASH:_HEAD] = np.frombuffer(self.key, np.uint8)
        buffer[:_HASH] = np.frombuffer(hashlib.sha256(buffer[_HASH:].data).digest(), np.uint8)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(buffer.data)
        current.dirty, current.stamp = False, self._stamp(current.block, slot)

    def _stamp(self, block: int, slot: int) -> tuple[int, ...] | None:
        path = self._path(block, slot)
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"plan cache: {describe_os_error(error, path)}") from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _path(self, block: int, slot: int) -> Path:
        return self.folder / f"{block * self.layout.steps + 1:08d}-{slot:03d}.bin"


def differences(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> list[str]:
    """Dotted names of the values in which two nested mappings differ."""
    found: list[str] = []
    for name in sorted({*one, *other}):
        left, right = one.get(name), other.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{above}{name}.")
        elif left != right:
            found.append(f"{above}{name}")
    return found


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
