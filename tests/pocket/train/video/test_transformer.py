"""The runs of pocket-video's transformer on made-up clips: they train, resume exactly, and draw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sanakit import TextToVideo
from sanakit.errors import DataError, SettingsError, WeightsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pocket.data import toy
from sanakit.pocket.data.clips.dataset import open_clips
from sanakit.pocket.data.clips.pool import encode_frames
from sanakit.pocket.data.clips.samples import SHARES, captions_of_sample, list_clip_samples, render
from sanakit.pocket.data.clips.toy import build_toy_clips
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.data.samples import draw_chances
from sanakit.pocket.recipes import RECIPES, video
from sanakit.pocket.train.video import transformer as module
from sanakit.pocket.train.video.autoencoder import open_autoencoder
from sanakit.pocket.train.video.transformer import IMAGE_SHARES
from sanakit.train.feeds.joint import JointFeed
from sanakit.train.feeds.latents import LatentFeed
from sanakit.train.loop import train
from sanakit.train.objectives.clip_velocity import ClipObjective
from sanakit.train.parts import Part
from sanakit.train.record import record_run
from sanakit.train.run import averaged_weights, run_recipe
from sanakit.train.surgery import dense_time
from sanakit.weights import load_transformer, save_autoencoder
from tests.pipelines.video.tiny import AUTOENCODER
from tests.tiny_image_model import TEXT, save_tiny

NAME, IMAGES = "pocket-video", "pocket-video-images"
MOST_BYTES = 25_000_000  # of what is not pocket's own
DEPTH = 3  # of the image model


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The data sets of clips and, beside it, of images; an autoencoder; an image model to begin with."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "THINGS", 3)
        toy.build_toy(folder / "toy")
    torch.manual_seed(0)
    save_autoencoder(folder / "vae", WanVAE(AUTOENCODER))
    image = {"depth": DEPTH, "channels": 8, "qk_norm": True, "time_scale": 1.0}
    return {
        "data": build_toy_clips(folder / "toy-clips"),
        "autoencoder": folder / "vae",
        "source": save_tiny(folder / "image", defaults={"steps": 2}, **image),
    }


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny transformer, few samples, and no TensorBoard, whose import takes longer than the tests."""
    sizes = {"depth": 2, "width": 32, "cross_heads": 2, "text_width": TEXT.width}
    monkeypatch.setattr(video, "TRANSFORMER", replace(video.TRANSFORMER, **sizes))
    training = {"bf16": False, "log_every": 1, "checkpoint_every": 1, "batch_size": 4}
    monkeypatch.setattr(video, "VIDEO", replace(video.VIDEO, **training))
    monkeypatch.setattr(video, "IMAGES", replace(video.IMAGES, **training))
    monkeypatch.setattr(dense_time, "STEPS", 1)
    monkeypatch.setattr(video, "WINDOWS", 2)
    monkeypatch.setattr(video, "MOTIONS", 1)
    monkeypatch.setattr(video, "DEFAULTS", {**video.DEFAULTS, "steps": 2})
    monkeypatch.setattr(module, "SHEET", module.SHEET[:2])
    monkeypatch.setattr(module, "WATCHED", 2)
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


