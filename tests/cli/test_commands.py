"""The other commands: each parses, calls one public function and prints its result."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import sanakit
from sanakit.cli.evaluation.evaluate import SHARES
from sanakit.cli.train import RECIPES
from sanakit.pocket.evaluate.report import PocketReport
from sanakit.text.known_things import FILE, KnownThings
from sanakit.train.report import Progress
from sanakit.weights import CATALOG


def test_without_words_the_help_is_shown(sana) -> None:
    assert sana() == sana("--help")
    assert "generate" in sana().out


def test_the_version_is_printed(sana) -> None:
    assert sana("--version").out == f"sana {sanakit.__version__}\n"


def test_every_command_says_in_a_whole_line_what_it_does(sana) -> None:
    _, listing = sana("--help").out.split("Commands:\n")
    assert len(listing.splitlines()) == 22
    assert "..." not in listing


def test_models_lists_every_release_with_its_licence(sana) -> None:
    out = sana("models").out
    for entry in CATALOG.values():
        assert entry.name in out
        assert entry.licence in out
        assert entry.unsupported in out


def test_models_as_json_holds_the_catalog(sana) -> None:
    entries = json.loads(sana("models", "--json").out)
    assert [entry["name"] for entry in entries] == list(CATALOG)
    assert entries[1]["download_bytes"] == CATALOG["sana-0.6b-512"].download_bytes


def test_models_tells_what_one_model_draws(sana) -> None:
    out = sana("models", "pocket").out
    facts, commands = out.split("\n\n")
    for fact in ("licence", "defaults", "sizes", "styles"):
        assert f"\n  {fact} " in facts
    assert 'sana generate "a red apple"' in commands.splitlines()
    told = json.loads(sana("models", "pocket", "--json").out)
    assert told["commands"] == commands.splitlines()


def test_models_counts_the_things_that_a_folder_names(sana, tiny: Path) -> None:
    known = KnownThings({"a fox": ("vixen",), "an owl": ()}, threshold=0.0)
    (tiny / FILE).write_text(known.text(), encoding="utf-8")
    assert "  knows      2 things by 1 further words: fox, owl, ...\n" in sana("models", tiny).out
    assert "  knows         2 things by 1 further words\n" in sana("inspect", tiny).out


def test_a_model_that_there_is_not_is_named(sana) -> None:
    outcome = sana("models", "pokcet")
    assert (outcome.code, outcome.out) == (2, "")
    assert "pocket" in outcome.err


def test_a_pipe_that_nobody_reads_ends_the_command_without_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "from sanakit.cli import main; main(['models', '--json'])"
    result = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (result.returncode, result.stderr) == (1, "")


def test_a_full_disk_under_the_output_is_one_sentence() -> None:
    command = [sys.executable, "-c", "from sanakit.cli import main; main(['models'])"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr == "Error: The disk is full: free space, or send the output elsewhere.\n"


def test_a_closed_output_changes_nothing() -> None:
    command = f"{sys.executable} -c \"from sanakit.cli import main; main(['models'])\" >&-"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.thorough
def test_a_terminal_without_unicode_gets_codes_and_json_stays_json(tiny: Path, tmp_path: Path) -> None:
    def run(*options: str) -> str:
        words = [
            "generate",
            "\N{RED APPLE}",
            "--model",
            str(tiny),
            "--output",
            str(tmp_path / "\u0436.png"),
            *options,
        ]
        command = [sys.executable, "-c", f"from sanakit.cli import main; main({words!a})"]
        environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        result = subprocess.run(command, capture_output=True, encoding="latin-1", env=environment)
        assert result.returncode == 0
        assert result.stderr == ("" if not options else f"{tmp_path}/\\u0436.png is replaced.\n")
        return result.stdout

    assert "\\u0436.png" in run()
    assert json.loads(run("--json"))["images"][0]["prompt"] == "\N{RED APPLE}"


def test_inspect_tells_parts_sizes_and_defaults_of_a_folder(sana, tiny: Path) -> None:
    out = sana("inspect", tiny).out
    for words in ("transformer", "autoencoder", "text_encoder", "96x64, 2 steps, guidance 2", "DC-AE f32c8"):
        assert words in out
    report = json.loads(sana("inspect", tiny, "--json").out)
    assert report["settings"]["steps"] == 2
    assert [part["kind"] for part in report["parts"]] == ["transformer", "autoencoder", "text_encoder"]


def test_inspect_describes_a_release_that_is_not_here(sana) -> None:
    outcome = sana("inspect", "sana-1.6b-2k")
    assert outcome.code == 0
    assert "9.7 GB" in outcome.out


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What `sana train` asked for; nothing is trained."""
    calls = []

    def run_recipe(name: str, recipes: object, **words: object):
        calls.append((name, words))
        for step in (1, 2):
            yield Progress(step, 2, 0.5 / step, 1.0, 1.0, 0.1, {})

    monkeypatch.setattr("sanakit.train.run.run_recipe", run_recipe)
    return calls


