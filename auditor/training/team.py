"""The ranks that learn from each batch together, through torch's DistributedDataParallel."""

from __future__ import annotations

import warnings
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from auditor.distributed import World
from auditor.distributed.group import open_group
from auditor.distributed.joining import FOREVER
from auditor.training.augment import Augment, Change
from auditor.training.classes import Groups
from auditor.training.global_norm import GlobalBatchNorm
from auditor.training.ranks import Share, added, shared_statistics
from auditor.training.regularizer import BatchSelectivity, SelectivityRegularizer

Ints = NDArray[np.int64]
SEEDS = 2**53
"""Step between the seeds of two ranks; the seeds of epochs are smaller."""


class Team:
    """A rank and the others in a training.

    Every rank knows the whole batch's labels, and sees the pictures of its share. What a batch norm and the
    regularizer take from a batch is that of the whole, and so is the gradient: see :mod:`auditor.training.ranks`.

    Parameters
    ----------
    model : torch.nn.Module
        Gets the main rank's weights.
    regularizer : SelectivityRegularizer, optional
    world : World
        Of more than one rank.
    """

    def __init__(self, model: nn.Module, regularizer: SelectivityRegularizer | None, world: World) -> None:
        open_group(world)
        self.world = world
        self._regularizer = regularizer
        self._pass = _Pass(model, regularizer)
        self._module: DistributedDataParallel | None = None

    def rows(self, batch: Ints) -> Ints:
        """Those of a batch's samples that this rank reads."""
        return batch[Share.of(len(batch), self.world).taken]

    def change(self, augment: Augment, images: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Augment this rank's share of `n` images as one process would; a function of the caller's, each rank's own."""
        if not isinstance(augment, Change):
            return augment(images, generator)
        taken = Share.of(n, self.world).taken
        return augment.apply(images, [each[taken] for each in augment.draw(n, generator)])

    def forward(
        self, images: Tensor, labels: Ints, groups: tuple[Groups, Groups] | None, *, alpha: float
    ) -> tuple[Tensor, Tensor, BatchSelectivity | None]:
        """Learn from a batch.

        Parameters
        ----------
        images : Tensor
            This rank's.
        labels : ndarray of int64, shape (B,)
            Of the whole batch.
        groups : pair of Groups, optional
            The whole batch by its labels, and by shuffled ones; None if its selectivity is not measured.
        alpha : float

        Returns
        -------
        loss : Tensor
            For this rank's backward pass; see :mod:`auditor.training.ranks`.
        cross_entropy : Tensor
            Mean over the batch, without gradient.
        seen : BatchSelectivity or None
            Of the batch.
        """
        share = Share.of(len(labels), self.world)
        learned = groups is not None and alpha != 0
        ghost = len(share) == 0
        if self._module is None:
            self._module = self._connected(images, ghost=ghost)
        logits, responses = self._module(images, ghost=ghost, scored=groups is not None, learned=learned)
        targets = torch.from_numpy(labels[share.own]).to(logits.device)
        own = nn.functional.cross_entropy(logits[: len(share)], targets, reduction="sum")
        loss = own * (self.world.size / share.n)
        if groups is None or self._regularizer is None:
            return loss, added(own.detach())[0] / share.n, None
        with torch.autocast(logits.device.type, enabled=False):
            classes, drawn, total = shared_statistics(
                responses, share, groups, own,
                variance=self._regularizer.metric.needs_variance, widths=self._regularizer.widths,
            )  # fmt: skip
            seen = self._regularizer.score(classes, groups[0], drawn, groups[1])
        return loss - alpha * seen.mean if learned else loss, total / share.n, seen

    def close(self) -> None:
        """Leave the group that the training's gradients went through."""
        if self._module is not None:
            group, self._module = self._module.process_group, None
            distributed.destroy_process_group(group)

    def _connected(self, images: Tensor, *, ghost: bool) -> DistributedDataParallel:
        """Wrap the model when the first images are there, from which is seen what the logits depend on."""
        model = self._pass.model
        learned = {parameter for parameter in model.parameters() if parameter.requires_grad}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 renames broadcast_buffers
            return DistributedDataParallel(
                self._pass,
                # Its exchanges and ours must not wait for each other.
                process_group=distributed.new_group(timeout=FOREVER),
                broadcast_buffers=False,  # running statistics are the same on all ranks
                # Costs time and warns where it is not needed.
                find_unused_parameters=not learned <= _used(model, images, ghost=ghost),
            )


def _used(model: nn.Module, images: Tensor, *, ghost: bool) -> set[Tensor]:
    """Parameters that the logits depend on, from a forward pass that leaves no trace."""
    before = {name: value.clone() for name, value in model.named_buffers()}
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), GlobalBatchNorm(ghost=ghost):
        logits: Tensor = model(images)
    with torch.no_grad():
        for name, value in model.named_buffers():
            value.copy_(before[name])
    found: set[Tensor] = set()
    known, ahead = set(), [logits.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        ahead += [following for following, _ in node.next_functions]
    return found


class _Pass(nn.Module):
    """Logits and pooled responses as outputs of one module, which is where DistributedDataParallel looks for both."""

    def __init__(self, model: nn.Module, regularizer: SelectivityRegularizer | None) -> None:
        super().__init__()
        self.model = model
        self._regularizer = regularizer

    def forward(self, images: Tensor, *, ghost: bool, scored: bool, learned: bool) -> tuple[Tensor, Tensor | None]:
        if self._regularizer is None or not scored:
            with GlobalBatchNorm(ghost=ghost):
                return cast(Tensor, self.model(images)), None
        with self._regularizer.watching(self.model):
            with GlobalBatchNorm(ghost=ghost):
                logits = cast(Tensor, self.model(images))
            with torch.autocast(logits.device.type, enabled=False):
                responses = self._regularizer.responses()
        # It would be waited for the gradients of what is an output and not in the loss.
        return logits, responses if learned else responses.detach()
