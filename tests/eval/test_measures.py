"""The call that all measures share, with judges that are made up: what is asked, kept, and added up."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sanakit.errors import DataError, SettingsError
from sanakit.eval import measures
from sanakit.eval.cases import Case
from sanakit.eval.folder import ImageCase, pixels
from sanakit.eval.measures import Tools, check_weights, measure
from sanakit.eval.metrics.clip_score import clip_scores, hessel_score
from sanakit.models.clip import Clip, ClipConfig, TowerConfig
from sanakit.text.clip import ClipScorer, Preprocessing, train_clip_tokenizer
from sanakit.weights.clip import POCKET_CLIP, clip_folder


class Judge:
    """Gives each image its red, and remembers the prompts of what it was shown."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.loaded = 0

    def load(self, *_: Any) -> measures.Look:
        self.loaded += 1
        return self.look

    def look(self, images: list[Image.Image], cases: list[Case]) -> list[float]:
        self.asked += [case.prompt for case in cases]
        return [float(image.getpixel((0, 0))[0]) for image in images]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    judge = Judge()
    monkeypatch.setattr(measures, "_load", judge.load)
    return judge


def draw(folder: Path, count: int) -> list[ImageCase]:
    folder.mkdir(exist_ok=True)
    shown = []
    for index in range(count):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / f"{index}.png")
        shown.append(ImageCase(folder / f"{index}.png", Case(str(index), f"picture {index}")))
    return shown


def test_every_picture_is_asked_about_with_its_prompt(judge: Judge, tmp_path: Path) -> None:
    seen: list[tuple] = []
    figures = measure(
        "clip-score",
        draw(tmp_path, 11),
        Tools(),
        progress=lambda *counts: seen.append(counts),
    )
    assert judge.asked == [f"picture {index}" for index in range(11)]
    assert (figures.value, figures.pictures) == (5, 11)
    assert figures.by == "openai/clip-vit-large-patch14"
    assert seen == [("clip-score", 0, 11), ("clip-score", 8, 11), ("clip-score", 11, 11)]


