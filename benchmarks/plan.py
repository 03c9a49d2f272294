"""How close `auditor plan` comes to the commands it plans for: plan, run for real, ratio of the two.

Each case is planned and then run, back to back, as the commands that a user types, in processes of their own; the
seconds are wall time from start to end. The cases of CIFAR-10 need `--root`, a folder with `cifar10_train*.npz` and
`cifar10_test.npz`, and `--checkpoint`, weights of examples/cifar10_resnet20.py.

    OMP_NUM_THREADS=1 python benchmarks/plan.py                                   # the embedded digits
    OMP_NUM_THREADS=1 python benchmarks/plan.py --root DIR --checkpoint FILE      # CIFAR-10, too
    OMP_NUM_THREADS=1 python benchmarks/plan.py --only 'digits*'                  # the others' rows stay
    python benchmarks/plan.py --counts                                            # exact sizes at ImageNet's scale
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
AUDITOR = [sys.executable, "-m", "auditor"]
NETWORKS = ("timm:resnet18", "timm:resnet50", "timm:vit_small_patch16_224")
CLASSES, PIXELS, IMAGES = 1000, 224, 50_000


def cases(options: argparse.Namespace) -> dict[str, tuple[list[str], dict[str, list[str]], list[str]]]:
    """Name to options of the network, commands by job, and options of the ablation and fine-tune in the plan."""
    digits = ["--model", "resnet18"]
    found = {
        "digits resnet18": (
            digits,
            {"profile": [], "ablate": ["--top-selective", "100"], "finetune": ["--alpha", "-1"]},
            ["--top-selective", "100"],
        ),
        "digits resnet18, every unit, 120 images a split": (
            [*digits, "--limit", "120"], {"profile": [], "ablate": ["--all", "--top-selective", "20"]},
            ["--all", "--top-selective", "20"],
        ),
    }  # fmt: skip
    if options.root and options.checkpoint:
        cifar = [
            "--model", "cifar10_resnet20:resnet20", "--checkpoint", str(Path(options.checkpoint).resolve()),
            "--data", "cifar10_data:cifar10", "--root", str(Path(options.root).resolve()),
        ]  # fmt: skip
        found |= {
            "CIFAR-10 resnet20, 400 images a split": (
                [*cifar, "--limit", "400"],
                {"profile": [], "ablate": ["--top-selective", "100"], "finetune": ["--alpha", "-1", "--epochs", "2"]},
                ["--top-selective", "100", "--epochs", "2"],
            ),
            "CIFAR-10 resnet20, every unit, 200 images a split": (
                [*cifar, "--limit", "200"], {"profile": [], "ablate": ["--all", "--top-selective", "50"]},
                ["--all", "--top-selective", "50"],
            ),
        }  # fmt: skip
    return found


def call(arguments: list[str], folder: Path) -> tuple[float, str]:
    """Seconds and output of a command."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")])}
    began = time.perf_counter()
    done = subprocess.run(
        [*AUDITOR, *arguments, "--quiet"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"auditor {' '.join(arguments)} failed:\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def measure(name: str, network: list[str], commands: dict[str, list[str]], planned: list[str]) -> list[dict[str, Any]]:
    """One row for each command."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "--checkpoint" not in network:  # trains the embedded weights, where they are not cached yet
            call(["profile", *network, "--shuffles", "19", "--bootstraps", "39", "--name", "first"], folder)
        for job, extra in commands.items():
            # The plan of a job just before it: other work on the machine hits both.
            took, text = call(["plan", *network, *planned, "--job", job, "--json"], folder)
            whole = next(row for row in json.loads(text)["totals"] if row["job"] == job)
            real, _ = call([job, *(network if job == "profile" else []), *extra], folder)
            row = {
                "case": name, "command": job, "planned_s": whole["seconds"], "low_s": whole["low"],
                "high_s": whole["high"], "real_s": real, "ratio": whole["seconds"] / real,
                "inside": whole["low"] <= real <= whole["high"], "planning_s": took,
            }  # fmt: skip
            rows.append(row)
            print(
                f"{name}, {job}: planned {row['planned_s']:.1f} s [{row['low_s']:.1f}, {row['high_s']:.1f}], "
                f"real {real:.1f} s, ratio {row['ratio']:.2f}; planning took {took:.0f} s",
                flush=True,
            )
    return rows


def counts() -> None:
    """Print the exact sizes of networks on ImageNet's validation set, split in halves."""
    import torch

    from auditor.api.ablation_settings import AblationSettings
    from auditor.api.plan_counts import count
    from auditor.api.plan_profile import moments_bytes, scoring_operations, store_bytes
    from auditor.api.settings import SelectivitySettings, StoreSettings
    from auditor.models import load_model, probe_sites

    ablation = AblationSettings()
    for name in NETWORKS:
        module = load_model(name, n_outputs=CLASSES, weights="none", checkpoint=None, seed=0).module.eval()
        images = torch.randn(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
        found = count(module, images, probe_sites(module, images))
        pairs = sum(site.n_units * found.after([site.name]) for site in found.sites)
        stores = [store_bytes(found, IMAGES, StoreSettings(dtype=kind), id_bytes=40)[0] for kind in
                  ("float32", "float16")]  # fmt: skip
        row = {
            "network": name, "sites": len(found.sites), "units": found.n_units, "forward": found.forward,
            "mean_after": pairs / found.n_units, "store_float32": stores[0], "store_float16": stores[1],
            "moments": moments_bytes(found, CLASSES), "weights": found.weights, "kept": found.kept,
            "profile": IMAGES * found.forward,
            "scoring": scoring_operations(IMAGES // 2, found.n_units, CLASSES, SelectivitySettings()),
            "all_units": IMAGES // 2 * pairs, "pair_bytes": 16 * (IMAGES // 2) * found.n_units,
            "top_units_at_most": ablation.top_selective * IMAGES // 2 * found.forward,
            "epoch_of_train": 3 * 1_281_167 * found.forward,
        }  # fmt: skip
        print(json.dumps(row, indent=1))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", metavar="DIR", help="of the CIFAR-10 arrays")
    parser.add_argument("--checkpoint", metavar="FILE", help="of ResNet-20")
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases whose names match")
    parser.add_argument("--counts", action="store_true", help="print exact sizes at ImageNet's scale, and measure none")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.counts:
        counts()
        return
    chosen = {name: case for name, case in cases(options).items() if fnmatch(name, options.only)}
    options.out.mkdir(parents=True, exist_ok=True)
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    path = options.out / f"plan-cpu-{threads}threads.csv"
    for name, case in chosen.items():
        table = pd.DataFrame(measure(name, *case))
        if path.exists():
            before = pd.read_csv(path)
            table = pd.concat([before[before["case"] != name], table])
        table.to_csv(path, index=False, float_format="%.4g")  # after each case, so that a stop loses one
    print(f"written to {path}")


if __name__ == "__main__":
    main()
