"""Outputs that are not the data's classes: mapped, exchanged or refused; nothing else of the model changes."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import auditor
from auditor.api.forward import Execution
from auditor.api.heads import HeadChoice, fit_logistic
from auditor.cli.main import main
from auditor.data import LabelledData
from auditor.errors import AuditorError, CheckpointError, DataError, ModelError, OptionError, RunError, UnknownNameError
from auditor.models import find_logit_layer, load_model, save_weights, state_hash
from auditor.models.class_map import imagenet_names, resolve_class_map
from auditor.models.head import OutputOrder, logit_layer, order_outputs, raw_outputs
from auditor.models.overrides import Overrides
from auditor.models.preprocessing import Preprocessing

QUICK = {"shuffles": 99, "bootstraps": 50}
ABLATE = {"random_orders": 2, "curve_points": 2, "q": 1.0}
EXAMPLES = Path(__file__).parents[2] / "examples"
# Of five outputs the classes red, green and blue of the tiny data are these.
CLASS_MAP = {"red": 3, "green": 0, "blue": 4}
ORDER = [3, 0, 4, 1, 2]
OPTIONS = ["--input-size", "16", "--crop-pct", "1", "--fractions", "0.4,0.3,0.3", "--shuffles", "99", "--bootstraps"]
SMALL = Preprocessing(input_size=(3, 16, 16), resize=(16,))


@pytest.fixture
def five(tiny_cnn: nn.Module) -> nn.Module:
    """The plain network with five outputs instead of three."""
    generator = torch.Generator().manual_seed(3)
    tiny_cnn.fc2 = nn.Linear(10, 5)
    with torch.no_grad():
        tiny_cnn.fc2.weight.copy_(torch.randn(5, 10, generator=generator))
    return tiny_cnn


@pytest.fixture
def checkpoint(factories: str, tmp_path: Path) -> Path:
    """Weights of ``factories:small_cnn`` with five outputs."""
    path = tmp_path / "five.safetensors"
    save_weights(load_model(factories, n_outputs=5, weights="none", seed=5).module, path, {})
    return path


def images(data: LabelledData, rows: np.ndarray) -> Tensor:
    transform = SMALL.build()
    return torch.stack([transform(data.read(int(row))) for row in rows])


def logits(model: nn.Module, data: LabelledData, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(images(data, rows)).numpy()


def call(*arguments: str) -> object:
    return CliRunner().invoke(main, list(arguments))


# --- the order of the outputs ----------------------------------------------------------------------------------------


def test_an_order_changes_the_outputs_and_nothing_else(five: nn.Module, tiny_batch: Tensor) -> None:
    before = five(tiny_batch)
    names, state = [name for name, _ in five.named_modules()], state_hash(five)
    head = find_logit_layer(five, tiny_batch)
    order_outputs(five, [3, 0, 4], width=5, restrict=False)
    torch.testing.assert_close(five(tiny_batch), before[:, ORDER], rtol=0, atol=0)
    assert [name for name, _ in five.named_modules()] == names
    assert state_hash(five) == state
    copied = copy.deepcopy(five)
    torch.testing.assert_close(copied(tiny_batch), before[:, ORDER], rtol=0, atol=0)
    with raw_outputs(five):
        torch.testing.assert_close(five(tiny_batch), before, rtol=0, atol=0)
        assert find_logit_layer(five, tiny_batch) == head
    torch.testing.assert_close(five(tiny_batch), before[:, ORDER], rtol=0, atol=0)


def test_a_restricted_order_keeps_the_classes_only(five: nn.Module, tiny_batch: Tensor) -> None:
    before = five(tiny_batch)
    order_outputs(five, [3, 0, 4], width=5, restrict=True)
    torch.testing.assert_close(five(tiny_batch), before[:, [3, 0, 4]], rtol=0, atol=0)
    five(tiny_batch).sum().backward()
    grads = five.fc2.bias.grad
    assert grads is not None
    assert (grads != 0).tolist() == [True, False, False, True, True]


@pytest.mark.parametrize("restrict", [False, True])
def test_profile_and_ablation_use_the_mapped_outputs(
    five: nn.Module, tiny_data: LabelledData, tmp_path: Path, restrict: bool
) -> None:
    outputs = np.array([3, 0, 4])
    score = tiny_data.splits["score"]
    raw, wanted = logits(five, tiny_data, score), outputs[tiny_data.labels[score]]
    competing = raw if not restrict else np.where(np.isin(np.arange(5), outputs), raw, -np.inf)
    expected = (competing.argmax(1) == wanted).mean()
    before = state_hash(five)
    run = auditor.profile(
        five,
        data=tiny_data,
        preprocessing=SMALL,
        class_map=CLASS_MAP,
        restrict_outputs=restrict,
        runs=tmp_path,
        **QUICK,
    )
    assert run.summary["accuracy"]["accuracy"] == pytest.approx(expected)
    assert run.summary["accuracy"]["profiled"]["n_images"] == 18
    assert [site.name for site in run.sites] == ["act1", "act2", "act3"]
    assert run.manifest.identity["model"]["outputs"] == {"index": [3, 0, 4], "width": 5, "restricted": restrict}
    assert not any(isinstance(hook, OutputOrder) for hook in five._forward_hooks.values())
    assert state_hash(five) == before

    found = run.ablate(top_selective=3, **ABLATE)
    assert found.results["intact"]["accuracy"] == pytest.approx(expected)
    row = found.effects.iloc[0]

    def silence(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output.index_fill(1, torch.tensor([int(row["unit"])]), 0.0)

    handle = five.get_submodule(row["site"]).register_forward_hook(silence)
    silenced = logits(five, tiny_data, score)
    handle.remove()
    rows = np.arange(len(score))
    assert row["target_logit_drop"] == pytest.approx((raw - silenced)[rows, wanted].mean(), abs=1e-5)
    assert found.curve["accuracy"].between(0, 1).all()


def test_a_mapped_run_is_built_again_and_tuned(
    factories: str, checkpoint: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    where = {"data": str(tiny_folder), "runs": tmp_path / "runs"}
    run = auditor.profile(
        factories, checkpoint=checkpoint, class_map=CLASS_MAP, input_size=16, crop_pct=1, **where, **QUICK
    )
    example = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    raw = load_model(factories, n_outputs=5, checkpoint=checkpoint).module(example)
    again = auditor.Run.open(run.name, runs=tmp_path / "runs")
    # A folder's classes are sorted: blue, green, red.
    mapped = again.model(Execution(device="cpu")).module(example)
    torch.testing.assert_close(mapped, raw[:, [4, 0, 3, 1, 2]], rtol=0, atol=0)
    tuned = again.finetune(-1.0, epochs=1)
    assert tuned.summary["accuracy"]["n_images"] == run.summary["accuracy"]["n_images"]
    reopened = auditor.Run.open(tuned.name, runs=tmp_path / "runs").model(Execution(device="cpu")).module
    torch.testing.assert_close(reopened(example), tuned._model.module(example), rtol=0, atol=0)
    # The weights on disk are in the order of the user's model.
    own = load_model(factories, n_outputs=5, checkpoint=tuned.path / "weights.safetensors").module
    torch.testing.assert_close(reopened(example), own(example)[:, [4, 0, 3, 1, 2]], rtol=0, atol=0)


# --- class maps ------------------------------------------------------------------------------------------------------

TABLE = "index,wnid,name\n0,n01,tench\n1,n02,great white shark\n2,n03,crane\n3,n04,crane\n"


@pytest.mark.parametrize(
    "name, text, classes, expected",
    [
        ("map.csv", "cat,3\ndog,0\n", ["dog", "cat"], [0, 3]),
        ("map.csv", "\ufeffclass,output\r\ncat,3\r\ndog,0\r\nbird,1\r\n", ["dog", "cat"], [0, 3]),
        ("map.csv", '"cat, tame",3\ndog,0\n', ["cat, tame", "dog"], [3, 0]),
        ("map.json", '{"cat": 3, "dog": "0"}', ["cat", "dog"], [3, 0]),
        ("map.json", '{"cat": "tench", "dog": "n02"}', ["cat", "dog"], [0, 1]),
        ("table.csv", TABLE, ["n03", "n01"], [2, 0]),
        ("table.csv", TABLE, ["Great_White_Shark", "n04"], [1, 3]),
        ("short.csv", "name,index\ncat,3\ndog,0\n", ["dog", "cat"], [0, 3]),
    ],
)
def test_forms_of_a_class_map(tmp_path: Path, name: str, text: str, classes: list[str], expected: list[int]) -> None:
    (tmp_path / "names.csv").write_text(TABLE)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert resolve_class_map(tmp_path / name, classes, n_outputs=4, names=tmp_path / "names.csv") == expected


@pytest.mark.parametrize(
    "given, message",
    [
        ({"cat": 1}, "nothing for dog"),
        ({"cat": 1, "dgo": 2}, "closest: dgo"),
        ({"cat": 1, "dog": 1}, "output 1 for cat and for dog"),
        ({"cat": 1, "dog": 9}, "0 to 3"),
        ({"cat": 1, "dog": -1}, "0 to 3"),
        ({"cat": 1, "dog": "shark"}, "--output-names"),
        ({"cat": 1, "dog": True}, "an index or a name"),
        ({"cat": 1, "dog": [2, 3]}, "an index or a name"),
        ("absent.csv", "no file"),
        ("empty.csv", "an empty file"),
        ("wide.csv", "a,b,c"),
        ("twice.csv", "names 'cat' twice"),
        ("list.json", "JSON list"),
        ("broken.json", "not valid JSON"),
        ("bytes.csv", "cannot be read"),
        ("foreign.csv", "names none of the classes"),
        ("ragged.csv", "names no output"),
        ("imagenet", "1000 outputs"),
    ],
)
def test_class_maps_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "empty.csv": b"\n",
        "wide.csv": b"a,b,c\n",
        "twice.csv": b"cat,1\ncat,2\ndog,0\n",
        "list.json": b"[1]",
        "broken.json": b"{",
        "bytes.csv": b"\xff\xfe\xff",
        "foreign.csv": b"index,name\n0,ant\n",
        "ragged.csv": b"index,name\n0,cat\n1\n",
    }
    for name, content in files.items():
        Path(name).write_bytes(content)
    with pytest.raises(AuditorError) as caught:
        resolve_class_map(given, ["cat", "dog"], n_outputs=4)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_name_of_two_outputs_is_refused_only_where_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    with pytest.raises(OptionError, match="several outputs") as caught:
        resolve_class_map(tmp_path / "table.csv", ["crane", "tench"], n_outputs=4)
    assert "outputs 2, 3" in str(caught.value)


def test_imagenet_by_wordnet_id_and_by_name() -> None:
    classes = ["n01440764", "great white shark", "Toilet_Tissue", "n02134084"]
    assert resolve_class_map("imagenet", classes, n_outputs=1000) == [0, 2, 999, 296]
    assert resolve_class_map({"fish": "tench", "bear": "n02134084"}, ["bear", "fish"], n_outputs=1000) == [296, 0]
    assert "goldfish" in imagenet_names().near("golfish")


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"head": "prob"}, UnknownNameError, "probe"),
        ({"head": "probe", "class_map": {"a": 1}}, OptionError, "exclude each other"),
        ({"restrict_outputs": True}, OptionError, "--class-map"),
        ({"output_names": "x.csv"}, OptionError, "--class-map"),
    ],
)
def test_choices_that_contradict(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HeadChoice(**options)  # type: ignore[arg-type]


# --- a fitted head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_fit_is_scikit_learns(n_classes: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % n_classes
    features = rng.normal(size=(60, 7)) * np.array([1, 10, 0.1, 5, 1, 1, 0]) + labels[:, None] + 3
    features[:, 6] = 2.5  # a constant feature has no spread
    weight, bias, converged = fit_logistic(features, labels)
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, labels)
    found = torch.softmax(torch.from_numpy(features @ weight.T + bias), 1)
    np.testing.assert_allclose(found, reference.predict_proba(features), atol=1e-6)
    assert weight.shape == (n_classes, 7)
    assert converged


def test_a_probe_learns_the_classes_and_leaves_the_features(
    five: nn.Module, tiny_data: LabelledData, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in five.state_dict().items()}
    said: list[str] = []

    class Listener(auditor.TerminalReporter):
        def say(self, text: str) -> None:
            said.append(text)

    run = auditor.profile(
        five, data=tiny_data, preprocessing=SMALL, head="probe", runs=tmp_path, reporter=Listener(), **QUICK
    )
    module = run._model.module
    assert five.fc2.out_features == 5
    for name, value in five.state_dict().items():
        assert torch.equal(value, before[name])
        if not name.startswith("fc2."):
            assert torch.equal(value, module.state_dict()[name])

    # Held out and fitted accuracy, by scikit-learn from the features.
    def features(split: str) -> np.ndarray:
        with torch.no_grad():
            return five[:-1](images(tiny_data, tiny_data.splits[split])).double().numpy()

    labels = {split: tiny_data.labels[rows] for split, rows in tiny_data.splits.items()}
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
        features("train"), labels["train"]
    )
    head = run.summary["head"]
    assert head["train"] == {"n_images": 18, "accuracy": reference.score(features("train"), labels["train"])}
    assert head["held_out"] == run.summary["accuracy"]
    assert head["held_out"]["accuracy"] == reference.score(features("score"), labels["score"])
    assert head["held_out"]["low"] < head["held_out"]["accuracy"] <= head["held_out"]["high"]
    assert run.manifest.identity["model"]["head"]["layer"] == "fc2"
    assert any("logistic regression on the 10 inputs of fc2" in line for line in said)
    assert run.ablate(top_selective=3, **ABLATE).results["intact"]["accuracy"] == head["held_out"]["accuracy"]


def test_a_probed_run_is_built_again_and_tuned(
    factories: str, checkpoint: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    run = auditor.profile(
        factories,
        checkpoint=checkpoint,
        data=str(tiny_folder),
        head="probe",
        input_size=16,
        crop_pct=1,
        runs=runs,
        **QUICK,
    )
    example = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    again = auditor.Run.open(run.name, runs=runs)
    torch.testing.assert_close(
        again.model(Execution(device="cpu")).module(example), run._model.module(example), rtol=0, atol=0
    )
    tuned = again.finetune(-1.0, epochs=1)
    reopened = auditor.Run.open(tuned.name, runs=runs).model(Execution(device="cpu")).module
    torch.testing.assert_close(reopened(example), tuned._model.module(example), rtol=0, atol=0)
    (run.path / "head.safetensors").unlink()
    with pytest.raises(RunError, match="fitted head"):
        auditor.Run.open(run.name, runs=runs).model(Execution(device="cpu"))


class Averaged(nn.Module):
    """Two heads whose mean is the output, as in distilled transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return (self.one(x.mean((2, 3))) + self.two(x.mean((2, 3)))) / 2


