"""Processes that share one job: their places, work taken piece by piece, one merged result.

Training's ranks step together and meet in collectives; here nobody waits for anybody. Each process takes the next piece
from a counter in torch's key-value store as soon as it is free, so shares follow speed and size. The first process
collects the results and knows the others by their heartbeat: one that is gone is named, and nothing hangs.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from atelier.errors import RunStopped, UserError
from atelier.slurm import slurm_environment

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

LAUNCHERS = ("none", "pytorch", "slurm")

BEAT_S = 2.0
"""A process says every so many seconds that it lives."""

SILENT_S = 60.0
"""One that says nothing for so long counts as dead."""

JOIN_S = 600.0
"""How long the processes wait for each other in the beginning."""

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")


@dataclass(frozen=True)
class Place:
    """A process among all of them: its number, how many there are, and its number on its machine."""

    rank: int
    world: int
    local: int


def place_of(launcher: str, command: str) -> Place:
    """This process's place; under ``slurm`` torch's variables are set from Slurm's.

    Args:
        launcher: ``none``, ``pytorch`` (under torchrun) or ``slurm`` (under srun).
        command: what was asked for, for messages: ``train -opt FILE``.

    Raises:
        UserError: an unknown launcher, one that did not start this process, or several processes and no launcher, of
            which each would do the whole work.
    """
    if launcher not in LAUNCHERS:
        raise UserError(f"--launcher {launcher}: allowed are none, pytorch and slurm")
    if launcher == "none":
        world = os.environ.get("WORLD_SIZE", "1")
        if "RANK" in os.environ and "LOCAL_RANK" in os.environ and world != "1":
            raise UserError(
                f"this is one of {world} processes that torchrun has started; add --launcher pytorch, "
                "or each of them would do the whole work"
            )
        return Place(0, 1, 0)
    if launcher == "slurm":
        os.environ.update(slurm_environment(os.environ))
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher pytorch needs torchrun ({', '.join(missing)} not set); start with: torchrun "
            f"--nproc_per_node=N -m atelier {command} --launcher pytorch"
        )
    for name in _VARIABLES[:3]:
        if not os.environ[name].isdecimal():
            raise UserError(f"--launcher {launcher}: {name} is '{os.environ[name]}', which is no number")
    rank, world_size, local = (int(os.environ[name]) for name in _VARIABLES[:3])
    if rank >= world_size:
        raise UserError(f"--launcher {launcher}: RANK is {rank}, but WORLD_SIZE is {world_size}")
    return Place(rank, world_size, local)


@dataclass(frozen=True)
class Share:
    """What one process has brought: a value, or why there is none."""

    rank: int
    value: Any = None
    lost: str | None = None


class Crew:
    """The processes that share a job; a single one is a crew too, and needs no store.

    Args:
        place: of this process.
        store: where they meet; None for a single process.
    """

    def __init__(self, place: Place, store: Store | None = None) -> None:
        self.place = place
        self._store = store
        self._rounds = {"claims": 0, "shares": 0, "same": 0}
        self._over = threading.Event()

    @property
    def first(self) -> bool:
        """True for the one process that prints and writes what is merged."""
        return self.place.rank == 0

    def claims(self, count: int) -> Iterator[int]:
        """Numbers below ``count``, each given to one process only, the next one when it is asked for."""
        if self._store is None:
            yield from range(count)
            return
        key = self._key("claims")
        while (number := self._add(key, 1) - 1) < count:
            yield number

    def require_same(self, text: str, what: str) -> None:
        """All processes must see the same ``text``; ``what`` it is, for the message.

        Raises:
            UserError: this process sees another text than the one that came first.
        """
        if self._store is None:
            return
        key = self._key("same")
        with _meeting():
            # The value that was there first is what comes back.
            seen = self._store.compare_set(key, "", text).decode()
        if seen != text:
            raise UserError(
                f"{what} differs between the processes (here on {socket.gethostname()}: {text}; elsewhere: {seen}); "
                "input, output and model must be the same files on all machines"
            )

    def gather(self, value: Any) -> list[Share] | None:
        """Every process's value, by rank, on the first process; None on the others, which need not wait.

        Args:
            value: anything that JSON can hold.
        """
        if self._store is None:
            return [Share(0, value)]
        key = self._key("shares")
        if not self.first:
            with _meeting():
                self._store.set(f"{key}/{self.place.rank}", json.dumps(value))
            return None
        shares = {0: Share(0, value)}
        beats = dict.fromkeys(range(1, self.place.world), (-1, time.monotonic()))
        while beats:
            for rank in list(beats):
                share, beats[rank] = self._look(f"{key}/{rank}", rank, *beats[rank])
                if share is not None:
                    shares[rank] = share
                    del beats[rank]
            if beats:
                time.sleep(0.1)
        return [shares[rank] for rank in sorted(shares)]

    def _look(self, key: str, rank: int, beat: int, since: float) -> tuple[Share | None, tuple[int, float]]:
        assert self._store is not None
        with _meeting():
            # The heartbeat is read first: a share that comes with the last beat is still found below.
            now = self._store.add(f"beat/{rank}", 0)
            if self._store.check([key]):
                return Share(rank, json.loads(self._store.get(key))), (now, since)
            if self._store.check([f"failed/{rank}"]):
                return Share(rank, lost=self._store.get(f"failed/{rank}").decode()), (now, since)
            if now != beat:
                return None, (now, time.monotonic())
            if time.monotonic() - since < SILENT_S:
                return None, (now, since)
            if not now:
                return Share(rank, lost=f"has not come within {SILENT_S:g} s"), (now, since)
            host = self._store.get(f"host/{rank}").decode()
        return Share(rank, lost=f"on {host} is dead: nothing heard of it for {SILENT_S:g} s"), (now, since)

    def _key(self, kind: str) -> str:
        # All processes call in the same order, so the count names the occasion.
        self._rounds[kind] += 1
        return f"{kind}/{self._rounds[kind]}"

    def _add(self, key: str, amount: int) -> int:
        assert self._store is not None
        with _meeting():
            return self._store.add(key, amount)

    def begin(self) -> None:
        """Say who this is and start the heartbeat."""
        if self._store is None:
            return
        with _meeting():
            self._store.set(f"host/{self.place.rank}", socket.gethostname())
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def end(self, error: BaseException | None) -> None:
        """Stop the heartbeat; an error is told to the first process, so that it need not wait for silence."""
        self._over.set()
        if self._store is None or error is None:
            return
        try:
            self._store.set(f"failed/{self.place.rank}", f"on {socket.gethostname()} has failed: {error}")
        except RuntimeError:
            return  # the store went with its process; the error itself is on its way to the user

    def _beat(self) -> None:
        assert self._store is not None
        while True:
            try:
                self._store.add(f"beat/{self.place.rank}", 1)
            except RuntimeError:
                return  # without a store there is nobody left to tell
            if self._over.wait(BEAT_S):
                return


@contextmanager
def crew_of(launcher: str, command: str) -> Iterator[Crew]:
    """Join the other processes (see :func:`place_of`), or be a crew of one.

    Raises:
        UserError: as :func:`place_of`.
        RunStopped: the others were not reached.
    """
    place = place_of(launcher, command)
    if place.world == 1:
        yield Crew(place)
        return
    crew = Crew(place, _open_store(place, os.environ))
    crew.begin()
    try:
        yield crew
    except BaseException as error:
        crew.end(error)
        raise
    crew.end(None)


def _open_store(place: Place, environment: Mapping[str, str]) -> Store:
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    where = f"{environment['MASTER_ADDR']}:{environment.get('MASTER_PORT', '?')}"
    try:
        store, _, _ = next(rendezvous("env://", place.rank, place.world, timeout=timedelta(seconds=JOIN_S)))
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RunStopped(f"the {place.world} processes did not meet at {where}: {reason}") from error
    # torchrun's store outlives a restart of its workers; what they said before must not count.
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"atelier/{attempt}", store)


@contextmanager
def _meeting() -> Iterator[None]:
    """A store that is gone, as an error that says so."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RunStopped(f"the first process is not reached any more ({reason})") from error
