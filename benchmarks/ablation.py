"""How much faster the exact engine ablates than Captum, site by site, with the same units, images and effect.

Captum runs with the `perturbations_per_eval` that is fastest for it on the model. Both sides are timed in turn in one
process; each figure is the median over rounds, per unit and image. The network's ratio weights the sites by their
units: it is how much faster ablating every unit is. Early sites gain least, for nearly the whole network comes after
them.

    python benchmarks/ablation.py                                  # resnet18, resnet50, vit_small, random weights
    python benchmarks/ablation.py --model torchvision:resnet18 --rounds 5
    python benchmarks/ablation.py --model cifar10_resnet20:resnet20 --checkpoint F --images FILE.npz  # trained
    python benchmarks/ablation.py --model timm:resnet50 --only 'layer4.*'  # some sites; the others' rows stay
    python benchmarks/ablation.py --model torchvision:resnet18 --peak  # memory against the number of units

`efficiency` is the time that the operations after the site would take at the rate of the folded model's best forward
pass in the same process and type, over the time taken; above 1 where silent units and one-channel updates pay.
"""

from __future__ import annotations

import argparse
import platform
import re
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from captum.attr import LayerFeatureAblation
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from auditor.ablation import ExactEngine, Job, pair_effects
from auditor.ablation.edits import Zero
from auditor.ablation.replay import Pairs, record, replaying, unit_maps
from auditor.hooks import taps
from auditor.models import probe_sites
from auditor.units import Site

MODELS = ("torchvision:resnet18", "timm:resnet50", "timm:vit_small_patch16_224")
PER_EVAL = (1, 4, 8, 16, 32)
BATCHES = (1, 2, 4, 8, 16, 32)


def build(spec: str, checkpoint: str | None) -> nn.Module:
    """A model of one of the zoos, or of a module:factory, with random weights or a checkpoint's."""
    source, _, name = spec.partition(":")
    torch.manual_seed(0)
    if source == "timm":
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False)
    elif source == "torchvision":
        import torchvision

        model = torchvision.models.get_model(name, weights=None)
    else:
        sys.path.insert(0, "examples")
        model = getattr(__import__(source), name)()
    if checkpoint:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(checkpoint))
    return model.eval()


def seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def captum_drops(model: nn.Module, images: Tensor, labels: Tensor, site: Site, units: Tensor, per_eval: int) -> Tensor:
    """Target-logit drops by LayerFeatureAblation, shape (units, images).

    One group of the mask for each unit, and one for all others, as Captum needs: its time is taken off.
    """
    mask = torch.full((site.n_units,), len(units), dtype=torch.long)
    mask[units] = torch.arange(len(units))
    shape = [1] * (len(site.shape) + 1)
    shape[site.unit_axis] = site.n_units

    def forward(x: Tensor, target: Tensor) -> Tensor:
        return model(x).gather(1, target[:, None])[:, 0]

    with taps(model, [site]) as tapped:
        found = LayerFeatureAblation(forward, tapped[site.name]).attribute(
            images, additional_forward_args=(labels,), layer_baselines=0, layer_mask=mask.view(shape),
            perturbations_per_eval=per_eval,
        )  # fmt: skip
    return found.movedim(site.unit_axis, 1).reshape(len(images), site.n_units, -1)[:, units, 0].T


def exact_drops(engine: ExactEngine, images: Tensor, labels: Tensor, job: Job) -> Tensor:
    """The same by the engine."""
    drops = torch.zeros(len(job.units), len(images))

    def sink(_site: str, units: Tensor, rows: Tensor, logits: Tensor, intact: Tensor) -> None:
        drops[units, rows] = pair_effects(intact, logits, labels[rows])["target_logit_drop"]

    engine.ablate(images, [job], Zero(), sink)
    return drops


def rate(engine: ExactEngine, images: Tensor) -> tuple[float, int]:
    """Operations per second of the engine's plain forward pass at its best batch size, and that size."""
    best = (0.0, 0)
    for size in BATCHES:
        batch = engine.prepare(images[:1].repeat(size, 1, 1, 1))
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            engine.model(batch)
        with torch.no_grad():
            taken = median(seconds(lambda b=batch: engine.model(b)) for _ in range(3))
        best = max(best, (flops.get_total_flops() / taken, size))
    return best