class Convolutional(nn.Module):
    """A 1 x 1 convolution as head, before or after the pooling."""

    def __init__(self, *, pool_first: bool) -> None:
        super().__init__()
        self.head, self.pool_first = nn.Conv2d(3, 5, 1), pool_first

    def forward(self, x: Tensor) -> Tensor:
        if self.pool_first:
            return self.head(x.mean((2, 3), keepdim=True)).flatten(1)
        return torch.relu(self.head(x)).mean((2, 3))


def test_which_heads_can_be_exchanged(tiny_batch: Tensor) -> None:
    assert logit_layer(Convolutional(pool_first=True), tiny_batch) == "head"
    for model, why in ((Averaged(), "changes its outputs"), (Convolutional(pool_first=False), "more than one vector")):
        with pytest.raises(ModelError, match=why) as caught:
            logit_layer(model, tiny_batch)
        assert "--class-map" in str(caught.value)


def test_a_head_needs_every_class_in_the_train_split(five: nn.Module, tiny_data: LabelledData, tmp_path: Path) -> None:
    splits = {**tiny_data.splits, "train": tiny_data.splits["train"][tiny_data.splits["train"] < 24]}
    short = LabelledData(**{**tiny_data.__dict__, "splits": splits})
    with pytest.raises(DataError, match="train split") as caught:
        auditor.profile(five, data=short, preprocessing=SMALL, head="probe", runs=tmp_path, **QUICK)
    assert "blue" in str(caught.value)


