"""`sana evaluate` on images: drawn first by a tiny model, or lying in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from sanakit.alone import alone_in
from sanakit.eval import measures


@pytest.fixture(autouse=True)
def judges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every judge gives 1 to a wide image, else 0; the prompts it was asked about."""
    asked: list[str] = []

    def look(images: list[Image.Image], cases: list[Any]) -> list[float]:
        asked.extend(case.prompt for case in cases)
        return [float(image.width > image.height) for image in images]

    monkeypatch.setattr(measures, "_load", lambda *_: look)
    return asked


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red apple\ntwo green foxes\na table\n")
    return path


def test_prompts_are_drawn_measured_and_gone_on_with(sana, tiny: Path, prompts: Path, judges: list) -> None:
    words = (
        "evaluate",
        tiny,
        "--measure",
        "clip-score",
        "-m",
        "image-reward",
        "--prompts",
        prompts,
        "-o",
        "out",
    )
    first = sana(*words, "--num-images", 2, "--seed", 5, "--json")
    assert first.code == 0, first.err
    report = json.loads(first.out)
    assert report["measures"]["clip-score"]["value"] == 1
    assert report["measures"]["image-reward"]["pictures"] == 6
    assert json.loads(Path("out/report.json").read_text()) == report
    names = sorted(path.name for path in Path("out/pictures").glob("*.png"))
    assert names == [f"{i:05}-{k}.png" for i in range(3) for k in (1, 2)]
    lines = Path("out/pictures/manifest.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["seed"] for line in lines) == [5, 6, 7, 8, 9, 10]
    assert judges == [p for p in ("a red apple", "two green foxes", "a table") for _ in range(2)] * 2
    changed = Path("out/pictures/00001-1.png")
    before = changed.read_bytes()
    changed.unlink()
    judges.clear()
    assert sana(*words, "--num-images", 2, "--seed", 5).code == 0
    assert changed.read_bytes() == before
    assert judges == []  # the same bytes: what was said of them holds


def test_a_second_evaluation_into_the_same_folder_at_once_is_refused(sana, tiny: Path, prompts: Path) -> None:
    pytest.importorskip("fcntl")
    words = ("evaluate", tiny, "--measure", "clip-score", "--prompts", prompts, "-o", "out")
    with alone_in(Path("out")):  # by another process
        refused = sana(*words)
        assert refused.code == 2
        assert "Another process is writing out: wait until it ends" in refused.err
        assert [path.name for path in Path("out").iterdir()] == [".lock"]
    assert sana(*words).code == 0
    assert not list(Path("out").glob(".*"))


def test_pictures_that_are_there_need_no_model(sana, prompts: Path) -> None:
    Path("pictures").mkdir()
    for index, size in enumerate([(8, 4), (4, 8), (8, 4)]):
        Image.new("RGB", size).save(f"pictures/{index:05}.png")
    out = sana("evaluate", "--images", "pictures", "--prompts", prompts, "-m", "clip-score").out
    assert out.split()[:2] == ["clip-score", "0.6667"]
    assert "3 images, by openai/clip-vit-large-patch14" in out
    assert sorted(path.name for path in Path().iterdir()) == ["pictures"]


def test_pictures_of_generate_are_measured_with_the_same_file_of_prompts(
    sana, tiny: Path, tmp_path: Path, judges: list[str]
) -> None:
    file = tmp_path / "odd.txt"
    file.write_text("a red apple\n2\na fox\u2028asleep\n")
    assert sana("generate", "--prompts", file, "--model", tiny, "-o", "drawn", "--num-images", 2).code == 0
    for words in (["--prompts", file], []):
        judges.clear()
        outcome = sana("evaluate", "--images", "drawn", "-m", "clip-score", *words)
        assert (outcome.code, outcome.err) == (0, "")
        assert judges == ["a red apple"] * 2 + ["2"] * 2 + ["a fox\u2028asleep"] * 2


def test_numbers_of_pictures_other_than_asked_for_are_told(sana, prompts: Path) -> None:
    Path("pictures").mkdir()
    for name in ("00000-1", "00000-2", "00001", "00002-1", "00002-2"):
        Image.new("RGB", (8, 4)).save(f"pictures/{name}.png")
    words = ("evaluate", "--images", "pictures", "--prompts", prompts, "-m", "clip-score")
    for more, told in ([], "2 images: 00001 (1)"), (["--num-images", 4], "4 images: 00000 (2), 00001 (1)"):
        outcome = sana(*words, *more)
        assert outcome.code == 0
        assert outcome.err.startswith(f"Warning: Not all prompts have {told}")
        assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "x"], "recognition draws its own images"),
        (["-m", "fid"], "MODEL is missing"),
        (["pocket", "-m", "beauty"], "no measure 'beauty'"),
        (["pocket", "-m", "clip-score"], "--prompts"),
        (["--images", "nowhere", "-m", "clip-score"], "nowhere is not a folder"),
        (["--images", ".", "-m", "clip-score", "--weights", "clip"], "names no folder"),
        (["--images", ".", "-m", "clip-score", "--weights", "clop=x"], "'clop'"),
        (["pocket", "-m", "geneval", "--prompts", "missing.jsonl"], "missing.jsonl"),
        (["--images", ".", "-m", "clip-score", "--num-images", "4"], "--prompts"),
        (["--images", ".", "-m", "clip-score", "--limit", "4"], "--prompts"),
        (["pocket", "--images", ".", "-m", "clip-score"], "MODEL and --images cannot be combined"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(sana, words: list[str], message: str) -> None:
    outcome = sana("evaluate", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_another_model_of_the_same_name_is_not_measured_by_the_firsts_pictures(
    sana, tiny: Path, prompts: Path, judges: list
) -> None:
    words = ("evaluate", tiny, "-m", "clip-score", "--prompts", prompts, "-o", "out", "--json")
    first = json.loads(sana(*words).out)
    file = tiny / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(file).items()}, file)
    second = sana(*words)
    assert second.code == 2
    assert "drawn by other weights" in second.err
    assert "--output" in second.err
    assert "--overwrite" not in second.err  # `sana evaluate` has no such option
    assert json.loads(Path("out/report.json").read_text()) == first
    other = json.loads(sana(*words[:-2], "elsewhere", "--json").out)
    assert other["weights"] != first["weights"]
    assert first["weights"].startswith("sampled-")


def test_other_prompts_for_the_same_pictures_are_asked_again(sana, prompts: Path, judges: list) -> None:
    Path("pictures").mkdir()
    for index in range(3):
        Image.new("RGB", (8, 4), (index, 0, 0)).save(f"pictures/{index:05}.png")
    words = ("evaluate", "--images", "pictures", "--prompts", prompts, "-m", "clip-score", "-o", "out")
    assert sana(*words).code == 0
    prompts.write_text("a red apple\na blue whale\na table\n")
    judges.clear()
    assert sana(*words).code == 0
    assert judges == ["a blue whale"]
    assert "weights" not in json.loads(Path("out/report.json").read_text())
