"""The verb ``audit`` end to end on a small trained network, against forward passes with hooks and scipy."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import auditor
from auditor.api import audit as verb
from auditor.api.audit import audit
from auditor.api.audit_plan import nested_sets
from auditor.api.audit_result import REPORT, Audit
from auditor.api.audit_settings import AuditSettings
from auditor.api.forward import Execution
from auditor.causal import Outcome
from auditor.errors import AuditorError, DataError, ModelError, OptionError, RunError, UnknownNameError
from auditor.models.preprocessing import Preprocessing
from auditor.store.blocks import BlockCache

SETTINGS = AuditSettings(
    draws=200, keep_draws=20, resamples=200, shares=(0.1, 0.2), keep_shares=(0.5, 0.8), limit=80, check=1
)
QUICK = replace(SETTINGS, hypotheses=("necessity", "correlation"), shares=(0.2,), limit=30, check=0)
KEYS = ["necessity", "correlation", "own_class", "sufficiency", "metrics", "controls"]
SITES = ("1", "3", "5")


def copied(run: auditor.Run, folder: Path) -> auditor.Run:
    shutil.copytree(run.path, folder / run.name, ignore=shutil.ignore_patterns("ablations", "audits"))
    return auditor.Run.open(run.name, runs=folder)


@pytest.fixture(scope="module")
def audited(shared_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """Everything, with figures and report; read only."""
    run = copied(auditor.Run.open("base", runs=shared_runs), tmp_path_factory.mktemp("audited"))
    return audit(run, settings=SETTINGS, device="cpu")


@pytest.fixture
def run(base: auditor.Run, tmp_path: Path) -> auditor.Run:
    return copied(base, tmp_path)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out figures and report, which take most of the time."""
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _: [])
    monkeypatch.setattr(Audit, "save_figures", lambda _: [])
    monkeypatch.setattr(Audit, "write_report", lambda _, **__: None)


class ByHand:
    """Accuracy and losses on the score split with units silenced by hooks that know nothing of the package."""

    def __init__(self, run: auditor.Run, limit: int | None) -> None:
        data = run.data() if limit is None else run.data().limited(limit)
        prepared = run.model(Execution(device="cpu"))
        self.module, transform = prepared.module.eval(), prepared.preprocessing.build()
        rows = data.splits["score"]
        self.images = torch.stack([transform(data.read(int(row))) for row in rows])
        self.labels = data.labels[rows]

    @torch.no_grad()
    def logits(self, silenced: pd.DataFrame) -> torch.Tensor:
        handles = []
        for site, own in silenced.groupby("site"):
            numbers = own["unit"].tolist()

            def hook(_module: Any, _args: Any, output: torch.Tensor, numbers: list[int] = numbers) -> torch.Tensor:
                output = output.clone()
                output[:, numbers] = 0
                return output

            handles.append(self.module.get_submodule(str(site)).register_forward_hook(hook))
        try:
            return self.module(self.images.clone())
        finally:
            for handle in handles:
                handle.remove()

    def accuracy(self, silenced: pd.DataFrame) -> float:
        return float((self.logits(silenced).argmax(1).numpy() == self.labels).mean())

    def loss(self, silenced: pd.DataFrame) -> np.ndarray:
        labels = torch.as_tensor(self.labels)
        return torch.nn.functional.cross_entropy(self.logits(silenced).double(), labels, reduction="none").numpy()


@pytest.fixture(scope="module")
def by_hand(audited: Audit) -> ByHand:
    return ByHand(audited.run, SETTINGS.limit)


def per_image(found: Audit) -> dict[str, np.ndarray]:
    cache = BlockCache(found.path / "per_image")
    blocks = [cache.get(key) for key in cache.keys()]  # noqa: SIM118
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    order = np.argsort(joined["row"])
    return {name: values[order] for name, values in joined.items()}


@pytest.mark.slow
def test_every_hypothesis_has_a_verdict(audited: Audit) -> None:
    assert [verdict.key for verdict in audited.verdicts] == KEYS
    for verdict in audited.verdicts:
        assert verdict.outcome in Outcome
        assert verdict.sentence.endswith(".")
        assert verdict.reversed_by
        assert "nan" not in verdict.sentence
    assert audited.answer.endswith(
        f"(necessity {audited.verdicts[0].outcome}; correlation {audited.verdicts[1].outcome})."
    )
    assert audited.summary().count("\n") == len(KEYS)


