"""What `auditor profile` costs over running the model: its pass over the images against a bare loop over the same ones.

Both sides decode the same JPEG files with the same loader and batches. The bare loop calls the model and nothing else;
the other is `auditor.api.stream.stream`: hooks on every activation, pooling, checks, class moments and the HDF5 store,
fsync included. They run in one process, in turn, in an order that alternates; percentages are medians over rounds of
the ratio within a round, with the smallest and the largest, because the machine's load changes from round to round.
Where others use the machine, processor time says more than the clock.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --model vit_small_patch16_224 --images 256 --batch-size 32 --parts
    python benchmarks/throughput.py --data path/to/folder --device cuda --images 4096 --batch-size 256 --workers 8

Without --data, random pictures are written as JPEG files of 500 x 375 first. `--parts` also times a loop with hooks
only, and one that reads the images without a model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from auditor.api.forward import Execution, batches, choose_workers
from auditor.api.stream import stream
from auditor.api.tally import PROFILED
from auditor.data import load_data
from auditor.data.torch_data import ImageDataset
from auditor.hooks import capture
from auditor.models import build_module, find_model, n_outputs, probe_sites
from auditor.models.load import model_preprocessing
from auditor.progress import QUIET

CLASSES = 10
MODELS = ("resnet18", "vit_tiny_patch16_224")
BARE, PROFILE = "bare model", "profile"


def write_pictures(folder: Path, n: int) -> None:
    """Write `n` JPEG files of smooth random colours, which take about as long to decode as photographs."""
    rng = np.random.default_rng(0)
    for number in range(n):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        noisy = np.asarray(picture, dtype=np.int16) + rng.integers(-12, 13, (375, 500, 1))
        path = folder / f"class{number % CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def timed(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds, and seconds of processors, loader processes included."""
    began, before = time.perf_counter(), sum(os.times()[:4])
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, sum(os.times()[:4]) - before


def measure(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Time one model and print."""
    spec = find_model(name)
    execution = Execution(device=options.device, batch_size=options.batch_size, workers=options.workers)
    device = execution.torch_device()
    module = build_module(spec, n_outputs=CLASSES, pretrained=False, seed=0).eval().to(device)
    data = load_data(str(options.data), fractions=(0.0, 0.5, 0.5))
    if options.images is not None:
        data = data.limited(-(-options.images // len(PROFILED)))
    transform = model_preprocessing(spec, module).build()
    index = np.concatenate([data.splits[split] for split in PROFILED])
    if options.workers is None:  # once, so that both sides have the same
        workers = choose_workers(ImageDataset(data, index, transform), options.batch_size, on_cpu=device.type == "cpu")
        execution = Execution(device=options.device, batch_size=options.batch_size, workers=workers)
    example = next(iter(batches(data, index[:2], transform, Execution(device=options.device, workers=0)))).images
    sites, width = probe_sites(module, example), n_outputs(module, example)
    work = Path(tempfile.mkdtemp(dir=folder))

    def bare() -> None:
        with torch.no_grad():
            for batch in batches(data, index, transform, execution):
                module(batch.images)

    def read() -> None:
        for _ in batches(data, index, transform, execution):
            pass

    def hooks() -> None:
        with torch.no_grad(), capture(module, sites) as captured:
            for batch in batches(data, index, transform, execution):
                module(batch.images).cpu().numpy()
                for response in captured.take().values():
                    response.cpu().numpy()

    def whole() -> None:
        path = work / f"{time.monotonic_ns()}.h5"
        stream(
            module=module, data=data, sites=sites, transform=transform, path=path, digest="0", width=width,
            execution=execution, reporter=QUIET,
        )  # fmt: skip
        path.unlink()

    sides: dict[str, Callable[[], None]] = {BARE: bare, PROFILE: whole}
    if options.parts:
        sides |= {"model and hooks": hooks, "reading only": read}
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(options.rounds + 1):
        for side in list(sides)[:: 1 if number % 2 else -1]:
            spent = timed(sides[side], device)
            if number:  # the first round warms up
                found[side].append(spent)
    units = sum(site.n_units for site in sites)
    print(
        f"{name}: {len(index)} images in batches of {execution.batch_size}, {execution.workers} loader processes, "
        f"{len(sites)} layers, {units} units, {device}"
    )
    for side, times in found.items():
        clock, processors = (
            [plain[i] / spent[i] for plain, spent in zip(found[BARE], times, strict=True)] for i in range(2)
        )
        print(
            f"  {side:15} {len(index) / statistics.median(spent[0] for spent in times):8.1f} images/s, "
            f"{statistics.median(clock):.1%} ({min(clock):.1%} to {max(clock):.1%}), "
            f"by processor time {statistics.median(processors):.1%}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", metavar="NAME", help=f"default: {' and '.join(MODELS)}")
    parser.add_argument("--data", help="a folder of class folders; default: random pictures")
    parser.add_argument("--images", type=int, default=None, help="default: 128 pictures, or all of --data")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, help="loader processes; default: what auditor chooses")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--parts", action="store_true", help="time hooks and reading alone too")
    options = parser.parse_args()
    load = f", load before {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} processors, {torch.get_num_threads()} threads{load}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.data is None:
            write_pictures(folder / "pictures", options.images or 128)
            options.data = folder / "pictures"
        for model in options.model or MODELS:
            measure(model, folder, options)


if __name__ == "__main__":
    main()
