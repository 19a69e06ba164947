"""`sana train lora` and `dreambooth`: a file comes out that draws, and nothing asked for is ignored."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sanakit.adapters.read import AdapterFile
from sanakit.data.cache.store import Cache
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.recipes import lora
from sanakit.recipes.lora import _settings
from sanakit.weights import load_configs
from tests.recipes.folders import Command, Writer

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """The recipe as it is, but read by this process, and with a look at every step."""
    every = {"log_every": 1, "checkpoint_every": 1, "evaluate_every": 100, "sheet_every": 100}
    monkeypatch.setattr(lora, "WORKERS", 0)
    monkeypatch.setattr(lora, "SMALL", replace(lora.SMALL, **every))
    monkeypatch.setattr(lora, "CLASS_IMAGES", 3)


@pytest.fixture
def pictures(write_pictures: Writer, tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures", each=1)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_one_command_makes_a_file_and_another_draws_with_it(
    pictures, tiny, tmp_path, command: Command, monkeypatch
) -> None:
    out, _ = command(
        *("train", "lora", "--data", pictures, "--source", tiny, "--output", tmp_path / "dog"),
        *("--steps", 3, "--rank", 2, "--learning-rate", 0.05),
    )
    assert "step 3 of 3" in out
    assert json.loads((tmp_path / "dog" / "config.json").read_text())["settings"]["learning_rate"] == 0.05
    file = tmp_path / "dog" / "dog.safetensors"
    assert AdapterFile(file).read(load_configs(tiny)[0]).parts[0].rank == 2
    monkeypatch.chdir(tmp_path)
    for name, words in (("a.png", ()), ("b.png", ("--adapter", file)), ("c.png", ("--adapter", f"{file}:0"))):
        command("generate", "a fox", "--model", tiny, "--seed", 1, "-o", name, *words)
    drawn = {name: (tmp_path / f"{name}.png").read_bytes() for name in "abc"}
    assert drawn["a"] != drawn["b"]
    inspected, _ = command("inspect", file, "--json")
    assert json.loads(inspected)["ranks"] == [2]
    assert (tmp_path / "dog" / "sheets").is_dir()


def test_a_resumed_run_ends_with_the_very_same_file(pictures, tiny, tmp_path, command: Command) -> None:
    words = ("train", "lora", "--data", pictures, "--source", tiny, "--batch-size", 2)
    schedule = {"decay_fraction": 0.0}
    lora.SMALL = replace(lora.SMALL, **schedule)
    command(*words, "--output", tmp_path / "whole", "--steps", 4)
    command(*words, "--output", tmp_path / "parts", "--steps", 2)
    command(*words, "--output", tmp_path / "parts", "--steps", 4, "--resume")
    one, other = (load_file(tmp_path / name / f"{name}.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_dreambooth_draws_the_class_and_measures_what_is_forgotten(
    pictures, tiny, tmp_path, command: Command
) -> None:
    folder = tmp_path / "run"
    command(
        *("train", "dreambooth", "--data", pictures, "--source", tiny, "--output", folder, "--steps", 2),
        *("--caption", "a sks fox", "--class-prompt", "a fox", "--class-prompt", "a key"),
        *("--judge", "pocket-clip"),
    )
    drawn = sorted((folder / "class" / "drawn" / "pictures").glob("*.png"))
    assert len(drawn) == 3
    cache = Cache(folder / "class" / "cache")
    assert sorted(cache[i].captions[0].text for i in range(3)) == ["a fox", "a fox", "a key"]
    own = Cache(folder / "cache")
    assert {one.text for i in range(len(own)) for one in own[i].captions} == {"a sks fox"}
    last = lines(folder)[-1]
    assert {"right_0.85", "forgotten_0.85", "class_score", "class_score_before"} <= last.keys()
    record = json.loads((folder / "config.json").read_text())
    assert record["choices"]["class_prompts"] == ["a fox", "a key"]
    assert record["choices"]["prior_weight"] == 1.0


def test_captions_stay_with_their_pictures(pictures, tiny, tmp_path, command: Command) -> None:
    command(
        *("train", "lora", "--data", pictures, "--source", tiny, "--output", tmp_path / "run", "--steps", 1)
    )
    cache = Cache(tmp_path / "run" / "cache")
    for index in range(len(cache)):
        number = int(Path(cache.key(index)).stem)
        assert [one.text for one in cache[index].captions] == [f"a red apple {number}", "two green foxes"]


def test_a_folder_s_pictures_are_repeated(pictures, tiny, tmp_path, command: Command, mistake) -> None:
    (pictures / "often").mkdir()
    for suffix in ("png", "txt"):
        shutil.move(pictures / f"00.{suffix}", pictures / "often" / f"00.{suffix}")
    words = ("train", "lora", "--data", pictures, "--source", tiny, "--steps", 1)
    command(*words, "--output", tmp_path / "run", "--repeat", "often=4")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["choices"]["repeats"] == {"often": 4}
    said = mistake(*words, "--output", tmp_path / "other", "--repeat", "seldom=4")
    assert "No image lies in the folder 'seldom'" in said
    assert "write it as FOLDER=N" in mistake(*words, "--output", tmp_path / "other", "--repeat", "often")


def test_folders_of_kohyas_names_are_repeated_and_told(pictures, tiny, tmp_path, command: Command) -> None:
    for folder, number in (("img/4_fox", "00"), ("2024_fox", "01"), ("2_owl", "02")):
        (pictures / folder).mkdir(parents=True)
        for suffix in ("png", "txt"):
            shutil.move(pictures / f"{number}.{suffix}", pictures / folder / f"{number}.{suffix}")
    words = ("train", "lora", "--data", pictures, "--source", tiny, "--steps", 1, "--repeat", "2_owl=1")
    out, err = command(*words, "--output", tmp_path / "run")
    assert "Images of the folder img/4_fox come 4 times an epoch, as Kohya's scripts" in out + err
    assert (out + err).count("times an epoch") == 1
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["choices"]["repeats"] == {"img/4_fox": 4, "2_owl": 1}


def test_beside_a_quantised_model(pictures, tiny, tmp_path, command: Command) -> None:
    folder = tmp_path / "few"
    command(
        *("train", "lora", "--data", pictures, "--source", tiny, "--output", folder, "--steps", 2),
        *("--plan", "int8-weight", "--learning-rate", 0.05),
    )
    assert json.loads((folder / "config.json").read_text())["choices"]["plan"] == "int8-weight"
    assert Cache(folder / "cache").about.maker.plan == "int8-weight"
    pipe = TextToImage.from_pretrained(tiny, plan="int8-weight")
    before = pipe("a fox", seed=0, output="pt").images
    pipe.load_adapter(folder / "few.safetensors")
    assert not torch.equal(pipe("a fox", seed=0, output="pt").images, before)


@pytest.mark.parametrize(
    ("images", "size", "steps"), [(1, 1, 300), (5, 5, 300), (12, 6, 400), (17, 6, 567), (900, 8, 4000)]
)
def test_batches_and_steps_follow_from_the_number_of_pictures(tiny, images, size, steps) -> None:
    config = _settings(tiny, None, None, smoke=False)(images)
    assert (config.batch_size, config.steps) == (size, steps)
    asked = _settings(tiny, 7, 3, smoke=False)(images)
    assert (asked.batch_size, asked.steps) == (3, 7)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("dreambooth",), "give --class-prompt"),
        (("lora", "--judge", "pocket-clip"), "give a class prompt"),
        (("lora", "--caption", " "), "is empty"),
        (("lora", "--caption", ""), "is empty"),
        (("lora", "--learning-rate", 0), "learning_rate = 0"),
        (("finetune", "--rank", 4), "The recipe finetune trains no adapter: omit --rank"),
        (("finetune", "--class-prompt", "a dog"), "trains no adapter: omit --class-prompt"),
        (("finetune", "--learning-rate", -1), "learning_rate = -1.0, but it must be a number above 0"),
        (("enlarge", "--learning-rate", 0.1), "have learning rates of their own: omit"),
    ],
)
def test_what_is_not_possible_is_told(words, sentence, pictures, tiny, tmp_path, mistake: Callable) -> None:
    common = ("--data", pictures, "--source", tiny, "--output", tmp_path / "run", "--steps", 1)
    assert sentence in mistake("train", *words, *common)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_one_step_model_and_a_cache_with_a_caption_are_refused(
    pictures, tiny, tmp_path, command: Command, mistake: Callable
) -> None:
    sprint = Path(shutil.copytree(tiny, tmp_path / "sprint"))
    config = sprint / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"guidance_embeds": True}))
    words = ("train", "lora", "--data", pictures, "--output", tmp_path / "run", "--steps", 1)
    assert "is a Sprint model" in mistake(*words, "--source", sprint)
    command("data", "cache", pictures, tmp_path / "cached", "--model", tiny, "--text")
    cached = ("train", "lora", "--data", tmp_path / "cached", "--source", tiny, "--steps", 1)
    assert "whose captions are in it" in mistake(*cached, "--output", tmp_path / "run", "--caption", "a fox")
    command(*cached, "--output", tmp_path / "other")
    assert (tmp_path / "other" / "other.safetensors").exists()


def test_the_how_to_s_commands_are_these(pictures, tiny, tmp_path, command: Command, monkeypatch) -> None:
    text = (DOCS / "adapters.md").read_text(encoding="utf-8")
    how_to = text.split("## Teach it your dog", 1)[1]
    block = re.search(r"```bash\n(.*?)```", how_to, re.DOTALL)[1].replace("\\\n", " ")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, "my-dog-pictures")
    for line in filter(None, map(str.strip, block.splitlines())):
        words = shlex.split(line, comments=True)
        assert words[0] == "sana"
        tail = ["--source", tiny, "--steps", 2] if words[1] == "train" else ["--model", tiny]
        command(*words[1:], *tail)
    assert list(tmp_path.glob("*.png"))
