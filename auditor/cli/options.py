"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options(*decorators: Decorator) -> Decorator:
    """Join several option decorators into one, keeping their order in the help."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def in_group(title: str, *decorators: Decorator) -> Decorator:
    """Join option decorators, to be shown under a heading of their own by a :class:`GroupedCommand`."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        made: list[click.Parameter] = getattr(function, "__click_params__", [])
        before = set(map(id, made))
        function = options(*decorators)(function)
        for parameter in getattr(function, "__click_params__", []):
            if id(parameter) not in before:
                vars(parameter)["group"] = title
        return function

    return apply


class GroupedCommand(click.Command):
    """A command whose help shows its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list per heading, in the order of the options; those without a heading come last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(vars(parameter).get("group", "Other options"), []).append(record)
        rest = groups.pop("Other options", [])
        for title, records in (*groups.items(), ("Other options", rest)):
            with formatter.section(title):
                formatter.write_dl(records)


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers or fractions such as ``127/255``, separated by commas; as many as one of `counts` says."""

    name = "numbers"

    def __init__(self, *counts: int) -> None:
        self.counts = counts

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Split and check."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(_number(part) for part in str(value).split(","))
        except (ValueError, ZeroDivisionError):
            numbers = ()
        if len(numbers) not in self.counts:
            wanted = f"{' or '.join(map(str, self.counts))} numbers" if len(self.counts) <= 5 else "a list of numbers"
            self.fail(f"{value!r} is not {wanted} separated by commas.", param, ctx)
        return numbers


