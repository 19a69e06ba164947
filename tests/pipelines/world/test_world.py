"""Clips along a known path: against diffusers, in chunks against moves, and what is refused."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch

import sanakit
from sanakit.errors import ArgumentError, MemoryLimitError, SettingsError, WeightsError
from sanakit.models.world.steered import SteeredWorld
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.pipelines.world.actions import STRAFING, action_poses
from sanakit.pipelines.world.paths import CameraPath, pinhole
from sanakit.pipelines.world.world import World, teacher_chunks
from tests.pipelines.conftest import INSTRUCTION, MAX_TOKENS
from tests.pipelines.video.tiny import apart, save_tiny
from tests.pipelines.world.tiny import TRANSFORMER, photo, save_world

LATENTS = 1e-4  # largest difference over largest value; seen: 8e-6
FRAMES = 2  # of 255
PROMPT = "Two green FOXES on a table"
PATH = "wl-8,dk-8"
LENS = [90.0, 80.0, 55.0, 40.0]  # of photo(120, 76), which is cut


@pytest.fixture(scope="module")
def oracle(world_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = diffusers.SanaWMPipeline.from_pretrained(world_folder, local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    return theirs


def theirs(oracle, kind: str, seed: int, guidance: float, steps: int, prompt: str = PROMPT.lower()):
    return oracle(
        photo(120, 76),
        prompt,
        action=PATH,
        intrinsics=LENS,
        height=64,
        width=96,
        num_frames=17,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        max_sequence_length=MAX_TOKENS,
        chi_prompt=[INSTRUCTION],
        output_type=kind,
    ).frames


def ours(world: World, seed: int, guidance: float, steps: int, output: str = "clip"):
    with pytest.warns(UserWarning, match="is cut to the shape of 96x64 px, its lens with it"):
        return world(
            photo(120, 76),
            PROMPT,
            path=PATH,
            keys="strafing",
            intrinsics=LENS,
            seed=seed,
            guidance=guidance,
            steps=steps,
            output=output,  # pyright: ignore[reportArgumentType]
        )


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_latents_are_those_of_diffusers(whole, oracle, guidance, monkeypatch) -> None:
    # softmax attention takes bfloat16 in both, where a rounding is 0.4 %: here neither rounds
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)
    found = ours(whole, 7, guidance, 4, "latent").clips
    assert apart(found, theirs(oracle, "latent", 7, guidance, 4)) < LATENTS
    called = {"intrinsics": LENS, "seed": 7, "steps": 4, "guidance": guidance, "output": "latent"}
    with pytest.warns(UserWarning, match="is cut"):
        still = whole(photo(120, 76), PROMPT, path="none-16", **called).clips
    assert apart(still[:, :, 1:], found[:, :, 1:]) > 0.02, "the path matters"


def test_frames_are_those_of_diffusers(whole, oracle) -> None:
    wanted = 255 * np.asarray(theirs(oracle, "np", 2, 4.0, 3))
    assert wanted.std() > 10
    assert np.abs(ours(whole, 2, 4.0, 3).frames - wanted).max() <= FRAMES


def test_no_step_touches_the_image(whole) -> None:
    steps = list(whole.steps(photo(), path="w-8", fov=60, seed=0, steps=3, guidance=2, output="latent"))
    assert len(steps) == 3
    for step in steps:
        assert torch.equal(step.latents[:, :, :1], steps[0].latents[:, :, :1])
    assert not torch.equal(steps[0].latents[:, :, 1:], steps[1].latents[:, :, 1:])


def test_keys_poses_and_read_paths_of_one_path_draw_the_same(whole) -> None:
    called = {"seed": 4, "steps": 1, "guidance": 1, "output": "latent"}
    poses, lens = action_poses("dj-8", STRAFING), pinhole(96, 64, 70)
    by_keys = whole(photo(), path="dj-8", keys="strafing", fov=70, **called)
    by_poses = whole(photo(), path=poses, fov=70, **called)
    read = CameraPath(poses, 2 * lens.expand(len(poses), 4), 192, 128)
    assert torch.equal(by_keys.clips, by_poses.clips)
    assert torch.equal(by_keys.clips, whole(photo(), path=read, **called).clips)
    assert by_keys.metadata[0]["path"] == "dj-8"
    assert str(by_poses.metadata[0]["path"]).startswith("9 poses@")


def test_streaming_weights_draw_along_a_path_as_moves_do(streaming) -> None:
    called = {"fov": 60, "seed": 5}
    result = streaming(photo(), PROMPT, path="wa-24,i-24", **called)
    live = streaming.enter(photo(), PROMPT, **called)
    first = live.frame
    moved = np.concatenate([first[None], live.move("wa-24"), live.move("i-24")])
    assert result.frames.shape == moved.shape == (49, 64, 96, 3)
    assert np.abs(result.frames.astype(int) - moved).max() <= 1  # rounding: chunks are decoded otherwise
    assert moved.std() > 10
    chunks = list(streaming.stream(photo(), PROMPT, path="wa-24,i-24", **called))
    assert [(len(chunk.frames), chunk.total) for chunk in chunks] == [(25, 2), (24, 2)]
    assert np.array_equal(np.concatenate([chunk.frames for chunk in chunks]), result.frames)


def test_streaming_takes_four_passes_and_one_that_remembers(streaming, monkeypatch) -> None:
    times, model = [], type(streaming.transformer)
    velocity, extend = model.velocity, model.extend
    monkeypatch.setattr(
        model,
        "velocity",
        lambda self, x, t, *a, **k: times.append(t[0].tolist()) or velocity(self, x, t, *a, **k),
    )
    monkeypatch.setattr(
        model, "extend", lambda self, *a, **k: times.append("extend") or extend(self, *a, **k)
    )
    streaming(photo(), path="w-24", fov=60, seed=0)
    known = [1.0, 0.96, 0.889, 0.727]
    assert times[-1] == "extend"
    assert [time[0] for time in times[:-1]] == [0.0] * 4
    assert [time[1:] for time in times[:-1]] == [pytest.approx([t] * 3) for t in known]


def test_in_one_chunk_streaming_is_the_whole_clip(streaming, monkeypatch) -> None:
    """All frames of a chunk see each other, as all of a clip do with bidirectional weights."""
    settings = replace(streaming.settings, chunks=replace(streaming.settings.chunks, times=None))
    parts = (streaming.autoencoder, streaming.text_encoder, settings)
    chunked = World(streaming.transformer, *parts)
    called = {"path": "wl-24", "fov": 60, "seed": 3, "steps": 3, "guidance": 3.0, "output": "latent"}
    found = chunked(photo(), PROMPT, **called).clips
    model = streaming.transformer
    monkeypatch.setattr(model, "config", replace(model.config, variant="bidirectional"))
    wanted = World(model, *parts)(photo(), PROMPT, **called).clips
    assert apart(found, wanted) < 1e-4  # heads of 32 have one softmax scale in both


@torch.no_grad()
def test_guided_chunks_have_two_pasts(streaming) -> None:
    """Euler's steps of guided velocities, each prompt with a past of its own, written out."""
    settings = replace(streaming.settings, chunks=replace(streaming.settings.chunks, times=None))
    encoder = streaming.text_encoder
    world = World(streaming.transformer, streaming.autoencoder, encoder, settings)
    called = {"path": "wl-48", "fov": 60, "seed": 3, "steps": 2, "guidance": 3.0}
    found = world(photo(), PROMPT, "a fox", output="latent", guidance_kind="interval=0.95-1", **called).clips
    request = world.checked(photo(), PROMPT, "a fox", **called)
    steered = SteeredWorld(streaming.transformer, request.inputs)
    texts = [*encoder.encode_negative(["a fox"]), *encoder.encode([PROMPT])]
    null, words = (steered.prepare([text]) for text in texts)
    generator, pasts, drawn = torch.Generator().manual_seed(3), [None, None], []
    times = request.clip.sampling.solver.times.tolist()
    assert times[1] < 0.95, "the second step is not guided"
    for count in (4, 3):
        x = torch.randn(1, 4, count, 2, 3, generator=generator)
        t = torch.ones(1, count)
        if count == 4:
            x[:, :, :1], t[:, 0] = found[:, :, :1], 0
        for step, (now, after) in enumerate(pairwise(times)):
            v = steered.velocity(x, now * t, words, state=pasts[1])
            if step == 0:
                u = steered.velocity(x, now * t, null, state=pasts[0])
                v = u + 3 * (v - u)
            x = x + (after - now) * v * t[:, None, :, None, None]
        drawn.append(x)
        pasts = [steered.extend(past, x, text) for past, text in zip(pasts, (null, words), strict=True)]
    assert apart(found, torch.cat(drawn, dim=2)) < 5e-3  # softmax attention rounds to bfloat16