@pytest.mark.thorough
def test_the_recipe_trains_resumes_exactly_and_its_result_draws(
    places: dict[str, Any], tmp_path: Path
) -> None:

    def lines(folder: str, steps: int, resume: bool = False) -> list[float]:
        asked = {"data": places["data"], "output": tmp_path / folder, "source": places["source"]}
        asked["more"] = {"autoencoder": places["autoencoder"]}
        made = run_recipe(NAME, RECIPES, steps=steps, resume=resume, **asked)  # pyright: ignore[reportArgumentType]
        return [progress.loss for progress in made]

    whole = lines("whole", 6)
    run = video.video(output=tmp_path / "half", steps=6, **places)
    stopped = []
    for progress in train(run.objective, run.config, tmp_path / "half"):
        stopped.append(progress.loss)
        if progress.step == 3:
            break
    assert stopped == whole[:3]
    assert lines("half", 6, resume=True) == whole[3:]
    one, other = (averaged_weights(tmp_path / folder) for folder in ("whole", "half"))
    assert all(torch.equal(one[name], other[name]) for name in one)

    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    measured = {"right_0.85", "wrong_0.85", "held_0.85", "chunks_0.85", "unseen_right_0.85"}
    assert measured <= log[-1].keys()
    assert list((tmp_path / "whole" / "sheets").iterdir())

    pipe = TextToVideo.from_pretrained(tmp_path / "whole" / "model")
    state = pipe.transformer.state_dict()
    for name, weight in state.items():
        wanted = one[f"transformer.{name}"].half().float()
        torch.testing.assert_close(weight.float(), wanted, msg=name)
    settings = pipe.settings
    assert (settings.frames, settings.rate, settings.motion, settings.negative_prompt) == (17, 8, 0, "")
    assert (settings.shared.width, settings.shared.name) == (16, "pocket-video")
    assert settings.shared.example_prompts == video.EXAMPLES
    drawn = pipe("a red apple", seed=0, width=64, height=64, binned=False, output="pt").clips
    assert isinstance(drawn, torch.Tensor)
    assert drawn.shape == (1, 3, 17, 64, 64)
    assert torch.isfinite(drawn).all()


def test_clips_and_images_take_turns_in_its_batches(places: dict[str, Any], tmp_path: Path) -> None:
    run = video.video(output=tmp_path / "run", **places)
    objective = run.objective
    assert isinstance(objective, ClipObjective)
    assert [note.split(":")[0] for note in run.notes] == [
        "1 of 3 blocks were left out.",
        "The embedder of latents and the output layer are new",
    ]
    batches = [objective.batch(step, Part(0, 4, 4)) for step in range(30)]
    frames = [batch.noise.shape[2] for batch in batches]
    assert frames.count(1) == 3
    chunks = [batch.chunks for batch in batches if batch.chunks is not None]
    assert 1 <= len(chunks) <= 14
    assert set(map(tuple, chunks)) == {(3, 2)}
    held = torch.cat([batch.held for batch in batches if batch.noise.shape[2] > 1]).float().mean()
    assert 0.3 < held < 0.7


def test_without_images_beside_them_only_clips_are_shown(places: dict[str, Any], tmp_path: Path) -> None:
    alone = build_toy_clips(tmp_path / "toy-clips")
    run = video.video(output=tmp_path / "run", **{**places, "data": alone})
    assert "only animated emoji are shown" in run.notes[0]
    objective = run.objective
    assert isinstance(objective, ClipObjective)
    assert {objective.batch(step, Part(0, 4, 4)).noise.shape[2] for step in range(20)} == {5}


def test_frames_alone_are_shown_before_clips_which_go_on_from_them(
    places: dict[str, Any], tmp_path: Path
) -> None:
    images = video.images(output=tmp_path / IMAGES, steps=2, **places)
    objective = images.objective
    assert isinstance(objective, ClipObjective)
    batches = [objective.batch(step, Part(0, 4, 4)) for step in range(8)]
    assert {tuple(batch.noise.shape[1:]) for batch in batches} == {(4, 1, 2, 2)}
    assert not any(bool(batch.held.any()) or batch.chunks for batch in batches)
    assert {one.latents.shape[2] for one in objective.watched} == {1}
    before = {name: one.clone() for name, one in objective.transformer.state_dict().items()}
    assert images.made_with is not None
    record_run(tmp_path / IMAGES, IMAGES, images.config, images.made_with)
    list(train(images.objective, images.config, tmp_path / IMAGES))
    images.finish(tmp_path / IMAGES)
    with pytest.raises(SettingsError, match="pocket"):
        video.video(output=tmp_path / "other", **{**places, "source": "pocket"})
    learned = averaged_weights(tmp_path / IMAGES)
    state = load_transformer(tmp_path / IMAGES / "model", kind="clip").state_dict()
    for name, weight in state.items():
        torch.testing.assert_close(weight, learned[f"transformer.{name}"], msg=name)
    assert not torch.equal(state["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"])

    run = video.video(output=tmp_path / "run", **places)
    assert run.notes == (f"It goes on from step 2 of {tmp_path / IMAGES}.",)
    assert isinstance(run.objective, ClipObjective)
    begun = run.objective.transformer.state_dict()
    assert all(torch.equal(weight, begun[name]) for name, weight in state.items())
    assert not (tmp_path / "run" / "pool").exists()


