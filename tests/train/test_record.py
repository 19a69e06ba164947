"""A run's folder tells what the run is made with, and a resumed run says what is another."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from sanakit.errors import DataError, SettingsError
from sanakit.train import record
from sanakit.train.config import TrainConfig
from sanakit.train.record import RECORD, MadeWith, check_source, read_record, record_run
from sanakit.train.state.checkpoint import save_checkpoint
from sanakit.weights.fingerprint import Fingerprint

CONFIG = TrainConfig(steps=12, batch_size=8, learning_rate=0.01)
MADE = MadeWith(source="fox", data="pictures", content="a1", choices={"resolution": 512, "flow_shift": 3.0})
WEIGHTS = {"fox": {"transformer": "1", "vae": "2"}, "copy-of-fox": {"transformer": "1", "vae": "2"}}
WEIGHTS |= {"owl": {"transformer": "1", "vae": "3"}, "fox.pth": {"transformer": "1"}}


@pytest.fixture(autouse=True)
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """Models by name, with the fingerprints of their parts."""
    known = {name: dict(parts) for name, parts in WEIGHTS.items()}
    monkeypatch.setattr(
        record, "fingerprint_weights", lambda name: Fingerprint(whole=name, parts=known[str(name)])
    )
    return known


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a run that stopped at step 4."""
    record_run(tmp_path, "finetune", CONFIG, MADE)
    save_checkpoint(tmp_path, 4, {"model.weight": torch.ones(2)}, {})
    return tmp_path


def resumed(folder: Path, config: TrainConfig = CONFIG, made: MadeWith = MADE) -> list[str]:
    return record_run(folder, "finetune", config, made)


def test_all_that_a_run_is_made_with_is_recorded(begun: Path) -> None:
    found = json.loads((begun / RECORD).read_text())
    assert found["recipe"] == "finetune"
    assert found["settings"]["learning_rate"] == 0.01
    assert found["settings"]["betas"] == [0.9, 0.95]
    assert set(found["settings"]) == set(TrainConfig.__dataclass_fields__)
    assert found["choices"] == {"resolution": 512, "flow_shift": 3.0}
    assert found["source"] == {"name": "fox", "weights": WEIGHTS["fox"]}
    assert found["data"] == {"place": "pictures", "fingerprint": "a1"}
    assert found["versions"]["torch"] == version("torch")
    assert {"python", "sanakit", "torch", "numpy"} <= found["versions"].keys()
    assert found["earlier"] == []


def test_the_same_again_says_nothing_and_leaves_the_record_as_it_was(begun: Path) -> None:
    before = (begun / RECORD).read_text()
    assert resumed(begun) == []
    assert (begun / RECORD).read_text() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rate": 0.02}, "learning_rate 0.02 instead of 0.01"),
        ({"weight_decay": 0.1}, "weight_decay 0.1 instead of 0.01"),
        ({"betas": (0.9, 0.99)}, "betas [0.9, 0.99] instead of [0.9, 0.95]"),
        ({"seed": 1}, "seed 1 instead of 0"),
        ({"batch_size": 4}, "batch_size 4 instead of 8"),
        ({"steps": 20}, "steps 20 instead of 12"),
        ({"bf16": True}, "bf16 true instead of false"),
        ({"decay": "cosine"}, "decay cosine instead of linear"),
    ],
)
def test_other_settings_are_told_once(begun: Path, change: dict, told: str) -> None:
    changed = replace(CONFIG, **change)
    (note,) = resumed(begun, changed)
    assert note.startswith(f"The run continues with {told}.")
    assert ("another order" in note) is bool(change.keys() & {"seed", "batch_size"})
    assert resumed(begun, changed) == []


@pytest.mark.parametrize(
    "change",
    [{"log_every": 1}, {"micro_batch": 2}, {"parallel": "fsdp"}, {"compile": True}, {"recompute": True}],
)
def test_settings_without_effect_on_the_result_are_not(begun: Path, change: dict) -> None:
    assert resumed(begun, replace(CONFIG, **change)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"content": "b2"}, "other images or captions"),
        ({"choices": {"resolution": 256, "flow_shift": 3.0}}, "resolution 256 instead of 512"),
        ({"choices": {"resolution": 512, "flow_shift": 2.0}}, "flow_shift 2.0 instead of 3.0"),
    ],
)
def test_other_data_and_choices_are_told(begun: Path, change: dict, told: str) -> None:
    (note,) = resumed(begun, made=replace(MADE, **change))
    assert told in note
    assert ("another order" in note) is ("flow_shift 2" not in told)


