"""Tables of what each network withstands, with intervals over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.robustness_measure import Attack, Survival
from auditor.api.robustness_networks import Network
from auditor.api.robustness_settings import RobustnessSettings
from auditor.perturbations import masking
from auditor.perturbations.attacks import ACROSS
from auditor.perturbations.masking import Check
from auditor.perturbations.ratios import (
    corruption_error,
    mean_share,
    ratio_of_means,
    ratio_of_samples,
    relative_accuracy,
)
from auditor.registry import registry
from auditor.stats.intervals import Interval, paired_mean_interval, wilson

Found = Sequence[tuple[Network, Survival]]
EXTRA = "extra"


def corruption_groups(names: Sequence[str]) -> dict[str, str]:
    """Group of each type; those that no corruption of this installation is named like are ``other``."""
    known = registry().corruptions()
    return {name: known[name].group if name in known else "other" for name in names}


def types_of_mean(names: Sequence[str]) -> list[str]:
    """Types that the mean is over: all but the extra ones, unless there are no others."""
    groups = corruption_groups(names)
    return [name for name in names if groups[name] != EXTRA] or list(names)


def corruption_table(found: Found, confidence: float) -> pd.DataFrame:
    """One row per network, type and severity: accuracy (Wilson) and accuracy relative to clean.

    Where the corrupted images are the clean ones, the ratio is that of pairs (Bonett & Price 2006).
    """
    rows = []
    for network, survival in found:
        groups = corruption_groups([name for name, _ in survival.corrupted])
        for (name, severity), right in survival.corrupted.items():
            ratio = (
                relative_accuracy(right, survival.clean, confidence)
                if survival.paired
                else ratio_of_samples(right, survival.clean, confidence)
            )
            rows.append(
                {
                    **network.columns(),
                    "corruption": name,
                    "group": groups[name],
                    "severity": severity,
                    "n": len(right),
                    **_interval("accuracy", wilson(right.sum(), len(right), confidence), ends=("low", "high")),
                    **_interval("relative", ratio),
                }
            )
    return pd.DataFrame(rows)


def type_table(found: Found, reference: Survival | None, confidence: float) -> pd.DataFrame:
    """One row per network and type: means over severities, with intervals over images."""
    rows = []
    for network, survival in found:
        names = list(dict.fromkeys(name for name, _ in survival.corrupted))
        groups = corruption_groups(names)
        for name in names:
            each = _by_image(survival, [name])
            row = {
                **network.columns(),
                "corruption": name,
                "group": groups[name],
                "severities": ",".join(str(s) for other, s in survival.corrupted if other == name),
                "n": len(each),
                **_interval("accuracy", mean_share(each, _count(survival, [name]), confidence), ends=("low", "high")),
                **_interval("relative", _relative(each, survival, confidence)),
            }
            if reference is not None:
                errors, theirs = (_errors(one, [name]) for one in (survival, reference))
                row |= _interval("corruption_error", corruption_error(errors, theirs, confidence)[1])
            rows.append(row)
    return pd.DataFrame(rows)


def attack_table(found: Found, confidence: float) -> pd.DataFrame:
    """One row per network, attack, epsilon (in 255ths) and number of steps."""
    rows = [
        {
            **network.columns(),
            "attack": attack,
            "epsilon": epsilon,
            "steps": steps,
            "n": len(right),
            **_interval("accuracy", wilson(right.sum(), len(right), confidence), ends=("low", "high")),
            **_interval("relative", relative_accuracy(right, survival.clean, confidence)),
        }
        for network, survival in found
        for (attack, epsilon, steps), right in survival.attacked.items()
    ]
    return pd.DataFrame(rows)


def masking_checks(survival: Survival, settings: RobustnessSettings) -> list[Check]:
    """Checks of one network; see :mod:`auditor.perturbations.masking`."""
    if not survival.attacked:
        return [masking.not_checked("epsilon", "no attack")]
    level, attacked = settings.confidence, survival.attacked
    curves = {name.upper(): curve for name in settings.attacks if (curve := by_epsilon(attacked, name, settings))}
    with_clean = {name: {0.0: survival.clean, **curve} for name, curve in curves.items()}
    by_steps = {n: right for (name, e, n), right in attacked.items() if name == "pgd" and e == settings.step_epsilon}
    checks = [
        masking.never_rises("epsilon", with_clean, "epsilon", level),
        masking.falls(curves, survival.clean, level),
        masking.never_rises("steps", {"PGD": {float(n): right for n, right in by_steps.items()}}, "steps", level),
        _iterations(curves, settings),
    ]
    if survival.transferred is None:
        alone = "no other network of the same training but for its seed"
        return [*checks, masking.not_checked("transfer", alone if "pgd" in settings.attacks else "no PGD")]
    white = attacked["pgd", settings.step_epsilon, settings.pgd_steps]
    return [*checks, masking.transfer(white, survival.transferred, survival.source, level)]


def _iterations(curves: Mapping[str, Mapping[float, NDArray[np.bool_]]], settings: RobustnessSettings) -> Check:
    if "pgd" in settings.attacks and settings.pgd_steps < ACROSS:
        why = f"{settings.pgd_steps} steps of PGD do not cross the ball, {ACROSS} do"
        return masking.not_checked("iterations", why)
    return masking.iterations(curves.get("FGSM", {}), curves.get("PGD", {}), settings.confidence)


def by_epsilon(
    attacked: Mapping[Attack, NDArray[np.bool_]], name: str, settings: RobustnessSettings
) -> dict[float, NDArray[np.bool_]]:
    """Survivors of an attack by epsilon; PGD's at the number of steps that all radii have."""
    steps = 1 if name == "fgsm" else settings.pgd_steps
    return {e: right for (attack, e, n), right in attacked.items() if attack == name and n == steps}