def operations_after(engine: ExactEngine, images: Tensor, site: Site) -> float:
    """Operations of all layers that depend on the site, for one image, with nothing exploited."""
    plan = engine.plan(site)
    if plan is None:
        return float("nan")
    whole = replace(plan, direct=set(), site_needed=True)
    given = engine.prepare(images[:2])
    with torch.no_grad():
        _, values = record(engine.model, given, whole.kept)
        maps = unit_maps(values[plan.call], site.unit_axis, [0])
        pairs = Pairs(torch.tensor([0, 1]), torch.tensor([0, 0]), maps[:2, 0], maps[:2, 0])
        with replaying(engine.model, whole, given, values, {}) as run, FlopCounterMode(display=False) as flops:
            run(pairs)
    return flops.get_total_flops() / 2


def measure(model: nn.Module, name: str, images: Tensor, labels: Tensor, options: argparse.Namespace) -> pd.DataFrame:
    """One row per site."""
    sites = probe_sites(model, images[:2])
    engines = {"float32": ExactEngine(model, sites, images)}
    if not options.no_bf16:
        engines["bfloat16"] = ExactEngine(model, sites, images, dtype=torch.bfloat16)
    rates = {kind: rate(engine, images) for kind, engine in engines.items()}
    examples, images, labels = images, images[: options.n_images], labels[: options.n_images]
    with torch.no_grad():
        plain = median(seconds(lambda: model(images[:1].repeat(8, 1, 1, 1))) for _ in range(3)) / 8
    middle = sites[len(sites) // 2]
    per_unit = {
        size: seconds(lambda s=size: captum_drops(model, images[:1], labels[:1], middle, torch.arange(16), s)) / 17
        for size in PER_EVAL
    }  # the 16 units, and Captum's group of all others
    per_eval = min(per_unit, key=per_unit.__getitem__)
    print(
        f"{name}: plain forward {plain * 1e3:.1f} ms an image; Captum's best perturbations_per_eval {per_eval}",
        flush=True,
    )
    for kind, (best, size) in rates.items():
        print(f"  folded forward in {kind}: {best / 1e9:.0f} Gflop/s at batch {size}")
    rows = []
    step = max(1, round(len(sites) / options.sites)) if options.sites else 1
    for site in [site for site in sites[::step] if fnmatch(site.name, options.only)]:
        units = torch.randperm(site.n_units, generator=torch.Generator().manual_seed(0))[: options.units].sort().values
        job = Job(site, units, torch.zeros(len(units)), torch.ones(len(units)))
        pairs = len(units) * len(images)
        found = {kind: exact_drops(engine, images, labels, job) for kind, engine in engines.items()}
        wanted = captum_drops(model, images, labels, site, units, per_eval)
        times: dict[str, list[float]] = {kind: [] for kind in (*engines, "captum")}
        for _ in range(options.rounds):
            for kind, engine in engines.items():
                times[kind].append(seconds(lambda e=engine, j=job: exact_drops(e, images, labels, j)))
            began = time.perf_counter()
            captum_drops(model, images, labels, site, units, per_eval)
            share = len(units) / (len(units) + (len(units) < site.n_units))
            times["captum"].append((time.perf_counter() - began) * share)
        after = operations_after(engines["float32"], examples, site)
        row: dict[str, Any] = {
            "model": name, "site": site.name, "shape": "x".join(map(str, site.shape)), "n_units": site.n_units,
            "pairs": pairs, "batch": engines["float32"].pairs_per_batch(site),
            "silent": float((found["float32"] == 0).float().mean()),
            "captum_ms": 1e3 * median(times["captum"]) / pairs,
            "difference": float((found["float32"] - wanted).abs().max()), "effect": float(wanted.abs().max()),
        }  # fmt: skip
        for kind in engines:
            row[f"{kind}_ms"] = 1e3 * median(times[kind]) / pairs
            row[f"{kind}_ratio"] = row["captum_ms"] / row[f"{kind}_ms"]
            row[f"{kind}_efficiency"] = after / rates[kind][0] / (row[f"{kind}_ms"] / 1e3)
            row[f"{kind}_spread"] = (max(times[kind]) - min(times[kind])) / median(times[kind])
        rows.append(row)
        print("  " + " ".join(_shown(key, value) for key, value in row.items() if key != "model"), flush=True)
    return pd.DataFrame(rows)


def _shown(key: str, value: Any) -> str:
    return f"{key}={value:.3g}" if isinstance(value, float) else str(value)


def summarise(table: pd.DataFrame) -> str:
    weight = table["n_units"]
    total = {key: float((table[key] * weight).sum()) for key in table if str(key).endswith("_ms")}
    parts = []
    for kind in ("float32", "bfloat16"):
        if f"{kind}_ms" in total:
            needed = (table[f"{kind}_efficiency"] * table[f"{kind}_ms"] * weight).sum()
            parts.append(
                f"{kind} {total['captum_ms'] / total[f'{kind}_ms']:.1f}x Captum "
                f"({total[f'{kind}_ms'] / weight.sum():.2f} ms a unit and image, "
                f"efficiency {needed / total[f'{kind}_ms']:.2f})"
            )
    share = table["difference"].max() / table["effect"].max()
    return f"{table['model'].iloc[0]}: {'; '.join(parts)}; values differ by {share:.1e} of the largest effect"


def peak(spec: str, n_units: int, memory: float) -> None:
    """Print the peak memory of a process that ablates `n_units` units of every site on two images."""
    model = build(spec, None)
    images = torch.randn(2, 3, 224, 224)
    sites = probe_sites(model, images)
    engine = ExactEngine(model, sites, images, memory=int(memory * 2**30))
    for site in sites:
        units = torch.arange(min(n_units, site.n_units))
        engine.ablate(
            images, [Job(site, units, torch.zeros(len(units)), torch.ones(len(units)))], Zero(), lambda *_: None
        )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def machine() -> str:
    text = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        text = found[1] if found else text
    return re.sub(
        r"[^a-z0-9]+", "-", f"{text} {torch.get_num_threads()}threads torch{torch.__version__}".lower()
    ).strip("-")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", metavar="SPEC")
    parser.add_argument("--checkpoint", metavar="FILE", help="safetensors")
    parser.add_argument("--images", metavar="FILE.npz", help="uint8 images (N, H, W, 3) and labels; default: noise")
    parser.add_argument("--n-images", type=int, default=1, help="that the units are ablated on")
    parser.add_argument("--size", type=int, default=224, help="of noise images")
    parser.add_argument("--units", type=int, default=128, help="units of each site")
    parser.add_argument("--sites", type=int, help="about so many sites, evenly spaced; default: all")
    parser.add_argument("--only", default="*", metavar="GLOB", help="sites whose names match")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-bf16", action="store_true")
    parser.add_argument("--peak", action="store_true")
    parser.add_argument("--memory", type=float, default=2.0)
    parser.add_argument("--one-peak", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = options.model or list(MODELS)
    if options.one_peak:
        peak(names[0], options.one_peak, options.memory)
        return
    if options.peak:
        for n_units in (16, 64, 256):
            command = [sys.executable, __file__, "--model", names[0], "--memory", str(options.memory)]
            done = subprocess.run([*command, "--one-peak", str(n_units)], capture_output=True, text=True, check=True)
            print(f"{names[0]}, {n_units} units a site, budget {options.memory:g} GiB: peak {done.stdout.strip()} MiB")
        return
    tables, n_examples = [], max(2, options.n_images)
    for name in names:
        model = build(name, options.checkpoint)
        if options.images:
            with np.load(options.images) as file:
                pixels = file["images"][:n_examples]
                labels = torch.from_numpy(file["labels"][:n_examples].astype(np.int64))
            mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
            images = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        else:
            generator = torch.Generator().manual_seed(0)
            images = torch.randn(n_examples, 3, options.size, options.size, generator=generator)
            labels = torch.arange(n_examples)
        named = name + (
            f" ({Path(options.checkpoint).stem}, {Path(options.images).stem})" if options.checkpoint else ""
        )
        tables.append(measure(model, named, images, labels, options))
        print(summarise(tables[-1]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"ablation-{machine()}.csv"
    table = pd.concat(tables)
    if path.exists():
        before = pd.read_csv(path)
        if options.only == "*":
            kept = ~before["model"].isin(set(table["model"]))
        else:
            kept = ~before.set_index(["model", "site"]).index.isin(table.set_index(["model", "site"]).index)
        table = pd.concat([before[kept], table])
    table.to_csv(path, index=False, float_format="%.5g")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
