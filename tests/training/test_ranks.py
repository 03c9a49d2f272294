"""Training in several processes is that of one: weights, running statistics and history, in float64.

This file is also the program of those processes (``python test_ranks.py FOLDER``): forks of one interpreter, which has
read torch once.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from auditor.distributed import World
from auditor.distributed.group import open_group
from auditor.errors import RunError
from auditor.models import probe_sites
from auditor.training import (
    Evaluation,
    InMemory,
    SelectivityRegularizer,
    TrainingPlan,
    evaluate_network,
    shuffled_labels,
    train,
    training_metric,
)
from auditor.training.global_norm import GlobalBatchNorm
from auditor.training.ranks import Share

EPOCHS = 2
N = 50  # with batches of 16 the last has two images: one rank of three gets none
PLANS: dict[str, dict[str, Any]] = {
    "uneven and empty shares": {"alpha": -1.0, "balanced": False},
    "equal classes, clipped": {"alpha": 2.0, "clip_norm": 0.05},
    "d prime, running means": {"alpha": 1.0, "metric": "dprime", "class_means": "running:0.5", "balanced": False},
    "augmented, adamw": {"alpha": -0.5, "augment": "flip-shift", "optimizer": "adamw", "balanced": False},
    "alpha comes later": {"alpha": -2.0, "alpha_schedule": "from:2", "augment": "resized-crop"},
    "alpha 0": {"alpha": 0.0, "balanced": False},
}
RESUMED = "alpha comes later"
IN_TWO = "uneven and empty shares", "alpha comes later"


class Net(nn.Module):
    """Batch norm as a module and as a function, frozen and idle weights, and a site that the logits do not need."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2, self.act2 = nn.Conv2d(6, 8, 3, stride=2, bias=False), nn.ReLU()
        self.side, self.act3 = nn.Conv2d(6, 4, 1), nn.ReLU()
        self.fc, self.norm2, self.act4 = nn.Linear(8, 7, bias=False), nn.BatchNorm1d(7, momentum=None), nn.ReLU()
        self.idle, self.head = nn.Linear(3, 3), nn.Linear(7, 3)
        self.side.bias.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.conv1(x)))
        self.act3(self.side(x))
        x = functional.batch_norm(self.conv2(x), self.mean, self.variance, training=self.training, momentum=0.3)
        x = self.act2(x).mean((2, 3))
        return self.head(self.act4(self.norm2(self.fc(x))))


def pictures() -> tuple[Tensor, Tensor]:
    labels = torch.arange(N) % 3
    images = torch.rand(N, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[torch.arange(N), labels] += 0.3
    return images, labels


def learn(
    world: World, name: str, folder: Path | None = None, stop_after: int | None = None, epochs: int = EPOCHS
) -> dict[str, Any]:
    """Train by one of the plans; weights and history."""
    images, labels = pictures()
    torch.manual_seed(1)
    model = Net().double()
    sites = [site for site in probe_sites(model, images[:2]) if site.layer.startswith("act")]
    assert len(sites) == 4
    plan = TrainingPlan(epochs=epochs, batch_size=16, learning_rate=0.1, seed=3, **PLANS[name])
    metric, share = training_metric(plan.metric), Share.of(N, world)
    regularizer = SelectivityRegularizer(
        sites, metric=metric, momentum=plan.momentum, n_classes=None if plan.momentum is None else 3
    )
    evaluated = 0

    def evaluate(model: nn.Module) -> Evaluation:
        nonlocal evaluated
        evaluated += 1
        if stop_after is not None and evaluated > stop_after:
            raise KeyboardInterrupt
        return evaluate_network(
            model, [(images[share.own], labels[share.own].numpy())], sites=sites, metric=metric, rectify=False,
            shuffled=shuffled_labels(labels.numpy(), 0)[share.own], n_classes=3, world=world,
        )  # fmt: skip

    history = train(
        model, InMemory(images, labels), plan=plan, regularizer=regularizer, evaluate=evaluate,
        state=None if folder is None else folder / "state.pt", world=world,
    )  # fmt: skip
    epochs = [list(asdict(record).values()) for record in history.epochs]
    layers = [list(asdict(record).values())[2:] for record in history.layers]
    return {"weights": model.state_dict(), "epochs": torch.tensor(epochs), "layers": torch.tensor(layers)}


ROWS = (5, 3, 0)


def normalized(world: World) -> dict[str, Tensor]:
    """A rank's part of a batch norm of eight images, and the gradients that it gets; alone, torch's own of all."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(sum(ROWS), 4, 3, 2, generator=generator, dtype=torch.float64) * 3 + 100
    factors = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    norm = nn.BatchNorm2d(4, momentum=0.2).double()
    nn.init.uniform_(norm.weight, generator=generator)
    start = sum(ROWS[: world.rank])
    own = slice(start, start + ROWS[world.rank]) if world.several else slice(None)
    mine = (images[own] if world.several and len(images[own]) else images[: len(images[own]) or 1]).requires_grad_()
    if world.several:
        with GlobalBatchNorm(ghost=not len(images[own])):
            found = norm(mine)[: len(images[own])]
    else:
        found = norm(mine)
    (found * factors[own]).square().sum().backward()
    assert mine.grad is not None
    return {
        "out": found.detach(), "grad": mine.grad, "weight": norm.weight.grad, "bias": norm.bias.grad,
        "mean": norm.running_mean, "variance": norm.running_var,
    }  # fmt: skip


def work(world: World, folder: Path) -> dict[str, Any]:
    """Everything that a process does."""
    torch.set_num_threads(1)
    open_group(world)
    found: dict[str, Any] = {"open": []}
    for name in PLANS if world.size != 2 else IN_TWO:
        found[name] = learn(world, name)
        found["open"].append(len(list(Path("/proc/self/fd").iterdir())))
    if world.size == 1:
        found["undisturbed"] = learn(world, RESUMED, epochs=3)
    if world.size != 2:
        found["norm"] = normalized(world)
    return found


def resume(stop_after: int | None) -> Callable[[World, Path], Any]:
    def go_on(world: World, folder: Path) -> Any:
        try:
            return learn(world, RESUMED, folder, stop_after, epochs=3)
        except KeyboardInterrupt:
            return None

    return go_on


def in_processes(n: int, job: Callable[[World, Path], Any], folder: Path) -> list[Any]:
    """Fork `n` ranks, and collect what they found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(n):
        pid = os.fork()
        if pid == 0:
            signal.alarm(120)  # none outlives a lost one for long
            try:
                store = distributed.TCPStore("127.0.0.1", port, n, rank == 0)
                world = World(rank, n, rank, n, store=store) if n > 1 else World()
                torch.save(job(world, folder), folder / f"{n}-{rank}.pt")
                if n > 1:
                    world.barrier("end")
                    store.set(f"left/{rank}", "")
                    if rank == 0:  # it keeps the store
                        store.wait([f"left/{one}" for one in range(n)])
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0] * n
    return [torch.load(folder / f"{n}-{rank}.pt") for rank in range(n)]


