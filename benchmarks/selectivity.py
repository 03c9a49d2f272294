"""How fast units are scored: the index against the same null in a plain loop, and every metric by itself and together.

All sides run in one process on the same responses, in turn; numbers are medians over rounds, and the load of the
machine is printed because it decides them.

    python benchmarks/selectivity.py --images 10000 --units 1000 --shuffles 200   # against the loop
    python benchmarks/selectivity.py --images 10000 --units 5000 --shuffles 1000 --metrics
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

from auditor.selectivity import score_metrics
from auditor.selectivity.builtin import auditor_metrics
from auditor.selectivity.index import ClassSelectivityIndex
from auditor.selectivity.scoring import score_units


def loop(responses: np.ndarray, labels: np.ndarray, n_classes: int, shuffles: int) -> np.ndarray:
    """Compute the index under each shuffle, one after the other."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(shuffles):
        drawn = rng.permutation(labels)
        means = np.stack([responses[drawn == c].mean(0) for c in range(n_classes)])
        top = means.max(0)
        rest = (means.sum(0) - top) / (n_classes - 1)
        found.append((top - rest) / (top + rest + 1e-7))
    return np.stack(found)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processors."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - used


def compare_with_loop(responses: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> None:
    """Time the index's null and bootstrap against a loop."""
    plain, fast, both = [], [], []
    for _ in range(options.rounds):
        plain.append(timed(lambda: loop(responses, labels, options.classes, options.shuffles))[0])
        for seconds, n_boot in ((fast, 0), (both, options.shuffles)):
            score = lambda n_boot=n_boot: score_units(  # noqa: E731
                responses, labels, n_classes=options.classes, metric=ClassSelectivityIndex(),
                n_shuffles=options.shuffles, n_boot=n_boot, seed=0,
            )  # fmt: skip
            seconds.append(timed(score)[0])
    slow, null, whole = (statistics.median(seconds) for seconds in (plain, fast, both))
    print(f"null in a loop {slow:.2f} s, null {null:.2f} s, null and bootstrap {whole:.2f} s")
    print(f"the null is {slow / null:.1f} times as fast as the loop (medians of {options.rounds}, in turn)")


def time_metrics(responses: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> None:
    """Time every metric alone, and all of them together."""
    metrics = auditor_metrics()
    cases = {"index, null only": ([metrics[0]], 0), **{m.name: ([m], options.shuffles) for m in metrics}}
    cases |= {"all, nulls only": (metrics, 0), "all together": (metrics, options.shuffles)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (chosen, n_boot) in cases.items():
            work = lambda chosen=chosen, n_boot=n_boot: score_metrics(  # noqa: E731
                responses, labels, n_classes=options.classes, metrics=chosen,
                n_shuffles=options.shuffles, n_boot=n_boot, seed=0,
            )  # fmt: skip
            found[name].append(timed(work))
    for name, times in found.items():
        clock, processors = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:20} {clock:7.2f} s, {processors:7.2f} s of processor time")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"largest memory of the process {peak:.2f} GiB, of which responses {responses.nbytes / 2**30:.2f} GiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--shuffles", type=int, default=200)
    parser.add_argument("--rounds", type=int, help="default: 3 against the loop, 1 for the metrics")
    parser.add_argument("--silent", type=float, default=0.3, help="share of responses that are 0 (and tie)")
    parser.add_argument("--metrics", action="store_true", help="time every metric, not the index against a loop")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.metrics else 3)
    rng = np.random.default_rng(0)
    labels = np.arange(options.images) % options.classes
    responses = rng.gamma(2.0, size=(options.images, options.units)).astype(np.float32)
    responses[rng.random(responses.shape, dtype=np.float32) < options.silent] = 0
    print(f"{options.images} images, {options.units} units, {options.classes} classes, {options.shuffles} shuffles")
    print(f"{os.cpu_count()} processors, load before {os.getloadavg()[0]:.1f}")
    (time_metrics if options.metrics else compare_with_loop)(responses, labels, options)


if __name__ == "__main__":
    main()
