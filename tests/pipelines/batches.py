"""A file of prompts, drawn into a folder as the command does it."""

from __future__ import annotations

from pathlib import Path

from sanakit.pipelines.batch import draw_group, finished, groups, held, save_all
from sanakit.pipelines.prompt_file import PromptImage
from sanakit.pipelines.text_to_image import TextToImage

PROMPTS = ["a red apple", "two green foxes", "an owl", "a dog", "a cat"]


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
