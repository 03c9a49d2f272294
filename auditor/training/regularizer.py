"""The selectivity regularizer of Leavitt & Morcos (2020), as hooks on any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auditor.errors import ModelError
from auditor.hooks import on_calls
from auditor.training.classes import ClassStatistics, Groups, RunningStatistics, layer_means
from auditor.training.metrics import EPSILON, SelectivityIndex, TrainingMetric, score_units
from auditor.units import Site


def batch_selectivity(responses: Tensor, labels: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """Class selectivity index of every unit on one batch, differentiable.

    Parameters
    ----------
    responses : Tensor
        Shape (B, U), non-negative pooled responses.
    labels : Tensor
        Shape (B,), integers. Classes absent from the batch are dropped from the maximum and from the mean.
    epsilon : float
        Added to the denominator.

    Returns
    -------
    Tensor
        Shape (U,); see :class:`auditor.training.metrics.SelectivityIndex`. A unit that is silent on the whole batch
        scores 0 and gets no gradient.

    Raises
    ------
    DataError
        If fewer than two classes are present.
    """
    return SelectivityIndex(epsilon)(ClassStatistics.of(responses, Groups.of(labels, responses.device)))


@dataclass(frozen=True)
class BatchSelectivity:
    """What the regularizer saw in one batch.

    Attributes
    ----------
    mean : Tensor
        Scalar: mean over units within a layer, then over layers; differentiable.
    layers : Tensor, shape (L,)
        Mean over each site's units, without gradient. Biased upward by the sampling floor of a batch: a maximum of
        noisy means.
    floor : Tensor
        Scalar, without gradient: `mean` of the same responses with the labels shuffled; NaN if that was not asked for.
    samples_per_class : float
        Mean number of samples of the classes present.
    """

    mean: Tensor
    layers: Tensor
    floor: Tensor
    samples_per_class: float


class SelectivityRegularizer:
    """Mean class selectivity of a model's sites, for ``loss = CE - alpha * SI``.

    The responses of all sites are put side by side, so the number of operations depends neither on the number of units
    nor, with the means of the batch, on the number of classes of the data.

    Parameters
    ----------
    sites : sequence of Site
        Where to measure, in network order; the logit layer must not be among them.
    metric : TrainingMetric, optional
        Default: the class selectivity index.
    rectify : bool
        Pass pooled responses through a ReLU first.
    momentum : float, optional
        Use running class means with this momentum instead of the batch's own.
    n_classes : int, optional
        Of the data; needed with `momentum`.

    Attributes
    ----------
    widths : tuple of int
        Units of each site.

    Examples
    --------
    >>> with regularizer.watching(model):
    ...     logits = model(images)
    ...     loss = cross_entropy(logits, labels) - alpha * regularizer(labels).mean
    """

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        metric: TrainingMetric | None = None,
        rectify: bool = False,
        momentum: float | None = None,
        n_classes: int | None = None,
    ) -> None:
        if (momentum is None) != (n_classes is None):
            message = "momentum and n_classes are given together or not at all"
            raise ValueError(message)
        self.sites = tuple(sites)
        self.metric = metric or SelectivityIndex()
        self.rectify = rectify
        self.widths = tuple(site.n_units for site in self.sites)
        self._found: dict[str, Tensor] | None = None
        self._running: dict[str, RunningStatistics] = {}
        if momentum is not None and n_classes is not None:
            # The floor needs a memory of its own: what many batches average has less noise than one batch.
            self._running = {name: RunningStatistics(n_classes, momentum) for name in ("labels", "shuffled")}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Capture responses of every forward pass inside the block, with their graph."""
        self._found = {}
        try:
            with on_calls(model, self.sites, self._keep):
                yield
        finally:
            self._found = None

    def __call__(self, labels: Tensor | Groups, *, shuffled: Groups | None = None) -> BatchSelectivity:
        """Selectivity of the latest forward pass.

        Parameters
        ----------
        labels : Tensor of int64, shape (B,), or Groups
        shuffled : Groups, optional
            The same labels in random order, for the floor.

        Raises
        ------
        RuntimeError
            Outside of :meth:`watching`.
        DataError
            If the batch holds fewer than two classes.
        ModelError
            If a site was not reached by the forward pass.
        """
        responses = self.responses()
        groups = labels if isinstance(labels, Groups) else Groups.of(labels, responses.device)
        seen = self._classes(responses, groups)
        if shuffled is None:
            return self.score(seen, groups)
        return self.score(seen, groups, self._classes(responses.detach(), shuffled), shuffled)

    def score(
        self,
        classes: ClassStatistics,
        groups: Groups,
        drawn: ClassStatistics | None = None,
        shuffled: Groups | None = None,
    ) -> BatchSelectivity:
        """Selectivity from statistics of a whole batch that were taken elsewhere.

        Parameters
        ----------
        classes : ClassStatistics
            Of the latest responses, all sites side by side.
        groups : Groups
            By which they were taken.
        drawn, shuffled : ClassStatistics and Groups, optional
            The same with the labels in random order, for the floor.
        """
        layers = self._score(classes, groups, "labels")
        floor = torch.full((), torch.nan)
        if drawn is not None and shuffled is not None:
            with torch.no_grad():
                floor = self._score(drawn, shuffled, "shuffled").mean()
        return BatchSelectivity(layers.mean(), layers.detach(), floor, groups.samples_per_class)

    def state(self) -> dict[str, Any]:
        """Running means, which a training that goes on later needs; empty without them."""
        return {name: running.state() for name, running in self._running.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        for name, running in self._running.items():
            running.restore(state[name])

    def _keep(self, site: Site, output: Tensor) -> None:
        assert self._found is not None
        self._found[site.name] = _pool(output, site)

    def responses(self) -> Tensor:
        """Pooled responses of the latest forward pass, all sites side by side, shape (B, U); they can be had once.

        Raises
        ------
        RuntimeError
            Outside of :meth:`watching`.
        ModelError
            If a site was not reached by the forward pass.
        """
        if self._found is None:
            message = "call the regularizer inside `with regularizer.watching(model):`, after the forward pass"
            raise RuntimeError(message)
        for site in self.sites:
            if site.name not in self._found:
                raise ModelError(
                    f"Layer {site.name!r} was not reached by this forward pass.",
                    fix="The model takes another path for this input; leave the layer out with --regularize.",
                )
        parts = [self._found[site.name] for site in self.sites]
        self._found = {}
        # Split models keep layers on several devices; the responses are small.
        responses = torch.cat([part.to(parts[-1].device) for part in parts], dim=1)
        return responses.relu() if self.rectify else responses

    def _classes(self, responses: Tensor, groups: Groups) -> ClassStatistics:
        return ClassStatistics.of(responses, groups, variance=self.metric.needs_variance, widths=self.widths)

    def _score(self, classes: ClassStatistics, groups: Groups, memory: str) -> Tensor:
        if memory in self._running:
            classes = self._running[memory].update(classes, groups)
        return layer_means(score_units(self.metric, classes), self.widths)


def _pool(output: Tensor, site: Site) -> Tensor:
    """Mean over every axis but batch and units, as a profile takes it, in float32 at least.

    A sum divided afterwards: its gradient is one number per unit and image, which is never written out as a whole map
    of its own, as that of a mean is.
    """
    axis = site.unit_axis % output.ndim
    rest = [a for a in range(1, output.ndim) if a != axis]
    wide = output.float() if output.dtype.itemsize < 4 else output
    if not rest:
        return wide.clone()
    n: int = wide[0].numel() // wide.shape[axis]
    return wide.sum(dim=rest) / n