def test_weights_of_chunks_without_a_state_begin_later_chunks_later(tmp_path) -> None:
    teacher = World.from_pretrained(
        save_world(tmp_path / "teacher", replace(TRANSFORMER, variant="chunk_causal")), device="cpu"
    )
    called = {"path": "w-48", "fov": 60, "seed": 3, "steps": 4, "guidance": 1, "output": "latent"}
    steps = list(teacher.steps(photo(), **called))
    assert [(step.index, step.total) for step in steps] == [(index, 6) for index in range(1, 7)]
    early, late = (step.latents for step in (steps[1], steps[3]))
    waiting = torch.randn(4, 7, 2, 3, generator=torch.Generator().manual_seed(3))[:, 4:]  # chunks are 4, 3
    assert torch.equal(early[0, :, 4:], waiting)
    assert not torch.equal(early[:, :, 1:4], late[:, :, 1:4])
    assert torch.equal(late[:, :, :4], steps[-1].latents[:, :, :4]), "the first chunk is done"
    assert not torch.equal(late[:, :, 4:], steps[-1].latents[:, :, 4:])
    with pytest.raises(SettingsError, match="tiny-world draws whole clips: call it with a path"):
        teacher.enter(photo(), fov=60)


@pytest.mark.parametrize(
    ("frames", "sizes"), [(1, [1]), (4, [4]), (7, [4, 3]), (8, [4, 4]), (9, [4, 5]), (10, [4, 3, 3])]
)
def test_teachers_see_one_frame_more_in_their_first_chunk(frames, sizes) -> None:
    assert teacher_chunks(frames, 3) == sizes