@pytest.mark.slow
def test_tables_figures_and_report_are_there(audited: Audit) -> None:
    tables = {path.stem for path in audited.path.glob("*.csv")}
    assert tables == {
        "controls", "correlations", "correlations_pooled", "metric_agreement", "metrics", "necessity",
        "necessity_curve", "own_class", "own_class_units", "reliability", "sufficiency", "sufficiency_curve", "units",
    }  # fmt: skip
    for name in tables:
        assert len(audited.table(name)) > 0
    figures = {path.stem for path in (audited.path / "figures").iterdir()}
    assert figures == {drawing.key for drawing in audited.drawings()}
    assert figures == {
        "selectivity", "necessity", "density", "correlations", "own_class", "sufficiency", "metrics",
        "metric_agreement", "reliability",
    }  # fmt: skip
    for name in figures:
        for kind in ("png", "svg", "pdf"):
            assert (audited.path / "figures" / f"{name}.{kind}").stat().st_size > 1000
    page = (audited.run.path / REPORT).read_text(encoding="utf-8")
    for verdict in audited.verdicts:
        assert verdict.title in page
        assert verdict.reversed_by.split("(")[0].strip() in page.replace("&#39;", "'")
    assert audited.manifest.provenance["created"] in page
    assert audited.manifest.digest()[:16] in page
    assert not list(audited.path.rglob("*.tmp"))


@pytest.mark.slow
def test_the_result_opens_again_and_renders(audited: Audit) -> None:
    again = Audit.open(audited.run)
    assert again.path == audited.path
    assert Audit.open(audited.run, audited.path.name).verdicts == again.verdicts
    frame = again.to_frame()
    assert frame["hypothesis"].tolist() == [verdict.title for verdict in audited.verdicts]
    assert frame["outcome"].isin(list(Outcome)).all()
    html = again._repr_html_()
    assert all(verdict.title in html for verdict in audited.verdicts)
    document = again.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False))["manifest"]["digest"] == audited.manifest.digest()
    assert len(document["units"]) == 52
    assert again.plot("necessity").axes
    for name, call in (("necesity", again.plot), ("unit", again.table)):
        with pytest.raises(UnknownNameError, match="closest"):
            call(name)
    with pytest.raises(UnknownNameError):
        Audit.open(audited.run, "audit-0")


@pytest.mark.slow
def test_set_effects_are_those_of_hooks_for_every_size(audited: Audit, by_hand: ByHand) -> None:
    units = audited.units
    intact = by_hand.accuracy(units.head(0))
    assert audited.results["accuracy"]["estimate"] == pytest.approx(intact)
    assert audited.results["n_images"] == len(by_hand.labels)
    chosen = units[units["chosen"]]
    curve = audited.table("necessity_curve")
    assert curve["n_units"].tolist() == audited.verdicts[0].details["counts"] == [5, len(chosen)]
    for share, row in zip(SETTINGS.shares, curve.to_dict("records"), strict=True):
        # Top of each layer among the significant, by the unit table alone.
        top, low = [], []
        for site in SITES:
            own = units[units["site"] == site]
            count = int(np.floor(share * len(own) + 0.5))
            top.append(own[own["index_q"] <= 0.05].nlargest(count, "index_excess"))
            low.append(own[~own["dead"]].nsmallest(count, "index_excess"))
        assert row["n_units"] == sum(map(len, top))
        assert row["selected"] == pytest.approx(100 * (intact - by_hand.accuracy(pd.concat(top))))
        assert row["least"] == pytest.approx(100 * (intact - by_hand.accuracy(pd.concat(low))))
    # A few of the random draws, and their mean over all.
    candidates = np.where(units["index_q"] <= 0.05, units["index_excess"], np.nan)
    sets = nested_sets(units, candidates, units["index_excess"].to_numpy(), units[["mean"]].to_numpy(), SETTINGS)
    lost = [
        100 * (intact - by_hand.accuracy(units.iloc[drawn[: sets.counts[0]]])) for drawn in sets.matched.sets.tolist()
    ]
    assert curve["random"].iloc[0] == pytest.approx(np.mean(lost))
    assert [curve["random_low"].iloc[0], curve["random_high"].iloc[0]] == pytest.approx(
        np.quantile(lost, [0.025, 0.975])
    )


@pytest.mark.slow
def test_necessity_is_the_difference_of_areas(audited: Audit) -> None:
    verdict, curve = audited.verdicts[0], audited.table("necessity_curve")
    against = {
        "extra cost over matched random sets": curve["random"],
        "extra cost over the least selective units": curve["least"],
    }[verdict.details["decided_by"]]
    assert verdict.effect == pytest.approx(float((curve["selected"] - against).mean()))
    assert verdict.margin == 1.0  # one point
    assert verdict.low < verdict.effect < verdict.high


