"""A file of prompts drawn again: what is there stays, after any kind of end, and what is another image."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from sanakit.errors import OutputError
from sanakit.images.image import read_metadata, save
from sanakit.pipelines.batch import (
    MANIFEST,
    Drawn,
    draw_group,
    drawn_by,
    finished,
    groups,
    save_all,
)
from sanakit.pipelines.prompt_file import PromptImage
from sanakit.pipelines.text_to_image import TextToImage
from tests.pipelines.batches import content, run


def test_a_second_run_draws_nothing(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert finished(pictures, tmp_path / "whole") == {picture.file for picture in pictures}
    assert run(pipe, pictures, tmp_path / "whole") == []
    assert content(tmp_path / "whole") == whole


def test_a_missing_picture_alone_is_drawn_again_the_same(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "whole" / pictures[1].file).unlink()
    assert run(pipe, pictures, tmp_path / "whole") == [pictures[1].file]
    assert content(tmp_path / "whole") == whole


KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from sanakit.pipelines.batch import draw_group, finished, groups, save_all
from sanakit.pipelines.prompt_file import read_prompts
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage

model, prompts, folder, when = sys.argv[1:]
replaced, replace = 0, Path.replace

def dies(self, target):  # the file is written, and not yet in its place
    global replaced
    replaced += 1
    if replaced == int(when):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Path.replace = dies
pipe = TextToImage.from_pretrained(model, device="cpu")
images = read_prompts(prompts, partial(check_request, pipe.spec), steps=2)
done = finished(images, Path(folder))
drawn = (one for group in groups(images, done) for one in draw_group(pipe, group, done))
for one in save_all(drawn, images, Path(folder), done):
    pass
"""


