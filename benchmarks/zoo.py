"""Which models of the two zoos can be audited: each is built, probed and profiled end to end, one row of a CSV each.

A model gets random weights and ten outputs, and profiles 16 random images at its own input size (with --size at
another one, if the model takes it or can be built for it; the table says which), in a process of its own with limits on
time and memory (on Linux and macOS). Models that are in the CSV already are skipped, so the command goes on where it
was. Figures are not drawn; they would take most of the time.

    python benchmarks/zoo.py --source torchvision
    python benchmarks/zoo.py --source timm --family one-per-family --processes 2
    python benchmarks/zoo.py --source timm --match 'levit*' --seconds 60

`confirmed` counts the sites whose unit axis was found once more by intervention (one channel of the layers before is
raised, and only a part of the axis may answer), `contradicted` those where that gave another axis; where the
intervention says nothing, a site is in neither. `skipped` are calls of nonlinearity modules that the preset left out:
gates, what comes after the logits, and outputs without one row for each image.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

import auditor
from auditor.api.forward import Execution
from auditor.api.run import Run
from auditor.data import LabelledData
from auditor.models.axes import by_intervention
from auditor.models.layers import activation_layers
from auditor.models.trace import trace_calls

OUTPUTS = 10
COLUMNS = (
    "source", "model", "family", "parameters", "input", "sites", "units", "skipped", "confirmed", "contradicted",
    "seconds", "peak_mib", "status",
)  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")


class Model(NamedTuple):
    source: str
    name: str
    family: str

    @property
    def spec(self) -> str:
        return f"{self.source}:{self.name}"


def models(source: str) -> list[Model]:
    """All models of a zoo with the module that each is defined in."""
    if source == "timm":
        import timm
        from timm.models import list_modules

        return [Model(source, name, family) for family in list_modules() for name in timm.list_models(module=family)]
    import torchvision.models as zoo

    names = zoo.list_models(module=zoo)
    return [Model(source, name, zoo.get_model_builder(name).__module__.rpartition(".")[2]) for name in names]


def cost(model: Model) -> float:
    """Roughly how much work a model is, without making its weights: parameters times pixels; torchvision tells."""
    if model.source == "torchvision":
        from torchvision.models import get_model_weights

        return float(get_model_weights(model.name).DEFAULT.meta["_ops"])
    import timm

    warnings.simplefilter("ignore")
    with torch.device("meta"):
        module = timm.create_model(model.name, num_classes=OUTPUTS)
    size = module.pretrained_cfg["input_size"]
    return float(sum(p.numel() for p in module.parameters()) * size[-1] * size[-2])


def chosen(options: argparse.Namespace) -> list[Model]:
    """The models that are asked for, the cheapest first; timm's tiny test models count only by name."""
    sources = ("torchvision", "timm") if options.source == "all" else (options.source,)
    found = [model for source in sources for model in models(source)]
    if options.match:
        found = [m for m in found if fnmatch.fnmatch(m.name, options.match) or fnmatch.fnmatch(m.spec, options.match)]
    one = options.family == "one-per-family"
    if one and not options.match:
        found = [m for m in found if not m.name.startswith("test_")]
    costs = [cost(model) for model in found] if len(found) > 1 else [0.0] * len(found)
    ranked = [model for _, model in sorted(zip(costs, found, strict=True))]
    if one:
        ranked = list({(m.source, m.family): m for m in reversed(ranked)}.values())[::-1]
    return ranked


