"""What ranks tell each other, with threads in the place of processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from torch import distributed

from auditor.distributed import World, alone, current, watch
from auditor.distributed.joining import _own_device
from auditor.distributed.launch import Launch, first_host
from auditor.distributed.watch import Watch
from auditor.distributed.world import entered
from auditor.errors import OptionError


def in_ranks(n: int, work: Callable[[World], Any]) -> list[Any]:
    """Run `work` as `n` ranks; its results, or what it raised."""
    store = distributed.HashStore()
    found: list[Any] = [None] * n

    def run(rank: int) -> None:
        try:
            found[rank] = work(World(rank, n, rank, n, store=store))
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def test_alone_is_everything() -> None:
    world = World()
    assert world.main
    assert not world.several
    assert list(world.take("work", 3)) == [0, 1, 2]
    assert world.share("value", {"a": 1}) == {"a": 1}
    assert world.gather("value", 5) == [5]
    world.barrier("here")
    with world.first("this"):
        pass


@pytest.mark.parametrize("n", [2, 5])
def test_values_travel(n: int) -> None:
    def work(world: World) -> tuple[Any, Any]:
        shared = world.share("from the main rank", ["x", world.rank] if world.main else None)
        world.barrier("between")
        return shared, world.gather("ranks", world.rank * 10)

    assert in_ranks(n, work) == [(["x", 0], [rank * 10 for rank in range(n)])] * n


@pytest.mark.parametrize("n_items", [0, 1, 2, 17])
def test_work_is_taken_once(n_items: int) -> None:
    def work(world: World) -> list[int]:
        mine = list(world.take("items", n_items))
        assert list(world.take("others", 0)) == []
        return mine

    taken = in_ranks(3, work)
    assert sorted(number for mine in taken for number in mine) == list(range(n_items))


def test_the_first_goes_first() -> None:
    order: list[int] = []

    def work(world: World) -> None:
        with world.first("in"):
            order.append(world.rank)

    in_ranks(3, work)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


def test_ranks_that_are_at_different_calls_are_told() -> None:
    def work(world: World) -> None:
        if world.main:
            world.share("one", 1)
        else:
            world.gather("another", 2)

    found = in_ranks(2, work)
    assert any(isinstance(one, RuntimeError) and "another rank at" in str(one) for one in found)


def test_the_world_inside_a_block() -> None:
    assert not current().several
    several = World(1, 3)
    with entered(several):
        assert current() is several
        seen: list[World] = []
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
        assert seen == [several]  # threads of this process belong to it, too
        with alone():
            assert not current().several
        assert current() is several
    assert not current().several


def watches(n: int) -> list[Watch]:
    store = distributed.HashStore()
    found = [Watch(store, rank, n, timeout=5) for rank in range(n)]
    for one in found:
        one.beat()
    return found


def test_what_was_declared_is_said_once_even_if_the_speaker_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PARTING", 0.05)
    first, second, third = watches(3)
    first._declare(1, "is gone", gone=True)
    said = third._told()  # rank 0, who was to say it, is gone as well
    assert said is not None
    assert "Rank 1 of 3" in said
    assert second._told() is None
    assert first._told() is None


def test_who_keeps_the_store_leaves_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PARTING", 0.05)
    keeper, other = watches(2)
    monkeypatch.setattr(Watch, "join", lambda *_: None)  # neither was started
    leaving = threading.Thread(target=keeper.leave)
    leaving.start()
    leaving.join(0.5)
    assert leaving.is_alive()
    other.leave()
    leaving.join(5)
    assert not leaving.is_alive()


@pytest.mark.parametrize("rank", [0, 3])
def test_more_ranks_than_gpus_is_an_error_of_all(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(OptionError, match="more ranks on this machine than GPUs"):
        _own_device(Launch(rank, 4, rank, 4, "localhost", 1))


TORCH = {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29500", "LOCAL_RANK": "0",
         "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "1"}  # fmt: skip
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77",
         "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[03-04]", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}  # fmt: skip


def test_launchers_are_recognised() -> None:
    assert Launch.of_environment({}) is None
    assert Launch.of_environment({**TORCH, "RANK": "0", "WORLD_SIZE": "1"}) is None
    # A shell that salloc opened is no task of a step.
    assert Launch.of_environment({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert Launch.of_environment(TORCH) == Launch(2, 4, 0, 2, "node1", 29500, "1")
    slurm = Launch.of_environment(SLURM)
    assert slurm is not None
    assert (slurm.rank, slurm.size, slurm.local_rank, slurm.local_size, slurm.address) == (5, 8, 1, 4, "gpu03")
    # torchrun inside a step counts for itself.
    assert Launch.of_environment({**SLURM, **TORCH}) == Launch(2, 4, 0, 2, "node1", 29500, "1")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"RANK": "4"}, "RANK from 0 to 3"),
        ({"RANK": "x"}, "RANK is not a number"),
        ({"MASTER_ADDR": None}, "without MASTER_ADDR"),
    ],
)
def test_a_broken_environment_is_named(change: dict[str, str | None], words: str) -> None:
    environment = {name: text for name, text in {**TORCH, **change}.items() if text is not None}
    with pytest.raises(OptionError, match=words):
        Launch.of_environment(environment)


@pytest.mark.parametrize(
    "nodes, first",
    [("gpu[03-05,09],login1", "gpu03"), ("login1,gpu2", "login1"), ("n7", "n7"), ("a[1,3]-ib", "a1-ib")],
)
def test_the_first_machine_of_a_list(nodes: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert first_host(nodes) == first
    with pytest.raises(OptionError, match="MASTER_ADDR"):
        first_host("")
