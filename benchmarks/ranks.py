"""Two processes against one: what ``torchrun`` gains on one machine.

Each verb runs in one process and in several, in turn, each process with one thread; what is compared is the time that
the run itself took (its manifest's ``seconds``), without the start of Python. Efficiency is the time of one process
divided by that of N, over N; 1 would be ideal.

    python benchmarks/ranks.py --processes 2 --rounds 3

On a machine with GPUs every rank takes one of them; ``--device cpu`` keeps to the processor.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

SIZE, CLASSES = 224, 10


@dataclass(frozen=True)
class Job:
    """A command, and where the manifest of what it makes lies."""

    name: str
    argv: list[str]
    manifest: str


def pictures(path: Path, n: int) -> None:
    """Write noise, of a colour for each class, so that units are selective."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % CLASSES
    images = rng.integers(0, 128, (n, SIZE, SIZE, 3), dtype=np.uint8)
    images += rng.integers(0, 128, (CLASSES, 1, 1, 3), dtype=np.uint8)[labels]
    np.savez(path, images=images, labels=labels)


def jobs(folder: Path, args: argparse.Namespace) -> list[Job]:
    """The three verbs on a resnet18; ablation (of 96 pixels) and training (of 224) start from a profile."""
    data = ["--data", str(folder / "pictures.npz"), "--weights", "none", "--device", args.device]
    base = ["profile", "--model", "resnet18", *data, "--fractions", "0.34,0.33,0.33"]
    few = ["--shuffles", "99", "--bootstraps", "99"]
    call([*base, *few, "--name", "base"], folder, 1)
    if "ablate" in args.verbs:
        call([*base, *few, "--name", "small", "--input-size", "96"], folder, 1)
    every = ["profile", "--model", "resnet18", *data, "--fractions", "0,0.5,0.5", "--name", "NAME"]
    ablate = ["ablate", "--run", "small", "--top-selective", "64", "--random-orders", "2", "--curve-points", "3",
              "--limit", "40", "--batch-size", "8", "--check", "0", "--device", args.device,
              "--seed", "NUMBER"]  # fmt: skip
    finetune = ["finetune", "--run", "base", "--alpha", "-1", "--epochs", "1", "--batch-size", "32", "--device",
                args.device, "--name", "NAME"]  # fmt: skip
    found = [
        Job("profile", every, "runs/NAME/manifest.json"),
        Job("ablate", ablate, "runs/small/ablations/*/manifest.json"),
        Job("finetune", finetune, "runs/NAME/training/manifest.json"),
    ]
    return [job for job in found if job.name in args.verbs]


def call(argv: list[str], folder: Path, processes: int) -> None:
    """Run a command; a failure ends the benchmark."""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "--"]
    else:
        launch += ["-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "auditor", *argv, "--quiet"], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(argv)}\n{done.stderr}")


def seconds(job: Job, folder: Path, processes: int, number: int) -> float:
    """Time of one run, as its manifest tells."""
    name = f"{job.name}-{processes}-{number}"
    # Settings decide what is a new ablation: another seed for every run, the same for both sides of a round.
    argv = [{"NAME": name, "NUMBER": str(number)}.get(part, part) for part in job.argv]
    before = set(folder.glob(job.manifest.replace("NAME", name)))
    call(argv, folder, processes)
    (found,) = set(folder.glob(job.manifest.replace("NAME", name))) - before
    taken = float(json.loads(found.read_text("utf-8"))["provenance"]["seconds"])
    if job.name == "ablate":  # the other side must find nothing there
        found.rename(found.with_name("manifest.done"))
        found.parent.rename(folder / name)
    return taken


def main() -> None:
    """Measure, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--verbs", nargs="+", default=["profile", "ablate", "finetune"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and args.device != "cpu" else "cpu"
    print(f"{platform.platform()}, torch {torch.__version__}, {device}; one thread each, {args.rounds} rounds")
    rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pictures(folder / "pictures.npz", args.images)
        for job in jobs(folder, args):
            times: dict[int, list[float]] = {1: [], args.processes: []}
            for number in range(args.rounds):
                for processes in times if number % 2 == 0 else reversed(times):
                    times[processes].append(seconds(job, folder, processes, number))
            ratios = [one / several for one, several in zip(*times.values(), strict=True)]
            speedup, low, high = statistics.median(ratios), min(ratios), max(ratios)
            row = {
                "verb": job.name, "processes": args.processes, "rounds": args.rounds, "device": device,
                "seconds_1": round(statistics.median(times[1]), 2),
                "seconds_n": round(statistics.median(times[args.processes]), 2),
                "speedup": round(speedup, 2), "low": round(low, 2), "high": round(high, 2),
                "efficiency": round(speedup / args.processes, 2),
            }  # fmt: skip
            rows.append(row)
            print(
                f"{job.name}: {row['seconds_1']} s in one process, {row['seconds_n']} s in {args.processes}: "
                f"{speedup:.2f} times ({low:.2f} to {high:.2f}), efficiency {row['efficiency']:.2f}",
                flush=True,
            )
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
