"""Report pages of made-up numbers: an ordinary large one, and one whose every name is hostile."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from auditor.report.curve import ablation_curve
from auditor.report.documents import anchor
from auditor.report.page import (
    ClassResponse,
    Column,
    Fact,
    FigureBlock,
    FileLink,
    Measure,
    Reference,
    ReportPage,
    Thumbnail,
    UnitCard,
    VerdictBlock,
)
from auditor.report.selectivity import selectivity_by_layer
from auditor.report.set_test import set_test
from auditor.report.thumbnails import region, thumbnail

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LAYERS = tuple(f"layer{stage}.{block}.relu@{call}" for stage in (1, 2, 3, 4) for block in (0, 1) for call in (1, 2))
HOSTILE = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "{{7*7}}{% raw %}",
    "</script><script>window.hacked=1</script>",
    "\u202egnihton\u202e right to left",
    "unbroken" * 30,
    "\U0001f9a9\U0001f469\U0001f3fd\u200d\U0001f52c flamingo",
    "</style><svg onload=window.hacked=1>",
    "' onmouseover='window.hacked=1",
    "javascript:window.hacked=1",
    "<!--<script>\u2028]]>",
    "constructor",
)

METHODS = (
    "Responses of all units were averaged over space. Class selectivity is (μmax − μrest) / (μmax + μrest), "
    "with a null from 200 shuffles of the labels and bootstrap intervals over images (seed 0).",
    "Units were chosen on one half of the images and silenced on the other.",
)


def units(n=4_000, classes=CLASSES):
    rng = np.random.default_rng(0)
    layer = [LAYERS[i * len(LAYERS) // n] for i in range(n)]
    index = rng.beta(2, 5, n)
    index[::97] = np.nan
    loss = rng.normal(0.002, 0.01, n) * (1 + 3 * np.nan_to_num(index))
    return pd.DataFrame(
        {
            "unit_id": [f"{name}:{i}" for i, name in enumerate(layer)],
            "site": layer,
            "preferred": rng.choice(classes, n),
            "index": index,
            "index_low": index - 0.03,
            "index_high": index + 0.03,
            "excess": index - 0.05,
            "q": rng.beta(0.4, 3, n) ** 3,
            "significant": pd.array(rng.random(n) < 0.6, dtype="boolean"),
            "loss": loss,
            "loss_low": loss - 0.004,
            "loss_high": loss + 0.004,
        }
    )


COLUMNS = (
    Column("unit_id", "Unit", help="Layer, call of the layer, and number of the channel."),
    Column("site", "Layer", choice=True, help="Where the response is read."),
    Column("preferred", "Preferred class", "class", choice=True, help="Class of the largest mean response."),
    Column(
        "index", "Selectivity", "number", low="index_low", high="index_high", help="(μmax − μrest) / (μmax + μrest)."
    ),
    Column("excess", "Above the null", "number", help="Index less its mean over shuffled labels."),
    Column("q", "q", "number", help="p-value against shuffled labels, Benjamini-Hochberg over all units."),
    Column("significant", "Significant", "flag", choice=True, help="q is at most 0.05."),
    Column(
        "loss",
        "Loss change",
        "number",
        unit="nats",
        low="loss_low",
        high="loss_high",
        help="Cross-entropy with the unit silenced less that of the intact network.",
    ),
)


def svg(figure):
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def photo(rng, size=224):
    """Smooth colours with some texture, as an image has, uint8 (size, size, 3)."""
    y, x = np.mgrid[:size, :size] / size
    bands = []
    for _ in range(3):
        fx, fy, phase = rng.uniform(0.3, 2.5, 3)
        bands.append(0.5 + 0.35 * np.sin(2 * np.pi * (fx * x + fy * y + phase)))
    blob = np.exp(-((x - rng.uniform(0.2, 0.8)) ** 2 + (y - rng.uniform(0.2, 0.8)) ** 2) / 0.02)[..., None]
    image = np.stack(bands, -1) * (1 - 0.7 * blob) + rng.normal(0, 0.03, (size, size, 1))
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def thumbs(rng, count, classes, ids, *, regions, size=224):
    made = []
    for i in range(count):
        image = photo(rng, size)
        uri = region(image, rng.gamma(1.0, 1.0, (7, 7)) ** 2) if regions else None
        name, sample = classes[int(rng.integers(len(classes)))], ids[int(rng.integers(len(ids)))]
        made.append(Thumbnail(thumbnail(image), name, sample, float(9 - i + rng.random()), uri))
    return made


def card(unit_id, rng, classes=CLASSES, ids=("test/00417.png", "test/09991.png"), n_images=9, size=224):
    means = rng.gamma(2, 0.3, len(classes))
    best = int(means.argmax())
    return UnitCard(
        unit_id,
        anchor(unit_id),
        "Third of 4,000 by selectivity, and among the 10 whose silencing changes the loss most.",
        facts=[
            Fact("Selectivity index", "0.712 [0.681, 0.744]"),
            Fact("Under shuffled labels", "0.052 [0.031, 0.084]"),
            Fact("q", "0.0004"),
            Fact("Preferred class", classes[best]),
            Fact("Fires on", "31.4 % [30.5, 32.3] of 10,000 images"),
        ],
        importance=[
            Measure("Change of the loss", 0.0312, 0.0251, 0.0378, "nats", 4),
            Measure("Change of accuracy", -0.42, -0.61, -0.22, "points", 2),
            Measure("Change of accuracy, preferred class", -3.1, -4.4, -1.9, "points", 1),
            Measure("Divergence from the intact output", 0.0121, 0.0101, 0.0143, "nats", 4),
            Measure("Integrated gradients", 1.82, unit="logits", digits=2),
        ],
        tuning=[
            ClassResponse(name, float(mean), float(mean / 12), i == best)
            for i, (name, mean) in enumerate(zip(classes, means, strict=True))
        ],
        top=thumbs(rng, n_images, classes, ids, regions=True, size=size),
        random=thumbs(rng, min(6, n_images), classes, ids, regions=False, size=size),
    )


def verdicts():
    limits = (
        "One network and one data set; nothing follows for others.",
        "Silencing takes a unit out of the range that later layers were trained on.",
    )
    return [
        VerdictBlock(
            "necessity",
            "Necessity of the selective set",
            "Silencing the 100 most selective units hurts more than silencing matched random sets.",
            "supported",
            "Silencing the 100 most selective units costs 8.1 points of accuracy more than silencing matched random "
            "units, beyond the margin of 1 point that was declared.",
            "−8.1 points [−9.6, −6.7]",
            "−1 point",
            "0.005, one-sided",
            "200 random sets, 10,000 images",
            "A mean difference above −1 point, or more than 10 of the 200 random sets doing as much damage.",
            limits,
        ),
        VerdictBlock(
            "prediction",
            "Selectivity predicts importance",
            "Within layers, more selective units change the loss more when they are silenced.",
            "refuted",
            "Within layers, selectivity and importance are not positively related: the mean rank correlation lies "
            "below the declared margin.",
            "ρ = 0.02 [−0.03, 0.06]",
            "ρ ≥ 0.1",
            "0.47",
            "16 layers, 4,000 units",
            "A mean rank correlation whose whole interval lies above 0.1.",
            limits[:1],
        ),
        VerdictBlock(
            "sufficiency",
            "Sufficiency of the selective set",
            "Keeping the most selective units alone preserves more accuracy than keeping random ones.",
            "inconclusive",
            "Keeping the selective units alone gives 1.2 points more accuracy, but the interval holds both zero and "
            "the margin.",
            "1.2 points [−1.4, 3.9]",
            "1 point",
            None,
            "40 random sets",
            "An interval that lies below 1 point as a whole.",
            limits[1:],
            "About 310 random sets for an interval of half the width of the margin.",
        ),
    ]


def figures(count=10):
    rng = np.random.default_rng(1)
    table = units().assign(dead=False, index_null=lambda frame: frame["index"] * 0.2)
    n = [0, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000]
    curve = pd.concat(
        pd.DataFrame({"order": order, "n_silenced": n, "accuracy": 0.1 + 0.8 * np.exp(-np.array(n) / scale)})
        for order, scale in (("selective first", 300), ("least selective first", 1500), ("random", 800))
    )
    curve = curve.assign(low=curve["accuracy"] - 0.02, high=curve["accuracy"] + 0.02)
    drawn = [
        ("layers", "Selectivity by layer", selectivity_by_layer(table, metric_label="class selectivity index")),
        ("curve", "Accuracy as units are silenced", ablation_curve(curve, chance=0.1)),
        (
            "necessity",
            "The selected set against matched random sets",
            set_test(
                rng.normal(-2, 1, 200), -8.1, -4, 0, 0.005, label="change of accuracy (percentage points)", n_units=100
            ),
        ),
    ]
    text = (
        "Dots are units, bars the mean of a layer with its 95 % interval; grey marks what shuffled labels give. Read "
        "it as how far a layer's units lie above what chance alone would produce."
    )
    blocks = []
    for i in range(count):
        key, title, figure = drawn[i % len(drawn)]
        files = [FileLink(kind.upper(), f"figures/{key}.{kind}") for kind in ("svg", "png", "pdf")]
        blocks.append(FigureBlock(f"{key}-{i}", title, svg(figure), text, f"{title}, described.", files))
    return blocks


def ordinary(n_units=4_000, n_cards=24, n_figures=10):
    rng = np.random.default_rng(2)
    table = units(n_units)
    return ReportPage(
        title="Are the selective units of resnet18 the ones that matter?",
        subtitle="resnet18 on CIFAR-10 · audited on 10,000 test images that did not choose the units",
        answer="As a set, yes; one by one, no. Silencing the 100 most selective units costs 8.1 points [6.7, 9.6] of "
        "accuracy more than silencing matched random units, but within a layer a unit's selectivity does not tell how "
        "much it matters: mean rank correlation 0.02 [−0.03, 0.06].",
        facts=[
            Fact("Model", "resnet18 (torchvision)"),
            Fact("Data", "CIFAR-10, test"),
            Fact("Images", "10,000"),
            Fact("Units", "4,000 in 16 layers"),
            Fact("Accuracy", "94.2 % [93.7, 94.6]"),
            Fact("Seed", "0"),
        ],
        verdicts=verdicts(),
        figures=figures(n_figures),
        units=table,
        columns=COLUMNS,
        cards=[card(unit, rng) for unit in table["unit_id"].iloc[5 :: max(1, n_units // 24)][:n_cards]],
        methods=METHODS,
        references=[
            Reference(
                "Morcos, Barrett, Rabinowitz & Botvinick (2018). On the importance of single directions for "
                "generalization. ICLR.",
                "https://arxiv.org/abs/1803.06959",
            ),
            Reference("Okabe & Ito (2008). Color universal design."),
        ],
        files=[FileLink("All units (CSV)", "units.csv"), FileLink("All units (Parquet)", "units.parquet")],
        footer="Made by auditor 0.1.0.",
    )


def hostile():
    """A page in which every text that comes from a model or a data set is hostile."""
    rng = np.random.default_rng(3)
    table = units(120, HOSTILE)
    table["unit_id"] = [f"{HOSTILE[i % len(HOSTILE)]}:{i}" for i in range(len(table))]
    table["site"] = [HOSTILE[i % len(HOSTILE)] for i in range(len(table))]
    names = list(HOSTILE)
    bad = ClassResponse("no mean", float("nan"), 1.0)
    cards = [card(unit, rng, names, names, 6, 32) for unit in table["unit_id"][: len(names)]]
    text = " ".join(names)
    file = FileLink(names[1], names[9])
    drawn = ablation_curve(
        pd.DataFrame({"order": names, "n_silenced": 1, "accuracy": 0.5, "low": 0.4, "high": 0.6}), chance=0.1
    )
    drawn.suptitle(names[0])
    return ReportPage(
        title=names[3],
        subtitle=text,
        answer=text,
        units=table,
        columns=[*COLUMNS[:3], Column("index", names[1], "number", unit=names[0], help=text, choice=False)],
        facts=[Fact(name, name) for name in names],
        verdicts=[VerdictBlock("v", text, text, "refuted", text, text, text, text, text, text, names, text)],
        figures=[FigureBlock("f", text, svg(drawn), text, text, [file])],
        cards=[*cards, UnitCard("plain", "unit-plain", text, tuning=[bad])],
        methods=names,
        references=[Reference(text, 'https://example.org/"><script>window.hacked=1</script>')],
        files=[file],
        footer=text,
    )