def main(folder: Path) -> None:
    results = {n: in_processes(n, work, folder) for n in (1, 2, 3)}
    for n, stop in ((2, 1), (3, 1), (1, None)):
        results["resumed"] = in_processes(n, resume(stop), folder)
    torch.save(results, folder / "results.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, Any]]:
    if not hasattr(os, "fork") or sys.platform == "darwin":
        pytest.skip("needs processes that fork")
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", __file__, str(folder)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return torch.load(folder / "results.pt")


def difference(mine: Any, wanted: Any) -> float:
    """Largest difference between two trainings, all numbers together; NaN only where the other has it."""
    parts = [(*one["weights"].values(), one["epochs"], one["layers"]) for one in (mine, wanted)]
    flat = [torch.cat([each.double().flatten() for each in one]) for one in parts]
    assert torch.equal(flat[0].isnan(), flat[1].isnan())
    return float((flat[0] - flat[1]).nan_to_num().abs().max())


@pytest.mark.parametrize("case", [(3, name) for name in PLANS] + [(2, name) for name in IN_TWO], ids=str)
def test_equals_one_process(results: dict[Any, Any], case: tuple[int, str]) -> None:
    n, name = case
    alone = results[1][0][name]
    assert len(alone["epochs"]) == EPOCHS
    for rank in results[n]:
        assert difference(rank[name], alone) < 1e-9
        for key, value in results[n][0][name]["weights"].items():
            assert torch.equal(rank[name]["weights"][key], value)  # the ranks do not drift apart


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as Linux shows them")
def test_a_training_leaves_no_connections(results: dict[Any, Any]) -> None:
    for n in (2, 3):
        assert all(len(set(rank["open"])) == 1 for rank in results[n])


def test_plans_differ(results: dict[Any, Any]) -> None:
    """Otherwise equality would say little."""
    alone = results[1][0]
    for name in PLANS:
        if name != "alpha 0":
            assert difference(alone[name], alone["alpha 0"]) > 1e-3


def test_resumed_by_other_numbers_of_ranks(results: dict[Any, Any]) -> None:
    (resumed,) = results["resumed"]
    assert difference(resumed, results[1][0]["undisturbed"]) < 1e-9


def test_a_state_that_one_rank_does_not_see(tmp_path: Path) -> None:
    """As behind a network file system that shows files late: an error, not two trainings in one."""
    name = "alpha 0"
    learn(World(), name, tmp_path)
    store, raised = distributed.HashStore(), [""] * 2

    def go_on(rank: int) -> None:
        try:
            learn(World(rank, 2, store=store), name, tmp_path if rank == 0 else tmp_path / "late")
        except RunError as error:
            raised[rank] = str(error)

    threads = [threading.Thread(target=go_on, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all("do not find the same saved training state" in one and "2, 0" in one for one in raised)


def test_batch_norm_is_torchs_of_the_whole_batch(results: dict[Any, Any]) -> None:
    alone, ranks = results[1][0]["norm"], [one["norm"] for one in results[3]]
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([one["out"] for one in ranks]), alone["out"], **close)
    torch.testing.assert_close(torch.cat([one["grad"] for one in ranks[:2]]), alone["grad"], **close)
    assert not ranks[2]["grad"].any()
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(one[name] for one in ranks), alone[name], **close)
    for name in ("mean", "variance"):
        for one in ranks:
            torch.testing.assert_close(one[name], alone[name], **close)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 64, 65])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_everything_once(n: int, size: int) -> None:
    shares = [Share.of(n, World(rank, size)) for rank in range(size)]
    assert np.concatenate([np.arange(n)[share.own] for share in shares]).tolist() == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if n:
        assert all(len(np.arange(n)[share.taken]) >= 1 for share in shares)