def test_samples_are_shown_with_their_own_captions_as_often_as_their_kind_asks(
    places: dict[str, Any], tmp_path: Path
) -> None:
    """Each sample is encoded again alone; of samples that look alike one has the captions that are shown."""
    clips, drawings = open_clips(places["data"]), open_pocket(places["data"].with_name("toy"))
    codec = open_autoencoder(places["autoencoder"], AUTOENCODER, clips, []).eval()
    samples = list_clip_samples(clips, drawings, windows=2, motions=1)
    rendered = [render(sample, clips, drawings) for sample in samples]

    def check(feed: object, which: set[str], shares: Mapping[str, float], frames: int | None) -> None:
        assert isinstance(feed, LatentFeed)
        own = [(one, each) for one, each in zip(samples, rendered, strict=True) if one.kind in which]
        latents = codec.normalise(torch.cat([encode_frames(codec, [each[:frames]]) for _, each in own]))
        chances = draw_chances([one for one, _ in own], shares)
        captions = [captions_of_sample(one, clips, drawings) for one, _ in own]
        assert sorted(map(list, feed.captions)) == sorted(captions)
        for row, shown in enumerate(feed.latents):
            near = (latents - shown).abs().flatten(1).amax(1) < 0.02  # stored in float16
            same = [n for n in near.nonzero().flatten().tolist() if captions[n] == feed.captions[row]]
            assert same, feed.captions[row]
            assert feed.weights[row].item() == pytest.approx(chances[same[0]])

    images = video.images(output=tmp_path / IMAGES, **places).objective
    assert isinstance(images, ClipObjective)
    check(images.feed, {"animated", "made", "still"}, IMAGE_SHARES, 1)
    both = video.video(output=tmp_path / "run", **places).objective
    assert isinstance(both, ClipObjective)
    assert isinstance(both.feed, JointFeed)
    check(both.feed.clips, {"animated", "made"}, SHARES, None)
    check(both.feed.images, {"still"}, {"still": 1.0}, None)


def test_an_autoencoder_is_found_in_runs_and_models_or_asked_for(
    places: dict[str, Any], tmp_path: Path
) -> None:
    data, vae = places["data"], places["autoencoder"]
    clips = open_clips(data)
    finished = tmp_path / "run"
    (finished / "model").mkdir(parents=True)
    (finished / "model" / "vae").symlink_to(vae)
    for place in (vae, finished, finished / "model"):
        assert open_autoencoder(place, AUTOENCODER, clips, []).config == AUTOENCODER
    with pytest.raises(DataError, match="train pocket-video-autoencoder first"):
        video.video(data, tmp_path / "alone" / "run", source=places["source"])
    with pytest.raises(WeightsError, match="not an autoencoder of Wan's class"):
        open_autoencoder(Path(video.__file__).parents[2] / "assets" / "pocket", AUTOENCODER, clips, [])


def test_another_recipe_refuses_an_autoencoder(tmp_path: Path) -> None:
    asked = {"data": tmp_path, "output": tmp_path / "run", "more": {"autoencoder": tmp_path}}
    with pytest.raises(SettingsError, match="omit --autoencoder"):
        next(run_recipe("pocket-control", RECIPES, **asked))  # pyright: ignore[reportArgumentType]


def test_what_pocket_does_not_have_fits_into_25_mb_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with torch.device("meta"):
        parts = [SanaVideo(video.TRANSFORMER), WanVAE(video.AUTOENCODER)]
    assert 2 * sum(p.numel() for part in parts for p in part.parameters()) < MOST_BYTES
