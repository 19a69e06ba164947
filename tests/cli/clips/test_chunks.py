"""`sana video` with a causal model: prompts of chunks, frames written as they come, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sanakit.cli.clips import chunks
from sanakit.clips.reading import open_clip
from sanakit.clips.writing import ClipWriter
from sanakit.errors import NumericsError
from sanakit.pipelines.video.chunks import ChunkSampler
from sanakit.pipelines.video.text_to_video import TextToVideo
from tests.pipelines.video.tiny import SIZE, TRANSFORMER, save_tiny

PROMPT = "a red apple <split> a fox"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    defaults = {**SIZE, "frames": 17, "motion": 0, "chunks": {"length": 2}}
    return save_tiny(tmp_path_factory.mktemp("causal") / "model", replace(TRANSFORMER, causal=True), defaults)


def test_a_webp_and_a_folder_are_written_chunk_by_chunk(sana, model, monkeypatch) -> None:
    order: list[str] = []
    add, draw = ClipWriter.add, ChunkSampler.draw
    monkeypatch.setattr(ClipWriter, "add", lambda *a: (order.append("frame"), add(*a))[1])
    monkeypatch.setattr(ChunkSampler, "draw", lambda *a, **k: (order.append("chunk"), draw(*a, **k))[1])
    outcome = sana("video", PROMPT, "--model", model, "--seed", 7, "--fps", 8, "--output", "fox.webp")
    assert (outcome.code, outcome.out, outcome.err) == (0, "fox.webp  seed 7\n", "")
    assert order == ["chunk"] + 9 * ["frame"] + ["chunk"] + 8 * ["frame"]
    wanted = TextToVideo.from_pretrained(model, device="cpu")(PROMPT, seed=7)
    with open_clip("fox.webp") as clip:
        read = clip.read()
    assert read.frames.shape == (17, 64, 96, 3)
    assert read.settings == wanted.metadata[0]
    assert sana("video", PROMPT, "--model", model, "--seed", 7, "--output", "fox").code == 0
    with open_clip("fox") as clip:
        assert np.abs(clip.read().frames.astype(int) - wanted.frames).max() <= 1


def test_several_clips_get_files_and_json(sana, model) -> None:
    outcome = sana("video", "a fox", "--model", model, "--seed", 7, "--num-clips", 2, "-o", "a.gif", "--json")
    report = json.loads(outcome.out)
    assert [(clip["path"], clip["seed"]) for clip in report["clips"]] == [("a-1.gif", 7), ("a-2.gif", 8)]
    assert set(report["timings"]) == {"chunks"}
    assert "256 colours" in report["warnings"][-1]
    assert len(set(report["warnings"])) == len(report["warnings"])
    pixels = []
    for name in ("a-1.gif", "a-2.gif"):
        with open_clip(name) as clip:
            pixels.append(clip.read().frames)
    assert len(pixels[0]) == 17
    assert not np.array_equal(*pixels)


def test_a_new_name_is_taken_when_the_clip_is_whole(sana, model, monkeypatch) -> None:
    """A process that is killed leaves no empty file, and one that draws meanwhile is not written over."""
    pytest.importorskip("av")
    words, seen, add = ["video", "a fox", "--model", model, "--seed", 7], [], ClipWriter.add

    def spied(*given) -> None:
        seen.append(sorted(path.name for path in Path.cwd().glob("sana-*")))
        add(*given)

    monkeypatch.setattr(ClipWriter, "add", spied)
    assert sana(*words).out == "sana-7.mp4  seed 7\n"
    assert {tuple(names) for names in seen} == {()}
    assert sana(*words, "-n", 2).out == "sana-7_2-1.mp4  seed 7\nsana-7_2-2.mp4  seed 8\n"
    names = sorted(path.name for path in Path.cwd().iterdir() if "sana-7" in path.name)
    assert names == ["sana-7.mp4", "sana-7_2-1.mp4", "sana-7_2-2.mp4"]
    assert all(Path(name).stat().st_size for name in names)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--negative", "a table"], "takes no negative prompt"),
        (["--guidance", 4], "drawn without guidance"),
        (["--frames", 257], "at most 253 frames"),
        (["--frames", 5], "2 prompts came for 1 chunk of"),
    ],
)
def test_a_mistake_is_told_before_weights_are_read(sana, model, monkeypatch, words, sentence) -> None:
    monkeypatch.setattr(TextToVideo, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    outcome = sana("video", PROMPT, "--model", model, "--seed", 7, *words)
    assert outcome.code == 2
    assert sentence in outcome.err


def test_a_clip_that_fails_leaves_no_file(sana, model, monkeypatch) -> None:
    def fail(chunks, add, show):
        for number, chunk in enumerate(chunks):
            if number:
                raise NumericsError("It became NaN.")
            add(chunk.frames[0])
            yield []

    monkeypatch.setattr(chunks, "_added", fail)
    for words in (["--output", "fox.webp"], []):
        assert sana("video", "a fox", "--model", model, "--seed", 7, *words).code != 0
    assert list(Path.cwd().glob("*fox*")) == list(Path.cwd().glob("sana-*")) == []