def test_other_versions_are_told(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "version", lambda name: "99.0")
    (note,) = resumed(begun)
    assert "torch 99.0 instead of" in note


def test_what_was_before_is_kept_with_the_step_until_which_it_held(begun: Path) -> None:
    resumed(begun, replace(CONFIG, learning_rate=0.02))
    resumed(begun, replace(CONFIG, learning_rate=0.03))
    earlier = json.loads((begun / RECORD).read_text())["earlier"]
    assert [(one["until"], one["settings"]["learning_rate"]) for one in earlier] == [(4, 0.01), (4, 0.02)]


def test_a_source_of_other_weights_is_refused_with_the_first_ones_name(begun: Path) -> None:
    before = (begun / RECORD).read_text()
    with pytest.raises(
        SettingsError, match=r"began from fox.* from owl, whose weights differ \(vae\).*--source fox"
    ):
        resumed(begun, made=replace(MADE, source="owl"))
    with pytest.raises(SettingsError, match=r"without a source, whose weights differ \(transformer, vae\)"):
        resumed(begun, made=replace(MADE, source=None))
    assert (begun / RECORD).read_text() == before


def test_the_same_weights_under_another_name_are_the_same_source(begun: Path) -> None:
    assert resumed(begun, made=replace(MADE, source="copy-of-fox")) == []


def test_a_source_that_was_trained_again_in_its_place_is_refused(begun: Path, weights: dict) -> None:
    weights["fox"]["transformer"] = "9"
    with pytest.raises(SettingsError, match=r"weights of fox .* have changed since \(transformer\): restore"):
        resumed(begun)


def test_further_weights_that_a_run_uses_are_compared_too(tmp_path: Path) -> None:
    made = MadeWith(parts={"words": "1"})
    record_run(tmp_path, "pocket-drawings", CONFIG, made)
    save_checkpoint(tmp_path, 4, {"model.weight": torch.ones(2)}, {})
    assert record_run(tmp_path, "pocket-drawings", CONFIG, made) == []
    with pytest.raises(SettingsError, match=r"The weights that .* have changed since \(words\): restore"):
        record_run(tmp_path, "pocket-drawings", CONFIG, MadeWith(parts={"words": "2"}))


@pytest.mark.parametrize(
    ("source", "fits"), [("fox", True), ("copy-of-fox", True), ("fox.pth", True), ("owl", False)]
)
def test_a_source_is_checked_before_anything_is_loaded(begun: Path, source: str, fits: bool) -> None:
    if fits:
        check_source(begun, source)
    else:
        with pytest.raises(SettingsError, match="--source fox"):
            check_source(begun, source)


def test_without_a_checkpoint_a_record_is_written_from_scratch(tmp_path: Path) -> None:
    record_run(tmp_path, "finetune", CONFIG, MADE)
    assert record_run(tmp_path, "finetune", replace(CONFIG, seed=4), replace(MADE, source="owl")) == []
    found = json.loads((tmp_path / RECORD).read_text())
    assert (found["settings"]["seed"], found["source"]["name"], found["earlier"]) == (4, "owl", [])


def test_a_run_without_a_record_says_that_nothing_is_known(begun: Path) -> None:
    (begun / RECORD).unlink()
    check_source(begun, "owl")
    (note,) = resumed(begun)
    assert note.startswith(f"The run has no {RECORD}")
    assert resumed(begun) == []


@pytest.mark.parametrize(
    "text",
    [*("", "{", "[]", "3", "null", "{}", "[" * 100_000), '{"format": 1, "settings": 3}'],
    ids=lambda text: text[:9] or "empty",
)
def test_a_damaged_record_is_told_with_a_remedy(begun: Path, text: str) -> None:
    (begun / RECORD).write_text(text)
    with pytest.raises(DataError, match=f"{RECORD} .*delete it"):
        resumed(begun)


@pytest.mark.parametrize("key", ["settings", "choices", "source", "data", "versions", "earlier", "format"])
def test_a_record_with_a_part_of_another_kind_is_damaged(begun: Path, key: str) -> None:
    found = json.loads((begun / RECORD).read_text())
    (begun / RECORD).write_text(json.dumps(found | {key: "x"}))
    with pytest.raises(DataError, match="delete it"):
        read_record(begun)