def test_a_run_that_was_killed_anywhere_goes_on_to_the_same_files(
    pipe: TextToImage, folder: Path, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    for when in (1, 4):  # in writing its first manifest; a group's third image
        words = [sys.executable, "-c", KILLED, folder, tmp_path / "prompts.jsonl", killed, str(when)]
        assert subprocess.run(words).returncode == -9
        assert list(killed.glob(".*.partial"))
    assert [path.name for path in sorted(killed.glob("*.png"))] == [one.file for one in pictures[:2]]
    assert run(pipe, pictures, killed)
    assert content(killed) == whole


def test_a_run_that_was_stopped_has_a_manifest_of_what_is_there_and_goes_on(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    def stopped() -> Iterator[Drawn]:
        yield from list(draw_group(pipe, groups(pictures, set())[0]))[2:]
        raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        list(save_all(stopped(), pictures, folder, set()))
    lines = (folder / MANIFEST).read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == [pictures[3].file, pictures[4].file]
    run(pipe, pictures, folder)
    assert content(folder) == whole


def test_a_torn_manifest_is_mended(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    manifest = tmp_path / "whole" / MANIFEST
    manifest.write_bytes(whole[MANIFEST][:-20])
    run(pipe, pictures, tmp_path / "whole")
    assert content(tmp_path / "whole") == whole


def test_a_picture_of_other_settings_is_replaced_only_when_asked(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "whole"
    other = read_metadata(folder / pictures[0].file) | {"steps": 9}
    save(Image.new("RGB", (96, 64)), folder / pictures[0].file, other)
    Image.new("RGB", (96, 64)).save(folder / pictures[1].file)
    before = content(folder)
    with pytest.raises(OutputError, match=r"steps 9, not 2.*no settings.*--overwrite"):
        run(pipe, pictures, folder)
    assert content(folder) == before
    assert run(pipe, pictures, folder, overwrite=True) == [pictures[0].file, pictures[1].file]
    assert content(folder) == whole


def test_another_version_of_the_package_is_no_other_setting(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    file = tmp_path / "whole" / pictures[0].file
    with Image.open(file) as image:
        save(image.copy(), file, read_metadata(file) | {"version": "0.0.1"})
    assert run(pipe, pictures, tmp_path / "whole") == []


def test_what_other_programs_or_a_judge_wrote_into_a_picture_makes_it_no_other_one(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "whole"
    with Image.open(folder / pictures[0].file) as image:
        image.load()
        chunks = PngInfo()
        for key, text in image.text.items():
            chunks.add_itxt(key, text)
        chunks.add_text("Artist", "me")
        chunks.add_itxt("XML:com.adobe.xmp", "<rating>5</rating>")
        image.save(folder / pictures[0].file, pnginfo=chunks)
    judged = read_metadata(folder / pictures[1].file) | {"best_of": 16, "score": 30.5}
    with Image.open(folder / pictures[1].file) as image:
        save(image.copy(), folder / pictures[1].file, judged)
    before = content(folder)
    assert run(pipe, pictures, folder) == []
    assert content(folder) == before


def test_a_picture_that_was_made_from_another_is_another_one(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    file = tmp_path / "whole" / pictures[0].file
    save(Image.new("RGB", (96, 64)), file, read_metadata(file) | {"strength": 0.6})
    with pytest.raises(OutputError, match=r"strength 0\.6, not None"):
        run(pipe, pictures, tmp_path / "whole")


def weights_of(folder: Path) -> dict[str, str]:
    """What drew each image, by the manifest."""
    rows = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
    return {row["file"]: row["weights"] for row in rows}


def test_a_model_is_known_by_its_weights_and_settings_not_by_its_name_or_place(
    folder: Path, tmp_path: Path
) -> None:
    first, copy, other, shifted = (Path(shutil.copytree(folder, tmp_path / name)) for name in "abcd")
    file = other / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    save_file(tensors | {name: tensors[name] + 0.01}, file)
    scheduler = shifted / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"flow_shift": 7.0}))
    assert drawn_by(first) == drawn_by(copy)
    assert len({drawn_by(first), drawn_by(other), drawn_by(shifted), drawn_by(first, "int8")}) == 4


def test_pictures_of_another_model_of_the_same_name_are_refused(
    pipe: TextToImage, pictures: list[PromptImage], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    run(pipe, pictures, folder, "one")
    assert set(weights_of(folder).values()) == {"one"}
    before = content(folder)
    assert run(pipe, pictures, folder, "one") == []
    with pytest.raises(OutputError, match=r"00001-a-red-apple\.png \(drawn by other weights\).*--overwrite"):
        run(pipe, pictures, folder, "two")
    with pytest.raises(OutputError, match="somewhere else"):
        finished(pictures, folder, "two", remedy="Draw somewhere else.")
    assert content(folder) == before
    assert set(run(pipe, pictures, folder, "two", overwrite=True)) == {one.file for one in pictures}
    assert set(weights_of(folder).values()) == {"two"}


def test_a_run_that_replaces_pictures_and_is_stopped_never_takes_old_ones_for_new(
    pipe: TextToImage, pictures: list[PromptImage], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    run(pipe, pictures, folder, "one")

    def stopped() -> Iterator[Drawn]:
        yield from list(draw_group(pipe, groups(pictures, set())[0]))[:2]
        raise KeyboardInterrupt

    done = finished(pictures, folder, "two", overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        list(save_all(stopped(), pictures, folder, done, "two"))
    assert list(weights_of(folder).values()).count("two") == 2
    assert list(weights_of(folder).values()).count("one") == 3
    replaced = {file for file, weights in weights_of(folder).items() if weights == "two"}
    assert finished(pictures, folder, "two", overwrite=True) == replaced
    with pytest.raises(OutputError, match="other weights"):
        finished(pictures, folder, "two")
    with pytest.raises(OutputError, match="other weights"):
        finished(pictures, folder, "one")


@pytest.mark.parametrize("damage", ["line", "file", "older"])
def test_a_picture_that_no_manifest_names_is_that_of_its_folder_or_refused(
    pipe: TextToImage, pictures: list[PromptImage], tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "folder"
    run(pipe, pictures, folder, "one")
    manifest = folder / MANIFEST
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    if damage == "line":  # as after a power cut: the others tell which model draws here
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]) + '{"file": "0')
        assert run(pipe, pictures, folder, "one") == []
        assert len(weights_of(folder)) == len(pictures)
        return
    manifest.unlink()
    if damage == "older":
        manifest.write_text("".join(json.dumps(row | {"weights": ""}) + "\n" for row in rows))
    with pytest.raises(OutputError, match="drawn by weights that no manifest names"):
        run(pipe, pictures, folder, "one")
