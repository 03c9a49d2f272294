"""The methods paragraph of a report, ready for a paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.api.selection import main_metric
from auditor.registry import registry

if TYPE_CHECKING:
    from auditor.api.audit_result import Audit

REFERENCES = (
    ("Amjad, R. A., Liu, K., Geiger, B. C. (2018). Understanding neural networks and individual neuron importance via "
     "information-ordered cumulative ablation.", "https://arxiv.org/abs/1804.06679"),
    ("Benjamini, Y., Hochberg, Y. (1995). Controlling the false discovery rate. Journal of the Royal Statistical "
     "Society B 57.", None),
    ("Kokhlikyan, N., et al. (2020). Captum: a unified and generic model interpretability library for PyTorch.",
     "https://arxiv.org/abs/2009.07896"),
    ("Lakens, D. (2017). Equivalence tests. Social Psychological and Personality Science 8.", None),
    ("Leavitt, M. L., Morcos, A. S. (2020). Selectivity considered harmful: evaluating the causal impact of class "
     "selectivity in DNNs.", "https://arxiv.org/abs/2003.01262"),
    ("Leavitt, M. L., Morcos, A. S. (2020). Towards falsifiable interpretability research.",
     "https://arxiv.org/abs/2010.12016"),
    ("Morcos, A. S., Barrett, D. G. T., Rabinowitz, N. C., Botvinick, M. (2018). On the importance of single "
     "directions for generalization.", "https://arxiv.org/abs/1803.06959"),
    ("Zhou, B., Sun, Y., Bau, D., Torralba, A. (2018). Revisiting the importance of individual units in CNNs via "
     "ablation.", "https://arxiv.org/abs/1806.02891"),
)  # fmt: skip
_COVARIATES = {"mean": "mean activation", "firing_rate": "firing rate", "output_norm": "norm of the reading weights"}


def methods(audit: Audit) -> list[str]:
    """Paragraphs with the exact settings and versions of an audit."""
    run, d, results = audit.run, audit.declaration, audit.results
    identity, versions = run.manifest.identity, audit.manifest.provenance["versions"]
    selectivity = identity["selectivity"]
    tested = {verdict.key for verdict in audit.verdicts}
    level = f"{100 * (1 - d['alpha']):g} %"
    paragraphs = [
        f"We audited {identity['model']['spec']} on {identity['data']['name']} ({len(run.classes)} classes) with "
        f"auditor {versions.get('auditor')}, PyTorch {versions.get('torch')}, timm {versions.get('timm')}, torchvision "
        f"{versions.get('torchvision')}, Captum {versions.get('captum')}, NumPy {versions.get('numpy')} and SciPy "
        f"{versions.get('scipy')}. A unit is a channel (or a feature of a token) at one call of a layer; its response "
        f"is the mean over positions. {results['n_units']:,} units of {len(run.sites)} layers were profiled.",
        "Units were ranked by "
        f"{registry().metric(main_metric(run.layers)).label} above its mean under {selectivity['shuffles']:,} label "
        f"permutations ({d['by']}), on {int(run.selectivity['n_images'].iloc[0]):,} images of the select split; units "
        f"with a Benjamini-Hochberg q of at most {d['q']:g} could be chosen. Everything below was measured on "
        f"{results['n_images']:,} images of the score split, which chose nothing. Hypotheses, margins, level "
        f"({d['alpha']:g}), set sizes and seeds (seed {d['seed']}) were written to disk before the first ablation "
        f"({audit.manifest.provenance['created']}, sha256 {audit.manifest.digest()}).",
        f"Responses were replaced ({d['edit']}) by the {results['engine']['name']} engine in "
        f"{results['engine']['dtype']}{_checked(audit)}. Importance of a unit is the mean over images of the change of "
        "the cross-entropy when it alone is replaced; the drop of the label's logit, the Kullback-Leibler divergence "
        "from the intact output and the change of accuracy were measured with it.",
    ]  # fmt: skip
    if {"necessity", "sufficiency"} & tested:
        over = "of every layer" if d["select_over"] == "layers" else "of the network"
        text = (
            f"The most selective {', '.join(f'{share:.1%}' for share in d['shares'])} of the units {over} were "
            f"silenced together and compared with {d['draws']} random sets, fixed for all images, nested over the "
            f"sizes and matched within layers on {', '.join(_COVARIATES[name] for name in d['match'])} (each stand-in "
            f"drawn from the {d['neighbours']} nearest in rank, pool: {d['pool']}), and with the least selective units "
            "of the same layers. The statistic is the mean over sizes; p = (r + 1) / (n + 1) over the random sets "
            "shifted by the margin."
        )
        if "sufficiency" in tested:
            kept = ", ".join(f"{share:.0%}" for share in d["keep_shares"])
            text += f" Likewise only the most selective {kept} were kept ({d['keep_draws']} random sets)."
        paragraphs.append(text)
    if {"correlation", "metrics"} & tested:
        paragraphs.append(
            "Within each layer we computed Spearman's correlation of selectivity with importance, and the partial one "
            f"given the ranks of mean activation and firing rate ({d['resamples']:,} resamples of units and of images; "
            "Benjamini-Hochberg over layers), and pooled them over layers by a random-effects model on Fisher's z "
            "(Paule-Mandel variance, Hartung-Knapp interval)."
        )
    paragraphs.append(
        f"Intervals are {level}. A claim is called supported where the whole interval lies above its margin and p is "
        f"at most {d['alpha']:g}, refuted where it lies below, and inconclusive otherwise; the verdicts "
        "name the margins."
    )
    return paragraphs


def _checked(audit: Audit) -> str:
    check = audit.results["engine"]["checks"].get("captum")
    if not check:
        return ""
    return (
        f", which differed from Captum's LayerFeatureAblation by at most {check['difference']:.1e} logits on "
        f"{check['n_units']} random units and {check['n_images']} images (largest effect {check['effect']:.2g})"
    )
