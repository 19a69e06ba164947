"""Drawing a file of prompts: groups, going on after any kind of end, what is never replaced, the manifest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from sanakit.errors import MemoryLimitError, OutputError
from sanakit.images.image import read_metadata, save
from sanakit.pipelines import batch
from sanakit.pipelines.batch import (
    AT_ONCE,
    MANIFEST,
    Drawn,
    draw_group,
    drawn_by,
    finished,
    groups,
    held,
    save_all,
)
from sanakit.pipelines.prompt_file import PromptImage, read_prompts
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage

PROMPTS = ["a red apple", "two green foxes", "an owl", "a dog", "a cat"]


@pytest.fixture
def pictures(pipe: TextToImage, tmp_path: Path) -> list[PromptImage]:
    """Five images, the third of another size."""
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    rows[2]["size"] = "64x64"
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_prompts(path, partial(check_request, pipe.spec), steps=2)


def run(
    pipe: TextToImage,
    pictures: list[PromptImage],
    folder: Path,
    weights: str = "",
    *,
    overwrite: bool = False,
) -> list[str]:
    """Draw what is not there; return the files in the order in which they were saved."""
    with held(folder):
        done = finished(pictures, folder, weights, overwrite=overwrite)
        drawn = (one for group in groups(pictures, done) for one in draw_group(pipe, group, done))
        return [one.entry.file for one in save_all(drawn, pictures, folder, done, weights)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def whole(pipe: TextToImage, pictures: list[PromptImage], tmp_path: Path) -> dict[str, bytes]:
    """What an uninterrupted run leaves."""
    run(pipe, pictures, tmp_path / "whole")
    return content(tmp_path / "whole")


def test_every_picture_is_the_one_that_its_settings_draw_alone(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert sorted(whole) == sorted([*(picture.file for picture in pictures), MANIFEST])
    for picture in pictures:
        settings = read_metadata(tmp_path / "whole" / picture.file)
        assert settings == picture.metadata
        alone = pipe(**{name: settings[name] for name in settings if name not in ("model", "version")})
        with Image.open(tmp_path / "whole" / picture.file) as image:
            difference = ImageChops.difference(image, alone.images[0]).getextrema()
        assert max(high for _, high in difference) <= 1  # a batch is the image alone, to rounding


def test_the_manifest_tells_each_file_and_its_settings_in_the_order_of_the_prompts(
    pictures: list[PromptImage], whole: dict[str, bytes]
) -> None:
    lines = [json.loads(line) for line in whole[MANIFEST].decode().splitlines()]
    assert lines == [{"file": one.file, "line": one.line, **one.metadata} for one in pictures]


def test_rows_of_another_dialect_are_groups_of_their_own_and_drawn_in_it(
    pipe: TextToImage, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "A Red Apple", "seed": 3}, {"prompt": "A Red Apple", "seed": 3, "dialect": "native"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    asked = read_prompts(path, partial(check_request, pipe.spec), steps=2)
    assert [picture.metadata.get("dialect") for picture in asked] == [None, "native"]
    found = groups(asked, set())
    assert len(found) == 2
    for group, dialect in zip(found, ("diffusers", "native"), strict=True):
        (drawn,) = draw_group(pipe, group)
        alone = pipe("A Red Apple", seed=3, steps=2, dialect=dialect).images[0]
        assert ImageChops.difference(drawn.image, alone).getbbox() is None


def test_a_flag_that_native_prompts_lose_is_told_with_its_own_picture(
    pipe: TextToImage, tmp_path: Path
) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("a red apple\ntwo green foxes --ar 3:4\n")
    asked = read_prompts(path, partial(check_request, pipe.spec), steps=2, dialect="native")
    told = [one.warnings for group in groups(asked, set()) for one in draw_group(pipe, group)]
    assert [len(notes) for notes in told] == [0, 1]
    assert "--ar 3:4" in told[1][0]


def test_groups_share_their_settings_and_are_small(pictures: list[PromptImage]) -> None:
    assert [len(group) for group in groups(pictures, set())] == [4, 1]
    many = pictures[:1] * (2 * AT_ONCE + 1)
    assert [len(group) for group in groups(many, set())] == [AT_ONCE, AT_ONCE, 1]
    large = PromptImage(file="a", line=1, metadata=pictures[0].metadata | {"width": 2048, "height": 1024})
    assert [len(group) for group in groups([large] * 3, set())] == [1, 1, 1]
    other = PromptImage(file="a", line=1, metadata=pictures[0].metadata | {"guidance": 1.0})
    assert len(groups([pictures[0], other], set())) == 2


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


def test_a_pipe_in_the_place_of_a_picture_or_the_manifest_is_refused_at_once(
    pictures: list[PromptImage], fifo: Path, tmp_path: Path
) -> None:
    for name, naming in (
        (pictures[0].file, "carries no settings"),
        (MANIFEST, "not written by this command"),
    ):
        place = tmp_path / name.removesuffix(".png") / name
        place.parent.mkdir()
        place.symlink_to(fifo)
        with pytest.raises(OutputError, match=naming):
            finished(pictures, place.parent)


def test_the_manifest_has_one_line_an_image_to_every_reader(
    pipe: TextToImage, pictures: list[PromptImage], tmp_path: Path
) -> None:
    odd = replace(pictures[0], metadata=pictures[0].metadata | {"prompt": "a fox\u2028asleep\x85"})
    run(pipe, [odd], tmp_path / "odd")
    lines = (tmp_path / "odd" / MANIFEST).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["a fox\u2028asleep\x85"]


def test_a_folder_that_can_not_take_pictures_is_refused(pictures: list[PromptImage], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("regular")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / MANIFEST).write_text('{"mine": 1}\n')
    refusals = {
        "file": "but a file",
        "file/a": "not exist",
        "no/where": "not exist",
        "a.png": "needs a folder",
    }
    for name, naming in (
        refusals | {"mine": "not written by", "a" * 300: "not a folder", "a\0": "not a folder"}
    ).items():
        with pytest.raises(OutputError, match=naming):
            finished(pictures, tmp_path / name)


def test_where_memory_is_short_a_group_is_drawn_in_parts(
    pipe: TextToImage, pictures: list[PromptImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    draw = pipe.draw

    def short(request):
        tried.append(request.num_images)
        if request.num_images > 1:
            raise MemoryLimitError("too many")
        return draw(request)

    monkeypatch.setattr(pipe, "draw", short)
    group = groups(pictures, set())[0]
    assert [one.entry for one in draw_group(pipe, group)] == group
    assert tried == [4, 2, 1, 1, 2, 1, 1]


def test_where_memory_is_short_for_one_picture_it_is_told(
    pipe: TextToImage, pictures: list[PromptImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(request):
        raise MemoryLimitError("too large")

    monkeypatch.setattr(pipe, "draw", short)
    with pytest.raises(MemoryLimitError):
        list(draw_group(pipe, pictures[:2]))


def test_a_prompt_that_was_cut_is_told_with_its_picture(
    pipe: TextToImage, pictures: list[PromptImage], tmp_path: Path
) -> None:
    long = PromptImage(file="a.png", line=1, metadata=pictures[0].metadata | {"prompt": "apple " * 400})
    short, cut = draw_group(pipe, [pictures[0], long])
    assert short.warnings == []
    assert len(cut.warnings) == 1
    assert "too long" in cut.warnings[0]


def test_a_disk_that_fills_up_ends_the_run_with_a_sentence_and_whole_files(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path, monkeypatch
) -> None:
    saved = []

    def full(image, path, metadata):
        if len(saved) == 2:
            raise OutputError(f"{path} cannot be written (No space left on device).")
        saved.append(save(image, path, metadata))

    monkeypatch.setattr(batch, "save", full)
    with pytest.raises(OutputError, match="No space"):
        run(pipe, pictures, tmp_path / "full")
    monkeypatch.undo()
    run(pipe, pictures, tmp_path / "full")
    assert content(tmp_path / "full") == whole


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


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_one_draws(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    with held(folder):
        done = finished(pictures, folder)
        for one in save_all(draw_group(pipe, groups(pictures, done)[0]), pictures, folder, done):
            half = folder / f".{one.entry.file}.{'0' * 16}.partial"
            half.write_bytes(b"half")  # as it is written at this moment
            with pytest.raises(OutputError, match=r"Another process writes into .*shared now: wait"):
                run(pipe, pictures, folder)
            assert half.read_bytes() == b"half"
    assert run(pipe, pictures, folder)
    assert content(folder) == whole


def test_a_folder_in_which_nothing_was_drawn_is_not_left_behind(tmp_path: Path) -> None:
    with held(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with held(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()


def test_a_manifest_that_takes_no_line_is_a_sentence(pictures: list[PromptImage], tmp_path: Path) -> None:
    """The disk is full for its next line, and has room again when all of it is written at the end."""
    folder = tmp_path / "full"

    def drawn() -> Iterator[Drawn]:
        for picture in pictures[:2]:
            yield Drawn(picture=picture, image=Image.new("RGB", (8, 8)), warnings=[])
            (folder / MANIFEST).unlink()
            (folder / MANIFEST).symlink_to("/dev/full")

    with pytest.raises(OutputError, match=r"manifest\.jsonl cannot be written \(No space left on device\)"):
        list(save_all(drawn(), pictures, folder, set()))
