"""Streaming moments, intervals and p values: arrays in, arrays out."""

from auditor.stats.intervals import (
    Interval,
    bh_qvalues,
    bootstrap_interval,
    check_confidence,
    empirical_p,
    paired_mean_interval,
    paired_proportion_interval,
    wilson,
)
from auditor.stats.moments import ClassMoments

__all__ = [
    "ClassMoments",
    "Interval",
    "bh_qvalues",
    "bootstrap_interval",
    "check_confidence",
    "empirical_p",
    "paired_mean_interval",
    "paired_proportion_interval",
    "wilson",
]
