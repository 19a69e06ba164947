"""Chunks of frames and bands of rows: equal to the whole clip, and no larger for a longer one."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError, SizeError
from sanakit.models.video import wan_stream
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from tests.models.video.live import Live
from tests.models.video.wan_pair import EXACT, POCKET, TINY, TOLERANCE, build, relative_error, sample

CONFIGS = {
    "tiny": WanVAEConfig.from_diffusers(TINY),
    "pocket": WanVAEConfig.from_diffusers(POCKET),  # time is halved at the finest step here
    "images": replace(WanVAEConfig.from_diffusers(TINY), halve_time=(False, False, False)),
}


def whole(model: WanVAE, clip: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.moments(clip).chunk(2, dim=1)[0], model.draw(latents).clamp(-1, 1)


@pytest.mark.parametrize("rows", ["bands", "one row"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_chunk_equals_the_whole(name: str, rows: str, monkeypatch: pytest.MonkeyPatch):
    if rows == "one row":
        monkeypatch.setattr(wan_stream, "values_of_band", lambda *_: 1)
    model = build(CONFIGS[name])
    step, factor = model.config.frame_rule.per_latent, model.config.compression
    clip = sample(1 + 4 * step, height=2 * factor, width=factor)
    latents = torch.randn(2, 4, 5, 2, 1, dtype=torch.float64)
    codes, frames = whole(model, clip, latents)
    for chunk in (None, 1, 3) if rows == "one row" else (None, 1, 2, 4, 9):
        count = None if chunk is None else chunk * step
        assert relative_error(model.encode(clip, chunk=count).detach(), codes) < EXACT
        assert relative_error(model.decode(latents, chunk=chunk).detach(), frames) < EXACT


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("chunk", [4, 1])
def test_chunks_whose_bands_differ_equal_the_whole_in_float32(
    chunk: int, planned: bool, monkeypatch: pytest.MonkeyPatch
):
    if planned:  # a chunk of one frame has larger bands than those behind it
        monkeypatch.setattr(wan_stream, "BAND_VALUES", 3_000)
    else:
        limits = cycle((500, 40_000, 3_000))
        monkeypatch.setattr(wan_stream, "values_of_band", lambda *_: next(limits))
    model = build()
    clip = sample(21, height=40, width=16)[:1]  # 5 rows of latents: bands of 2 or 3 leave some over
    latents = torch.randn(1, 4, 6, 5, 2, dtype=torch.float64)
    codes, frames = whole(model, clip, latents)
    model, clip, latents = model.float(), clip.float(), latents.float()
    with torch.no_grad():
        assert relative_error(model.decode(latents, chunk=chunk).double(), frames) < TOLERANCE
        assert relative_error(model.encode(clip, chunk=4 * chunk).double(), codes) < TOLERANCE


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1), (1, 4), (2, 1, 2), (5,)])
def test_a_stream_gives_each_chunk_when_it_comes(cuts: tuple[int, ...]):
    model = build()
    clip, latents = sample(), torch.randn(2, 4, 5, 2, 3, dtype=torch.float64)
    codes, frames = whole(model, clip, latents)
    counts = [1 + 4 * (cuts[0] - 1), *(4 * cut for cut in cuts[1:])]
    given: list[int] = []

    def one_by_one(pieces: tuple[Tensor, ...]):
        for piece in pieces:
            given.append(piece.shape[2])
            yield piece

    got = []
    for piece in model.decode_stream(one_by_one(latents.split(cuts, dim=2))):
        got.append(piece)
        assert len(given) == len(got)  # nothing is taken before what came is drawn
    assert [piece.shape[2] for piece in got] == counts
    assert relative_error(torch.cat(got, dim=2), frames) < EXACT
    given.clear()
    pieces = list(model.encode_stream(one_by_one(clip.split(counts, dim=2))))
    assert [piece.shape[2] for piece in pieces] == list(cuts)
    assert relative_error(torch.cat(pieces, dim=2), codes) < EXACT


def test_two_streams_of_one_model_do_not_meet():
    model = build()
    first, second = torch.randn(2, 1, 4, 3, 2, 2, dtype=torch.float64)
    together = list(
        zip(
            model.decode_stream(iter(first.split(1, dim=2))),
            model.decode_stream(iter(second.split(1, dim=2))),
            strict=True,
        )
    )
    for latents, pieces in zip((first, second), zip(*together, strict=True), strict=True):
        assert relative_error(torch.cat(pieces, dim=2), whole(model, sample(1), latents)[1]) < EXACT


def most_alive(frames: int, half: str) -> int:
    model = build(dtype=torch.float32)
    with torch.no_grad(), Live() as live:
        if half == "decode":
            pieces = (torch.zeros(1, 4, 1, 4, 4) for _ in range(frames))
            for _ in model.decode_stream(pieces):
                pass
        else:
            pieces = (torch.zeros(1, 3, 4 if i else 1, 32, 32) for i in range(frames))
            for _ in model.encode_stream(pieces):
                pass
    return live.most


@pytest.mark.parametrize("half", ["decode", "encode"])
def test_a_longer_stream_takes_no_more_memory(half: str):
    assert most_alive(12, half) <= 1.02 * most_alive(4, half)


def test_a_tall_clip_in_bands_takes_a_third_of_what_it_takes_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wan_stream, "BAND_VALUES", 1)
    model, latents = build(part="decoder", dtype=torch.float32), torch.randn(1, 4, 2, 64, 2)
    with torch.no_grad():
        with Live() as at_once:
            model.draw(latents)
        with Live() as banded:
            model.decode(latents)
    assert banded.most < at_once.most / 3


def test_a_clip_and_its_latents_stay_as_they_were():
    model, clip, latents = build(), sample(5), torch.randn(2, 4, 2, 2, 3, dtype=torch.float64)
    before = clip.clone(), latents.clone()
    model.encode(clip, chunk=4)
    model.decode(latents, chunk=1)
    assert torch.equal(clip, before[0])
    assert torch.equal(latents, before[1])


def test_chunks_that_do_not_fit_are_refused():
    model, clip, latents = build(), sample(5), torch.zeros(1, 4, 2, 2, 2, dtype=torch.float64)
    for chunk in (0, -4, 1, 6):
        with pytest.raises(SettingsError, match="a multiple of 4"):
            model.encode(clip, chunk=chunk)
    for chunk in (0, -1):
        with pytest.raises(SettingsError, match="at least 1"):
            model.decode(latents, chunk=chunk)
    with pytest.raises(SizeError, match="later chunk of a clip has 3 frames"):
        list(model.encode_stream(iter((clip, clip[:, :, :3]))))
    with pytest.raises(SizeError, match="1 or 5 frames"):
        list(model.encode_stream(iter((clip[:, :, :4],))))
    for other in (clip[:1, :, :4], clip[:, :, :4, :8]):
        with pytest.raises(SizeError, match="only the number of frames may differ"):
            list(model.encode_stream(iter((clip, other))))
    with pytest.raises(SizeError, match="only the number of frames may differ"):
        list(model.decode_stream(iter((latents, latents[..., :1]))))
    with pytest.raises(SettingsError, match="only its encoder"):
        list(build(part="encoder").decode_stream(iter((latents,))))


def test_a_chunk_is_all_of_a_short_clip_and_few_frames_of_a_long_one():
    assert wan_stream._automatic(41, 128, 4) == 41
    assert wan_stream._automatic(241, 480, 4) == 16


@pytest.mark.parametrize("cuts", [(1, 2, 2), (2, 1, 2)])
def test_latents_one_after_another_are_the_stream_and_a_past_can_be_gone_back_to(cuts: tuple[int, ...]):
    model = build()
    pieces = torch.randn(2, 4, 5, 2, 3, dtype=torch.float64).split(cuts, dim=2)
    got = list(model.decode_stream(iter(pieces)))
    first, here = model.decode_next(pieces[0], None)
    elsewhere, _ = model.decode_next(pieces[1] + 1, here)  # leaves `here` as it is
    second, after = model.decode_next(pieces[1], here)
    third, _ = model.decode_next(pieces[2], after)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip((first, second, third), got, strict=True))
    assert not torch.equal(elsewhere, second)