@pytest.mark.slow
def test_sufficiency_is_that_of_hooks(audited: Audit, by_hand: ByHand) -> None:
    units = audited.units
    curve = audited.table("sufficiency_curve")
    intact = by_hand.accuracy(units.head(0))
    for share, row in zip(SETTINGS.keep_shares, curve.to_dict("records"), strict=True):
        kept = []
        for site in SITES:
            own = units[units["site"] == site]
            scored = own.dropna(subset="index_excess")
            kept.append(scored.nlargest(int(np.floor(share * len(own) + 0.5)), "index_excess"))
        silenced = units.drop(pd.concat(kept).index)
        assert row["n_units"] == len(units) - len(silenced)
        assert row["selected"] == pytest.approx(100 * (intact - by_hand.accuracy(silenced)))


@pytest.mark.slow
def test_single_units_are_those_of_hooks(audited: Audit, by_hand: ByHand) -> None:
    units, effects = audited.units, per_image(audited)
    before = by_hand.loss(units.head(0))
    for row in (0, 13, 30, 51):
        change = by_hand.loss(units.iloc[[row]]) - before
        np.testing.assert_allclose(effects["loss_change"][row], change, atol=2e-5)
        assert units["loss_change"].iloc[row] == pytest.approx(change.mean(), abs=1e-5)


@pytest.mark.slow
def test_correlations_are_scipys_by_layer(audited: Audit) -> None:
    units, effects = audited.units, per_image(audited)
    importance = effects["loss_change"].mean(1, dtype=np.float64)
    table = audited.table("correlations")
    table = table[table["importance"] == "loss_change"].set_index("site")
    assert list(table.index) == list(SITES)
    z, weights = [], []
    for site in SITES:
        own = (units["site"] == site).to_numpy() & units["index_excess"].notna().to_numpy()
        rho = stats.spearmanr(units["index_excess"][own], importance[own]).statistic
        assert table.loc[site, "rho"] == pytest.approx(rho)
        assert table.loc[site, "n_units"] == own.sum()
        z.append(np.arctanh(rho))
        weights.append((own.sum() - 3) / (1 + rho**2 / 2))
    pooled = audited.verdicts[1].details["pooled"]
    if pooled["tau2"] == 0:
        assert pooled["mean"] == pytest.approx(np.tanh(np.average(z, weights=weights)))
    # The interval of the verdict is no narrower than that over layers.
    assert audited.verdicts[1].low <= pooled["low"] or audited.verdicts[1].details["decided_by"].startswith("partial")


@pytest.mark.slow
def test_own_class_damage_is_the_mann_whitney_statistic(audited: Audit, by_hand: ByHand) -> None:
    units, effects = audited.units, per_image(audited)["loss_change"]
    table = audited.table("own_class_units")
    assert table["unit_id"].tolist() == units["unit_id"].tolist()
    for row in (2, 20, 40):
        if pd.isna(units["index_excess"].iloc[row]):
            continue
        own = by_hand.labels == int(units["preferred"].iloc[row])
        found = stats.mannwhitneyu(effects[row][own], effects[row][~own]).statistic / (own.sum() * (~own).sum())
        assert table["superiority"].iloc[row] == pytest.approx(found)
    overall = audited.verdicts[2].details["overall"]
    assert audited.verdicts[2].effect == pytest.approx(overall["excess"] - overall["excess_null_mean"])
    assert overall["excess"] == pytest.approx(table["superiority"].mean() - 0.5)


@pytest.mark.slow
def test_a_second_call_shows_what_is_there(audited: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "measure", lambda *_: pytest.fail("measured again"))
    again = audit(auditor.Run.open(audited.run.name, runs=audited.run.path.parent), settings=SETTINGS, device="cpu")
    assert again.path == audited.path


class StopError(Exception):
    pass


