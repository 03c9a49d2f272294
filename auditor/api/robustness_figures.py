"""Which figures the results of ``auditor robustness`` have, and what goes into each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from auditor.api.robustness_words import measure_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from auditor.api.robustness_result import Robustness


def figures(found: Robustness) -> list[str]:
    """Names of the figures of some results, the most telling first."""
    names = []
    if not found.corruptions.empty:
        names.append("corruptions")
    if not found.attacks.empty:
        names.append("epsilon")
        if len(_by_steps(found)["PGD"][["steps"]].drop_duplicates()) > 1:
            names.append("steps")
        if found.is_sweep:
            names.append("attacks")
    return names


def draw(found: Robustness, name: str) -> Figure:
    """Draw one of :func:`figures`."""
    if name in ("epsilon", "steps"):
        from auditor.report.robustness import accuracy_against_strength

        curves = _by_epsilon(found) if name == "epsilon" else _by_steps(found)
        return accuracy_against_strength(curves, x=name, chance=found.notes["chance"], note=_note(found, name))
    if found.is_sweep:
        from auditor.report.robustness_sweep import robustness_against_selectivity

        measure = "corrupted" if name == "corruptions" else _attack_measure(found)
        return robustness_against_selectivity(
            _networks(found, measure), label=measure_name(measure), chance=found.notes["chance"],
            note=_correlation(found, measure),
        )  # fmt: skip
    from auditor.report.robustness import accuracy_by_corruption

    row = found.overall.iloc[0]
    return accuracy_by_corruption(
        found.corruptions, found.by_type, clean=(row["clean"], row["clean_low"], row["clean_high"]),
        chance=found.notes["chance"], confidence=found.notes["settings"]["confidence"],
    )  # fmt: skip


def _failed(found: Robustness) -> set[str]:
    masking = found.masking
    return set(masking.loc[masking["outcome"] == "failed", "network"]) if "outcome" in masking else set()


def _by_epsilon(found: Robustness) -> dict[str, pd.DataFrame]:
    settings = found.notes["settings"]
    table = found.attacks
    steps = {"fgsm": 1, "pgd": settings["pgd_steps"]}
    titles = {"fgsm": "FGSM", "pgd": f"PGD, {settings['pgd_steps']} steps"}
    return {
        titles[attack]: _curves(
            found, table[(table["attack"] == attack) & (table["steps"] == steps[attack])], "epsilon"
        )
        for attack in settings["attacks"]
    }


def _by_steps(found: Robustness) -> dict[str, pd.DataFrame]:
    epsilon, table = found.notes["settings"]["step_epsilon"], found.attacks
    return {"PGD": _curves(found, table[(table["attack"] == "pgd") & (table["epsilon"] == epsilon)], "steps")}


def _curves(found: Robustness, table: pd.DataFrame, x: str) -> pd.DataFrame:
    """Add clean accuracy and masking; of a sweep, means over seeds with Student t intervals."""
    from auditor.stats.intervals import paired_mean_interval

    clean = found.overall.set_index("network")["clean"]
    table = table.assign(clean=table["network"].map(clean), failed=table["network"].isin(_failed(found)))
    if not found.is_sweep or table.empty:
        return table
    rows = []
    for (alpha, strength), mine in table.groupby(["alpha", x]):
        interval = paired_mean_interval(mine["accuracy"].to_numpy(), found.notes["settings"]["confidence"])
        rows.append(
            {
                "alpha": alpha, x: strength, "accuracy": float(interval.estimate),
                "low": np.clip(interval.low, 0, 1), "high": np.clip(interval.high, 0, 1),
                "clean": mine["clean"].mean(), "failed": bool(mine["failed"].any()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _note(found: Robustness, name: str) -> str:
    level = f"{100 * found.notes['settings']['confidence']:g} %"
    if not found.is_sweep:
        over = f"Bands: {level} intervals over images."
    elif (found.overall.groupby("alpha").size() == 1).all():
        over = "One network per alpha: no interval over trainings."
    else:
        over = f"Means over seeds; bands: {level} intervals over seeds."
    if name == "steps":
        over += f" Radius {found.notes['settings']['step_epsilon']:g}/255."
    return over


def _attack_measure(found: Robustness) -> str:
    """The attack that networks are compared by: PGD at the radius of the step grid, if it was made."""
    settings = found.notes["settings"]
    attack = "pgd" if "pgd" in settings["attacks"] else settings["attacks"][0]
    radii = sorted(set(found.attacks.loc[found.attacks["attack"] == attack, "epsilon"]))
    return f"{attack}@{min(radii, key=lambda e: abs(e - settings['step_epsilon'])):g}"


def _networks(found: Robustness, measure: str) -> pd.DataFrame:
    overall = found.overall.set_index("network")
    columns = ["alpha", "mean_si", "si_low", "si_high", "si_null", "clean", "clean_low", "clean_high"]
    table = overall[columns].copy()
    if measure == "corrupted":
        table["failed"] = False
        table[["value", "value_low", "value_high"]] = overall[["corrupted", "corrupted_low", "corrupted_high"]]
        return table.reset_index()
    attack, _, epsilon = measure.partition("@")
    steps = 1 if attack == "fgsm" else found.notes["settings"]["pgd_steps"]
    rows = found.attacks.query("attack == @attack and steps == @steps and epsilon == @radius",
                               local_dict={"attack": attack, "steps": steps, "radius": float(epsilon)})  # fmt: skip
    table[["value", "value_low", "value_high"]] = rows.set_index("network")[["accuracy", "low", "high"]]
    table["failed"] = table.index.isin(_failed(found))
    return table.reset_index()


def _correlation(found: Robustness, measure: str) -> str:
    table, level = found.association, f"{100 * found.notes['settings']['confidence']:g} % intervals"
    row = table[table["measure"] == measure].iloc[0]
    if np.isnan(row["rho"]):
        return f"Bars: {level} over images."
    text = f"Against selectivity: rho {row['rho']:.2f} [{row['rho_low']:.2f}, {row['rho_high']:.2f}]"
    if not np.isnan(row["partial_rho"]):
        text += (
            f"; clean accuracy held fixed {row['partial_rho']:.2f} "
            f"[{row['partial_rho_low']:.2f}, {row['partial_rho_high']:.2f}]"
        )
    return f"{text}; {int(row['n_networks'])} networks. Bars: over images. {level}."
