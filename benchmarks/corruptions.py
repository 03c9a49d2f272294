"""How close the corruptions are to an independent implementation, on real images.

The reference is the package `imagecorruptions` (OpenCV, scikit-image, SciPy, Pillow), in a folder of its own:

    python -m pip install --target REFERENCE --no-deps imagecorruptions scikit-image opencv-python-headless \
        imageio tifffile lazy-loader
    python benchmarks/corruptions.py IMAGES --reference REFERENCE        # IMAGES: a folder of pictures, any depth

Both sides get the same pixels and, where something is drawn, the same numbers: the reference's `np.random` is replaced
by one that replays ours. So pixels can be compared one by one, in 1/255. Frost and impulse noise draw differently and
are compared by the mean distortion over images, with its standard error; frost is known to differ.

The reference holds the parameters for 224 pixels only; for 32 and 64 ours are put into its source. Four of its
functions are not what the authors of the benchmark published; they are replaced here: `clipped_zoom` (the authors trim
around the centre), `pixelate` (boxes both ways), `elastic_transform` (an affine map first) and, in `snow`, the cut to
8 bits before the blur.
"""

from __future__ import annotations

import argparse
import ast
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from auditor.perturbations.seeds import corruption_seeds
from auditor.registry import registry

SIZES = (32, 64, 224)
OWN_DRAWS = ("frost", "impulse_noise")
SUFFIXES = {".jpg", ".jpeg", ".png"}


class Replay:
    """Stands in for `numpy.random`: gives the numbers that our corruption draws from a generator."""

    def __init__(self, name: str, seed: int, size: int, reach: int, rounds: int) -> None:
        self.name, self.generator, self.size = name, torch.Generator().manual_seed(seed), size
        self.fractal: np.ndarray | None = None
        self.shifts: list[np.ndarray] = []
        self.moves = iter(())
        if name == "glass_blur":
            self.moves = self._moves(reach, rounds)

    def _moves(self, reach: int, rounds: int) -> Any:
        for _ in range(rounds):
            drawn = torch.randint(-reach, reach, (2, self.size, self.size), generator=self.generator).numpy()
            for h in range(self.size - reach, reach, -1):
                for w in range(self.size - reach, reach, -1):
                    yield drawn[:, h, w]

    def normal(self, *, size: tuple[int, ...], loc: float = 0.0, scale: float = 1.0) -> np.ndarray:
        if len(size) == 3:
            noise = torch.randn((size[2], *size[:2]), generator=self.generator).permute(1, 2, 0)
        else:
            noise = torch.randn(size, generator=self.generator, dtype=torch.float64)
        return loc + scale * noise.numpy().astype(np.float64)

    def uniform(self, low: float, high: float, size: tuple[int, ...] | None = None) -> Any:
        if self.name == "fog":
            if self.fractal is None:
                n = (1 << (self.size - 1).bit_length()) ** 2
                self.fractal = torch.rand(n, generator=self.generator, dtype=torch.float64).numpy()
            n = int(np.prod(size))
            drawn, self.fractal = self.fractal[:n].reshape(size), self.fractal[n:]
        elif self.name == "elastic_transform" and size == (3, 2):
            drawn = torch.rand((3, 2), generator=self.generator, dtype=torch.float64).numpy()
        elif self.name == "elastic_transform":
            if not self.shifts:
                self.shifts = list(torch.rand((2, *size), generator=self.generator).numpy())
            drawn = self.shifts.pop(0)
        else:
            drawn = float(torch.rand((), generator=self.generator))
        return low + (high - low) * drawn

    def randint(self, low: int, high: int | None = None, size: tuple[int, ...] | None = None) -> Any:
        if self.name == "glass_blur":
            return next(self.moves)
        return self.chosen.integers(low, high) if high is not None else self.chosen.integers(low)

    def poisson(self, rates: np.ndarray) -> np.ndarray:
        drawn = torch.poisson(torch.from_numpy(rates).permute(2, 0, 1).float(), generator=self.generator)
        return drawn.permute(1, 2, 0).numpy()

    @property
    def chosen(self) -> np.random.Generator:
        if not hasattr(self, "_chosen"):
            self._chosen = np.random.default_rng(self.generator.initial_seed())
        return self._chosen