def test_the_declaration_is_on_disk_before_anything_is_ablated(
    run: auditor.Run, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def look(_run: Any, _data: Any, settings: Any, _execution: Any, folder: Path, _reporter: Any) -> None:
        seen.append(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
        assert not (folder / "per_image").exists()
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(verb, "measure", look)
        with pytest.raises(StopError):
            audit(run, settings=QUICK, device="cpu")
        with pytest.raises(RunError, match="no finished audit"):
            Audit.open(run)
    (declared,) = seen
    assert declared["identity"]["declaration"] == QUICK.to_dict()
    assert declared["identity"]["run"] == run.manifest.digest()
    assert declared["complete"] is False
    assert declared["provenance"]["created"]
    # As if it had been declared long ago: a later call keeps that.
    path = next(run.path.glob("audits/*/manifest.json"))
    declared["provenance"]["created"] = "2020-01-01T00:00:00+00:00"
    path.write_text(json.dumps(declared), encoding="utf-8")
    result = audit(run, settings=QUICK, device="cpu")
    assert result.path == path.parent
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["complete"] is True
    assert kept["provenance"]["created"] == "2020-01-01T00:00:00+00:00"
    assert kept["digest"] == declared["digest"]


def contents(found: Audit) -> dict[str, bytes]:
    names = [path for path in found.path.iterdir() if path.suffix in (".csv", ".json") and path.stem != "manifest"]
    return {path.name: path.read_bytes() for path in names}


def test_the_seed_decides_everything(base: auditor.Run, plain: None, tmp_path: Path) -> None:
    settings = replace(QUICK, hypotheses=(*QUICK.hypotheses, "own_class", "controls"))
    first, second = (audit(copied(base, tmp_path / name), settings=settings, device="cpu") for name in "ab")
    assert first.run.path != second.run.path
    assert sorted(contents(first)) == sorted(contents(second))
    for name, content in contents(first).items():
        assert contents(second)[name] == content, name
    other = audit(first.run, settings=replace(settings, seed=1), device="cpu")
    assert other.path != first.path
    assert other.table("necessity_curve")["random"].tolist() != first.table("necessity_curve")["random"].tolist()
    assert other.table("necessity_curve")["selected"].tolist() == first.table("necessity_curve")["selected"].tolist()


@pytest.mark.parametrize("edit", ["mean", "resample"])
def test_other_edits_and_the_loss(run: auditor.Run, plain: None, edit: str) -> None:
    found = audit(run, settings=replace(QUICK, edit=edit, measure="loss"), device="cpu")
    assert found.verdicts[0].unit == "nats of loss"
    assert found.verdicts[0].margin == QUICK.margins.loss
    if edit == "mean":
        by_hand = ByHand(run, QUICK.limit)
        chosen = found.units[found.units["chosen"]]
        means = {site: own.set_index("unit")["mean"] for site, own in chosen.groupby("site")}
        handles = []
        for site, values in means.items():

            def hook(_m: Any, _a: Any, output: torch.Tensor, values: pd.Series = values) -> torch.Tensor:
                output = output.clone()
                output[:, values.index.to_numpy()] = torch.tensor(values.to_list())[:, None, None]
                return output

            handles.append(by_hand.module.get_submodule(site).register_forward_hook(hook))
        after = by_hand.loss(chosen.head(0))
        for handle in handles:
            handle.remove()
        change = (after - by_hand.loss(chosen.head(0))).mean()
        assert found.table("necessity_curve")["selected"].iloc[-1] == pytest.approx(change, abs=1e-4)


def test_units_that_are_mixed_have_no_output_weights(run: auditor.Run, plain: None) -> None:
    # The last layer is pooled to 2 x 2 and flattened: four inputs of the readout for each unit.
    with pytest.raises(ModelError, match="units of 5 are mixed") as caught:
        audit(run, settings=replace(QUICK, match=("mean", "output_norm")), device="cpu")
    assert "Match on mean and firing_rate" in str(caught.value)


def test_rankings_that_the_run_does_not_have_are_refused(run: auditor.Run) -> None:
    with pytest.raises(UnknownNameError, match="ranking") as caught:
        audit(run, settings=replace(QUICK, by="dprim"), device="cpu")
    assert "closest: dprime" in str(caught.value)
    assert not (run.path / "audits").exists()


def test_arguments_that_make_no_sense_are_refused(run: auditor.Run) -> None:
    for options, error in (
        ({"layers": "blocks"}, "option of a new profile"),
        ({"intervene": True, "alphas": (0.0,)}, "another alpha than 0"),
        ({"intervene": True, "seeds": 0}, "seeds must be at least 1"),
        ({"settings": replace(QUICK, hypotheses=("intervention",))}, "no fine-tuned networks"),
    ):
        with pytest.raises(OptionError, match=error):
            audit(run, **{"settings": QUICK, "device": "cpu", **options})
    assert not (run.path / "audits").exists()


@pytest.mark.parametrize("what", ["outputs", "splits"])
def test_runs_that_cannot_be_tested_are_refused_before_any_work(
    factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(verb, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _: [])
    options: dict[str, Any] = {"weights": "none", "shuffles": 199, "bootstraps": 100, "limit": 40, "runs": tmp_path}
    expected: type[AuditorError]
    if what == "outputs":
        import factories as models

        seven = tmp_path / "seven.pt"
        torch.save(models.small_cnn(7).state_dict(), seven)
        run = auditor.profile("factories:small_cnn", checkpoint=seven, **{**options, "weights": None})
        expected, text = ModelError, "outputs are not the classes"
    else:
        run = auditor.profile(factories, fractions=(0.5, 0.5, 0.0), **options)
        expected, text = DataError, "no score split"
    with pytest.raises(expected, match=text):
        audit(run, settings=QUICK, device="cpu")
    assert not (run.path / "audits").exists()


def test_names_that_are_markup_stay_text(run: auditor.Run, plain: None) -> None:
    found = audit(run, settings=QUICK, device="cpu")
    path = found.path / "verdicts.json"
    verdicts = json.loads(path.read_text(encoding="utf-8"))
    verdicts[0]["sentence"] = "<script>alert(1)</script>"
    path.write_text(json.dumps(verdicts), encoding="utf-8")
    html = Audit.open(run)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


class Elements(HTMLParser):
    """Counts what a browser would take for elements and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)


HOSTILE = ("<script>alert(1)</script>", "</title><img src=x onerror=alert(2)>", 'R&D "quoted"')


@pytest.mark.slow
def test_a_plain_network_matches_on_output_weights_and_hostile_names_do_no_harm(
    tiny_cnn: torch.nn.Module, tiny_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _: [])
    monkeypatch.setattr(Audit, "save_figures", lambda _: [])
    data = replace(tiny_data, classes=HOSTILE)
    run = auditor.profile(
        tiny_cnn, data=data, shuffles=199, bootstraps=100, runs=tmp_path,
        preprocessing=Preprocessing((3, 16, 16), (16,), mean=(0.5,) * 3, std=(0.5,) * 3),
    )  # fmt: skip
    settings = replace(
        SETTINGS, match=("mean", "output_norm"), q=0.9, limit=None, shares=(0.3,), hypotheses=("necessity", "own_class")
    )
    found = audit(run, settings=settings, device="cpu")
    assert [verdict.key for verdict in found.verdicts] == ["necessity", "own_class"]
    smds = found.verdicts[0].details["matching"]["smds"]
    assert len(smds) == 2
    page = (run.path / REPORT).read_text(encoding="utf-8")
    seen = Elements()
    seen.feed(page)
    assert {"html", "title", "table", "script", "img"} <= seen.tags.keys()
    assert not [key for key in seen.attributes if key.startswith("on")]
    # The page's own data and program, and nothing that a name brought.
    assert seen.tags["script"] == page.count("<script") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.slow
def test_signed_layers_are_ranked_by_what_stands_in(
    factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _: [])
    monkeypatch.setattr(Audit, "save_figures", lambda _: [])
    run = auditor.profile(
        "factories:mixed", weights="none", shuffles=199, bootstraps=100, limit=100, runs=tmp_path, name="mixed"
    )
    found = audit(
        run,
        settings=replace(SETTINGS, q=0.5, shares=(0.3,), limit=50, hypotheses=("necessity", "metrics")),
        device="cpu",
    )
    units = found.units
    signed = units["site"] == "1"
    np.testing.assert_allclose(units.loc[signed, "score"], units.loc[signed, "dprime_excess"])
    np.testing.assert_allclose(units.loc[~signed, "score"], units.loc[~signed, "index_excess"])
    for site, own in units.groupby("site"):
        significant = own[own[f"{'dprime' if site == '1' else 'index'}_q"] <= 0.5]
        count = int(np.floor(0.3 * len(own) + 0.5))
        assert set(own.index[own["chosen"]]) == set(significant.nlargest(count, "score").index)
    metrics = found.table("metrics")
    assert {"index", "dprime", "auc"} <= set(metrics["metric"])
    page = (run.path / REPORT).read_text(encoding="utf-8")
    assert "nan [nan, nan]" not in page


def test_a_network_of_signed_layers_only(factories: str, plain: None, tmp_path: Path) -> None:
    run = auditor.profile(
        "factories:signed", weights="none", shuffles=199, bootstraps=100, limit=100, runs=tmp_path, name="signed"
    )
    found = audit(
        run,
        settings=replace(QUICK, q=0.9, shares=(0.4,), hypotheses=("necessity", "metrics", "controls")),
        device="cpu",
    )
    np.testing.assert_allclose(found.units["score"], found.units["dprime_excess"])
    assert {"dprime", "auc"} <= set(found.table("metrics")["metric"])
    assert "nan" not in next(v.sentence for v in found.verdicts if v.key == "controls")
    np.testing.assert_allclose(found.table("controls")["trained_excess"].notna(), found.units["dprime"].notna())
