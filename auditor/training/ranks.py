"""A batch that several ranks learn from together: who takes what, and what they add up.

Let L = CE - alpha * SI be the loss of the whole batch, whose sums over images (of cross-entropies, of responses by
class, of batch norms) are sums over ranks, too. Rank r computes

    L_r = N * (its images' sum of cross-entropies) / B - alpha * SI

for N ranks and a batch of B images, so that the ranks' losses add up to N * L. A sum over ranks gives each rank the
gradients of all ranks' losses with respect to it, added up; what arrives at rank r's copy of the weights is therefore
its images' part of the gradient of N * L, and the mean over ranks, which DistributedDataParallel takes, is the gradient
of L. Shares may be of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.distributed import World
from auditor.distributed.group import sum_over_ranks
from auditor.training.classes import ClassStatistics, Groups


@dataclass(frozen=True)
class Share:
    """A rank's part of a sequence.

    Attributes
    ----------
    start, stop : int
        Its own.
    n : int
        Of all ranks.
    """

    start: int
    stop: int
    n: int

    @classmethod
    def of(cls, n: int, world: World) -> Share:
        """Cut `n` into contiguous parts whose lengths differ by at most one, the longer ones first."""
        each, more = divmod(n, world.size)
        start = world.rank * each + min(world.rank, more)
        return cls(start, start + each + (world.rank < more), n)

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def own(self) -> slice:
        """What counts."""
        return slice(self.start, self.stop)

    @property
    def taken(self) -> slice:
        """What goes through the network: the rank's own, or one ghost if there is none, as networks need an image."""
        return self.own if len(self) else slice(0, 1)


def shared_statistics(
    responses: Tensor,
    share: Share,
    groups: Sequence[Groups],
    cross_entropy: Tensor,
    *,
    variance: bool,
    widths: tuple[int, ...],
) -> tuple[ClassStatistics, ClassStatistics, Tensor]:
    """Class statistics of a batch from the responses of each rank's images; one exchange, two with variances.

    Parameters
    ----------
    responses : Tensor
        Of the images taken, shape (B_r, U).
    share : Share
    groups : pair of Groups
        The whole batch by its labels, and by shuffled ones; statistics by the latter carry no gradient.
    cross_entropy : Tensor
        Sum over the rank's own images, to be added up on the way.
    variance, widths
        See :meth:`ClassStatistics.of`.

    Returns
    -------
    classes, drawn : ClassStatistics
        By labels and by shuffled labels.
    cross_entropy : Tensor
        Sum over the batch, without gradient.
    """
    own = responses[: len(share)]
    values = own, own.detach()
    slots = [group.slot[share.own] for group in groups]
    counts = [group.count.to(own.dtype) for group in groups]
    sums = [_sums(*each) for each in zip(values, slots, counts, strict=True)]
    *sums, total = added(*sums, cross_entropy.detach().to(own.dtype).reshape(1))
    means = [each / count[:, None] for each, count in zip(sums, counts, strict=True)]
    variances: list[Tensor | None] = [None, None]
    if variance:
        away = [each - mean.index_select(0, slot) for each, mean, slot in zip(values, means, slots, strict=True)]
        squares = added(*(_sums(each.square(), *rest) for each, *rest in zip(away, slots, counts, strict=True)))
        variances = [each / (count - 1).clamp(min=1)[:, None] for each, count in zip(squares, counts, strict=True)]
    classes, drawn = (ClassStatistics(*each, widths) for each in zip(means, counts, variances, strict=True))
    return classes, drawn, total[0]


def added(*parts: Tensor) -> list[Tensor]:
    """Sum each tensor over the ranks, all in one exchange; those without gradient stay without."""
    whole = sum_over_ranks(torch.cat([part.reshape(-1) for part in parts]))
    found = zip(whole.split([part.numel() for part in parts]), parts, strict=True)
    return [(each if part.requires_grad else each.detach()).view(part.shape) for each, part in found]


def _sums(values: Tensor, slot: Tensor, count: Tensor) -> Tensor:
    return values.new_zeros(len(count), values.shape[1]).index_add(0, slot, values)
