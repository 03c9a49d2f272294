"""Effects of ablation, all from the same intact and ablated logits, each with an interval over images."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax

from auditor.stats.intervals import paired_mean_interval, paired_proportion_interval, wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def cross_entropy(logits: NDArray[np.floating], labels: Ints) -> Floats:
    """Cross-entropy of each image, in nats.

    Parameters
    ----------
    logits : ndarray, shape (..., N, outputs)
    labels : ndarray of int, shape (N,)

    Returns
    -------
    ndarray, shape (..., N)
    """
    log_p = log_softmax(logits.astype(np.float64), axis=-1)
    index = np.broadcast_to(labels[:, None], (*log_p.shape[:-1], 1))
    loss: Floats = -np.take_along_axis(log_p, index, axis=-1)[..., 0]
    return loss


def accuracy_with_interval(correct: NDArray[np.bool_], confidence: float = 0.95) -> tuple[float, float, float]:
    """Share of correct images with its Wilson score interval."""
    share, low, high = wilson(int(correct.sum()), correct.size, confidence)
    return float(share), float(low), float(high)


def unit_effects(
    intact: NDArray[np.floating],
    ablated: NDArray[np.floating],
    labels: Ints,
    preferred: Ints,
    *,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Effect of each ablation on logits, loss and accuracy.

    Parameters
    ----------
    intact : ndarray, shape (N, outputs)
        Logits of the untouched network.
    ablated : ndarray, shape (K, N, outputs)
        Logits of K ablations on the same images.
    labels : ndarray of int, shape (N,)
    preferred : ndarray of int, shape (K,)
        Preferred class of each ablated unit.
    confidence : float
        Of every interval.

    Returns
    -------
    pandas.DataFrame
        One row per ablation. ``target_logit_drop`` (intact minus ablated), ``loss_change`` (nats) and
        ``accuracy_change``, ``preferred_accuracy_change`` (shares; negative is harm), each with ``_low`` and ``_high``
        and the number of images of the preferred class. Means take a paired t interval, accuracies the adjusted Wald
        interval of Bonett & Price (2012) for paired proportions.
    """
    rows = np.arange(len(labels))
    drop = intact[rows, labels].astype(np.float64) - ablated[:, rows, labels].astype(np.float64)
    loss = cross_entropy(ablated, labels) - cross_entropy(intact, labels)
    before = intact.argmax(-1) == labels
    after = ablated.argmax(-1) == labels
    columns: dict[str, NDArray[np.generic]] = {}
    for name, values in (("target_logit_drop", drop), ("loss_change", loss)):
        columns[name], columns[f"{name}_low"], columns[f"{name}_high"] = paired_mean_interval(values, confidence)
    columns.update(_accuracy_change("accuracy_change", before, after, np.ones_like(after), confidence))
    own = labels[None, :] == preferred[:, None]
    columns.update(_accuracy_change("preferred_accuracy_change", before, after, own, confidence))
    columns["n_images"] = np.full(len(preferred), len(labels))
    columns["n_preferred"] = own.sum(1)
    return pd.DataFrame(columns)


def _accuracy_change(
    name: str, before: NDArray[np.bool_], after: NDArray[np.bool_], among: NDArray[np.bool_], confidence: float
) -> dict[str, NDArray[np.generic]]:
    gained = (~before & after & among).sum(-1)
    lost = (before & ~after & among).sum(-1)
    change, low, high = paired_proportion_interval(gained, lost, among.sum(-1), confidence)
    return {name: change, f"{name}_low": low, f"{name}_high": high}