def noise(index: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def random_data(n_images: int) -> LabelledData:
    """Noise; two splits of equal size."""
    rows = np.arange(n_images, dtype=np.int64)
    return LabelledData(
        name="noise",
        origin="random numbers",
        classes=tuple(f"class {number}" for number in range(OUTPUTS)),
        labels=rows // 2 % OUTPUTS,
        ids=tuple(f"image {row}" for row in rows),
        splits={"train": rows[:0], "select": rows[::2], "score": rows[1::2]},
        read=noise,
    )


def measure(model: Model, n_images: int, size: int | None) -> dict[str, Any]:
    """Profile one model; its row without time, memory and status."""
    if size is not None:
        with suppress(auditor.AuditorError):  # some networks exist for their own size alone
            return profile(model, n_images, size)
    return profile(model, n_images, None)


def profile(model: Model, n_images: int, size: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, patch.object(Run, "save_figures"):
        run = auditor.profile(
            model.spec, data=random_data(n_images), weights="none", input_size=size, shuffles=20, bootstraps=40,
            runs=folder, device="cpu", batch_size=4, workers=0,
        )  # fmt: skip
        sites, units = run.sites, len(run.selectivity)
        prepared = run.model(Execution(device="cpu"))
    module, shape = prepared.module, prepared.preprocessing.input_size
    example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    names = activation_layers(module)
    called = [(call.layer, call.number) for call in trace_calls(module, example).calls if call.layer in names]
    keys = {(site.layer, site.call): site for site in sites}
    axes = by_intervention(module, example, keys)
    agree = [axis in (site.unit_axis, site.unit_axis + len(site.shape) + 1) for key, axis in axes.items()
             if (site := keys[key])]  # fmt: skip
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "input": "x".join(map(str, shape)),
        "sites": len(sites),
        "units": units,
        "skipped": sum(key not in keys for key in called),
        "confirmed": sum(agree),
        "contradicted": len(agree) - sum(agree),
    }


def worker(model: Model, n_images: int, size: int | None, memory: float, answer: Connection) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 2**30), -1))
    try:
        row = measure(model, n_images, size) | {"status": "ok"}
    except MemoryError:
        row = {"status": f"needs more than {memory:g} GiB"}
    except Exception as error:
        text = " ".join(str(error).split())
        short = "can't allocate memory" in text
        row = {"status": f"needs more than {memory:g} GiB" if short else f"{type(error).__name__}: {text[:300]}"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.send(row | {"peak_mib": peak // (2**20 if sys.platform == "darwin" else 2**10)})


def attempt(model: Model, options: argparse.Namespace) -> dict[str, Any]:
    """Run one model in a process of its own."""
    here, there = CONTEXT.Pipe(duplex=False)
    began = time.monotonic()
    process = CONTEXT.Process(target=worker, args=(model, options.images, options.size, options.memory, there))
    process.start()
    there.close()
    try:
        row = here.recv() if here.poll(options.seconds) else {"status": f"took more than {options.seconds:g} s"}
    except EOFError:
        process.join()
        row = {"status": f"the process ended with exit code {process.exitcode}"}
    seconds = time.monotonic() - began
    process.kill()
    process.join()
    return {**model._asdict(), "model": model.name, "seconds": f"{seconds:.1f}", **row}


def read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["source"], row["model"]): row for row in csv.DictReader(file)}


def write(path: Path, rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows[key] for key in sorted(rows))
    part.replace(path)


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=["torchvision", "timm", "all"], default="all")
    parser.add_argument("--family", choices=["one-per-family", "all"], help="default: one of timm, all of torchvision")
    parser.add_argument("--match", metavar="GLOB", help="names, or source:name; then all of a family by default")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, metavar="PIXELS", help="input, where a model takes it; default: own")
    parser.add_argument("--memory", type=float, default=8.0, metavar="GIB", help="for one model")
    parser.add_argument("--seconds", type=float, default=300.0, help="for one model")
    parser.add_argument("--retry", action="store_true", help="models that are in the CSV with another status than ok")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "zoo.csv")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when the server that makes the processes imports torch
    CONTEXT.set_forkserver_preload(["auditor", "auditor.api.profile", "timm", "torchvision"])
    everything = []
    for source in ("torchvision", "timm") if options.source == "all" else (options.source,):
        family = options.family or ("one-per-family" if source == "timm" and not options.match else "all")
        everything += chosen(argparse.Namespace(**{**vars(options), "source": source, "family": family}))
    rows = read(options.out)
    retried = {key for key, row in rows.items() if options.retry and row["status"] != "ok"}
    todo = [model for model in everything if (key := (model.source, model.name)) not in rows or key in retried]
    print(f"{len(everything)} models, {len(todo)} to do")
    with ThreadPoolExecutor(options.processes) as pool:
        for done in as_completed(pool.submit(attempt, model, options) for model in todo):
            row = done.result()
            rows[row["source"], row["model"]] = row
            write(options.out, rows)
            print(f"{row['source']}:{row['model']}  {row['seconds']} s  {row['status']}", flush=True)
    mine = [rows[model.source, model.name] for model in everything]
    print(f"{sum(row['status'] == 'ok' for row in mine)} of {len(mine)} ok")


if __name__ == "__main__":
    main()