def masking_table(found: Found, settings: RobustnessSettings) -> pd.DataFrame:
    """One row per network and check."""
    rows = [
        {**network.columns(), "check": (values := check.to_dict()).pop("name"), **values}
        for network, survival in found
        for check in masking_checks(survival, settings)
    ]
    return pd.DataFrame(rows)


def jacobian_table(found: Found, confidence: float) -> pd.DataFrame:
    """One row per network: mean norm of the input-output Jacobian, with its Student t interval over images."""
    rows = []
    for network, survival in found:
        assert survival.jacobian is not None
        squared, se = survival.jacobian
        rows.append(
            {
                **network.columns(),
                "n": len(squared),
                **_interval("norm", paired_mean_interval(np.sqrt(squared), confidence), ends=("low", "high")),
                **_interval("mean_square", paired_mean_interval(squared, confidence)),
                "exact": bool((se == 0).all()),
                # Of the mean over images: each image has random vectors of its own.
                "mean_square_estimate_se": float(np.sqrt((se**2).sum()) / len(se)),
            }
        )
    return pd.DataFrame(rows)


def overall_table(found: Found, reference: Survival | None, settings: RobustnessSettings) -> pd.DataFrame:
    """One row per network: selectivity, clean and mean corruption accuracy, mCE, masking verdict."""
    level = settings.confidence
    rows = []
    for network, survival in found:
        names = types_of_mean(list(dict.fromkeys(name for name, _ in survival.corrupted)))
        row: dict[str, Any] = network.columns()
        row |= dict(zip(("mean_si", "si_low", "si_high", "si_null"), network.mean_si, strict=True))
        row |= _interval("clean", wilson(survival.clean.sum(), len(survival.clean), level))
        if names:
            each = _by_image(survival, names)
            row |= {"types": len(names)} | _interval("corrupted", mean_share(each, _count(survival, names), level))
            row |= _interval("relative", _relative(each, survival, level))
            if reference is not None:
                errors, theirs = (_errors(one, names) for one in (survival, reference))
                row |= _interval("mce", corruption_error(errors, theirs, level)[1])
        if survival.attacked:
            row["masking"] = masking.verdict(masking_checks(survival, settings))
        rows.append(row)
    return pd.DataFrame(rows)


def measures(survival: Survival, settings: RobustnessSettings) -> dict[str, NDArray[np.float64]]:
    """What networks are compared by, each a value per image: ``clean``, ``corrupted``, attacks, ``jacobian``."""
    found: dict[str, NDArray[np.float64]] = {"clean": survival.clean.astype(np.float64)}
    names = types_of_mean(list(dict.fromkeys(name for name, _ in survival.corrupted)))
    if names:
        found["corrupted"] = _by_image(survival, names)
    for name in settings.attacks:
        for epsilon, right in by_epsilon(survival.attacked, name, settings).items():
            found[f"{name}@{epsilon:g}"] = right.astype(np.float64)
    if survival.jacobian is not None:
        found["jacobian"] = np.sqrt(survival.jacobian[0])
    return found


def _by_image(survival: Survival, names: Sequence[str]) -> NDArray[np.float64]:
    """Share of the corruptions that each image withstands: mean over severities, then over types."""
    by_type = [
        np.mean([right for (name, _), right in survival.corrupted.items() if name == wanted], axis=0)
        for wanted in names
    ]
    mean: NDArray[np.float64] = np.mean(by_type, axis=0, dtype=np.float64)
    return mean


def _count(survival: Survival, names: Sequence[str]) -> int:
    return sum(name in names for name, _ in survival.corrupted)


def _relative(each: NDArray[np.float64], survival: Survival, confidence: float) -> Interval:
    compare = ratio_of_means if survival.paired else ratio_of_samples
    return compare(each, survival.clean.astype(np.float64), confidence)


def _errors(survival: Survival, names: Sequence[str]) -> NDArray[np.bool_]:
    severities = list(dict.fromkeys(severity for _, severity in survival.corrupted))
    return np.array([[~survival.corrupted[name, severity] for severity in severities] for name in names])


def _interval(name: str, found: Interval, *, ends: tuple[str, str] | None = None) -> dict[str, float]:
    low, high = ends or (f"{name}_low", f"{name}_high")
    return {name: float(found.estimate), low: float(found.low), high: float(found.high)}
