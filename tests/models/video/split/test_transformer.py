"""A clip on several processes is the clip on one, to 1e-10 in float64, wherever it is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError, SizeError
from sanakit.models.sana import TextContext
from sanakit.models.video.held_frame import HeldFirstFrame
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.models.video.split import transformer as split
from sanakit.models.video.split.transformer import Division, SplitVideo, divided
from tests.models.video.split.threads import ThreadExchange, Threads

CONFIG = SanaVideoConfig(
    depth=2,
    width=32,
    cross_heads=2,
    head_dim=16,
    text_width=24,
    latent_channels=4,
    patch=2,
    max_positions=64,
)
SHAPE = (4, 5, 10, 6)  # C T h w: 5 frames of 5x3 tokens
CUTS = [(1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (5, 1), (1, 5), (3, 2)]  # spans of frames, of rows


def model(causal: bool = False) -> SanaVideo:
    torch.manual_seed(0)
    made = SanaVideo(replace(CONFIG, causal=causal))
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    return made.double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prompts(made: SanaVideo, *lengths: int) -> TextContext:
    return made.prepare([normal(length, 24, seed=length) for length in lengths])


def cut(monkeypatch: pytest.MonkeyPatch, spans: int, rows: int) -> Threads:
    """Let clips be cut so, whatever is best."""

    def chosen(world: int, frames: int, height: int, columns: int, *, causal: bool = False) -> Division:
        return Division(split._spans(frames, spans), split._spans(height, rows))

    monkeypatch.setattr(split, "divided", chosen)
    return Threads(spans * rows)


def assert_equal(found: list[Tensor], wanted: Tensor) -> None:
    for one in found:
        torch.testing.assert_close(one, wanted, rtol=1e-10, atol=1e-10)
        assert torch.equal(one, found[0])  # or the processes' solvers would drift apart


@pytest.mark.parametrize(("spans", "rows"), CUTS)
def test_the_velocity_is_that_of_one_process(spans: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips, with two prompts each, as guidance has them, and a time for each clip."""
    made, threads = model(), cut(monkeypatch, spans, rows)
    latents, t = normal(2, *SHAPE), torch.tensor([0.9, 0.4])
    context = prompts(made, 3, 1, 5, 2)
    wanted = made.velocity(latents, t, context)
    assert_equal(threads.run(lambda own: SplitVideo(made, own).velocity(latents, t, context)), wanted)


@pytest.mark.parametrize(("spans", "rows"), [(1, 2), (2, 1), (2, 2)])
def test_a_clip_behind_its_first_frame_too(spans: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, threads = model(), cut(monkeypatch, spans, rows)
    latents, first, context = normal(1, 4, 4, 10, 6), normal(1, 4, 1, 10, 6, seed=4), prompts(made, 3, 5)

    def drawn(base: SanaVideo | SplitVideo) -> Tensor:
        return HeldFirstFrame(base, first).velocity(latents, 0.7, context)

    assert_equal(threads.run(lambda own: drawn(SplitVideo(made, own))), drawn(made))


@pytest.mark.parametrize("values", [None, 300])
def test_chunks_of_a_causal_model_too(values: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of three processes' rows stands for that of one process, in bands of tokens, too."""
    if values is not None:
        monkeypatch.setattr("sanakit.models.layers._BAND_VALUES", values)
    made = model(causal=True)
    context = prompts(made, 3)
    chunks = [normal(1, 4, frames, 10, 6, seed=frames) for frames in (3, 2, 1)]

    def drawn(base: SanaVideo | SplitVideo) -> Tensor:
        state, found = None, []
        for latents in chunks:
            found.append(base.velocity(latents, 0.7, context, state=state))
            state = base.extend(state, latents, context)
        return torch.cat(found, dim=2)

    assert_equal(Threads(3).run(lambda own: drawn(SplitVideo(made, own))), drawn(made))


def test_bands_of_tokens_and_few_frames_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanakit.models.layers._BAND_VALUES", 1500)
    made, threads = model(), cut(monkeypatch, 2, 2)
    latents, context = normal(1, *SHAPE), prompts(made, 3, 5)
    wanted = made.velocity(latents, 0.7, context)
    assert_equal(threads.run(lambda own: SplitVideo(made, own).velocity(latents, 0.7, context)), wanted)


@pytest.mark.parametrize(("spans", "rows"), [(1, 3), (2, 1), (2, 2)])
def test_what_is_exchanged_is_what_the_manual_says(
    spans: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one clip and one prompt, in a block: d x (d + 1) sums a head, and edges; then the velocity."""
    made, threads = model(), cut(monkeypatch, spans, rows)
    latents, context, blocks = normal(1, *SHAPE), prompts(made, 3), CONFIG.depth
    threads.run(lambda own: SplitVideo(made, own).velocity(latents, 0.7, context))
    width, head = CONFIG.width, CONFIG.head_dim
    division = Division(split._spans(5, spans), split._spans(5, rows))
    assert division.edges(3) == 2 * 3 * ((rows - 1) * 5 + (spans - 1) * 5)
    assert threads.values == {
        "total": blocks * spans * rows * width * (head + 1),
        "swapped": blocks * division.edges(3) * width,
        "gathered": latents.numel(),
    }


def test_the_cut_has_small_parts_and_then_short_edges() -> None:
    """At 480p: rows for two processes, as 21 frames cannot be halved."""
    assert divided(1, 21, 30, 52) == Division((range(21),), (range(30),))
    halves = divided(2, 21, 30, 52)
    assert halves == Division((range(21),), (range(15), range(15, 30)))
    assert halves.edges(52) == 2 * 52 * 21
    assert divided(3, 21, 30, 52).rows == (range(10), range(10, 20), range(20, 30))
    assert divided(3, 21, 10, 52).frames == (range(7), range(7, 14), range(14, 21))
    uneven = divided(4, 5, 3, 2)
    assert max(len(frames) * len(rows) for frames in uneven.frames for rows in uneven.rows) == 6
    assert [len(frames) for frames in divided(2, 5, 1, 2).frames] == [2, 3]
    assert len(divided(2, 21, 30, 52, causal=True).frames) == 1


def test_more_processes_than_places_to_cut_at_are_refused() -> None:
    with pytest.raises(SizeError, match="7 processes cannot share a clip of 3 frames of 5 rows"):
        divided(7, 3, 5, 4)
    with pytest.raises(SizeError, match="6 processes cannot share a clip of 5 rows"):
        divided(6, 6, 5, 4, causal=True)
    made = model()

    def guided(own: ThreadExchange) -> Tensor:
        return SplitVideo(made, own).velocity(normal(1, *SHAPE), 0.7, prompts(made, 3), 2.0)

    with pytest.raises(SettingsError, match="no guidance scale"):
        Threads(1).run(guided)
