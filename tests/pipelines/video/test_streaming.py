"""Whole clips: which chunks, under which prompts, from which beginning; and their frames as they come."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.clips.clip import clip_levels
from sanakit.clips.writing import writing
from sanakit.errors import NumericsError, SettingsError, SizeError
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import LONG_SANA_2B_480P, SanaVideo
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pipelines.video.chunks import ClipPoint
from sanakit.pipelines.video.streaming import LatentChunk, chunk_lengths, decoded, stream
from tests.models.video.clips import TINY, apart
from tests.models.video.wan_pair import build
from tests.pipelines.video.streams import CAUSAL, Pointing, draw, same, sampler, tiny, words


@pytest.fixture(scope="module")
def model() -> SanaVideo:
    return tiny()


@pytest.fixture(scope="module")
def codec() -> WanVAE:
    return build(dtype=torch.float32)


@pytest.mark.parametrize(
    ("frames", "chunk", "lengths"),
    [
        (21, 10, [11, 10]),
        (41, 10, [11, 10, 10, 10]),
        (241, 10, [11] + [10] * 23),
        (20, 10, [10, 10]),
        (19, 10, [19]),
        (7, 10, [7]),
        (1, 10, [1]),
        (5, 2, [3, 2]),
        (4, 1, [1, 1, 1, 1]),
    ],
)
def test_the_first_chunk_takes_the_remainder(frames, chunk, lengths):
    assert chunk_lengths(frames, chunk) == lengths
    # what is left behind any chunk is cut as it was: a clip goes on from any point
    for done in range(1, len(lengths)):
        assert chunk_lengths(frames - sum(lengths[:done]), chunk) == lengths[done:]


@pytest.mark.parametrize(("frames", "chunk"), [(0, 10), (-1, 10), (5, 0)])
def test_clips_without_frames_are_refused(frames, chunk):
    with pytest.raises(SettingsError, match="both must be at least 1"):
        chunk_lengths(frames, chunk)


def latents_of(chunks: Iterator[LatentChunk]) -> Tensor:
    return torch.cat([chunk.latents for chunk in chunks], dim=2)


def test_chunks_are_drawn_when_they_are_asked_for():
    stub = Pointing()
    chunks = stream(sampler(stub), [stub.prepare(None)], 21, start=0)
    assert stub.calls == []
    first = next(chunks)
    assert len(stub.calls) == 5
    assert (first.first, first.given, first.latents.shape[2], first.point.frames) == (0, False, 11, 11)
    second = next(chunks)
    assert (second.first, second.latents.shape[2], second.point.frames) == (11, 10, 21)
    assert len(stub.calls) == 10
    assert list(chunks) == []
    assert sum(name == "extend" for name, *_ in stub.calls) == 2


def test_each_chunk_has_its_prompt_and_the_last_one_stays(model):
    one, prompts = sampler(model), words(model, 4, 2, 3)
    point, expected = ClipPoint.start(0), []
    for frames, number in zip((3, 2, 2, 2), (0, 1, 1, 1), strict=True):
        latents, point = one.draw(point, frames, prompts[number])
        expected.append(latents)
    clip = latents_of(stream(one, prompts[:2], 9, start=0, chunk=2))
    assert torch.equal(clip, torch.cat(expected, dim=2))
    three = latents_of(stream(one, prompts, 9, start=0, chunk=2))
    assert torch.equal(three[:, :, :5], clip[:, :, :5])
    assert (three[:, :, 5:7] - clip[:, :, 5:7]).abs().max() > 0.1


@pytest.mark.parametrize("settings", [{}, {"window": 2}, {"guided": True}, {"renew": False}])
def test_a_clip_goes_on_from_any_of_its_points_as_if_it_had_not_stopped(model, settings):
    prompts, negative = words(model, 4, 2, 3), words(model, 1)[0]
    if settings.pop("guided", False):
        settings = {"negative": negative, "guidance": 3.0}
    one = sampler(model, **settings)
    whole = list(stream(one, prompts, 9, start=3, chunk=2))
    for number, chunk in enumerate(whole[:-1]):
        left = prompts[number + 1 :] or prompts[-1:]
        rest = list(stream(one, left, 9 - chunk.point.frames, start=chunk.point, chunk=2))
        assert [one.first for one in rest] == [one.first for one in whole[number + 1 :]]
        for ours, theirs in zip(rest, whole[number + 1 :], strict=True):
            assert torch.equal(ours.latents, theirs.latents)
            assert same(ours.point.state, theirs.point.state)
            assert torch.equal(ours.point.random, theirs.point.random)


def test_an_image_is_the_first_frame_of_the_first_chunk(model):
    one, [prompt] = sampler(model), words(model, 4)
    image = torch.randn(1, 4, 1, 4, 6, generator=draw(2))
    chunks = list(stream(one, [prompt], 5, start=0, chunk=2, image=image))
    assert torch.equal(chunks[0].latents[:, :, :1], image)
    expected, point = one.draw(ClipPoint.start(0), 3, prompt, image)
    assert torch.equal(chunks[0].latents, expected)
    assert torch.equal(chunks[1].latents, one.draw(point, 2, prompt)[0])


def test_an_existing_clip_comes_first_and_is_the_past_of_what_is_drawn(model):
    one, prompts = sampler(model), words(model, 4, 2)
    old = torch.randn(1, 4, 5, 4, 6, generator=draw(2))
    chunks = list(stream(one, prompts, 4, start=0, chunk=2, given=old))
    assert [(chunk.first, chunk.given) for chunk in chunks] == [(0, True), (3, True), (5, False), (7, False)]
    assert torch.equal(torch.cat([chunk.latents for chunk in chunks[:2]], dim=2), old)
    past = model.extend(model.extend(None, old[:, :, :3], prompts[0]), old[:, :, 3:], prompts[0])
    assert same(chunks[1].point.state, past)
    expected, _ = one.draw(chunks[1].point, 2, prompts[0])
    assert torch.equal(chunks[2].latents, expected)
    assert torch.equal(chunks[1].point.random, ClipPoint.start(0).random)


def test_what_cannot_be_drawn_is_told_before_anything_is(model):
    stub = Pointing()
    one, prompt = sampler(stub), stub.prepare(None)
    point = one.draw(ClipPoint.start(0), 3, prompt)[1]
    stub.calls.clear()
    image, clip = torch.zeros(1, 1, 1, 4, 6), torch.zeros(1, 1, 3, 4, 6)

    def told(
        error: type[Exception], said: str, prompts: list[TextContext], frames: int, **given: Any
    ) -> None:
        with pytest.raises(error, match=said):
            stream(one, prompts, frames, **({"start": 0} | given))

    told(SettingsError, "0 prompts came for 2 chunks", [], 21)
    told(SettingsError, "3 prompts came for 2 chunks of 10 latent frames: pass from 1 to 2", [prompt] * 3, 21)
    told(SizeError, "would have 65 latent frames, but this model has positions for 64", [prompt], 65)
    told(SizeError, "would have 65 latent frames", [prompt], 62, start=point)
    told(SizeError, "would have 65 latent frames", [prompt], 62, given=clip)
    told(SettingsError, "pass one of them", [prompt], 9, start=point, image=image)
    told(SettingsError, "pass one of them", [prompt], 9, start=point, given=clip)
    told(SettingsError, "pass one of them", [prompt], 9, image=image, given=clip)
    told(SettingsError, "An image of 3 latent frames came", [prompt], 9, image=clip)
    told(SettingsError, "draw at least two", [prompt], 1, image=image)
    told(SizeError, r"pass \(1, 1, T, 4, 6\)", [prompt], 9, image=image[..., :4])
    told(SizeError, r"pass \(1, 1, T, 4, 6\)", [prompt], 9, given=clip[0])
    told(SettingsError, "A prompt is for 2 clips", [TextContext.join([prompt, prompt])], 9)
    told(SettingsError, "both must be at least 1", [prompt], 0)
    assert stub.calls == []


def test_the_published_limit_of_1024_latent_frames_is_told_at_the_start():
    stub = Pointing()
    stub.config = replace(stub.config, max_positions=LONG_SANA_2B_480P.max_positions)
    stream(sampler(stub), [stub.prepare(None)], 1024, start=0)
    with pytest.raises(SizeError, match="1025 latent frames, but this model has positions for 1024"):
        stream(sampler(stub), [stub.prepare(None)], 1025, start=0)
    assert stub.calls == []


def test_a_model_that_knows_no_chunks_streams_one(model):
    one, [prompt] = sampler(tiny(config=TINY)), words(model, 4)
    with pytest.raises(SettingsError, match="not trained on chunks"):
        stream(one, [prompt], 21, start=0)
    assert latents_of(stream(one, [prompt], 5, start=0)).shape[2] == 5


def test_frames_come_with_their_chunks_and_equal_those_of_the_whole_clip(model, codec):
    one, [prompt] = sampler(model), words(model, 4)
    pairs = decoded(codec, stream(one, [prompt], 7, start=0, chunk=2))
    frames, chunk = next(pairs)
    assert (frames.shape, chunk.first) == ((1, 3, 9, 32, 48), 0)
    both = [(frames, chunk), *pairs]
    assert [part.shape[2] for part, _ in both] == [9, 8, 8]
    clip = torch.cat([part for part, _ in both], dim=2)
    latents = torch.cat([part.latents for _, part in both], dim=2)
    assert torch.equal(latents, latents_of(stream(one, [prompt], 7, start=0, chunk=2)))
    assert apart(clip, codec.decode(codec.denormalise(latents))) < 2e-5
    assert clip.min() >= -1
    assert clip.max() <= 1


def test_a_clip_that_goes_on_from_a_point_is_decoded_behind_the_chunks_before_it(model, codec):
    one, [prompt] = sampler(model), words(model, 4)
    whole = list(decoded(codec, stream(one, [prompt], 7, start=0, chunk=2)))
    kept = [chunk for _, chunk in whole[:2]]
    rest = stream(one, [prompt], 2, start=kept[-1].point, chunk=2)
    again = list(decoded(codec, [*kept, *rest]))
    assert torch.equal(again[2][0], whole[2][0])
    with pytest.raises(SettingsError, match="begins at latent frame 5, but 0 is the next"):
        next(decoded(codec, stream(one, [prompt], 2, start=kept[-1].point, chunk=2)))
    with pytest.raises(SettingsError, match="begins at latent frame 5, but 3 is the next"):
        list(decoded(codec, [kept[0], whole[2][1]]))


def test_frames_go_into_a_file_as_they_come(model, codec, tmp_path):
    one, [prompt] = sampler(model), words(model, 4)
    with writing(tmp_path / "clip", width=48, height=32, rate=16) as writer:
        for frames, _ in decoded(codec, stream(one, [prompt], 5, start=0, chunk=2)):
            before = writer.frames
            for frame in clip_levels(frames)[0]:
                writer.add(frame)
            assert writer.frames - before == frames.shape[2]
    written = sorted((tmp_path / "clip").glob("*.png"))
    assert len(written) == 17
    last = np.asarray(Image.open(written[-1]))
    assert np.array_equal(last, clip_levels(frames)[0][-1])


def test_a_codec_that_waits_for_later_chunks_and_frames_that_are_not_numbers_are_told(model, monkeypatch):
    codec = build(dtype=torch.float32)
    one, [prompt] = sampler(model), words(model, 4)

    def late(chunks: Any) -> Iterator[Tensor]:
        for number, latents in enumerate(chunks):
            yield torch.zeros(1, 3, latents.shape[2] + number, 8, 8)

    monkeypatch.setattr(codec, "decode_stream", late)
    with pytest.raises(
        SettingsError, match="gave 3 frames for a chunk of 9: it cannot decode chunks as they"
    ):
        next(decoded(codec, stream(one, [prompt], 5, start=0, chunk=2)))
    infinite = torch.full((1, 3, 9, 8, 8), float("inf"))
    monkeypatch.setattr(codec, "decode_stream", lambda chunks: (infinite for _ in chunks))
    with pytest.raises(NumericsError, match="The frames of latent frame 0 and later"):
        next(decoded(codec, stream(one, [prompt], 5, start=0, chunk=2)))


def tensor_bytes() -> int:
    """What all tensors that Python knows of hold, each storage once."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.usefixtures("own_objects")
def test_memory_is_the_same_behind_5_chunks_and_behind_20(codec):
    model = tiny(config=replace(CAUSAL, max_positions=256))
    one, prompts = sampler(model, height=2, width=2, window=3), words(model, 4, 2)
    held = []
    for number, (_frames, chunk) in enumerate(decoded(codec, stream(one, prompts, 200, start=0))):
        if number in (4, 19):
            held.append(tensor_bytes())
        assert chunk.point.frames == 10 * (number + 1)
    assert held[0] == held[1]
