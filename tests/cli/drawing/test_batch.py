"""`sana generate --prompts FILE`: names, defaults, going on, what is printed, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from sanakit.images.image import read_metadata

FILE = "prompts.txt"


@pytest.fixture
def draw(sana, tiny: Path):
    """Run `sana generate --prompts prompts.txt` with the tiny model; the file holds two prompts."""
    Path(FILE).write_text("a red apple\ntwo green foxes\n")

    def run(*words: object, file: str = FILE):
        return sana("generate", "--prompts", file, "--model", tiny, *words)

    return run


def files(folder: str) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_becomes_a_folder_of_its_name_and_one_line_tells_it(draw) -> None:
    outcome = draw()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("prompts  2 drawn  ")
    assert files("prompts") == ["00001-a-red-apple.png", "00002-two-green-foxes.png", "manifest.jsonl"]


def test_options_are_the_defaults_of_rows(draw) -> None:
    Path("rows.csv").write_text("prompt,steps\na fox,\nan owl,4\n")
    words = {"steps": 3, "guidance": 1.5, "solver": "euler", "size": "64x96", "negative": "blue", "seed": 5}
    options = [f"--{name}={word}" for name, word in words.items()]
    assert draw(*options, "--output", "out", file="rows.csv").code == 0
    fox, owl = read_metadata("out/00001-a-fox.png"), read_metadata("out/00002-an-owl.png")
    expected = {"steps": 3, "guidance": 1.5, "solver": "euler", "width": 64, "height": 96}
    assert (expected | {"negative_prompt": "blue", "seed": 5}).items() <= fox.items()
    assert (owl["steps"], owl["seed"]) == (4, 6)


def test_several_pictures_of_a_row_are_numbered(draw) -> None:
    draw("--num-images", 2, "--output", "out")
    assert files("out")[:3] == [
        *("00001-a-red-apple-1.png", "00001-a-red-apple-2.png", "00002-two-green-foxes-1.png")
    ]


def test_a_second_run_draws_what_is_missing_and_json_tells_how_much(draw) -> None:
    draw("--seed", 3)
    before = Path("prompts/00002-two-green-foxes.png").read_bytes()
    Path("prompts/00002-two-green-foxes.png").unlink()
    report = json.loads(draw("--seed", 3, "--json").out)
    assert report.pop("seconds") > 0
    expected = {"folder": "prompts", "manifest": "prompts/manifest.jsonl", "pictures": 2, "drawn": 1}
    assert report == expected | {"kept": 1, "warnings": []}
    assert Path("prompts/00002-two-green-foxes.png").read_bytes() == before
    assert draw("--seed", 3).out.startswith("prompts  0 drawn, 2 were there  ")


def test_a_picture_that_somebody_rated_is_still_the_picture(draw) -> None:
    draw()
    file = Path("prompts/00001-a-red-apple.png")
    with Image.open(file) as image:
        image.load()
        chunks = PngInfo()
        for key, text in image.text.items():  # pyright: ignore
            chunks.add_itxt(key, text)
        chunks.add_text("Rating", "5")
        image.save(file, pnginfo=chunks)
    rated = file.read_bytes()
    assert draw().out.startswith("prompts  0 drawn, 2 were there")
    assert file.read_bytes() == rated


def test_other_settings_are_refused_and_with_overwrite_drawn(draw) -> None:
    draw()
    before = {path.name: path.read_bytes() for path in Path("prompts").iterdir()}
    outcome = draw("--steps", 3)
    assert (outcome.code, outcome.out) == (2, "")
    assert "steps 2, not 3" in outcome.err
    assert {path.name: path.read_bytes() for path in Path("prompts").iterdir()} == before
    assert draw("--steps", 3, "--overwrite").code == 0
    assert read_metadata("prompts/00001-a-red-apple.png")["steps"] == 3


def test_a_prompt_that_was_cut_is_told_with_its_line(draw) -> None:
    Path("long.txt").write_text(f"a fox\n\n{'apple ' * 400}\n")
    outcome = draw(file="long.txt")
    assert outcome.code == 0
    assert outcome.err.startswith("Warning: Line 3: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (["generate", "--prompts", "missing.txt"], "missing.txt"),
        (["generate", "--prompts", "bad.jsonl"], "Line 2: "),
        (["generate", "--prompts", "bad.jsonl", "--steps", "0"], "--steps"),
        (["generate", "--prompts", "good.txt", "--size", "63"], "64x64"),
        (["generate", "--prompts", "good.txt", "--guidance", "nan"], "guidance"),
        (["generate", "--prompts", "good.txt", "--output", "a.png"], "a.png"),
        (["generate", "--prompts", "good.txt", "--output", "no/where"], "no"),
        (["generate", "--prompts", "good.txt", "--output", "good.txt"], "good.txt"),
        (["generate", "--prompts", "good.txt", "--model", "pokcet"], "pocket"),
        (["generate", "--prompts", "good.txt", "--device", "toaster"], "toaster"),
        (["generate", "--prompts", "good.txt", "--memory", "lots"], "memory"),
        (["generate", "--prompts", "good.txt", "--cluster", "0"], "--cluster"),
        (["generate", "--prompts", "good.txt", "--preview"], "--preview"),
        (["generate", "a fox", "--prompts", "good.txt"], "PROMPT"),
        (["generate", "a fox", "--overwrite"], "--prompts"),
        (["generate", "a fox", "--cluster", "2"], "--prompts"),
        (["generate"], "--prompts"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(sana, words: list[str], naming: str) -> None:
    Path("good.txt").write_text("a fox\n")
    Path("bad.jsonl").write_text('{"prompt": "a fox"}\n{"prompt": "a fox", "steps": "many"}\n')
    outcome = sana(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Error: ")
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) < 600
    assert naming in outcome.err
    assert files(".") == ["bad.jsonl", "good.txt"]


def test_without_ray_the_extra_is_named(draw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = draw("--cluster", 2)
    assert outcome.code == 2
    assert "sanakit[cluster]" in outcome.err
    assert files(".") == [FILE]


@pytest.mark.slow
def test_two_processes_draw_the_files_that_one_draws(tmp_path: Path) -> None:
    """With pocket. The command runs on its own: Ray asks for the address of the machine."""
    pytest.importorskip("ray")
    (tmp_path / "a.txt").write_text("\n".join(f"a red apple, number {number}" for number in range(10)))
    command = [sys.executable, "-c", "from sanakit.cli import main; main()", "generate", "--prompts", "a.txt"]
    common = [*command, "--size", "64", "--steps", "2", "--output"]
    for words in (["one"], ["two", "--cluster", "2"]):
        subprocess.run([*common, *words], cwd=tmp_path, check=True)
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")
    ]
    assert len(contents[0]) == 11
    assert contents[0] == contents[1]

    lost = tmp_path / "two" / "00009-a-red-apple-number-8.png"
    lost.unlink()
    report = subprocess.run(
        [*common, "two", "--cluster", "2", "--json"], cwd=tmp_path, check=True, capture_output=True
    )
    assert json.loads(report.stdout)["drawn"] == 1
    with Image.open(lost) as image:
        assert image.size == (64, 64)
    assert lost.read_bytes() == contents[0][lost.name]

    (tmp_path / "three").mkdir()
    refused = subprocess.run([*common, "three", "--cluster", "999"], cwd=tmp_path, capture_output=True)
    assert refused.returncode == 2
    assert b"use at most" in refused.stderr


def test_a_model_that_was_trained_again_under_its_name_does_not_get_the_others_pictures(
    draw, tiny: Path
) -> None:
    draw("--output", "out")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    file = tiny / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, file)
    outcome = draw("--output", "out")
    assert outcome.code == 2
    assert "drawn by other weights" in outcome.err
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert draw("--output", "out", "--overwrite").code == 0
    assert Path("out/00001-a-red-apple.png").read_bytes() != before["00001-a-red-apple.png"]


def test_a_model_in_few_bits_does_not_get_the_pictures_of_the_whole_one(draw) -> None:
    draw("--output", "out")
    assert "drawn by other weights" in draw("--output", "out", "--plan", "int8").err