# --- checkpoints for other classes -----------------------------------------------------------------------------------


def test_a_checkpoint_keeps_its_own_head(
    factories: str, checkpoint: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(
        "profile", "--model", factories, "--checkpoint", str(checkpoint), "--data", str(tiny_folder), *OPTIONS, "50"
    )
    assert result.exit_code == 0, result.output
    assert "The checkpoint is for 5 classes, the data have 3" in result.stderr
    assert "Accuracy: not defined" in result.stdout
    for verb in (["ablate"], ["finetune", "--alpha", "-1"]):
        refused = call(*verb)
        assert refused.exit_code == 1
        assert "--class-map FILE" in refused.stderr
        assert "--head probe" in refused.stderr
    Path("map.json").write_text(json.dumps(CLASS_MAP))
    common = ["--model", factories, "--checkpoint", str(checkpoint), "--data", str(tiny_folder), *OPTIONS, "50"]
    mapped = call("profile", *common, "--class-map", "map.json", "--restrict-outputs")
    assert "Accuracy on the score split" in mapped.stdout
    assert "3 of 5 are the classes of the data; the other 2 are left out" in mapped.stderr
    probed = call("profile", *common, "--head", "probe")
    assert "Head: logistic regression on the 96 inputs of 8" in probed.stdout
    assert "held out" in probed.stdout


def test_a_head_that_cannot_be_built_is_listed_by_name(checkpoint: Path, factories: str) -> None:
    module = load_model(factories, n_outputs=3, weights="none").module
    with pytest.raises(CheckpointError) as caught:
        load_model(module, checkpoint=checkpoint)
    text = str(caught.value)
    assert "8.weight (3 x 96 in the model, 5 x 96 in the file), 8.bias" in text
    assert "5, not 3" in text
    assert "--head probe" in text
    found = load_model(factories, n_outputs=3, checkpoint=checkpoint, checkpoint_head=True)
    assert (found.n_outputs, found.module[8].out_features) == (5, 5)


def test_a_zoo_model_takes_its_outputs_from_the_checkpoint(tmp_path: Path) -> None:
    whole = load_model("timm:test_resnet", n_outputs=7, weights="none", seed=1)
    torch.save({"model_state_dict": {f"model.{k}": v for k, v in whole.module.state_dict().items()}}, tmp_path / "w.pt")
    found = load_model("timm:test_resnet", n_outputs=3, checkpoint=tmp_path / "w.pt", checkpoint_head=True)
    assert found.state_hash == whole.state_hash


# --- without a score split -------------------------------------------------------------------------------------------


def test_classes_of_one_image_can_be_profiled(five: nn.Module, tiny_folder: Path, tmp_path: Path) -> None:
    for path in sorted((tiny_folder / "green").iterdir())[1:]:
        path.unlink()
    options = {"data": str(tiny_folder), "preprocessing": SMALL, "class_map": CLASS_MAP, "runs": tmp_path / "runs"}
    with pytest.raises(DataError, match="--fractions 0,1,0"):
        auditor.profile(five, **options, **QUICK)
    run = auditor.profile(five, fractions=(0, 1, 0), **options, **QUICK)
    accuracy = run.summary["accuracy"]
    assert (accuracy["split"], accuracy["n_images"]) == ("select", 25)
    assert run.selectivity["index_heldout"].isna().all()
    json.dumps(run.to_dict(), allow_nan=False)
    with pytest.raises(DataError, match="no score split"):
        run.ablate(top_selective=3, **ABLATE)


# --- preprocessing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, size, resize",
    [
        ({}, (3, 224, 224), (256,)),
        ({"crop_pct": 1}, (3, 224, 224), (224,)),
        ({"crop_pct": 0.9}, (3, 224, 224), (248,)),
        ({"input_size": 32, "crop_pct": 1.0}, (3, 32, 32), (32,)),
        ({"input_size": 192}, (3, 192, 192), (219,)),
        ({"input_size": (1, 28, 28)}, (1, 28, 28), (32,)),
        ({"input_size": (96, 192), "crop_pct": 0.875}, (3, 96, 192), (109, 219)),
        ({"input_size": [96, 192]}, (3, 96, 192), (110, 219)),
    ],
)
def test_changes_of_the_size(changes: dict[str, object], size: tuple[int, ...], resize: tuple[int, ...]) -> None:
    changed = Overrides(**changes, mean=0.5, std=0.25).apply(Preprocessing())  # type: ignore[arg-type]
    assert (changed.input_size, changed.resize) == (size, resize)
    assert (changed.mean, changed.std) == ((0.5,) * size[0], (0.25,) * size[0])
    assert changed.interpolation == "bilinear"


