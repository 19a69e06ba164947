"""A folder of your own images trains by one command, and the report names what is broken in it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
import torch

from sanakit.data.batches.loader import Loader
from sanakit.errors import OutputError
from sanakit.recipes import RECIPES, finetune
from sanakit.text.known_things import FILE, KnownThings
from sanakit.train.feeds.captioned import CaptionedFeed
from sanakit.train.feeds.feed import Unencoded
from sanakit.train.parts import Part, Share, split
from sanakit.train.run import run_recipe
from sanakit.train.runs import finetune as finetune_folder
from sanakit.weights import (
    load_configs,
    load_settings,
    load_text_encoder,
    load_transformer,
)
from tests.recipes import train_here
from tests.recipes.folders import Command, Writer, made

pytestmark = pytest.mark.usefixtures("small")

ROOT = Path(__file__).resolve().parents[2]


def logged(folder: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def test_one_command_trains_mixed_pictures_and_names_the_broken_ones(
    pictures: Path, tiny: Path, tmp_path: Path, command: Command
) -> None:
    """Three buckets, of which each fills one batch: three steps meet every image."""
    output = tmp_path / "runs" / "finetune"
    told, said = command(
        *("train", "finetune", "--data", pictures, "--source", tiny, "--steps", 3, "--batch-size", 4),
        *("--output", output),
    )
    report = json.loads((output / "report.json").read_text())
    assert set(report["broken"]) == {"empty.png", "words.png"}
    assert set(report["failed"]) == {"cut.jpg"}
    assert all(report["broken"].values())
    assert all(report["failed"].values())
    assert report["pictures"] == 12
    assert report["used"] == 10  # that one ends early shows only when it is decoded
    assert [bucket["pictures"] for bucket in report["buckets"]] == [3, 4, 3]
    assert report["captions_per_picture"] == {"2": 10}
    lines = said.splitlines() + told.splitlines()
    assert [line for line in said.splitlines() if line.startswith("step ")] == [
        f"step {row['step']} of 3, loss {row['loss']:.4f}, {row['samples_per_second']:.1f} samples/s"
        for row in map(json.loads, (output / "log.jsonl").read_text().splitlines())
    ]
    for line in report[
        "summary"
    ].splitlines():  # what is known at the start, before; what turns out, at the end
        assert lines.count(line) == 1, line
    assert "cut.jpg" in told
    assert "empty.png" in said
    settings = load_settings(output / "model")
    assert (settings.name, settings.flow_shift, settings.width) == ("tiny-finetuned", 2.0, 64)
    before, after = load_transformer(tiny), load_transformer(output / "model")
    assert after.config == before.config
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert load_text_encoder(output / "model").instruction == "Draw this: "
    drawn = tmp_path / "drawn.png"
    command("generate", "a red apple", "--model", output / "model", "--size", "64x64", "--output", drawn)
    assert drawn.exists()
    again, _ = command(
        *("train", "finetune", "--data", pictures, "--source", tiny, "--steps", 3, "--batch-size", 4),
        *("--output", output, "--resume", "--json"),
    )
    assert json.loads(again)["pictures"]["failed"] == report["failed"]


def test_another_learning_rate_is_trained_with_and_recorded(
    pictures: Path, tiny: Path, tmp_path: Path, command: Command
) -> None:
    moved = {}
    for rate in (1e-4, 1e-3):
        output = tmp_path / str(rate)
        words = ("train", "finetune", "--data", pictures, "--source", tiny, "--steps", 1, "--batch-size", 4)
        command(*words, "--learning-rate", rate, "--output", output)
        assert json.loads((output / "config.json").read_text())["settings"]["learning_rate"] == rate
        before, after = (load_transformer(place).state_dict() for place in (tiny, output / "model"))
        moved[rate] = sum((after[name] - before[name]).abs().sum().item() for name in before)
    assert moved[1e-3] > 5 * moved[1e-4]


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(
    pictures: Path, tiny: Path, tmp_path: Path
) -> None:
    settings = {"data": pictures, "source": tiny, "steps": 7, "batch_size": 4}
    list(run_recipe("finetune", RECIPES, output=tmp_path / "whole", **settings))
    stopped = run_recipe("finetune", RECIPES, output=tmp_path / "parts", **settings)
    assert [progress.step for progress in islice(stopped, 3)] == [1, 2, 3]
    if find_spec("fcntl"):  # else nothing can be locked
        with pytest.raises(OutputError, match="Another process is writing"):  # while it goes on
            list(run_recipe("finetune", RECIPES, output=tmp_path / "parts", resume=True, **settings))
    stopped.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    (tmp_path / "parts" / "sheets").mkdir(exist_ok=True)
    left = [tmp_path / "parts" / name for name in ("", "sheets")]  # by a killed process
    for place in left:
        (place / f".a.{'0' * 16}.partial").touch()
    list(run_recipe("finetune", RECIPES, output=tmp_path / "parts", resume=True, **settings))
    assert len(logged(tmp_path / "whole")) == 7
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    assert not any(path.name.startswith(".") for place in left for path in place.iterdir())
    reports = [json.loads((tmp_path / run / "report.json").read_text()) for run in ("whole", "parts")]
    assert reports[0] == reports[1]


def test_empty_places_and_broken_pictures_count_nothing_in_the_mean(
    pictures: Path, tiny: Path, tmp_path: Path
) -> None:
    """A sound picture counts one over the batch's size, whatever is in its batch, and however that is cut."""
    objective = made(pictures, tmp_path / "whole", tiny, batch_size=5)
    in_parts = made(pictures, tmp_path / "parts", tiny, batch_size=5)
    whole, parts = [Part(0, 5, 5)], split(5, Share(), 2)
    objective.begin(0, whole)
    in_parts.begin(0, parts)
    sound = []
    for step in range(3):
        batch = objective.batch(step, whole[0])
        counted = batch.shares > 0
        assert batch.shares[counted].tolist() == pytest.approx([1 / 5] * int(counted.sum()))
        assert objective.filled(batch).item() == pytest.approx(int(counted.sum()) / 5)
        sound.append(int(counted.sum()))
        loss = objective.loss(batch)
        assert isinstance(batch.latents, Unencoded)
        strange = torch.where(counted[:, None, None, None], batch.latents.images, torch.ones(()))
        changed = replace(batch, latents=Unencoded(strange, batch.latents.codec))
        assert objective.loss(changed).item() == pytest.approx(loss.item())
        pieces = torch.stack([in_parts.loss(in_parts.batch(step, part)) for part in parts]).sum()
        assert pieces.item() == pytest.approx(loss.item(), rel=1e-5)
    assert sorted(sound) == [3, 3, 3]  # of 5 places; the square bucket's fourth image is broken


