"""What robustness found, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from auditor.api.robustness_result import Robustness

MEASURES = {"clean": "clean accuracy", "corrupted": "mean corruption accuracy", "jacobian": "Jacobian norm"}


def measure_name(measure: str) -> str:
    """Words for a measure: ``pgd@2`` is ``accuracy under PGD at 2/255``."""
    attack, _, epsilon = measure.partition("@")
    return f"accuracy under {attack.upper()} at {epsilon}/255" if epsilon else MEASURES[measure]


def summary_lines(found: Robustness) -> list[str]:
    """Sentences for people: where, how much, whether to trust it."""
    notes, settings = found.notes, found.notes["settings"]
    level = f"{100 * settings['confidence']:g}%"
    lines = [f"{notes['n_images']} images of the score split. {notes['where']}"]
    lines += _sweep(found, level) if found.is_sweep else _single(found, level)
    if settings["attacks"]:
        lines += _masking(found)
        lines.append(
            "Images that are wrong as they are count as wrong under every attack; PGD is judged at its last iterate. "
            "No attack proves robustness: a stronger one may do more."
        )
    if notes["plugin"]:
        lines.append(notes["plugin"])
    return lines


def _single(found: Robustness, level: str) -> list[str]:
    row = found.overall.iloc[0]
    lines = [f"Clean accuracy {_share(row, 'clean')} ({level} interval over images)."]
    if "corrupted" in row:
        line = f"Mean corruption accuracy {_share(row, 'corrupted')} over {int(row['types'])} types"
        line += f", {row['relative']:.3f} [{row['relative_low']:.3f}, {row['relative_high']:.3f}] of clean."
        lines.append(line)
    if "mce" in row and row["mce"] != row["mce"]:
        lines.append(f"Mean corruption error: not defined, {found.notes['reference']} makes no error under some type.")
    elif "mce" in row:
        lines.append(
            f"Mean corruption error in units of {found.notes['reference']}: "
            f"{row['mce']:.3f} [{row['mce_low']:.3f}, {row['mce_high']:.3f}]."
        )
    if not found.jacobian.empty:
        norm = found.jacobian.iloc[0]
        how = "" if norm["exact"] else f", estimated from random projections (standard error of the mean square " \
            f"{norm['mean_square_estimate_se']:.2g} of {norm['mean_square']:.3g})"  # fmt: skip
        lines.append(
            f"Input-output Jacobian: mean norm {norm['norm']:.3g} [{norm['low']:.3g}, {norm['high']:.3g}]{how}."
        )
    return lines


def _sweep(found: Robustness, level: str) -> list[str]:
    lines = []
    table = found.association
    n = int(table["n_networks"].iloc[0])
    for row in table.to_dict("records"):
        if row["measure"] == "clean" or row["rho"] != row["rho"]:
            continue
        line = f"{measure_name(row['measure']).capitalize()} against mean selectivity: rho = {_correlation(row, 'rho')}"
        if row["partial_rho"] == row["partial_rho"]:
            line += f"; at equal clean accuracy {_correlation(row, 'partial_rho')}"
        lines.append(f"{line}.".replace("fgsm", "FGSM").replace("pgd", "PGD"))
    lines.append(
        f"Spearman correlations with {level} intervals over {n} networks, which share their data; their alphas were "
        "chosen, not drawn."
    )
    if "mce" in found.overall and found.overall["mce"].isna().any():
        lines.append(f"Mean corruption error: not defined, {found.notes['reference']} makes no error under some type.")
    elif "mce" in found.overall:
        errors = found.overall["mce"]
        lines.append(
            f"Mean corruption error in units of {found.notes['reference']}: {errors.min():.2f} to {errors.max():.2f}; "
            "each with its interval in overall.csv."
        )
    if not found.matched.empty:
        each = found.matched.drop_duplicates("alpha")
        unmatched = int(each["unmatched"].sum())
        total = int(each["n_networks"].sum())
        lines.append(
            f"At matched clean accuracy: {total - unmatched} of {total} networks have a network of alpha 0 within one "
            "point" + (f"; the other {unmatched} have none and are left out." if unmatched else ".")
        )
        if "n_controls" in each and (each["n_controls"] < each["n_pairs"]).any():
            lines.append("Some share that network, so that their intervals over seeds are too narrow (n_controls).")
    single = (found.alphas["n_seeds"] == 1).any()
    if single:
        lines.append("Alphas with one seed have no interval over trainings; their differences are over images.")
    return lines


def _masking(found: Robustness) -> list[str]:
    failed = found.masking[found.masking["outcome"] == "failed"]
    lines = [
        f"Masking check failed: {row['network']}, {row['check']} ({row['detail']}: {100 * row['change']:+.1f} points "
        f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]). Its robustness to attacks is not established."
        for row in failed.to_dict("records")
    ]
    transfer = found.masking[found.masking["check"] == "transfer"]
    unchecked = int((transfer["outcome"] == "not checked").sum())
    verdicts = found.overall.get("masking", pd.Series(dtype=str))
    if not len(failed):
        lines.append(f"Masking checks: passed by {int((verdicts == 'passed').sum())} of {len(verdicts)} networks.")
    if unchecked:
        lines.append(
            f"Transfer from another network was not checked for {unchecked} of {len(transfer)}: "
            + ("--transfer-from RUN names one." if "pgd" in found.notes["settings"]["attacks"] else "it needs PGD.")
        )
    return lines


def _share(row: pd.Series, name: str) -> str:
    return f"{row[name]:.1%} [{row[f'{name}_low']:.1%}, {row[f'{name}_high']:.1%}]"


def _correlation(row: dict, name: str) -> str:  # type: ignore[type-arg]
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
