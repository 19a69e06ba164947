"""Chunks edited one after another: the equation over whole clips, the source as it is read, refusals."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor

from sanakit.errors import NumericsError, SettingsError, SizeError
from sanakit.models.streaming.sana_streaming import SanaStreaming
from sanakit.pipelines.video.editing.chunks import CHUNK, EDIT_TIMES, ChunkEditor, edited
from tests.models.streaming.edits import TINY, randomised
from tests.models.video.sana_video2.written_out import apart

FRAMES, LENGTHS = 11, [5, 3, 3]


@pytest.fixture(scope="module")
def model() -> SanaStreaming:
    torch.manual_seed(0)
    return randomised(TINY, 0.1)


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randn(4, TINY.text_width, generator=Generator().manual_seed(3))


@pytest.fixture(scope="module")
def source() -> Tensor:
    return torch.randn(1, 4, FRAMES, 2, 3, generator=Generator().manual_seed(4))


@pytest.fixture
def editor(model: SanaStreaming, text: Tensor) -> ChunkEditor:
    return ChunkEditor(transformer=model, prompt=model.prepare([text]))


@torch.no_grad()
def by_hand(model: SanaStreaming, text: Tensor, source: Tensor, seed: int) -> Tensor:
    """Euler's steps of what training sees: finished chunks clean, at time 0, before the one that moves."""
    generator, done = Generator().manual_seed(seed), source[:, :, :0]
    for number, length in enumerate(LENGTHS):
        start, end = sum(LENGTHS[:number]), sum(LENGTHS[: number + 1])
        x = torch.randn(1, 4, length, 2, 3, generator=generator)
        for now, after in pairwise([*EDIT_TIMES, 0.0]):
            t = torch.tensor([[0.0] * start + [now] * length])
            given = {"source": source[:, :, :end], "chunks": LENGTHS[: number + 1]}
            velocity = model(torch.cat([done, x], dim=2), t, text[None], **given)
            x = x + (after - now) * velocity[:, :, start:]
        done = torch.cat([done, x], dim=2)
    return done


@torch.no_grad()
def test_chunks_are_the_equation_over_whole_clips(editor, model, text, source):
    chunks = list(edited(editor, [source], FRAMES, seed=7))
    assert [chunk.shape[2] for chunk in chunks] == LENGTHS
    assert apart(torch.cat(chunks, dim=2), by_hand(model, text, source, 7)) < 1e-4
    other = torch.cat(list(edited(editor, [source], FRAMES, seed=8)), dim=2)
    assert apart(other, by_hand(model, text, source, 7)) > 0.1


def test_the_source_may_come_in_any_pieces(editor, source):
    whole = list(edited(editor, [source], FRAMES, seed=7))
    for pieces in ([1] * FRAMES, [2, 7, 2], [5, 3, 3]):
        found = list(edited(editor, source.split(pieces, dim=2), FRAMES, seed=7))
        assert all(torch.equal(*pair) for pair in zip(found, whole, strict=True))


def test_only_what_a_chunk_needs_of_the_source_is_read_before_it(editor, source):
    read = []

    def pieces():
        for number in range(FRAMES):
            read.append(number)
            yield source[:, :, number : number + 1]

    chunks = edited(editor, pieces(), FRAMES, seed=7)
    assert not read
    for end in (5, 8, 11):
        next(chunks)
        assert len(read) == end


def test_what_comes_later_in_the_source_changes_no_earlier_chunk(editor, source):
    changed = source.clone()
    changed[:, :, 8:] += 1
    ours, theirs = (list(edited(editor, [one], FRAMES, seed=7)) for one in (source, changed))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert apart(ours[2], theirs[2]) > 1e-3


def test_the_released_chunks_and_times():
    assert (CHUNK, EDIT_TIMES) == (3, (1.0, 0.961, 0.893, 0.743))


def test_what_cannot_be_edited_is_refused(editor, model, text, source):
    with pytest.raises(SettingsError, match="at least 1"):
        edited(editor, [source], 0, seed=7)
    with pytest.raises(SizeError, match="33 latent frames, but this model has positions for 32"):
        edited(editor, [source], 33, seed=7)
    with pytest.raises(SizeError, match="The source ends after 11 latent frames of 12"):
        list(edited(editor, [source], FRAMES + 1, seed=7))
    with pytest.raises(SettingsError, match="The prompt is for 2 clips"):
        ChunkEditor(transformer=model, prompt=model.prepare([text, text]))
    whole = randomised(replace(TINY, variant="bidirectional"))
    with pytest.raises(SettingsError, match="These weights are bidirectional"):
        ChunkEditor(transformer=whole, prompt=whole.prepare([text]))
    with pytest.raises(NumericsError, match="Latent frames 0 to 4 became NaN"):
        next(edited(editor, [source * float("nan")], FRAMES, seed=7))