def test_a_picture_without_a_caption_is_trained_without_one(
    write_pictures: Writer, tiny: Path, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path / "pictures", each=2)
    (folder / "00.txt").unlink()
    objective = made(folder, tmp_path / "run", tiny, batch_size=2)
    objective.caption_dropout = 0.0
    objective.begin(0, [Part(0, 2, 2)])
    dropped = [int(objective.batch(step, Part(0, 2, 2)).dropped.sum()) for step in range(3)]
    assert sorted(dropped) == [0, 0, 1]


def test_the_text_encoder_is_trained_along_if_the_recipe_says_so(
    pictures: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for along in (False, True):
        monkeypatch.setattr(finetune, "TRAIN_TEXT", along)
        output = tmp_path / str(along)
        list(
            run_recipe("finetune", RECIPES, data=pictures, output=output, source=tiny, steps=2, batch_size=4)
        )
        before, after = (load_text_encoder(model).model for model in (tiny, output / "model"))
        pairs = list(zip(before.parameters(), after.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs) != along


def test_another_resolution_is_that_of_the_result(write_pictures: Writer, tiny: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", each=1, scale=2)
    output = tmp_path / "run"
    list(run_recipe("finetune", RECIPES, data=folder, output=output, source=tiny, steps=1, resolution=128))
    assert load_transformer(output / "model").config == replace(load_configs(tiny)[0], sample_size=4)
    assert load_settings(output / "model").width == 128
    assert {(b["width"], b["height"]) for b in json.loads((output / "report.json").read_text())["buckets"]}


def test_the_result_lists_neither_sizes_of_another_resolution_nor_things_it_knew_before(
    write_pictures: Writer, tiny: Path, tmp_path: Path
) -> None:
    folder, before = write_pictures(tmp_path / "pictures", each=1, scale=2), tmp_path / "before"
    shutil.copytree(tiny, before)
    ours = json.loads((before / "sanakit.json").read_text())
    offers = {"sizes": [[64, 64]], "styles": {"Ink": "ink"}}
    (before / "sanakit.json").write_text(json.dumps(ours | offers))
    (before / FILE).write_text(KnownThings({"a fox": ()}, threshold=0.0).text())
    output = tmp_path / "run"
    list(run_recipe("finetune", RECIPES, data=folder, output=output, source=before, steps=1, resolution=128))
    settings = load_settings(output / "model")
    assert (settings.sizes, settings.known_things, settings.styles) == ((), None, {"Ink": "ink"})


def test_large_folders_hold_pictures_out_to_measure_on(
    write_pictures: Writer, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_folder, "HELD_OUT_FROM", 6)
    monkeypatch.setattr(finetune_folder, "REFERENCE", 1)
    objective = made(write_pictures(tmp_path / "pictures"), tmp_path / "run", tiny, batch_size=3)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(report["held_out"]) == len(objective.watched[0].captions) == 1
    assert report["used"] == 8
    assert isinstance(objective.feed, CaptionedFeed)
    loader = objective.feed.loader
    assert isinstance(loader, Loader)
    trained = {loader.source.key(number) for members in loader.buckets.members for number in members.tolist()}
    assert not trained & set(report["held_out"])


def test_published_sizes_train_as_they_were_trained() -> None:
    published = finetune.PUBLISHED
    assert (published.learning_rate, published.optimizer, published.clip_norm) == (2e-5, "came8bit", 0.1)
    assert published.bf16
    assert published.recompute
    assert finetune.settings_for("pocket", steps=100).warmup_steps == 10


def test_published_settings_train(
    pictures: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8-bit CAME, bfloat16, recomputed blocks and micro-batches, on a tiny model. The loss is not rounded."""
    monkeypatch.setattr(finetune, "PUBLISHED_WIDTH", 1)
    *_, last = run_recipe("finetune", RECIPES, data=pictures, output=tmp_path / "run", source=tiny, steps=2)
    assert last.step == 2
    assert 0 < last.loss < 100
    assert torch.tensor(last.loss).bfloat16().item() != last.loss


@pytest.mark.thorough
def test_the_commands_of_the_how_to_work(
    write_pictures: Writer, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of docs/train.md that is marked to be run small: on pocket itself, but for a step or two."""
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- run small -->\n+```bash\n(.*?)```", page, flags=re.S)
    commands = [line.removeprefix("sana ") for block in blocks for line in block.splitlines()]
    assert len(commands) == 4
    monkeypatch.chdir(tmp_path)
    write_pictures(Path("pictures"), each=1, scale=4)
    monkeypatch.setattr(finetune_folder, "REFERENCE", 2)
    monkeypatch.setattr(finetune, "SMALL", replace(finetune.SMALL, steps=1, batch_size=1))
    for line in commands:
        command(*shlex.split(re.sub(r"--steps \d+", "--steps 2", line)))
    assert Path("fox.png").exists()
    assert Path("runs/mine/model/model_index.json").exists()


@pytest.mark.slow
def test_two_processes_train_as_the_how_to_says(write_pictures: Writer, tmp_path: Path) -> None:
    """The torchrun command of docs/train.md on pocket itself, but for a step; then one process goes on."""
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- run small by torchrun -->\n+```bash\n(.*?)```", page, flags=re.S)
    lines = block.splitlines()
    assert [line.split()[0] for line in lines] == ["torchrun", "sana"]
    write_pictures(tmp_path / "pictures", each=1, scale=4)
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for step, line in enumerate(lines, 1):
        words = shlex.split(re.sub(r"--steps \d+", f"--steps {step} --batch-size 2", line))
        subprocess.run(words, cwd=tmp_path, env=os.environ | {"PATH": tools}, check=True, timeout=300)
    run = tmp_path / "runs" / "two"
    log = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]
    assert (run / "model" / "model_index.json").exists()


@pytest.mark.thorough
def test_two_processes_agree_about_a_broken_picture(pictures: Path, tiny: Path, tmp_path: Path) -> None:
    """It lies in one process's part; the mean counts it nowhere, and the report of the first names it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    words = [sys.executable, train_here.__file__, str(pictures), str(tiny), str(tmp_path / "two")]
    both = [
        subprocess.Popen(words, env=os.environ | place | {"RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    train_here.train_here(pictures, tiny, tmp_path / "one")
    for one, two in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    reports = [json.loads((tmp_path / run / "report.json").read_text()) for run in ("one", "two")]
    assert reports[0] == reports[1]
    assert set(reports[0]["failed"]) == {"cut.jpg"}
