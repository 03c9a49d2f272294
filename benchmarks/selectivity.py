"""How fast units are scored: label-shuffle null and bootstrap, against the same null in a plain loop.

Both sides run in one process on the same responses, in turn; the ratio is that of the medians.

    python benchmarks/selectivity.py --images 10000 --units 1000 --classes 10
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--shuffles", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = np.arange(options.images) % options.classes
    responses = rng.gamma(2.0, size=(options.images, options.units)).astype(np.float32)
    plain, fast, both = [], [], []
    for _ in range(options.rounds):
        began = time.perf_counter()
        loop(responses, labels, options.classes, options.shuffles)
        plain.append(time.perf_counter() - began)
        for seconds, bootstraps in ((fast, 0), (both, options.shuffles)):
            began = time.perf_counter()
            score_units(
                responses, labels, n_classes=options.classes, metric=ClassSelectivityIndex(),
                n_shuffles=options.shuffles, n_boot=bootstraps, seed=0,
            )  # fmt: skip
            seconds.append(time.perf_counter() - began)
    slow, null, whole = (statistics.median(seconds) for seconds in (plain, fast, both))
    print(f"{options.images} images, {options.units} units, {options.classes} classes, {options.shuffles} shuffles")
    print(f"null in a loop {slow:.2f} s, null {null:.2f} s, null and bootstrap {whole:.2f} s")
    print(f"the null is {slow / null:.1f} times as fast as the loop (medians of {options.rounds}, in turn)")


if __name__ == "__main__":
    main()