class Layers(click.ParamType[str | tuple[str, ...]]):
    """``all``, ``first:K``, ``last:K``, or globs separated by commas."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | tuple[str, ...]:
        """Split at commas."""
        if not isinstance(value, str) or "," not in value:
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


runs_option = click.option(
    "--runs", default="runs", show_default=True, metavar="DIR", help="Folder that holds the runs."
)
run_option = click.option("--run", "run_name", metavar="NAME", help="Name or path of a run.  [default: the latest]")
output_options = options(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, all else on stderr."),
    click.option("--quiet", is_flag=True, help="No progress bars and messages."),
)
seed_option = click.option("--seed", default=0, show_default=True, help="Of every random choice.")
limit_option = click.option("--limit", type=int, metavar="N", help="At most N images per split, stratified.")

max_bad_option = click.option(
    "--max-bad", type=int, metavar="N",
    help="Stop when more than N images cannot be read; they are left out and listed.  [default: 1 % or 10 images, "
    "whichever is more]",
)  # fmt: skip


def execution_options(batch_size: int) -> Decorator:
    """Where and how the work runs."""
    return options(
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
        click.option("--batch-size", default=batch_size, show_default=True, help="Images per batch."),
        click.option("--workers", type=int, help="Loader processes.  [default: 0 for small data, else up to 4]"),
    )


model_options = options(
    click.option(
        "--model", default="resnet18", show_default=True, metavar="NAME",
        help="timm or torchvision name (timm:NAME, torchvision:NAME to be explicit), or pkg.module:factory.",
    ),
    click.option("--weights", metavar="KIND", help="pretrained, none (random) or digits.  [default: digits with the "
                 "embedded digits, else pretrained]"),
    click.option("--checkpoint", metavar="FILE", help="Weights: safetensors or a PyTorch state dict."),
    click.option("--data", default="digits", show_default=True, metavar="WHAT",
                 help="digits, a folder with one folder of images per class, FILE.npz (images, labels), "
                 "torchvision:NAME, or pkg.module:factory of a data set."),
    click.option("--root", metavar="DIR", help="Where a data set that is known by its name lies (torchvision:NAME)."),
    click.option("--layers", multiple=True, metavar="PATTERN",
                 help="activations, blocks, a glob over layer names, re:REGEX or type:CLASS; may be repeated.  "
                 "[default: activations]"),
)  # fmt: skip

preprocessing_options = options(
    click.option("--input-size", type=Numbers(1, 2, 3), metavar="SIZE",
                 help="Input in pixels: SIZE, H,W or C,H,W; a network for one size is built for this one.  "
                 "[this and the next four default to the model's own]"),
    click.option("--crop-pct", type=float, metavar="SHARE",
                 help="Share of the resized picture that is cropped: 0.875 for 224 of 256, 1 for all of it."),
    click.option("--interpolation", metavar="NAME", help="bicubic, bilinear, lanczos, nearest, box or hamming."),
    click.option("--mean", type=Numbers(1, 3), metavar="NUMBERS",
                 help="Of pixels in [0, 1]: one number or one per channel; 127/255 is a number."),
    click.option("--std", type=Numbers(1, 3), metavar="NUMBERS", help="Likewise."),
)  # fmt: skip

head_options = options(
    click.option("--class-map", metavar="FILE",
                 help="Where outputs are not the data's classes: CSV or JSON from class to output (index or name), a "
                 "CSV table with a column `index`, or `imagenet`."),
    click.option("--output-names", metavar="FILE",
                 help="CSV table with a column `index`: names of the outputs for a map to names.  "
                 "[default: ImageNet's for 1,000 outputs]"),
    click.option("--restrict-outputs", is_flag=True,
                 help="Leave out outputs that no class is mapped to, instead of letting them compete."),
    click.option("--head", metavar="KIND",
                 help="probe: put a logistic regression on the features, fitted on the train split, in the place of "
                 "the logit layer."),
)  # fmt: skip

store_options = options(
    click.option("--store", default="pooled", show_default=True, metavar="WHAT",
                 help="Keep pooled responses (one number per unit and image), full (whole layer outputs, too; about 50 "
                 "times larger) or none (an interrupted run begins again)."),
    click.option("--store-dtype", default="float32", show_default=True, metavar="TYPE",
                 help="float32 or float16; what is scored is what is stored."),
    click.option("--compress", metavar="HOW", help="lz4: compress the finished file (needs hdf5plugin)."),
    click.option("--shard", metavar="N/COUNT",
                 help="Only part N of COUNT of the images; one process each, the last to finish scores the run."),
)  # fmt: skip

training_options = options(
    in_group(
        "Training",
        click.option("--epochs", default=10, show_default=True, help="Passes over the train split."),
        click.option("--from-scratch", is_flag=True, help="Draw new weights with the training's seed first."),
        click.option("--optimizer", default="sgd", show_default=True, help="sgd or adamw."),
        click.option("--learning-rate", default=0.02, show_default=True, help="Peak rate."),
        click.option("--schedule", default="cosine", show_default=True, help="Of the rate: cosine, step or constant."),
        click.option("--warmup", default=0.1, show_default=True, help="Share of the batches in which the rate rises."),
        click.option("--weight-decay", default=1e-4, show_default=True, help="Of weights; not of biases and norms."),
        click.option("--batch-size", default=64, show_default=True, help="Images per batch."),
        click.option("--balanced/--unbalanced", default=True, show_default=True, help="Equal classes in every batch."),
        click.option("--augment", default="none", show_default=True, help="none, shift, flip-shift or resized-crop."),
        click.option("--precision", default="float32", show_default=True, help="float32, bfloat16 or float16 (GPU)."),
        click.option("--clip-norm", type=float, help="Largest norm of the gradient.  [default: unlimited]"),
        click.option("--patience", type=int, metavar="N",
                     help="Stop when validation accuracy has not risen for N epochs.  [default: never]"),
        click.option("--keep", default="last", show_default=True, help="Weights of the last or the best epoch."),
    ),
    in_group(
        "Regularizer",
        click.option("--alpha-schedule", default="constant", show_default=True, metavar="WHEN",
                     help="constant, warmup:K (rises over K epochs), from:K or until:K (on from, off from epoch K)."),
        click.option("--regularize", type=Layers(), default="all", show_default=True, metavar="LAYERS",
                     help="all, first:K, last:K, or globs over layer names, separated by commas."),
        click.option("--signed", default="leave-out", show_default=True,
                     help="Layers with negative responses: leave-out or rectify."),
        click.option("--metric", default="index", show_default=True, metavar="NAME",
                     help="In the place of SI: index, dprime, or a plugin's."),
        click.option("--class-means", default="batch", show_default=True, metavar="WHICH",
                     help="batch, running, or running:M with momentum M (for many classes)."),
    ),
    in_group(
        "Training images",
        click.option("--limit", type=int, metavar="N",
                     help="Train and validate on at most N images per split, stratified."),
        click.option("--cache-images", default="auto", show_default=True,
                     help="Keep preprocessed images in memory: auto (if they fit), always or never."),
        max_bad_option,
    ),
    in_group(
        "Machine",
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
        click.option("--workers", type=int, help="Loader processes.  [default: 0 for small data, else up to 4]"),
    ),
)  # fmt: skip
"""All options of a training but alpha, seed, name and run."""
