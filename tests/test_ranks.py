"""Processes that share one job: places, claims, merged shares, and those that fail, die or never come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from atelier import ranks
from atelier.errors import RunStopped, UserError
from atelier.ranks import Crew, Place, crew_of, place_of
from support import free_port

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)

    def give(**given: str) -> None:
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return give


def test_places(variables: Callable[..., None]) -> None:
    assert place_of("none", "x") == Place(0, 1, 0)
    variables(**TORCHRUN)
    assert place_of("pytorch", "x") == Place(1, 4, 0)
    variables(WORLD_SIZE="1", RANK="0")
    assert place_of("none", "x") == Place(0, 1, 0), "a single process of torchrun may do without the flag"


@pytest.mark.parametrize(
    ("launcher", "given", "message"),
    [
        ("mpi", {}, "allowed are none, pytorch and slurm"),
        ("none", TORCHRUN, "one of 4 processes that torchrun has started; add --launcher pytorch"),
        (
            "pytorch",
            {},
            r"RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR not set\); start with: torchrun .* restore -i X",
        ),
        ("pytorch", TORCHRUN | {"RANK": "one"}, "RANK is 'one', which is no number"),
        ("pytorch", TORCHRUN | {"RANK": "4"}, "RANK is 4, but WORLD_SIZE is 4"),
    ],
)
def test_mistakes(variables: Callable[..., None], launcher: str, given: dict[str, str], message: str) -> None:
    variables(**given)
    with pytest.raises(UserError, match=message):
        place_of(launcher, "restore -i X")


def test_a_crew_of_one_needs_nobody() -> None:
    with crew_of("none", "x") as crew:
        crew.require_same("a", "it")
        assert list(crew.claims(3)) == [0, 1, 2]
        shares = crew.gather({"a": 1})
    assert shares is not None
    assert [share.value for share in shares] == [{"a": 1}]


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Crew]]:
    """Crews of one process that meet in a real store; each of them lives once it has begun."""
    from torch.distributed import HashStore

    monkeypatch.setattr(ranks, "BEAT_S", 0.01)
    monkeypatch.setattr(ranks, "SILENT_S", 1.5)
    store = HashStore()
    return lambda world: [Crew(Place(rank, world, rank), store) for rank in range(world)]


def test_each_piece_is_claimed_once(crew: Callable[[int], list[Crew]]) -> None:
    crews = crew(3)
    taken: list[list[int]] = [[], [], []]

    def work(rank: int) -> None:
        for number in crews[rank].claims(20):
            taken[rank].append(number)
            time.sleep(0.001 * rank)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for own in taken for number in own) == list(range(20))
    # A second job begins from nothing.
    assert next(crews[1].claims(5)) == 0


def test_shares_come_by_rank_with_their_values(crew: Callable[[int], list[Crew]]) -> None:
    crews = crew(3)
    for each in crews:
        each.begin()
    value = {"psnr": float("inf"), "name": "Ä", "none": None, "third": 1 / 3}
    assert crews[2].gather(2) is None
    assert crews[1].gather(value) is None
    shares = crews[0].gather("first")
    assert shares is not None
    assert [share.value for share in shares] == ["first", value, 2]
    assert all(share.lost is None for share in shares)


def test_who_failed_died_or_never_came_is_named(crew: Callable[[int], list[Crew]]) -> None:
    crews = crew(5)
    for each in crews[:4]:
        each.begin()
    crews[1].end(UserError("no model"))
    crews[2].end(None)  # its heart stops, and nothing else is heard: killed
    threading.Timer(2.5, lambda: crews[3].gather("late")).start()  # slow, but alive: longer than the silence
    shares = crews[0].gather("first")
    assert shares is not None
    assert shares[1].lost is not None and "has failed: no model" in shares[1].lost
    assert shares[2].lost is not None and "is dead: nothing heard of it for 1.5 s" in shares[2].lost
    assert shares[3].value == "late"
    assert shares[4].lost == "has not come within 1.5 s"


def test_processes_that_see_other_files_stop(crew: Callable[[int], list[Crew]]) -> None:
    crews = crew(2)
    crews[1].require_same("3 pictures", "the folder")
    crews[0].require_same("3 pictures", "the folder")
    crews[0].require_same("4 pictures", "the folder")
    with pytest.raises(
        UserError, match=r"the folder differs .*here on .*: 5 pictures; elsewhere: 4 pictures"
    ):
        crews[1].require_same("5 pictures", "the folder")


def test_a_store_that_is_gone_ends_the_work() -> None:
    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("Connection was likely closed")

    alone = Crew(Place(1, 2, 1), Gone())  # type: ignore[arg-type]
    for act in (lambda: next(alone.claims(3)), lambda: alone.gather(1), alone.begin):
        with pytest.raises(RunStopped, match="the first process is not reached any more"):
            act()
    alone.end(ValueError("told to nobody"))


def test_processes_that_do_not_meet(variables: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "JOIN_S", 1.0)
    port = free_port()
    variables(**TORCHRUN | {"MASTER_PORT": str(port), "RANK": "0"})
    with (
        pytest.raises(RunStopped, match=f"the 4 processes did not meet at 127.0.0.1:{port}"),
        crew_of("pytorch", "x"),
    ):
        pass
