"""`sana data caption` and `sana data score`, as their user meets them."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.data.annotate import captioner, scoring
from sanakit.data.medium import CLIPS
from sanakit.data.read.open import open_source
from tests.data.clip_files import LEVEL, counted


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Captioners and scorers of which nothing has to be loaded; gives what they were asked for."""
    asked: list[tuple] = []

    def endpoint(url: str, model: str, key: str | None, **settings):
        asked.append((url, model, key, settings["concurrency"]))
        return lambda images: ["a red square"] * len(images)

    def local(model: str, prompt: str, **settings):
        asked.append((model, prompt))
        return lambda images: [""] * len(images)

    def clip(model: str, **settings):
        asked.append((model,))

        def score(images, texts):
            warnings.warn("long captions are cut", stacklevel=1)
            return [float(len(text)) for text in texts]

        return score

    monkeypatch.setattr(captioner, "endpoint_captioner", endpoint)
    monkeypatch.setattr(captioner, "transformers_captioner", local)
    monkeypatch.setattr(scoring, "clip_scorer", clip)
    monkeypatch.setattr(captioner, "fingerprint_weights", lambda folder: f"sampled-{folder}")
    monkeypatch.setattr(captioner, "fetch_files", lambda place, patterns: Path(place))
    return asked


@pytest.fixture
def pictures(sana) -> Path:
    """A folder in the current one."""
    folder = Path("pictures")
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(folder / name)
    (folder / "c.jpg").write_bytes(b"no picture")
    return folder


ASK = ("data", "caption", "pictures", "--endpoint", "http://localhost:1/v1", "--model", "org/seer")


def test_what_is_not_used_is_named(sana, pictures: Path) -> None:
    (pictures / "lost.txt").write_text("a caption")
    for words in (ASK, ("data", "score", "pictures")):
        done = sana(*words)
        assert "Warning: lost.txt: is a caption without an image\n" in done.err
        assert done.out.endswith(", 1 not used besides images\n")


def test_captions_and_scores_land_beside_the_pictures(sana, pictures: Path, models: list[tuple]) -> None:
    done = sana(*ASK, "--batch", 3)
    assert done.code == 0
    assert done.out == f"{pictures / 'captions.jsonl'}  2 images captioned, 1 broken\n"
    assert "Warning: c.jpg: is not a JPEG" in done.err
    assert models == [("http://localhost:1/v1", "org/seer", None, 3)]

    again = sana(*ASK)
    assert again.out == f"{pictures / 'captions.jsonl'}  0 images captioned, 2 were before, 1 broken\n"

    scored = sana("data", "score", "pictures", "--json")
    assert json.loads(scored.out) == {
        "sidecar": str(pictures / "captions.jsonl"),
        "samples": "images",
        "done": 2,
        "kept": 0,
        "broken": {},
        "unanswered": [],
        "bare": ["c.jpg"],
        "ignored": {},
    }
    assert scored.err == "Warning: long captions are cut\n"
    rows = [json.loads(line) for line in (pictures / "captions.jsonl").read_text().splitlines()]
    assert rows[-1] == {
        "key": "b.png",
        "captions": [{"text": "a red square", "source": "seer", "score": 12.0}],
        "scorer": scoring.scorer_name("pocket-clip"),
    }


def test_a_model_that_says_nothing_is_reported(sana, pictures: Path) -> None:
    done = sana("data", "caption", "pictures", "--model", "folder/vlm/", "--output", "out/x.jsonl")
    assert done.out == f"{Path('out/x.jsonl')}  0 images captioned, 1 broken, 2 without an answer\n"
    assert "Warning: a.png (no answer from the model)" in done.err
    assert not (pictures / "captions.jsonl").exists()


def test_the_key_comes_from_the_environment_and_is_never_shown(
    sana, pictures: Path, models: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_ENDPOINT_KEY", "very-secret")
    done = sana(*ASK)
    assert models[0][2] == "very-secret"
    assert "very-secret" not in done.out + done.err + sana("data", "caption", "--help").out


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (["caption", "pictures"], "--model"),
        (["caption", "nowhere", "--model", "m"], "nowhere"),
        (["score", "hub:org/name"], ""),
        (["caption", "pictures", "--model", "m", "--folder-fps", "8"], "use it with --frames"),
        (["caption", "pictures", "--model", "m", "--frames", "0"], "--frames"),
        (["caption", "pictures", "--model", "m", "--frames", "1"], "holds no clips, but images (a.png)"),
        (["score", "pictures", "--folder-fps", "8"], "use it with --frames"),
        (["score", "pictures", "--frames", "65"], "--frames"),
        (["score", "pictures", "--frames", "2"], "holds no clips, but images (a.png)"),
        (["score", "pictures", "--batch", "0"], "--batch"),
        (["score", "pictures", "--cluster", "0"], "--cluster"),
    ],
)
def test_mistakes_are_sentences(sana, pictures: Path, words: list[str], naming: str) -> None:
    done = sana("data", *words)
    assert done.code == 2
    assert done.err.startswith("Error: ")
    assert naming in done.err
    assert "Traceback" not in done.err


