"""Budgets: which plan they give, that every plan draws the same image, what running out of memory costs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sanakit.errors import MemoryLimitError, SettingsError
from sanakit.models.contracts import LatentShape
from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DCAE
from sanakit.models.dc_ae.stream import decode_rows
from sanakit.models.gemma2 import GEMMA2_2B, Gemma2
from sanakit.models.sana import SANA_600M, SANA_1600M_4K, Sana, SanaConfig
from sanakit.pipelines.memory import (
    LEAST_BAND,
    SLACK,
    STEP_WORK,
    MemoryPlan,
    Planner,
    Weights,
    in_words,
    parse_budget,
    resident_bytes,
    stage,
)
from sanakit.pipelines.text_to_image import TextToImage

BASE = 300 * 10**6
GB = 10**9


def full_size(config: SanaConfig) -> Planner:
    """A transformer with text encoder and decoder, in bfloat16, without the memory for them."""
    with torch.device("meta"):
        sana, decoder = Sana(config).bfloat16(), DCAE(DC_AE_F32C32_SANA, "decoder").bfloat16()
        gemma = Gemma2(GEMMA2_2B).bfloat16()
    planner = Planner(sana, decoder, gemma, device=torch.device("cpu"), budget="auto")
    planner.base, planner.weights = BASE, Weights.of(sana, decoder, gemma, mapped=False)
    return planner


@pytest.fixture(scope="module")
def published() -> Planner:
    return full_size(SANA_600M)


@pytest.fixture(scope="module")
def published_4k() -> Planner:
    return full_size(SANA_1600M_4K)


def plan(planner: Planner, budget: int | str, side: int = 512, available: int = 20 * GB) -> MemoryPlan:
    planner.budget = parse_budget(budget)
    return planner.plan(LatentShape.image(32, side // 32, side // 32), 2, available=available)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * GB), ("1.5 gib", 3 * 2**29), ("900M", 900 * 10**6), ("12345", 12345), (7, 7)],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_budget(text) == size


@pytest.mark.parametrize("text", ["", "much", "0", "-3GB", "4TB", "GB", "1e9", True])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingsError, match='such as "4GB"'):
        parse_budget(text)


def test_a_size_in_an_error_can_be_typed_back() -> None:
    for size in (1, 999, 10**6 + 1, 612 * 10**6, GB, 3 * GB + 1, 17 * GB + 5):
        assert size <= parse_budget(in_words(size))


def test_less_memory_means_a_leaner_plan_that_keeps_to_it(published) -> None:
    ways = ["resident", "staged", "layered"]
    before = plan(published, "all")
    assert before.residence == "resident"
    for budget in range(int(7.5 * GB), 9 * 10**8, -(10**8)):
        found = plan(published, budget)
        assert found.peak <= budget
        assert ways.index(found.residence) >= ways.index(before.residence)
        before = found
    assert before.residence == "layered"


def test_auto_gives_parts_back_and_goes_leaner_where_little_is_left(published) -> None:
    assert plan(published, "auto").residence == "staged"
    assert plan(published, "auto", available=10**9).residence == "layered"
    assert (
        plan(published, "auto", available=10**6).band == LEAST_BAND
    )  # tried all the same: the estimate is careful


def test_a_large_picture_gets_smaller_bands(published) -> None:
    assert plan(published, "auto", side=4096).band < plan(published, "auto", side=512).band
    assert plan(published, "870MB", side=1024).band < plan(published, "auto", side=1024).band


def test_a_4k_picture_of_the_1_6b_model_is_planned_as_its_parts_add_up(published_4k: Planner) -> None:
    """With guidance. The plan itself was measured: benchmarks/four_k.py."""
    kept = 3 * 2 * 128 * 128 * 2240 * 4  # two samples' tokens at their widest: with positions, or normed
    staged = plan(published_4k, "auto", side=4096)
    assert (staged.residence, staged.band) == ("staged", 1 / 4)
    assert staged.peak == BASE + SLACK + 2 * 1_604_462_752 + kept + STEP_WORK
    layered = plan(published_4k, "3GB", side=4096)
    assert (layered.residence, layered.band) == ("layered", 1 / 4)
    blocks = 3 * 2 * 77_920_640  # one works, one is read, one is given back
    assert layered.peak == BASE + SLACK + blocks + kept + STEP_WORK
    kept_map = 4096 // 8 * 4096 // 8 * 512 * 4  # the decoder's largest map with attention
    assert kept_map < layered.peak - BASE - SLACK  # decoding fits beside it


def test_a_4k_picture_that_does_not_fit_is_refused_with_what_would(published_4k: Planner) -> None:
    with pytest.raises(
        MemoryLimitError, match=r"4096x4096 px do not fit in 1\.5 GB: allow at least"
    ) as caught:
        plan(published_4k, "1.5GB", side=4096)
    words = str(caught.value)
    least = words.split("at least ")[1].split(", or")[0]
    assert plan(published_4k, least, side=4096).residence == "layered"
    side = int(words.split("draw ")[1].split("x")[0])
    assert 2048 < side < 4096
    assert plan(published_4k, "1.5GB", side=side).peak <= 1.5 * GB


def test_an_accelerator_decodes_whole_maps_where_they_fit(published: Planner) -> None:
    on_gpu = copy.copy(published)
    on_gpu.device, on_gpu.base, on_gpu.on_cpu = torch.device("cuda"), 0, False
    on_gpu.residences = ("staged",)
    assert plan(on_gpu, "all", side=1024).band == 32
    assert plan(on_gpu, "24GB", side=1024).band == 32
    assert plan(on_gpu, "8GB", side=2048).band < 64
    with pytest.raises(MemoryLimitError, match=r"at least 5\.\d GB"):  # the text encoder comes in whole
        plan(on_gpu, "4GB", side=1024)


def test_the_pictures_of_a_batch_count(published: Planner) -> None:
    published.budget = "auto"
    shape = LatentShape.image(32, 32, 32)
    peaks = [published.plan(shape, 2, pictures, 20 * GB).peak for pictures in (0, 3 * 1024**2)]
    assert peaks[1] - peaks[0] == 3 * 1024**2


def test_a_decode_that_is_refused_keeps_the_latents(folder: Path) -> None:
    pipe = TextToImage.from_pretrained(folder, device="cpu", memory="1MB")
    latents = torch.randn(1, 8, 2, 3)
    with pytest.raises(MemoryLimitError) as caught:
        pipe.decode(latents)
    assert caught.value.latents is latents


def test_a_budget_that_can_not_be_kept_is_refused_with_the_nearest_that_can(published) -> None:
    with pytest.raises(
        MemoryLimitError, match=r"2048x2048 px do not fit in 900 MB: allow at least"
    ) as caught:
        plan(published, "900MB", side=2048)
    words = str(caught.value)
    least = words.split("at least ")[1].split(", or")[0].removesuffix(".")
    assert plan(published, least, side=2048).peak <= parse_budget(least)
    side = int(words.split("draw ")[1].split("x")[0])
    assert plan(published, "900MB", side=side).peak <= 9 * 10**8
    with pytest.raises(MemoryLimitError):
        plan(published, "900MB", side=side + 32)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(folder, device="cpu")


def draw(pipe: TextToImage) -> np.ndarray:
    return np.asarray(pipe("a red apple", seed=3, steps=2).images[0])


@pytest.mark.parametrize("residence", ["resident", "staged", "layered"])
def test_every_plan_draws_the_same_picture(
    folder: Path, pipe: TextToImage, residence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = draw(pipe)
    other = TextToImage.from_pretrained(folder, device="cpu")
    assert other._memory.weights.transformer > 0  # mapped: there is something to give back
    drawn = MemoryPlan(residence, 1, 0)
    monkeypatch.setattr(Planner, "plan", lambda *_: drawn)
    assert np.abs(draw(other).astype(int) - expected).max() <= 1  # bands round otherwise
    assert np.array_equal(draw(other), draw(other))


def test_a_budget_that_is_too_small_is_refused_before_any_work(folder: Path) -> None:
    with pytest.raises(MemoryLimitError, match="do not fit in 1 MB"):
        TextToImage.from_pretrained(folder, device="cpu", memory="1MB").stream("a red apple")


def test_out_of_memory_while_decoding_tries_smaller_bands(
    pipe: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, tried = draw(pipe), []

    def tight(autoencoder: DCAE, latents: torch.Tensor, band: float) -> Iterator[torch.Tensor]:
        tried.append(band)
        rows = decode_rows(autoencoder, latents, band)
        yield next(rows)
        if band > 1 / 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate a band")
        yield from rows

    monkeypatch.setattr(DCAE, "decode_rows", tight)
    assert np.abs(draw(pipe).astype(int) - expected).max() <= 1
    assert tried == [2, 1, 0.5]


def test_parts_that_wait_outside_come_in_for_their_stage_only() -> None:
    moves: list[str] = []

    class Part(nn.Linear):
        def to(self, device: torch.device) -> None:  # pyright: ignore - records, moves nothing
            moves.append(str(device))

    drawn = MemoryPlan("staged", 1, 0)
    with suppress(ZeroDivisionError), stage(Part(1, 1), drawn, torch.device("cuda")):
        assert moves == ["cuda"]
        _ = 1 / 0
    assert moves == ["cuda", "cpu"]
    with stage(Part(1, 1), drawn, torch.device("cpu")):
        pass
    assert moves == ["cuda", "cpu"]


def test_the_memory_of_this_process_is_known() -> None:
    before = resident_bytes()
    block = torch.ones(50_000_000)
    assert 1.5e8 < resident_bytes() - before < 3e8
    del block