def test_an_autoencoder_that_looks_ahead_cannot_stream(streaming, whole) -> None:
    mixed = World(streaming.transformer, whole.autoencoder, streaming.text_encoder, streaming.settings)
    with pytest.raises(SettingsError, match="use a folder with the causal autoencoder"):
        mixed.steps(photo(), path="w-24", fov=60)
    with pytest.raises(SettingsError, match="causal autoencoder"):
        mixed.enter(photo(), fov=60)
    assert mixed(photo(), path="w-24", fov=60, seed=0, output="latent").clips.shape[2] == 4


def test_what_a_call_leaves_in_memory_is_not_counted_again(streaming_folder, monkeypatch) -> None:
    """Weights that were read stay in memory: a second call within the same budget is not refused."""
    held = iter([10**9])  # then 10 GB: tests before this one leave memory behind, too
    monkeypatch.setattr("sanakit.pipelines.video.memory.resident_bytes", lambda: next(held, 10 * 10**9))
    world = World.from_pretrained(streaming_folder, device="cpu", memory="4GB")
    called = {"fov": 60, "seed": 0}
    assert world(photo(), path="w-24", **called).frames.shape == (25, 64, 96, 3)
    assert world.enter(photo(), **called).frames == 1
    with pytest.raises(MemoryLimitError, match="do not fit in 1 MB"):
        World.from_pretrained(streaming_folder, device="cpu", memory="1MB").enter(photo(), **called)
    with pytest.raises(SettingsError, match="memory = 'much'"):
        World(world.transformer, world.autoencoder, world.text_encoder, world.settings, memory="much")


def test_bidirectional_weights_cannot_be_entered(whole) -> None:
    with pytest.raises(SettingsError, match="draws whole clips: call it with a path, or load streaming"):
        whole.enter(photo(), fov=60)
    with pytest.raises(SettingsError, match="draws whole clips"):
        whole.stream(photo(), path="w-24", fov=60)
    with pytest.raises(SettingsError, match="path is missing"):
        whole.steps(photo())


def test_models_of_clips_and_worlds_name_each_other(world_folder, tmp_path) -> None:
    with pytest.raises(WeightsError, match="model of worlds: walk with `sana world` or World"):
        TextToVideo.from_pretrained(world_folder)
    with pytest.raises(WeightsError, match="model of clips, which no camera path steers"):
        World.from_pretrained(save_tiny(tmp_path / "clips"))
    assert sanakit.World is World


def test_arguments_of_diffusers_are_answered_with_ours(whole, streaming) -> None:
    for call in (whole, whole.steps, streaming.stream, streaming.enter):
        with pytest.raises(ArgumentError, match=r'^action is not an argument here: use path="w-24'):
            call(photo(), action="w-24")
    with pytest.raises(SettingsError, match="The camera path is missing"):
        whole(photo())
    assert repr(whole).startswith("World: tiny-world, on cpu\n  transformer   SanaWM, ")