def test_what_was_found_is_not_asked_again_unless_the_picture_changed(judge: Judge, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    shown = draw(tmp_path / "pictures", 5)
    measure("image-reward", shown[:3], Tools(), folder=folder)
    with (folder / "image-reward.jsonl").open("a") as file:
        file.write('{"picture": "cut o')  # the run was stopped within a line
    judge.asked.clear()
    assert measure("image-reward", shown, Tools(), folder=folder).value == 2
    assert judge.asked == ["picture 3", "picture 4"]
    Image.new("RGB", (40, 4), (100, 0, 0)).save(shown[0].path)
    judge.asked.clear()
    assert measure("image-reward", shown, Tools(), folder=folder).value == 22
    assert judge.asked == ["picture 0"]
    judge.asked.clear()
    loaded = judge.loaded
    measure("image-reward", shown, Tools(), folder=folder)
    assert judge.loaded == loaded  # nothing to ask, nothing to load
    measure("image-reward", shown, Tools(weights={"image-reward": "other/judge"}), folder=folder)
    assert len(judge.asked) == 5


def test_what_is_asked_of_a_picture_decides_not_where_it_lies(judge: Judge, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    shown = draw(tmp_path / "pictures", 3)
    measure("clip-score", shown, Tools(), folder=folder)
    judge.asked.clear()
    other = [ImageCase(shown[0].path, Case("0", "a whale")), *shown[1:]]
    measure("clip-score", other, Tools(), folder=folder)
    assert judge.asked == ["a whale"]
    judge.asked.clear()
    moved = draw(tmp_path / "moved", 3)
    assert measure("clip-score", moved, Tools(), folder=folder).value == 1
    assert judge.asked == []
    before = shown[1].path.stat()
    Image.new("RGB", (4, 4), (200, 0, 0)).save(shown[1].path)
    os.utime(shown[1].path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` leaves it
    measure("clip-score", shown, Tools(), folder=folder)
    assert judge.asked == ["picture 1"]


def test_another_task_or_other_questions_are_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def look(images: list[Image.Image], cases: list[Case]) -> list[Any]:
        asked.extend(case.name for case in cases)
        return [[[1, True]] if case.task == {} else {"correct": True} for case in cases]

    monkeypatch.setattr(measures, "_load", lambda *_: look)
    (one,) = draw(tmp_path / "pictures", 1)
    for count in (1, 2, 2):
        task = {"tag": "counting", "prompt": "p", "include": [{"class": "cat", "count": count}]}
        measure("geneval", [ImageCase(one.path, Case("0", "p", task))], Tools(), folder=tmp_path)
    assert len(asked) == 2
    table = tmp_path / "dpg.csv"
    heading = "item_id,proposition_id,dependency,tuple,question_natural_language\n"
    for question in ("Cat?", "Dog?", "Dog?"):
        table.write_text(f"{heading}0,1,0,entity (cat),{question}\n")
        measure("dpg", [one], Tools(questions=table, weights={"vqa": "some/judge"}), folder=tmp_path)
    assert len(asked) == 4


def test_another_judge_in_the_same_place_is_asked_again(judge: Judge, tmp_path: Path) -> None:
    place = Path(shutil.copytree(clip_folder(POCKET_CLIP), tmp_path / "clip"))
    shown = draw(tmp_path / "pictures", 2)
    tools = Tools(weights={"clip": str(place)})
    for _ in range(2):
        measure("clip-score", shown, tools, folder=tmp_path)
    assert len(judge.asked) == 2
    file = place / "model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor + 0.01 for name, tensor in tensors.items()}, file)
    measure("clip-score", shown, tools, folder=tmp_path)
    assert len(judge.asked) == 4
    reward = tmp_path / "ImageReward.pt"
    for content in (b"one", b"one", b"two"):
        reward.write_bytes(content)
        measure("image-reward", shown, Tools(weights={"image-reward": str(reward)}), folder=tmp_path)
    assert len(judge.asked) == 8


def test_a_judge_that_is_downloaded_for_the_measure_is_known_the_next_time(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is here it has only a name."""
    load = judge.load

    def download(*words: Any) -> measures.Look:
        monkeypatch.setattr(measures, "found_here", lambda place: clip_folder(POCKET_CLIP))
        return load(*words)

    monkeypatch.setattr(measures, "_load", download)
    shown = draw(tmp_path / "pictures", 2)
    for _ in range(2):
        measure("clip-score", shown, Tools(weights={"clip": "some/clip"}), folder=tmp_path)
    assert len(judge.asked) == 2


def test_dpg_goes_by_the_names_of_prompts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dpg.csv").write_text(
        "item_id,proposition_id,dependency,tuple,question_natural_language\n"
        "0,1,0,entity (cat),Cat?\n0,2,1,attribute (cat),Red cat?\n1,1,0,entity (dog),Dog?\n"
    )
    shown = draw(tmp_path / "pictures", 2)
    said = {"0": [[1, False], [2, True]], "1": [[1, True]]}
    monkeypatch.setattr(
        measures, "_load", lambda *_: lambda images, cases: [said[case.name] for case in cases]
    )
    tools = Tools(questions=tmp_path / "dpg.csv", weights={"vqa": "some/judge"})
    found = [measure("dpg", shown, tools, folder=tmp_path) for _ in range(2)]  # asked, and read back
    assert found[0] == found[1]
    assert found[0].value == 50  # the mean of 0 and 100
    assert found[0].details == {"attribute": 100, "entity": 50}
    with pytest.raises(DataError, match="no question for 1 prompt, such as 2"):
        measure("dpg", draw(tmp_path / "pictures", 3), tools)


def test_geneval_counts_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = draw(tmp_path, 3)
    tags = ("counting", "counting", "colors")
    shown = [
        ImageCase(one.path, Case(str(i), "p", {"tag": tag, "prompt": "p"}))
        for i, (one, tag) in enumerate(zip(shown, tags, strict=True))
    ]
    verdicts = iter([{"correct": True}, {"correct": False}, {"correct": True}])
    monkeypatch.setattr(measures, "_load", lambda *_: lambda images, cases: [next(verdicts) for _ in cases])
    figures = measure("geneval", shown, Tools())
    assert figures.value == 0.75
    assert figures.details["counting"] == 0.5


def test_a_picture_that_nothing_is_said_of_is_named(judge: Judge, tmp_path: Path) -> None:
    shown = draw(tmp_path, 2)
    with pytest.raises(DataError, match=r"1 of 2 images.*1\.png"):
        measure("clip-score", [shown[0], ImageCase(shown[1].path, None)], Tools())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fid", "--reference"),
        ("fid-lite0", "--reference"),
        ("dpg", r"--weights vqa="),
        ("beauty", "clip-score"),
    ],
)
def test_what_a_measure_lacks_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        measure(name, draw(tmp_path, 2), Tools())


def test_fid_names_its_weights(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"pt_inception-2015-12-05.*--weights inception="):
        measure("fid", draw(tmp_path, 2), Tools(reference=tmp_path))


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(SettingsError, match="inception, clip"):
        check_weights(["clop"])


def test_fid_lite0_takes_a_folder_and_then_its_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanakit.eval.networks.efficientnet.load_efficientnet", lambda: torch.nn.Identity())
    monkeypatch.setattr(
        "sanakit.eval.networks.efficientnet.image_features", lambda model, images: images.mean((2, 3))
    )
    shown = draw(tmp_path / "drawn", 4)
    draw(tmp_path / "real", 9)
    kept = tmp_path / "kept"
    kept.mkdir()
    first = measure("fid-lite0", shown, Tools(reference=tmp_path / "real"), folder=kept)
    again = measure("fid-lite0", shown, Tools(reference=kept / "fid-lite0-reference.npz"))
    assert first.value == pytest.approx(again.value)
    assert first.details == {"reference_pictures": 9}
    red = [torch.arange(n).double() / 127.5 - 1 for n in (4, 9)]
    expected = (red[0].mean() - red[1].mean()) ** 2 + (red[0].std() - red[1].std()) ** 2
    assert first.value == pytest.approx(float(expected), rel=1e-4)


def test_clip_scores_are_a_hundred_cosines_and_a_picture_may_have_any_size() -> None:
    tower = TowerConfig(width=16, depth=1, heads=2, mlp_width=16)
    tokenizer = train_clip_tokenizer(["a red apple", "a green pear"], 1024)
    vocab = tokenizer.get_vocab_size()
    model = Clip(
        ClipConfig(
            vision=tower,
            text=tower,
            image_size=16,
            patch_size=8,
            vocab_size=vocab,
            max_tokens=16,
            eos_token=vocab - 1,
            embed_width=8,
        )
    ).eval()
    model.init_weights()
    clip = ClipScorer(model, tokenizer, Preprocessing(size=16, crop=(16, 16)))
    images = [Image.new("RGB", (20, 16), "red"), Image.new("RGB", (16, 40), "green")]
    images.append(images[0])  # images and prompts may come again, which changes no score
    prompts = ["a red apple", "a green pear", "a green pear"]
    scores = clip_scores(clip, images, prompts)
    for image, prompt, score in zip(images, prompts, scores, strict=True):
        cosine = float((clip.images(pixels(image)[None]) @ clip.texts([prompt]).T).squeeze())
        assert score == pytest.approx(100 * cosine, abs=1e-3)
    assert hessel_score(30) == pytest.approx(0.75)
    assert hessel_score(-3) == 0


def test_findings_are_lines_that_name_the_judge(judge: Judge, tmp_path: Path) -> None:
    measure("clip-score", draw(tmp_path, 2), Tools(weights={"clip": "pocket-clip"}), folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "clip-score.jsonl").read_text().splitlines()]
    assert [row["result"] for row in rows] == [0, 1]
    assert {row["by"] for row in rows} == {"pocket-clip"}
