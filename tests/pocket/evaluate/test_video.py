"""A model of clips on three colours: what it draws is recognised, and its motion compared with real clips."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sanakit.clips.clip import VideoClip
from sanakit.errors import DataError
from sanakit.pocket.data.clips.dataset import PocketClips, open_clips
from sanakit.pocket.data.clips.toy import SIDE, build_toy_clips
from sanakit.pocket.evaluate import video
from sanakit.pocket.evaluate.video import RealFigures, VideoReport, evaluate_video
from sanakit.text.known_things import KnownThings
from tests.pocket.evaluate.colours import use_colours

COLOURS = {"a fox": (255, 10, 0), "a frog": (0, 255, 10), "a dolphin": (10, 0, 255)}
CONCEPTS = {"fox": "a fox", "frog": "a frog", "dolphin": "a dolphin", "anvil": "a fox"}  # the last: held out


@dataclass
class Painter:
    """Stands for TextToVideo: every thing in its colour, but for mistakes.

    The upper half of every second frame is off by `step` levels, the lower one by `noise`. The autoencoder
    keeps every value, or `blur` of it. grey: instead of all colours.
    """

    step: int = 8
    noise: int = 0
    blur: float = 1.0
    grey: bool = False
    mistakes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.asked: list[tuple[str, int]] = []  # prompts and seeds, without an image
        self.begun: list[int] = []  # seeds, with one
        self.device = torch.device("cpu")
        self.autoencoder = SimpleNamespace(
            dtype=torch.float32, encode=lambda clip: clip, decode=lambda latents: self.blur * latents
        )
        self.settings = SimpleNamespace(shared=SimpleNamespace(name="painter", steps=1, guidance=2.0))

    def __call__(self, prompts: str | list[str], *, seed: int, image: Any = None) -> Any:
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if image is None:
            self.asked += [(prompt, seed + number) for number, prompt in enumerate(prompts)]
        else:
            self.begun.append(seed)
        clips = [VideoClip(frames=self.paint(prompt, image), rate=8, settings={}) for prompt in prompts]
        return SimpleNamespace(clips=clips, frames=clips[0].frames)

    def paint(self, prompt: str, image: Any = None, count: int = 5) -> np.ndarray:
        colour = (128,) * 3 if self.grey else COLOURS["a fox" if prompt in self.mistakes else prompt]
        frames = np.broadcast_to(np.array(colour), (count, SIDE, SIDE, 3)).copy()
        if image is not None and not self.grey:
            frames[0] = np.asarray(image)
        off = np.where(np.array(colour) < 128, 1, -1)
        frames[1::2, : SIDE // 2] += self.step * off
        frames[1::2, SIDE // 2 :] += self.noise * off
        return frames.astype(np.uint8)


@pytest.fixture(autouse=True)
def three_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    use_colours(monkeypatch, video, concepts=[*CONCEPTS][:3], prompts=[*COLOURS], styled=[*COLOURS])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch):
    def run(painter: Painter, animated: tuple[str, ...] = tuple(COLOURS), **asked: Any) -> VideoReport:
        known = KnownThings(dict.fromkeys([*COLOURS, "a cow"], ()), threshold=0, animated=animated)
        monkeypatch.setattr(video.TextToVideo, "from_pretrained", lambda *_, **__: painter)
        monkeypatch.setattr(video, "load_known_things", lambda settings: known)
        return evaluate_video("painter", **{"limit": 6, **asked})

    return run


@pytest.fixture
def beside(measured, tmp_path: Path):
    """What is measured of a painter beside real clips, which are painted with steps of 8 levels."""

    def run(painter: Painter, noise: int = 0, **asked: Any) -> RealFigures:
        found = measured(painter, clips=real_clips(tmp_path / "clips", Painter(noise=noise)), **asked).real
        assert found is not None
        return found

    return run


def real_clips(folder: Path, painter: Painter) -> PocketClips:
    """Write a data set of the three things, each frame of theirs thrice, and of one that is held out."""
    build_toy_clips(folder)
    lines = (folder / "captions.jsonl").read_text().splitlines()
    rows, frames = [], []
    for number, (concept, thing) in enumerate(CONCEPTS.items()):
        own = {"concept": concept, "first": 48 * number, "frames": 48}
        rows.append(json.loads(lines[0]) | own | {"split": "val" if concept == "anvil" else "train"})
        frames.append(painter.paint(thing, count=16).repeat(3, axis=0))
    np.save(folder / "frames.npy", np.concatenate(frames))
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_clips(folder)


def test_right_clips_are_recognised_and_wrong_ones_are_named(measured, monkeypatch) -> None:
    right = measured(Painter(), limit=None)
    assert (right.recognised.top1, right.recognised.top5) == (1.0, 1.0)
    assert (right.prompts, right.things, right.real, right.not_recognised) == (100, 3, None, ())
    monkeypatch.setattr(video, "TOP", 1)
    wrong = measured(Painter(mistakes=("a frog",)), limit=3)
    assert wrong.recognised.top1 == pytest.approx(2 / 3)
    assert wrong.not_recognised == ("a frog",)


def test_prompts_are_the_animated_things_each_with_a_seed_of_its_own(measured) -> None:
    painter, kept = Painter(), list[int]()
    measured(painter, ("a frog", "a dolphin", "a cow"), limit=7, seed=40, keep=lambda n, _: kept.append(n))
    assert [prompt for prompt, _ in painter.asked] == ["a frog", "a dolphin"] * 3 + ["a frog"]
    assert [seed for _, seed in painter.asked] == list(range(40, 47))
    assert kept == list(range(7))
    spread = Painter()
    measured(spread, limit=2)
    assert [prompt for prompt, _ in spread.asked] == ["a fox", "a frog"]
    with pytest.raises(DataError, match="names no animated things"):
        measured(Painter(), ("a cow",))


def test_the_middle_frame_is_what_is_recognised() -> None:
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    frames[2, ..., 1] = 255
    gallery, network = video.load_reference().gallery, video.load_efficientnet()
    assert video.middle_ranks([frames, frames], [1, 0], network, gallery).tolist() == [0, 2]


@pytest.mark.parametrize(("step", "degree"), [(8, 1.0), (4, 0.5), (16, 2.0)])
def test_motion_is_over_that_of_real_clips(beside, step: int, degree: float) -> None:
    found = beside(Painter(step=step))
    assert found.dynamic_degree == pytest.approx(degree, rel=0.02)
    assert found.ceiling.top1 == 1.0


def test_what_the_autoencoder_loses_is_not_held_against_the_model(beside) -> None:
    blurred, exact = beside(Painter(blur=0.5)), beside(Painter())
    assert blurred.dynamic_degree == pytest.approx(2, rel=0.05)  # half of the real motion comes through
    assert 5 < blurred.autoencoder < 20
    assert blurred.autoencoder_flicker == pytest.approx(0.5, rel=0.1)
    assert (exact.autoencoder, exact.autoencoder_flicker) == (float("inf"), 0.0)


def test_first_frames_are_compared_with_the_image_and_with_the_autoencoder_alone(beside) -> None:
    kept = beside(Painter(blur=0.9))
    assert kept.first_frame == float("inf")
    assert 20 < kept.first_frame_ceiling < 30  # 10 % of one half of the range
    grey = Painter(grey=True)
    assert beside(grey, seed=40).first_frame < 10
    assert grey.begun == [40, 41, 42]


def test_flicker_on_still_pixels_is_over_that_of_real_clips(measured, beside) -> None:
    assert measured(Painter()).still_flicker == 0
    assert measured(Painter(noise=1)).still_flicker == pytest.approx(100 / 255)
    assert beside(Painter(noise=3), noise=2).still_flicker == pytest.approx(1.5)
    assert beside(Painter(noise=1)).still_flicker == float("inf")
    assert beside(Painter()).still_flicker == 1.0  # none on either side
