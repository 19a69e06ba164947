"""Captioners and scorers over a data set: every image once, whatever ends a run."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from sanakit.data.annotate.job import AnnotationReport, Captioning, Scoring, annotate, run_here
from sanakit.data.read.captions import Caption
from sanakit.data.read.open import open_source
from sanakit.data.read.sidecar import SIDECAR, read_sidecar
from sanakit.errors import DataError, SettingsError

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


def name_colour(image: Image.Image) -> str:
    pixel = image.getpixel((0, 0))
    return next((name for name, rgb in COLOURS.items() if rgb == pixel), str(pixel))


def by_colour(images: list[Image.Image]) -> list[str]:
    return [f"a {name_colour(image)} square" for image in images]


def by_words(images: list[Image.Image], texts: list[str]) -> list[float]:
    """A perfect scorer: 30 for the image's own colour, else 10."""
    pairs = zip(images, texts, strict=True)
    return [30.0 if name_colour(image) in text.split() else 10.0 for image, text in pairs]


def captioning(model=by_colour, name: str = "seer") -> Captioning:
    return Captioning(name=name, load=lambda: model)


def scoring(model=by_words, name: str = "clip") -> Scoring:
    return Scoring(name=name, load=lambda: model)


def run(folder: Path, job, batch_size: int = 2, **settings) -> AnnotationReport:
    source = open_source(folder)
    return annotate(
        source, job, folder / SIDECAR, partial(run_here, source=source, batch_size=batch_size), **settings
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, one below another folder, and one that is broken."""
    (tmp_path / "in").mkdir()
    for name, colour in (("1", "red"), ("2", "lime"), ("3", "blue"), ("4", "red"), ("in/5", "lime")):
        Image.new("RGB", (16, 8), colour).save(tmp_path / f"{name}.png")
    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, "PNG")
    (tmp_path / "3b.png").write_bytes(content.getvalue()[:1000])
    return tmp_path


def test_every_picture_is_captioned_and_read_back_with_the_data_set(folder: Path) -> None:
    (folder / "1.txt").write_text("mine")
    shown = []
    report = run(folder, captioning(), progress=lambda *what: shown.append(what))
    assert (report.done, report.kept, report.unanswered) == (5, 0, [])
    assert list(report.broken) == ["3b.png"]
    assert "damaged" in report.broken["3b.png"]
    source = open_source(folder)
    captions = {source.key(index): source.captions(index) for index in range(len(source))}
    assert captions["1.png"] == (Caption("mine"), Caption("a red square", None, "seer"))
    assert captions["in/5.png"] == (Caption("a lime square", None, "seer"),)
    assert captions["3b.png"] == ()
    assert shown[0] == ("reading", 0, 6)
    assert shown[-1] == ("captioning", 6, 6)


def test_a_second_run_asks_for_nothing_but_what_is_missing(folder: Path) -> None:
    run(folder, captioning())
    before = (folder / SIDECAR).read_bytes()
    Image.new("RGB", (8, 8), "blue").save(folder / "6.png")
    seen = []

    def remembering(images: list[Image.Image]) -> list[str]:
        seen.extend(images)
        return by_colour(images)

    report = run(folder, captioning(remembering))
    assert (report.done, report.kept, len(seen)) == (1, 5, 1)
    assert (folder / SIDECAR).read_bytes().startswith(before)


def test_with_nothing_to_do_the_model_is_not_loaded(folder: Path) -> None:
    (folder / "3b.png").unlink()
    run(folder, captioning())

    def load():
        raise AssertionError("loaded")

    assert run(folder, Captioning(name="seer", load=load)).kept == 5


def test_captioners_add_up_and_scores_belong_to_all_of_them(folder: Path) -> None:
    run(folder, captioning())
    run(folder, captioning(lambda images: ["a blue square"] * len(images), "bored"))
    report = run(folder, scoring())
    assert (report.done, report.bare) == (5, ["3b.png"])
    known = read_sidecar(folder / SIDECAR)
    assert known["1.png"].captions == (
        Caption("a red square", 30.0, "seer"),
        Caption("a blue square", 10.0, "bored"),
    )
    assert [caption.score for caption in known["3.png"].captions] == [30.0, 30.0]
    assert run(folder, scoring()).kept == 5


def test_a_new_caption_is_scored_and_another_scorer_replaces_all(folder: Path) -> None:
    run(folder, captioning())
    run(folder, scoring())
    (folder / "2.txt").write_text("lime and more")
    assert run(folder, scoring()).done == 1
    report = run(folder, scoring(lambda images, texts: [7.0] * len(texts), "other"))
    assert (report.done, report.kept) == (5, 0)
    source = open_source(folder)
    scores = {caption.score for index in range(len(source)) for caption in source.captions(index)}
    assert scores == {7.0}


def test_a_picture_without_an_answer_is_named_and_tried_again(folder: Path) -> None:
    shy = captioning(lambda images: ["" if name_colour(i) == "red" else "fine" for i in images])
    report = run(folder, shy)
    assert (report.done, report.unanswered) == (3, ["1.png", "4.png"])
    report = run(folder, captioning())
    assert (report.done, report.kept) == (2, 3)


def test_what_was_done_before_a_model_fails_is_kept(folder: Path) -> None:
    calls = []

    def failing(images: list[Image.Image]) -> list[str]:
        calls.append(len(images))
        if len(calls) == 2:
            raise ValueError("out of order")
        return by_colour(images)

    with pytest.raises(ValueError, match="out of order"):
        run(folder, captioning(failing))
    assert len(read_sidecar(folder / SIDECAR)) == 2
    assert run(folder, captioning()).kept == 2


def test_a_score_that_is_nan_is_refused(folder: Path) -> None:
    run(folder, captioning())
    with pytest.raises(DataError, match="nan"):
        run(folder, scoring(lambda images, texts: [float("nan")] * len(texts)))


@pytest.mark.parametrize("job", [captioning(lambda images: []), scoring(lambda images, texts: [])])
def test_a_model_that_answers_another_number_is_refused(folder: Path, job) -> None:
    (folder / "1.txt").write_text("mine")
    with pytest.raises(SettingsError, match="returned 0 answers"):
        run(folder, job)


def test_names_and_batches_are_checked(folder: Path) -> None:
    with pytest.raises(SettingsError, match="has no name"):
        run(folder, captioning(name=" "))
    with pytest.raises(SettingsError, match="at least 1"):
        run(folder, captioning(), batch_size=0)


def test_captions_that_can_not_be_read_are_named_and_the_rest_is_done(folder: Path) -> None:
    (folder / "2.json").write_text("{")
    report = run(folder, captioning())
    assert report.done == 4
    assert sorted(report.broken) == ["2.png", "3b.png"]


def test_shards_get_their_sidecar_beside_them(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for name, colour in (("a", "red"), ("b", "blue")):
            content = io.BytesIO()
            Image.new("RGB", (8, 8), colour).save(content, "PNG")
            member = tarfile.TarInfo(f"{name}.png")
            member.size = content.tell()
            shard.addfile(member, io.BytesIO(content.getvalue()))
    run(tmp_path, captioning())
    source = open_source(tmp_path / "0.tar")
    assert [source.captions(index)[0].text for index in range(2)] == ["a red square", "a blue square"]


def test_a_model_sees_pictures_upright_on_white_and_not_larger_than_needed(tmp_path: Path) -> None:
    seen = []
    image = Image.new("RGBA", (3000, 1500), (0, 0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    run(
        tmp_path,
        captioning(lambda images: [seen.append((i.size, i.getpixel((0, 0)))) or "x" for i in images]),
    )
    assert seen == [((512, 1024), (255, 255, 255))]


KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from sanakit.data.annotate.job import Captioning, annotate, run_here
from sanakit.data.read.open import open_source

folder, count = Path(sys.argv[1]), 0
def model(images):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return ["first"] * len(images)
source = open_source(folder)
annotate(source, Captioning(name="seer", load=lambda: model), folder / "captions.jsonl",
         partial(run_here, source=source, batch_size=1))
"""


def test_after_a_kill_the_same_command_does_the_rest(folder: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)])
    assert killed.returncode == -signal.SIGKILL
    with (folder / SIDECAR).open("ab") as file:
        file.write(b'{"key": "3.png", "capti')  # as if it had died while writing
    report = run(folder, captioning(lambda images: ["second"] * len(images)))
    assert (report.done, report.kept) == (3, 2)
    texts = [json.loads(line)["captions"][0]["text"] for line in (folder / SIDECAR).open()]
    assert texts == ["first"] * 2 + ["second"] * 3
