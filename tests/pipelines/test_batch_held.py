"""A folder of images is held by one process; what it cannot take is a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sanakit.errors import OutputError
from sanakit.pipelines.batch import MANIFEST, Drawn, draw_group, finished, groups, held, save_all
from sanakit.pipelines.prompt_file import PromptImage
from sanakit.pipelines.text_to_image import TextToImage
from tests.pipelines.batches import content, run


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_one_draws(
    pipe: TextToImage, pictures: list[PromptImage], whole: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    with held(folder):
        done = finished(pictures, folder)
        for one in save_all(draw_group(pipe, groups(pictures, done)[0]), pictures, folder, done):
            half = folder / f".{one.entry.file}.{'0' * 16}.partial"
            half.write_bytes(b"half")  # as it is written at this moment
            with pytest.raises(OutputError, match=r"Another process is writing .*shared: wait"):
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
            yield Drawn(entry=picture, image=Image.new("RGB", (8, 8)), warnings=[])
            (folder / MANIFEST).unlink()
            (folder / MANIFEST).symlink_to("/dev/full")

    with pytest.raises(OutputError, match=r"manifest\.jsonl cannot be written \(No space left on device\)"):
        list(save_all(drawn(), pictures, folder, set()))
