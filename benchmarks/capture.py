"""What hooks cost: a forward pass that captures every activation site against the bare forward pass.

Both sides run in one process on the same images, in turn; the ratio is that of the medians.

    python benchmarks/capture.py --model resnet18 --size 224 --batch 16
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from auditor.hooks import capture
from auditor.models import build_module, find_model, probe_sites


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    model = build_module(find_model(options.model), n_outputs=10, pretrained=False, seed=0).eval()
    images = torch.rand(options.batch, 3, options.size, options.size)
    sites = probe_sites(model, images[:2])

    def bare() -> None:
        model(images)

    def captured() -> None:
        with capture(model, sites) as found:
            model(images)
            for response in found.take().values():
                response.numpy()

    times: dict[Callable[[], None], list[float]] = {bare: [], captured: []}
    with torch.inference_mode():
        for number in range(options.rounds + 2):
            for side, seconds in times.items():
                began = time.perf_counter()
                side()
                if number >= 2:
                    seconds.append(time.perf_counter() - began)
    plain, hooked = (statistics.median(times[side]) for side in (bare, captured))
    units = sum(site.n_units for site in sites)
    print(f"{options.model}, {options.batch} images of {options.size} px, {len(sites)} sites, {units} units")
    print(f"bare {options.batch / plain:.1f} images/s, captured {options.batch / hooked:.1f} images/s")
    print(f"throughput with capture: {plain / hooked:.1%} of bare (medians of {options.rounds}, in turn)")


if __name__ == "__main__":
    main()
