"""What the network loses when units are silenced."""

from auditor.ablation.captum_reference import captum_unit_logits
from auditor.ablation.curves import Curve, curve_counts, curve_orders, curve_table
from auditor.ablation.effects import accuracy_with_interval, cross_entropy, unit_effects
from auditor.ablation.groups import Group, group_logits

__all__ = [
    "Curve",
    "Group",
    "accuracy_with_interval",
    "captum_unit_logits",
    "cross_entropy",
    "curve_counts",
    "curve_orders",
    "curve_table",
    "group_logits",
    "unit_effects",
]
