"""A run's report resumes exactly, tells every tool the same story, and fails with a remedy."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sanakit.errors import MissingExtraError, OutputError, SettingsError
from sanakit.train.config import TrainConfig
from sanakit.train.report import Progress, Report, open_report

CONFIG = TrainConfig(steps=12, batch_size=8, learning_rate=0.01)


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Importing it takes longer than all of these tests."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def progress(step: int, **changes) -> Progress:
    figures = {"loss": 1 / step, "grad_norm": 0.5, "rate": 1.0, "seconds": 2.0 * step, "metrics": {}}
    return Progress(step=step, total=12, **figures | changes)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_line_holds_every_figure_that_is_a_number(tmp_path):
    with open_report(tmp_path / "run", 0, CONFIG) as report:
        report.line(progress(2, mfu=0.25, metrics={"error": 1 / 3, "broken": math.inf}))
        report.line(progress(4, loss=math.nan, notes=("Step 3 skipped.",)))
    usual = {"grad_norm": 0.5, "rate": 1.0, "samples_per_second": 0.0, "data_wait": 0.0}
    assert rows(tmp_path / "run") == [
        {"step": 2, "seconds": 4.0, "loss": 0.5, **usual, "mfu": 0.25, "error": 0.333333},
        {"step": 4, "seconds": 8.0, **usual, "notes": ["Step 3 skipped."]},
    ]


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path):
    report = open_report(tmp_path, 0, CONFIG)
    report.line(progress(2))
    report.note("The disk is warm.")
    assert rows(tmp_path)[1] == {"step": 2, "notes": ["The disk is warm."]}


def test_a_resumed_report_drops_what_will_be_written_again(tmp_path):
    with open_report(tmp_path, 0, CONFIG) as report:
        for step in (2, 4, 6, 8):
            report.line(progress(step))
        report.note("Stopped.")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # cut off by a crash
    with open_report(tmp_path, 4, CONFIG) as report:
        report.note("Going on.")
        report.line(progress(6))
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 4, 6]
    assert rows(tmp_path)[2]["notes"] == ["Going on."]


def test_a_new_report_begins_anew(tmp_path):
    for _ in range(2):
        with open_report(tmp_path, 0, CONFIG) as report:
            report.line(progress(2))
    assert [row["step"] for row in rows(tmp_path)] == [2]


def test_sheets_are_named_by_step(tmp_path):
    with open_report(tmp_path, 0, CONFIG) as report:
        report.sheet(6, Image.new("RGB", (4, 4), "red"))
    with Image.open(tmp_path / "sheets" / "0000006.png") as sheet:
        assert sheet.getpixel((1, 1)) == (255, 0, 0)


def test_a_folder_that_can_not_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("regular")
    with pytest.raises(OutputError, match="choose another output"):
        open_report(tmp_path / "file" / "run", 0, CONFIG)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full disk")
@pytest.mark.parametrize("write", ["line", "note"])
def test_a_full_disk_is_an_output_error(tmp_path, write):
    report = open_report(tmp_path, 0, CONFIG)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        report.line(progress(2)) if write == "line" else report.note("Full.")


def test_tensorboard_shows_the_same_figures_and_resumes(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_report(tmp_path, 0, CONFIG) as report:
        for step in (2, 4, 6):
            report.line(progress(step, notes=(f"Step {step} skipped.",)))
        report.sheet(6, Image.new("RGB", (4, 4), "red"))
    with open_report(tmp_path, 4, CONFIG) as report:
        report.line(progress(6, loss=7.0))
        report.sheet(6, Image.new("RGB", (4, 4), "blue"))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(2, 0.5), (4, 0.25), (6, 7.0)]
    assert "sheet" in events.Tags()["images"]
    assert "notes/text_summary" in events.Tags()["tensors"]


class FakeTracker:
    """What wandb and trackio have in common; records what it is told."""

    Error = RuntimeError

    def __init__(self) -> None:
        self.told: list = []
        self.Image = lambda image: ("image", image.size)

    def init(self, **settings) -> SimpleNamespace:
        print("Hello!")
        self.told.append(("init", settings))
        return SimpleNamespace(
            log=lambda values, step: self.told.append(("log", step, values)),
            alert=lambda title, text: self.told.append(("alert", text)),
            finish=lambda: self.told.append("finish"),
        )


def tell(report: Report) -> None:
    report.line(progress(2, metrics={"error": 0.5}, notes=("Step 1 skipped.",)))
    report.sheet(2, Image.new("RGB", (4, 4)))
    report.note("Going well.")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_are_told_what_the_log_is_told(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, tracker := FakeTracker())
    config = replace(CONFIG, trackers=(name,))
    with open_report(tmp_path / "apples", 0, config) as report:
        tell(report)
    (_, settings), line, alert, sheet, note, end = tracker.told
    assert (settings["project"], settings["name"], settings["resume"]) == ("sanakit", "apples", "never")
    assert settings["config"]["learning_rate"] == 0.01
    assert line == ("log", 2, progress(2, metrics={"error": 0.5}).figures())
    assert alert == ("alert", "Step 1 skipped.")
    assert sheet == ("log", 2, {"sheet": ("image", (4, 4))})
    assert note == ("alert", "Going well.")
    assert end == "finish"


def test_a_resumed_run_is_the_same_run_to_wandb_and_a_new_one_is_another(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", tracker := FakeTracker())
    for first in (0, 4, 0):
        open_report(tmp_path, first, replace(CONFIG, trackers=("wandb",)))
    settings = [told[1] for told in tracker.told]
    assert [begun["resume"] for begun in settings] == ["never", "allow", "never"]
    assert settings[0]["id"] == settings[1]["id"] != settings[2]["id"]


def test_trackers_leave_standard_output_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", FakeTracker())
    with open_report(tmp_path, 0, replace(CONFIG, trackers=("trackio",))) as report:
        tell(report)
    assert capsys.readouterr().out == ""


def test_a_tracker_is_closed_by_a_run_that_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", tracker := FakeTracker())
    with pytest.raises(KeyError), open_report(tmp_path, 0, replace(CONFIG, trackers=("wandb",))):
        raise KeyError
    assert tracker.told[-1] == "finish"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_tracker_names_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'sanakit\[{name}\]'"):
        open_report(tmp_path, 0, replace(CONFIG, trackers=(name,)))


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="'abacus', but it must be one of wandb, trackio"):
        open_report(tmp_path, 0, replace(CONFIG, trackers=("abacus",)))


def test_a_tracker_that_can_not_begin_says_what_to_do(tmp_path, monkeypatch):
    tracker = FakeTracker()
    monkeypatch.setattr(tracker, "init", lambda **_: (_ for _ in ()).throw(RuntimeError("No API key.")))
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    with pytest.raises(SettingsError, match=r"No API key.* WANDB_MODE=offline"):
        open_report(tmp_path, 0, replace(CONFIG, trackers=("wandb",)))


@pytest.mark.slow
def test_wandb_itself_takes_a_run_and_goes_on_with_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (0, 2):
        with open_report(tmp_path, first, replace(CONFIG, trackers=("wandb",))) as report:
            tell(report)
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2  # two parts of one id, for `wandb sync`
    assert len({path.name.split("-")[-1] for path in (tmp_path / "wandb").glob("offline-run-*")}) == 1


@pytest.mark.slow
def test_trackio_itself_takes_a_run_and_goes_on_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    for first, step in ((0, 2), (2, 4)):
        with open_report(tmp_path / "apples", first, replace(CONFIG, trackers=("trackio",))) as report:
            report.line(progress(step))
            report.sheet(step, Image.new("RGB", (4, 4)))
            report.note("Going well.")
    (run,) = trackio.Api().runs("sanakit")
    assert run.name == "apples"


@pytest.mark.parametrize(
    "line", ["[]", "3", '{"loss": 1}', '{"step": "2"}', "not JSON", "[" * 100_000], ids=lambda text: text[:9]
)
def test_a_damaged_line_of_the_log_does_not_stop_a_resumed_run(tmp_path, line):
    with open_report(tmp_path, 0, CONFIG) as report:
        report.line(progress(2))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with open_report(tmp_path, 4, CONFIG) as report:
        report.line(progress(6))
    assert [row["step"] for row in rows(tmp_path)] == [2, 6]
