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


class Numbers(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers, a fixed count of them."""

    name = "numbers"

    def __init__(self, count: int) -> None:
        self.count = count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Split and check."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self.count:
            self.fail(f"{value!r} is not {self.count} numbers separated by commas.", param, ctx)
        return numbers


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
                 help="digits, or a folder with one folder of images per class."),
    click.option("--layers", multiple=True, metavar="PATTERN",
                 help="activations, blocks, a glob over layer names, re:REGEX or type:CLASS; may be repeated.  "
                 "[default: activations]"),
)  # fmt: skip
