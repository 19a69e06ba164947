"""Chunks of frames, whichever way time is seen: equal to the whole clip, and no larger for a longer one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError, SizeError
from sanakit.models.video import ltx2_stream
from sanakit.models.video.ltx2_vae import LTX2_VAE, LTX2VAE, LTX23_VAE, LTX2VAEConfig
from tests.models.video.live import Live
from tests.models.video.ltx2_pair import EXACT, NEWER, build, codes, sample
from tests.models.video.wan_pair import relative_error

WAYS = {
    "causal": {"encoder_causal": True, "decoder_causal": True},
    "both ways": {"encoder_causal": False, "decoder_causal": False},
    "newer": NEWER,
}


def whole(model: LTX2VAE, clip: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.moments(clip)[:, : latents.shape[1]], model.draw(latents)


@pytest.mark.parametrize(
    ("most", "chunks"), [(1, (None,)), (3000, (None, 2)), (1 << 26, (1, 3, 9))], ids=["1", "few", "all"]
)
@pytest.mark.parametrize("name", WAYS)
def test_every_chunk_equals_the_whole(
    name: str, most: int, chunks: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ltx2_stream, "MOST_VALUES", most)
    model = build(**WAYS[name])
    clip, latents = sample(33), codes(5)
    wanted, frames = whole(model, clip, latents)
    for chunk in chunks:
        count = None if chunk is None else 8 * chunk
        with torch.no_grad():
            assert relative_error(model.encode(clip, chunk=count), wanted) < EXACT
            assert relative_error(model.decode(latents, chunk=chunk), frames) < EXACT


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1), (2, 1, 2)])
@pytest.mark.parametrize("name", WAYS)
def test_streams_equal_the_whole(name: str, cuts: tuple[int, ...]):
    model = build(**WAYS[name])
    clip, latents = sample(33), codes(5)
    wanted, frames = whole(model, clip, latents)
    counts = [1 + 8 * (cuts[0] - 1), *(8 * cut for cut in cuts[1:])]
    got = list(model.decode_stream(iter(latents.split(cuts, dim=2))))
    assert relative_error(torch.cat(got, dim=2), frames) < EXACT
    pieces = list(model.encode_stream(iter(clip.split(counts, dim=2))))
    assert relative_error(torch.cat(pieces, dim=2), wanted) < EXACT
    assert all(piece.shape[2] for piece in (*got, *pieces))
    if name == "causal":  # each chunk gives its own
        assert [piece.shape[2] for piece in got] == counts
        assert [piece.shape[2] for piece in pieces] == list(cuts)


def taken_before_the_first_frames(model: LTX2VAE, latents: int) -> int:
    taken = 0

    def one_by_one():
        nonlocal taken
        for _ in range(latents):
            taken += 1
            yield torch.zeros(1, 8, 1, 2, 2)

    next(model.decode_stream(one_by_one()))
    return taken


@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 1, 3, 1), (5, 5, 5, 5)])
def test_a_decoder_waits_for_as_many_latents_as_its_config_says(depths: tuple[int, ...]):
    arguments = {"decoder_layers_per_block": depths}
    seeing = build(torch.float32, "decoder", **arguments)
    causal = build(torch.float32, "decoder", decoder_causal=True, **arguments)
    assert taken_before_the_first_frames(causal, 30) == 1
    assert taken_before_the_first_frames(seeing, 30) == 1 + seeing.config.lookahead


def test_a_frame_depends_on_no_latent_beyond_the_lookahead_and_on_the_last_within():
    model = build(part="decoder", decoder_layers_per_block=(1, 1, 1, 1))
    reach = model.config.lookahead  # 7
    latents = codes(2 * reach + 2)
    latents.requires_grad_()
    frame = model.draw(latents)[:, :, 1 + 8 * (reach - 1) + 7]  # the last one of latent number `reach`
    frame.square().sum().backward()
    assert latents.grad is not None
    seen = latents.grad.abs().amax((0, 1, 3, 4)) > 0
    assert seen[2 * reach]
    assert not seen[2 * reach + 1]


def test_two_streams_of_one_model_do_not_meet():
    model = build()
    first, second = codes(), codes()
    streams = [model.decode_stream(iter(latents.split(1, dim=2))) for latents in (first, second)]
    together = list(zip(*streams, strict=True))
    for latents, pieces in zip((first, second), zip(*together, strict=True), strict=True):
        assert relative_error(torch.cat(pieces, dim=2), whole(model, sample(1), latents)[1]) < EXACT


def most_alive(chunks: int, half: str, *, causal: bool) -> int:
    # A decoder that looks 4 latents ahead fills its caches with the first few chunks.
    model = build(torch.float32, half, decoder_causal=causal, decoder_layers_per_block=(0, 0, 1, 1))
    with torch.no_grad(), Live() as live:
        if half == "decoder":
            for _ in model.decode_stream(torch.zeros(1, 8, 1, 2, 2) for _ in range(chunks)):
                pass
        else:
            for _ in model.encode_stream(torch.zeros(1, 3, 8 if i else 1, 64, 64) for i in range(chunks)):
                pass
    return live.most


@pytest.mark.parametrize(("half", "causal"), [("decoder", True), ("decoder", False), ("encoder", True)])
def test_a_longer_stream_takes_no_more_memory(half: str, causal: bool):
    assert most_alive(12, half, causal=causal) <= 1.02 * most_alive(8, half, causal=causal)


@pytest.mark.parametrize("causal", [True, False])
def test_a_long_clip_in_pieces_takes_a_third_of_what_it_takes_at_once(
    causal: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ltx2_stream, "MOST_VALUES", 1)
    model = build(torch.float32, "decoder", decoder_causal=causal)
    rows = codes(12, torch.float32).permute(0, 2, 3, 4, 1)
    decoder = model.decoder
    assert decoder is not None
    with torch.no_grad():
        with Live() as at_once:
            ltx2_stream.whole(decoder.layers(), rows, causal=causal)
        with Live() as pieces:
            for _ in ltx2_stream.ClipStream(decoder.layers(), causal=causal).push(rows, final=True):
                pass
    assert pieces.most < at_once.most / 3


def test_pieces_are_cut_and_joined_to_what_fits():
    def regrouped(*frames: int, ends: bool) -> list[tuple[int, bool]]:
        lasts = [*[False] * (len(frames) - 1), ends]
        pieces = [(torch.zeros(2, count, 3, 1, 5), last) for count, last in zip(frames, lasts, strict=True)]
        found = ltx2_stream._regrouped(iter(pieces), 2 * 3 * 4)
        return [(piece.shape[1], final) for piece, final in found]

    assert regrouped(1, 2, 3, 9, ends=True) == [(4, False)] * 3 + [(3, True)]
    assert regrouped(1, 2, 3, 9, ends=False) == [(4, False)] * 3 + [(3, False)]
    assert regrouped(4, 4, 0, ends=True) == [(4, False), (4, True)]
    assert regrouped(0, ends=True) == [(0, True)]
    assert regrouped(0, ends=False) == []


def test_a_clip_and_its_latents_stay_as_they_were():
    model, clip, latents = build(), sample(9), codes(2)
    before = clip.clone(), latents.clone()
    with torch.no_grad():
        model.encode(clip, chunk=8), model.decode(latents, chunk=1)
        model.encode(clip), model.decode(latents)
    assert torch.equal(clip, before[0])
    assert torch.equal(latents, before[1])


def test_chunks_that_do_not_fit_are_refused():
    model, clip, latents = build(), sample(9), codes(2)
    for chunk in (0, -8, 1, 12):
        with pytest.raises(SettingsError, match="a multiple of 8"):
            model.encode(clip, chunk=chunk)
    for chunk in (0, -1):
        with pytest.raises(SettingsError, match="at least 1"):
            model.decode(latents, chunk=chunk)
    with pytest.raises(SizeError, match="later chunk of a clip has 3 frames"):
        list(model.encode_stream(iter((clip, clip[:, :, :3]))))
    with pytest.raises(SizeError, match="1 or 9 frames"):
        list(model.encode_stream(iter((clip[:, :, :8],))))
    for other in (clip.expand(2, -1, -1, -1, -1)[:, :, :8], clip[:, :, :8, :, :32]):
        with pytest.raises(SizeError, match="only the number of frames may differ"):
            list(model.encode_stream(iter((clip, other))))
    with pytest.raises(SizeError, match="only the number of frames may differ"):
        list(model.decode_stream(iter((latents, latents.repeat(1, 1, 1, 1, 2)))))
    with pytest.raises(SettingsError, match="only its encoder"):
        list(build(part="encoder").decode_stream(iter((latents,))))
    assert list(model.decode_stream(iter(()))) == []


def test_memory_is_estimated_of_the_halves_that_are_there():
    whole, encoder, decoder = build(), build(part="encoder"), build(part="decoder")
    assert encoder.encode_bytes(9, 64, 64) == whole.encode_bytes(9, 64, 64)
    assert decoder.decode_bytes(2, 64, 64) == whole.decode_bytes(2, 64, 64)
    with pytest.raises(SettingsError, match="only its encoder"):
        encoder.decode_bytes(2, 64, 64)
    with pytest.raises(SettingsError, match="only its decoder"):
        decoder.encode_bytes(9, 64, 64)


def test_the_published_decoders_look_22_and_14_latents_ahead():
    assert (LTX2_VAE.lookahead, LTX23_VAE.lookahead) == (22, 14)
    assert LTX2VAEConfig(decoder_causal=True).lookahead == 0


def test_latents_one_after_another_are_the_stream_and_a_past_can_be_gone_back_to():
    model = build(**WAYS["causal"])
    latents, other = codes(5), codes(5) + 1
    got = list(model.decode_stream(iter(latents.split((2, 1, 2), dim=2))))
    first, here = model.decode_next(latents[:, :, :2], None)
    elsewhere, _ = model.decode_next(other[:, :, 2:3], here)  # leaves `here` as it is
    second, after = model.decode_next(latents[:, :, 2:3], here)
    third, _ = model.decode_next(latents[:, :, 3:], after)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip((first, second, third), got, strict=True))
    assert not torch.equal(elsewhere, second)


def test_a_decoder_that_looks_ahead_has_no_next_frames():
    with pytest.raises(SettingsError, match=r"looks .* latents ahead, so it draws no frame"):
        build(**WAYS["both ways"]).decode_next(codes(2), None)
