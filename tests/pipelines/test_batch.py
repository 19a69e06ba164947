"""Drawing a file of prompts: groups, going on after any kind of end, what is never replaced, the manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from sanakit.errors import MemoryLimitError, OutputError
from sanakit.images.image import read_metadata, save
from sanakit.pipelines import batch
from sanakit.pipelines.batch import (
    AT_ONCE,
    MANIFEST,
    draw_group,
    finished,
    groups,
)
from sanakit.pipelines.prompt_file import PromptImage, read_prompts
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage
from tests.pipelines.batches import content, run


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