def test_without_ray_the_extra_is_named(sana, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = sana(*ASK, "--cluster", 2)
    assert done.code == 2
    assert "sanakit[cluster]" in done.err


def test_clips_are_described_by_frames_of_each(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    """The middle frame alone, or a grid; one question does not pass for the other."""
    sizes, questions = [], []

    def endpoint(url: str, model: str, key: str | None, *, prompt: str, concurrency: int):
        questions.append(prompt)

        def answer(images: list[Image.Image]) -> list[str]:
            sizes.extend(image.size for image in images)
            return [str(round(np.asarray(image)[16, 16, 0] / LEVEL)) for image in images]

        return answer

    monkeypatch.setattr(captioner, "endpoint_captioner", endpoint)
    counted(Path("clips") / "a.webp", 9)
    counted(Path("clips") / "run", 5)
    words = ("data", "caption", "clips", *ASK[3:])
    done = sana(*words, "--frames", 1)
    assert (done.code, done.out) == (0, f"{Path('clips/captions.jsonl')}  2 clips captioned\n")
    again = sana(*words, "--frames", 4)
    assert again.out == f"{Path('clips/captions.jsonl')}  2 clips captioned\n"
    assert sizes == [(32, 32), (32, 32), (64, 64), (64, 64)]
    assert questions == [captioner.PROMPT, captioner.CLIP_PROMPT]
    source = open_source("clips", CLIPS)
    found = [[caption.text for caption in source.captions(index)] for index in range(len(source))]
    assert found == [["4", "1"], ["2", "0"]]


def test_a_place_of_clips_is_refused_where_images_are_asked_for(sana) -> None:
    counted(Path("clips") / "a.gif", 3)
    done = sana("data", "caption", "clips", *ASK[3:])
    assert done.code == 2
    assert "holds no images, but clips (a.gif)" in done.err


def test_clips_are_scored_by_the_mean_over_their_frames(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames that captioning shows; again by another number of them, and not by the same."""
    asked = []

    def clip(model: str, **settings):
        def score(images: list[Image.Image], texts: list[str]) -> list[float]:
            asked.extend(texts)
            return [float(round(np.asarray(image)[16, 16, 0] / LEVEL)) for image in images]

        return score

    monkeypatch.setattr(scoring, "clip_scorer", clip)
    counted(Path("clips") / "a.webp", 9)
    counted(Path("clips") / "run", 5)
    counted(Path("clips") / "bare.gif", 3)
    Path("clips/a.txt").write_text("a cat")
    Path("clips/run.txt").write_text("a dog")
    Path("clips/cut.webp").write_bytes(Path("clips/a.webp").read_bytes()[:200])
    Path("clips/cut.txt").write_text("a cut")
    words = ("data", "score", "clips", "--json")
    for frames, scores in ((1, (4.0, 2.0)), (4, ((1 + 3 + 5 + 7) / 4, (0 + 1 + 3 + 4) / 4))):
        done = sana(*words, "--frames", frames)
        assert done.code == 0
        report = json.loads(done.out)
        assert (report["done"], report["samples"]) == (2, "clips")
        assert (report["bare"], list(report["broken"])) == (["bare.gif"], ["cut.webp"])
        source = open_source("clips", CLIPS)
        found = {caption.text: caption.score for i in range(len(source)) for caption in source.captions(i)}
        assert found == {"a cat": scores[0], "a dog": scores[1], "a cut": None}
    assert sorted(asked) == ["a cat"] * 5 + ["a dog"] * 5
    asked.clear()
    again = sana("data", "score", "clips", "--frames", 4)
    assert again.out.startswith(f"{Path('clips/captions.jsonl')}  0 clips scored, 2 were before, 1 broken, ")
    assert not asked
