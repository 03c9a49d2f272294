"""What the network loses when units are silenced."""

from auditor.ablation.attributions import METHODS, unit_attributions
from auditor.ablation.captum_reference import CaptumEngine, captum_unit_logits
from auditor.ablation.curves import Curve, curve_areas, curve_counts, curve_orders, curve_table, normalised_area
from auditor.ablation.edits import Edit, EditContext
from auditor.ablation.effects import accuracy_with_interval, class_effects, cross_entropy, effect_table, unit_effects
from auditor.ablation.engine import Engine, HookEngine, Job
from auditor.ablation.exact import ExactEngine
from auditor.ablation.groups import Group, group_logits
from auditor.ablation.pair_effects import PairEffects, pair_effects
from auditor.ablation.racing import Race, race
from auditor.ablation.screening import first_order, rank_agreement
from auditor.ablation.sets import set_logits

__all__ = [
    "METHODS",
    "CaptumEngine",
    "Curve",
    "Edit",
    "EditContext",
    "Engine",
    "ExactEngine",
    "Group",
    "HookEngine",
    "Job",
    "PairEffects",
    "Race",
    "accuracy_with_interval",
    "captum_unit_logits",
    "class_effects",
    "cross_entropy",
    "curve_areas",
    "curve_counts",
    "curve_orders",
    "curve_table",
    "effect_table",
    "first_order",
    "group_logits",
    "normalised_area",
    "pair_effects",
    "race",
    "rank_agreement",
    "set_logits",
    "unit_attributions",
    "unit_effects",
]
