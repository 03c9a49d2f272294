"""Control sets and tests of set effects: arrays in, results out."""

from auditor.causal.matching import MatchedSets, matched_sets
from auditor.causal.set_test import SetTest, set_test

__all__ = ["MatchedSets", "SetTest", "matched_sets", "set_test"]