class NumPy(types.ModuleType):
    """NumPy with another source of random numbers and the names that it dropped."""

    random: Any = None
    float_ = np.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class Tables(ast.NodeTransformer):
    """Puts our parameters in the place of the reference's."""

    def __init__(self, tables: dict[str, list[Any]]) -> None:
        self.tables = tables

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        for i, statement in enumerate(node.body):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if isinstance(target, ast.Name) and target.id == "c" and node.name in self.tables:
                node.body[i] = ast.parse(f"c = _OURS[{node.name!r}][severity - 1]").body[0]
        return node


def load_reference(folder: Path, size: int) -> dict[str, Any]:
    """Names of the reference's module, with our parameters for 32 and 64 pixels, its own for 224."""
    sys.path.append(str(folder))
    import cv2
    import scipy.ndimage
    import skimage.filters

    shim = types.ModuleType("scipy.ndimage.interpolation")
    shim.map_coordinates = scipy.ndimage.map_coordinates
    sys.modules["scipy.ndimage.interpolation"] = shim
    package = next(Path(p) / "imagecorruptions" for p in sys.path if (Path(p) / "imagecorruptions").is_dir())
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda _, path: str(package / path)
    sys.modules["pkg_resources"] = resources
    tree = ast.parse((package / "corruptions.py").read_text())
    ours = {} if size == 224 else our_tables(size)
    tree = ast.fix_missing_locations(Tables(ours).visit(tree))
    names: dict[str, Any] = {"__name__": "imagecorruptions.corruptions", "_OURS": ours}
    exec(compile(tree, "imagecorruptions", "exec"), names)
    names["np"] = NumPy("numpy")

    def gaussian(image: np.ndarray, sigma: float, multichannel: bool = False, **options: Any) -> np.ndarray:
        return skimage.filters.gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **options)

    names["gaussian"] = gaussian
    zoomed = names["clipped_zoom"]

    def trimmed(image: np.ndarray, factor: float) -> np.ndarray:
        enlarged = zoomed(image, factor)
        start = [(new - old) // 2 for new, old in zip(enlarged.shape, image.shape, strict=True)]
        return enlarged[start[0] : start[0] + image.shape[0], start[1] : start[1] + image.shape[1]]

    names["clipped_zoom"] = trimmed
    blurred = names["_motion_blur"]
    names["_motion_blur"] = lambda x, **options: blurred(np.floor(x * 255) / 255 if x.ndim == 2 else x, **options)

    def pixelate(picture: Image.Image, severity: int) -> Image.Image:
        side = int(size * registry().corruptions()["pixelate"].parameters(severity, size)["scale"])
        return picture.resize((side, side), Image.BOX).resize((size, size), Image.BOX)

    def elastic(picture: Image.Image, severity: int) -> np.ndarray:
        c = registry().corruptions()["elastic_transform"].parameters(severity, size)
        image = np.array(picture, dtype=np.float32) / 255
        random = names["np"].random
        middle, side = size // 2, size // 3
        before = np.array([[1, 1], [1, -1], [-1, -1]], dtype=np.float32) * side + middle
        after = before + random.uniform(-c["corner"], c["corner"], size=(3, 2)).astype(np.float32)
        warp = cv2.getAffineTransform(before, after)
        image = cv2.warpAffine(image, warp, (size, size), borderMode=cv2.BORDER_REFLECT_101)
        dx, dy = (
            c["strength"]
            * gaussian(random.uniform(-1, 1, size=(size, size)), c["smoothing"], mode="reflect", truncate=3)
            for _ in range(2)
        )
        rows, columns = np.mgrid[:size, :size]
        channels = [
            scipy.ndimage.map_coordinates(image[..., i], [rows + dy, columns + dx], order=1, mode="reflect")
            for i in range(3)
        ]
        return np.stack(channels, axis=-1).clip(0, 1) * 255

    return names | {"pixelate": pixelate, "elastic_transform": elastic}


def our_tables(size: int) -> dict[str, list[Any]]:
    """Our parameters in the form of the reference."""
    tables = {}
    for name, corruption in registry().corruptions().items():
        rows = [tuple(corruption.parameters(severity, size).values()) for severity in range(1, 6)]
        tables[name] = [row[0] if len(row) == 1 else row for row in rows]
    tables["glass_blur"] = [(sigma, int(reach), int(rounds)) for sigma, reach, rounds in tables["glass_blur"]]
    tables["zoom_blur"] = [np.arange(1, end, step) for end, step in tables["zoom_blur"]]
    return tables


def load_images(folder: Path, size: int, n: int) -> Tensor:
    """`n` pictures, evenly spread over the folder, resized and cropped to the centre: shape (n, 3, size, size)."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    pictures = []
    for path in (paths[i] for i in np.linspace(0, len(paths) - 1, n).astype(int)):
        picture = Image.open(path).convert("RGB")
        scale = size / min(picture.size)
        picture = picture.resize([max(round(side * scale), size) for side in picture.size], Image.BICUBIC)
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        pictures.append(np.asarray(picture.crop((left, top, left + size, top + size))))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def reference_batch(corrupt: Callable[..., Any], names: dict[str, Any], name: str, images: Tensor, severity: int,
                    seeds: list[int]) -> Tensor:  # fmt: skip
    """The reference on every image, with our draws."""
    size = images.shape[-1]
    given = registry().corruptions()[name].parameters(severity, size)
    results = []
    for image, seed in zip(images, seeds, strict=True):
        names["np"].random = Replay(name, seed, size, int(given.get("reach", 0)), int(given.get("rounds", 0)))
        if name == "impulse_noise":
            np.random.seed(seed % 2**32)  # noqa: NPY002, the reference's own source
        picture = Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())
        results.append(torch.from_numpy(np.array(corrupt(picture, severity), dtype=np.float32) / 255).permute(2, 0, 1))
    return torch.stack(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--reference", type=Path, required=True, help="folder into which the reference was installed")
    parser.add_argument("--n", type=int, default=20, help="images")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "corruptions.csv")
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        names = load_reference(options.reference, size)
        images = load_images(options.images, size, options.n)
        for name, corruption in registry().corruptions().items():
            if options.only and name not in options.only:
                continue
            for severity in range(1, 6):
                seeds = corruption_seeds(0, name, severity, range(len(images)))
                ours = corruption(images, severity, seeds=seeds)
                theirs = reference_batch(names[name], names, name, images, severity, seeds)
                apart = (ours - theirs).abs() * 255
                distortion = [(each - images).abs().mean(dim=(1, 2, 3)) * 255 for each in (ours, theirs)]
                paired = distortion[0] - distortion[1]
                rows.append({
                    "corruption": name, "size": size, "severity": severity, "images": len(images),
                    "same_draws": name not in OWN_DRAWS,
                    "mean_difference": float(apart.mean()), "max_difference": float(apart.max()),
                    "above_2": float((apart > 2).float().mean()),
                    "distortion": float(distortion[0].mean()), "reference_distortion": float(distortion[1].mean()),
                    "distortion_apart": float(paired.mean()),
                    "standard_error": float(paired.std() / len(paired) ** 0.5),
                })  # fmt: skip
            shown = pd.DataFrame(rows[-5:]).drop(columns=["images", "same_draws"])
            print(shown.round(3).to_string(index=False, header=len(rows) == 5), flush=True)
    table = pd.DataFrame(rows)
    options.out.parent.mkdir(exist_ok=True)
    table.round(5).to_csv(options.out, index=False)
    print(table.groupby("corruption")[["mean_difference", "max_difference", "above_2"]].max().round(3).to_string())


if __name__ == "__main__":
    main()
