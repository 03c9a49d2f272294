"""Control sets, tests of sets, correlations, controls and the verdict rule: arrays in, results out."""

from auditor.causal.agreement import metric_agreement
from auditor.causal.correlation import LayerCorrelations, layer_correlations
from auditor.causal.matching import MatchedSets, least_selective_set, matched_sets
from auditor.causal.nested import Contrast, NestedTest, nested_test
from auditor.causal.non_inferiority import PairedTest, harm, harm_images, non_inferiority, non_inferiority_images
from auditor.causal.own_class import OwnClassResult, own_class_damage
from auditor.causal.pooling import Pooled, pool_correlations, pool_draws
from auditor.causal.power import draws_needed, images_needed, units_needed
from auditor.causal.reliability import SplitHalf, ceiling, disattenuated, spearman_brown, split_half
from auditor.causal.set_test import SetTest, set_test
from auditor.causal.verdict import Outcome, Verdict, combine, decide, reason, reversal

__all__ = [
    "Contrast",
    "LayerCorrelations",
    "MatchedSets",
    "NestedTest",
    "Outcome",
    "OwnClassResult",
    "PairedTest",
    "Pooled",
    "SetTest",
    "SplitHalf",
    "Verdict",
    "ceiling",
    "combine",
    "decide",
    "disattenuated",
    "draws_needed",
    "harm",
    "harm_images",
    "images_needed",
    "layer_correlations",
    "least_selective_set",
    "matched_sets",
    "metric_agreement",
    "nested_test",
    "non_inferiority",
    "non_inferiority_images",
    "own_class_damage",
    "pool_correlations",
    "pool_draws",
    "reason",
    "reversal",
    "set_test",
    "spearman_brown",
    "split_half",
    "units_needed",
]
