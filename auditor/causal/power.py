"""How much data would decide: images, random sets or units."""

from __future__ import annotations

import math

from scipy.special import ndtri

from auditor.errors import OptionError
from auditor.stats.intervals import check_confidence

# An estimate this near to the margin equals it but for rounding: no real number of images tells them apart.
ROUNDING = 1e-7


def images_needed(
    estimate: float,
    low: float,
    high: float,
    n: int,
    *,
    margin: float,
    power: float = 0.5,
    confidence: float = 0.95,
) -> int | None:
    """Return how many images would make the interval exclude the margin if the estimate stayed as it is.

    The reach of the interval towards the margin shrinks as ``1 / sqrt(n)``. If the estimate is the true effect, new
    data fall short of it half of the time, so by default the chance that so many images decide is about 50 %; a
    larger `power` asks for more, by ``((z_confidence + z_power) / z_confidence)^2``.

    Parameters
    ----------
    estimate, low, high : float
    n : int
        Images the interval comes from.
    margin : float
    power : float
        Chance of excluding the margin if the estimate is the truth.
    confidence : float
        Of the interval; used with `power`.

    Returns
    -------
    int or None
        At least 2; fewer than `n` where the interval excludes the margin already. None where no number of images
        would do: the estimate equals the margin, or the interval is not known or has no width.

    Raises
    ------
    OptionError
        If `n` is not positive or a level is not within (0, 1).
    """
    _check_positive(n)
    distance = abs(estimate - margin)
    reach = estimate - low if estimate > margin else high - estimate
    if not (0 < reach < math.inf and distance > ROUNDING * reach):
        return None
    wanted = n * (reach * _inflation(power, confidence) / distance) ** 2
    return max(math.floor(wanted) + 1, 2)


def draws_needed(alpha: float, *, two_sided: bool = False) -> int:
    """Return the fewest random sets with which the p value ``(r + 1) / (draws + 1)`` can reach `alpha`.

    Parameters
    ----------
    alpha : float
        Divided by the number of tests where p values are corrected by Holm's method.
    two_sided : bool
        Whether p is twice the smaller tail.

    Returns
    -------
    int

    Raises
    ------
    OptionError
        If `alpha` is not within (0, 1).
    """
    if not 0 < alpha < 1:
        raise OptionError("The significance level must lie between 0 and 1.", wanted="such as 0.05", got=repr(alpha))
    # 1 / 0.05 and its like are not exact in binary.
    return max(math.ceil((2 if two_sided else 1) / alpha - 1e-9) - 1, 1)


def units_needed(rho: float, margin: float, confidence: float = 0.95, *, power: float = 0.5) -> int | None:
    """Return how many units would make the interval of a rank correlation exclude the margin if `rho` stayed.

    On Fisher's z scale, with the standard error ``sqrt((1 + rho^2 / 2) / (n - 3))`` of Bonett & Wright (2000).

    Parameters
    ----------
    rho : float
        Spearman's rank correlation, within (-1, 1).
    margin : float
        Within (-1, 1).
    confidence, power : float
        As for :func:`images_needed`.

    Returns
    -------
    int or None
        At least 4. None where `rho` equals the margin or is not known.

    Raises
    ------
    OptionError
        If `rho` or `margin` is outside (-1, 1), or a level is not within (0, 1).
    """
    if abs(rho) >= 1 or not abs(margin) < 1:
        raise OptionError("A correlation must lie between -1 and 1.", got=f"{rho!r} and margin {margin!r}")
    z = float(ndtri((1 + check_confidence(confidence)) / 2)) * _inflation(power, confidence)
    distance = abs(math.atanh(rho) - math.atanh(margin))
    if not distance > ROUNDING:
        return None
    return max(math.floor(3 + (1 + rho**2 / 2) * (z / distance) ** 2) + 1, 4)


def _inflation(power: float, confidence: float) -> float:
    if not 0 < power < 1:
        raise OptionError("The power must lie between 0 and 1.", wanted="such as 0.8", got=repr(power))
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    return max(z + float(ndtri(power)), 0.0) / z


def _check_positive(n: int) -> None:
    if n < 1:
        raise OptionError("An interval comes from at least one image.", wanted="a positive number", got=repr(n))
