"""What the selectivity regularizer costs: a training step with it against a plain one, on torchvision's resnet18.

Each round times, one after the other in one process, a plain step (forward, cross-entropy, backward, SGD) and a step
with the regularizer on all 17 ReLU calls, for data of 10, 100 and 1,000 classes. Batches are class-balanced as training
makes them: at least two images of a class. The floor that the history shows is part of the regularized step. Ratios
are taken within a round; what is printed is their median and range. The load of the machine decides the times on the
clock; the processor's own time suffers less from it.

    python benchmarks/training.py                                    # 2 threads, 224 pixels: about 4 minutes
    python benchmarks/training.py --pixels 64 --batch-size 64        # smaller pictures, larger batches
    python benchmarks/training.py --class-means running              # running class means
    python benchmarks/training.py --device cuda --batch-size 128 --rounds 20
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision

from auditor.models import probe_sites
from auditor.training import BalancedBatches, InMemory, SelectivityRegularizer, TrainingPlan, training_metric
from auditor.training.checkpoints import Progress
from auditor.training.loop import Step

RESULTS = Path(__file__).parent / "results"


class Trainer:
    """One network in training, by the package's own step."""

    def __init__(self, options: argparse.Namespace, n_classes: int, *, regularized: bool) -> None:
        torch.manual_seed(0)
        device = torch.device(options.device)
        self.model = torchvision.models.resnet18(num_classes=n_classes).to(device).train()
        n_images = 4 * max(options.batch_size, n_classes)
        labels = np.arange(n_images) % n_classes
        images = torch.randn(options.batch_size, 3, options.pixels, options.pixels, device=device)
        self.source = InMemory(images, torch.from_numpy(labels))
        self.batches = list(BalancedBatches(labels, options.batch_size, seed=0).epoch(0))
        plan = TrainingPlan(alpha=-1.0 if regularized else 0.0, class_means=options.class_means)
        regularizer = None
        if regularized:
            self.model.eval()
            sites = probe_sites(self.model, images[:2])
            self.model.train()
            momentum = plan.momentum
            regularizer = SelectivityRegularizer(
                sites, metric=training_metric(options.metric), momentum=momentum,
                n_classes=None if momentum is None else n_classes,
            )  # fmt: skip
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        self.step = Step(Progress(self.model, optimizer, scaler, regularizer), plan, 1, device)
        self.done = 0

    def time(self) -> tuple[float, float]:
        """Seconds of one step, on the clock and of the processors."""
        rows = self.batches[self.done % len(self.batches)]
        images = self.source.images[: len(rows)]
        if images.is_cuda:
            torch.cuda.synchronize()
        began, used = time.perf_counter(), time.process_time()
        self.step(images, self.source.labels[rows], 1e-4, self.done)
        if images.is_cuda:
            torch.cuda.synchronize()
        self.done += 1
        return time.perf_counter() - began, time.process_time() - used


def spread(ratios: pd.Series) -> str:
    """Median and range of what a ratio has above 1."""
    return f"{ratios.median() - 1:+.1%} ({ratios.min() - 1:+.1%} to {ratios.max() - 1:+.1%})"


def measure(options: argparse.Namespace) -> pd.DataFrame:
    """Time both kinds of step in turn, for each number of classes."""
    rows = []
    for n_classes in options.classes:
        pair = [Trainer(options, n_classes, regularized=regularized) for regularized in (False, True)]
        for trainer in pair:
            trainer.time()
        for number in range(options.rounds):
            order = (0, 1) if number % 2 else (1, 0)  # neither always runs after the other
            times = {i: pair[i].time() for i in order}
            rows.append(
                {
                    "classes": n_classes,
                    "round": number,
                    "plain": times[0][0],
                    "regularized": times[1][0],
                    "ratio": times[1][0] / times[0][0],
                    "plain_processor": times[0][1],
                    "regularized_processor": times[1][1],
                    "ratio_processor": times[1][1] / times[0][1],
                }
            )
        mine = pd.DataFrame(rows).query("classes == @n_classes")
        print(
            f"{n_classes:5} classes: plain {statistics.median(mine['plain']):.3f} s, regularized "
            f"{statistics.median(mine['regularized']):.3f} s; overhead {spread(mine['ratio'])}, in processor time "
            f"{spread(mine['ratio_processor'])}",
            flush=True,
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--metric", default="index")
    parser.add_argument("--class-means", default="batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="default: a file in benchmarks/results named after the settings")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    processor = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor()
    print(f"torch {torch.__version__}, {processor or platform.machine()}, {options.threads} threads, "
          f"load {os.getloadavg()[0]:.1f}, {options.pixels} pixels, batches of {options.batch_size}")  # fmt: skip
    found = measure(options)
    for name in ("pixels", "batch_size", "threads", "metric", "class_means", "device"):
        found[name] = getattr(options, name)
    found["torch"], found["load"] = torch.__version__, round(os.getloadavg()[0], 2)
    name = f"training-resnet18-{options.device}-{options.pixels}px-{options.metric}-{options.class_means}.csv"
    path = options.out or RESULTS / name.replace(":", "-")
    path.parent.mkdir(parents=True, exist_ok=True)
    found.to_csv(path, index=False)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
