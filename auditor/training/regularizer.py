"""The selectivity regularizer of Leavitt & Morcos (2020), as hooks on any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from auditor.errors import DataError
from auditor.hooks import Capture, capture
from auditor.units import Site

EPSILON = 1e-7


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
        Shape (U,). ``(mu_max - mu_rest) / (mu_max + mu_rest + epsilon)`` with ``mu_rest`` the unweighted mean of the
        other present classes' means. A unit that is silent on the whole batch scores 0 and gets no gradient.

    Raises
    ------
    DataError
        If fewer than two classes are present.

    References
    ----------
    Leavitt & Morcos (2020), "Selectivity considered harmful: evaluating the causal impact of class selectivity in
    DNNs"; Morcos et al. (2018) for the index.
    """
    present, slot, count = torch.unique(labels, return_inverse=True, return_counts=True)
    if len(present) < 2:
        raise DataError(
            "The selectivity of a batch needs at least two classes.",
            got=f"{len(present)} class in a batch of {len(labels)}",
            fix="Use class-balanced or larger batches.",
        )
    sums = responses.new_zeros(len(present), responses.shape[1]).index_add(0, slot, responses)
    means = sums / count[:, None].to(responses.dtype)
    top = means.amax(0)
    rest = (means.sum(0) - top) / (len(present) - 1)
    total = top + rest
    # Where everything is zero the quotient's gradient is 1 / epsilon; a silent unit must not receive it.
    silent = total <= 0
    index = (top - rest) / (torch.where(silent, 1.0, total) + epsilon)
    return torch.where(silent, 0.0, index)


@dataclass(frozen=True)
class BatchSelectivity:
    """What the regularizer saw in one batch.

    Attributes
    ----------
    mean : Tensor
        Scalar: mean over units within a layer, then over layers; differentiable.
    by_site : dict of str to float
        Mean over each site's units. Biased upward by the sampling floor of a batch: a maximum of noisy means.
    samples_per_class : float
        Mean number of samples of the classes present.
    """

    mean: Tensor
    by_site: dict[str, float]
    samples_per_class: float


class SelectivityRegularizer:
    """Mean class selectivity of a model's sites, for ``loss = CE - alpha * SI``.

    Parameters
    ----------
    sites : sequence of Site
        Where to measure; the logit layer must not be among them.

    Examples
    --------
    >>> with regularizer.watching(model):
    ...     logits = model(images)
    ...     loss = cross_entropy(logits, labels) - alpha * regularizer(labels).mean
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)
        self._capture: Capture | None = None

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Capture responses of every forward pass inside the block, with their graph."""
        with capture(model, self.sites, grad=True) as self._capture:
            try:
                yield
            finally:
                self._capture = None

    def __call__(self, labels: Tensor) -> BatchSelectivity:
        """Selectivity of the latest forward pass.

        Raises
        ------
        RuntimeError
            Outside of :meth:`watching`.
        DataError
            If the batch holds fewer than two classes.
        """
        if self._capture is None:
            message = "call the regularizer inside `with regularizer.watching(model):`, after the forward pass"
            raise RuntimeError(message)
        by_site = {
            name: batch_selectivity(responses, labels).mean() for name, responses in self._capture.take().items()
        }
        mean = torch.stack(list(by_site.values())).mean()
        values = torch.stack([value.detach() for value in by_site.values()]).tolist()
        return BatchSelectivity(
            mean=mean,
            by_site=dict(zip(by_site, values, strict=True)),
            samples_per_class=len(labels) / len(torch.unique(labels)),
        )