def test_train_starts_the_recipe_in_a_folder_of_its_name(sana, started: list[tuple]) -> None:
    outcome = sana("train", "pocket")
    expected = {"data": Path("data/pocket"), "output": Path("runs/pocket"), "steps": None, "resume": False}
    expected |= dict.fromkeys(("source", "resolution", "batch_size", "parallel"))
    expected |= {"smoke": False, "more": {}}
    assert started == [("pocket", expected)]
    assert outcome.out == "runs/pocket  step 2 of 2, loss 0.2500\n"


def test_train_hands_on_what_was_asked_for(sana, started: list[tuple]) -> None:
    words = (
        "--data",
        "d",
        "--output",
        "o",
        "--steps",
        2,
        "--rank",
        4,
        "--class-prompt",
        "a",
        "--repeat",
        "x=2",
    )
    outcome = sana("train", "pocket", *words, "--resume", "--json")
    expected = {"data": Path("d"), "output": Path("o"), "steps": 2, "resume": True}
    expected |= dict.fromkeys(("source", "resolution", "batch_size", "parallel"))
    expected |= {"smoke": False, "more": {"rank": 4, "class_prompts": ("a",), "repeats": {"x": 2}}}
    assert started == [("pocket", expected)]
    assert json.loads(outcome.out)["last"]["loss"] == 0.25


@pytest.mark.parametrize("option", ["resolution", "batch-size", "rank"])
def test_recipes_that_an_option_of_train_names_take_it(sana, option: str) -> None:
    shown = " ".join(sana("train", "--help").out.split())
    named = re.search(rf"--{option} \S+ [^(]*\(([^)]*)\)", shown)
    assert named is not None
    for recipe in named[1].split(", "):
        module, function = RECIPES[recipe.replace("- ", "-")]  # a name that the help breaks over two lines
        taken = inspect.signature(getattr(import_module(module), function)).parameters
        assert option.replace("-", "_") in taken, recipe


def test_the_help_begins_with_what_to_type_first(sana) -> None:
    assert 'sana generate "a red apple"' in " ".join(sana("help").out.split())


def test_data_pocket_builds_and_tells_how_much(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_pocket(folder: Path, *, cache: Path | None, progress: object) -> SimpleNamespace:
        assert (folder, cache) == (Path("emoji"), Path("packages"))
        return SimpleNamespace(rows=[None] * 1234, sources={"format": 1})

    def build_more(folder: Path, *, cache: Path, progress: object) -> SimpleNamespace:
        assert (folder, cache) == (Path("emoji-more").absolute(), Path("packages"))
        return SimpleNamespace(rows=[None] * 56, sources={"format": 1})

    monkeypatch.setattr("sanakit.pocket.data.dataset.build_pocket", build_pocket)
    monkeypatch.setattr("sanakit.pocket.data.more_art.build_more", build_more)
    first, second = sana("data", "pocket", "emoji", "--cache", "packages").out.splitlines()
    assert first == "emoji  1,234 images"
    assert second.endswith("emoji-more  56 images of two further designs")
    told = json.loads(sana("data", "pocket", "emoji", "--cache", "packages", "--json").out)
    assert (told["images"], told["further"]["images"]) == (1234, 56)


def test_evaluate_prints_the_figures_of_the_report(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {f"{name}top{rank}": 0.5 + rank / 100 for name in SHARES for rank in (1, 5)}
    report = PocketReport(
        model="pocket",
        seed=0,
        steps=10,
        guidance=2.5,
        autoencoder_psnr=27.25,
        autoencoder_ssim=0.875,
        held_out_pictures=40,
        prompts=200,
        seconds_per_picture=1.5,
        not_recognised=("a red apple",),
        **shares,
    )
    monkeypatch.setattr("sanakit.pocket.evaluate.report.evaluate_pocket", lambda model, progress: report)
    out = sana("evaluate", "pocket").out
    for words in (
        "PSNR 27.25 dB, SSIM 0.875 on 40",
        "top-1  51.0%  top-5  55.0%",
        "1.50 s an image",
    ):
        assert words in out
    assert json.loads(sana("evaluate", "pocket", "--json").out)["not_recognised"] == ["a red apple"]