def test_no_change_is_no_change() -> None:
    before = Preprocessing(resize=(235,), interpolation="bicubic")
    assert Overrides().apply(before) == before
    assert not Overrides()
    assert Overrides(mean=(0.1, 0.2, 0.3)).apply(before).mean == (0.1, 0.2, 0.3)
    assert Overrides(input_size=224).apply(before) == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"input_size": 0}, "SIZE"),
        ({"input_size": 1.5}, "SIZE"),
        ({"input_size": (3, 3, 3, 3)}, "SIZE"),
        ({"crop_pct": 0}, "--crop-pct 0.875"),
        ({"crop_pct": 87.5}, "--crop-pct 0.875"),
        ({"interpolation": "bicubical"}, "bicubic"),
        ({"mean": (123.675, 116.28, 103.53)}, "--mean 123.675/255,116.28/255,103.53/255"),
        ({"std": 0}, "above 0"),
        ({"std": float("nan")}, "above 0"),
        ({"mean": (0.5, 0.5)}, "one for each channel"),
        ({"input_size": (1, 28, 28)}, "Give --mean"),
    ],
)
def test_changes_that_cannot_be_meant(changes: dict[str, object], message: str) -> None:
    with pytest.raises(AuditorError) as caught:
        Overrides(**changes).apply(Preprocessing())  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_changes_are_part_of_a_run(factories: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "runs", ["--model", factories, "--weights", "none", "--data", str(tiny_folder)]
    arguments = ["profile", *options, "--runs", str(folder), *OPTIONS, "50", "--json"]
    first = call(*arguments, "--mean", "127/255", "--std", "0.5,0.25,128/255", "--interpolation", "nearest")
    assert first.exit_code == 0, first.stderr
    found = json.loads(first.stdout)["manifest"]["identity"]["preprocessing"]
    assert found == {
        "input_size": [3, 16, 16],
        "resize": [16],
        "interpolation": "nearest",
        "mean": [127 / 255] * 3,
        "std": [0.5, 0.25, 128 / 255],
        "crop_mode": "center",
    }
    assert "(nearest), center crop to 16 x 16, mean 0.498/0.498/0.498" in first.stderr
    second = json.loads(call(*arguments).stdout)
    assert second["run"] != json.loads(first.stdout)["run"]
    assert call("profile", *options, "--mean", "1,2").exit_code == 2


# --- the example -----------------------------------------------------------------------------------------------------


def test_the_example_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    sys.modules.pop("cifar10_resnet20", None)
    found = load_model("cifar10_resnet20:resnet20", n_outputs=10, weights="none")
    # 0.27 million, the size that the paper gives: convolutions, batch norms, the last layer.
    convolutions = 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    assert sum(p.numel() for p in found.module.parameters()) == convolutions + norms + 64 * 10 + 10
    assert found.module(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert found.preprocessing == Overrides(
        input_size=32, crop_pct=1, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ).apply(Preprocessing())
    block = found.module.layer2[0]
    with torch.no_grad():
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
        shortcut = block(torch.rand(1, 16, 4, 4))
    assert shortcut.shape == (1, 32, 2, 2)
    assert (shortcut[0, 8:24] > 0).all()
    assert (shortcut[0, :8] == 0).all()
    assert (shortcut[0, 24:] == 0).all()
