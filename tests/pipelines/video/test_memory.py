"""Budgets of clips: which plan they give, that every plan draws the same clip, what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit.clips.sizes import trained_sizes
from sanakit.errors import MemoryLimitError
from sanakit.models.gemma2 import GEMMA2_2B, Gemma2
from sanakit.models.video.ltx2_vae import LTX2_VAE, LTX2VAE
from sanakit.models.video.sana_video import SANA_VIDEO_2B_480P, SANA_VIDEO_2B_720P, SanaVideo
from sanakit.models.video.wan_vae import WAN_VAE, WanVAE, WanVAEConfig
from sanakit.pipelines.memory import SLACK, STEP_WORK, Weights, parse_budget
from sanakit.pipelines.video.memory import COPIES, ClipPlan, ClipPlanner, ClipWork
from sanakit.pipelines.video.request import ClipShape
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.weights import release

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
BASE, GB = 300 * 10**6, 10**9
CLIP = ClipWork(cells=ClipShape(16, 21, 60, 104), samples=2, results=3)  # 81 frames of 832x480 px, guided


def full_size(transformer, codec) -> ClipPlanner:
    """The published sizes in bfloat16, without the memory for them."""
    with torch.device("meta"):
        parts = [SanaVideo(transformer).bfloat16(), codec(), Gemma2(GEMMA2_2B).bfloat16()]
    own = {"patch": transformer.patch, "sizes": (), "device": CPU, "budget": "auto"}
    planner = ClipPlanner(*parts, **own)
    planner.base, planner.weights = BASE, Weights.of(*parts, mapped=False)
    return planner


@pytest.fixture(scope="module")
def published() -> ClipPlanner:
    return full_size(SANA_VIDEO_2B_480P, lambda: WanVAE(WAN_VAE))


def plan(
    planner: ClipPlanner, budget: int | str, work: ClipWork = CLIP, available: int = 60 * GB
) -> ClipPlan:
    planner.budget = parse_budget(budget)
    return planner.plan(work, available)


def test_less_memory_means_a_leaner_plan_that_keeps_to_it(published) -> None:
    ways = ["resident", "staged", "layered"]
    before = plan(published, "all")
    assert (before.residence, before.chunk) == ("resident", None)
    for budget in range(13 * GB, 51 * 10**8, -2 * 10**8):
        found = plan(published, budget)
        assert found.peak <= budget
        assert ways.index(found.residence) >= ways.index(before.residence)
        before = found
    assert before.residence == "layered"


def test_a_step_is_planned_as_its_parts_add_up(published) -> None:
    staged = plan(published, "auto")
    tokens = 2 * 21 * 30 * 52  # of two samples
    result = 3 * 81 * 832 * 480
    step = (COPIES + 1) * tokens * 2240 * 4 + STEP_WORK
    assert staged.residence == "staged"
    assert staged.peak == BASE + SLACK + 2 * 2_056_862_144 + step + result


def test_decoding_in_chunks_takes_the_same_whatever_the_length(published) -> None:
    peaks = {frames: published.codec.decode_bytes(frames, 480, 832, 4) for frames in (11, 21, 250)}
    assert len(set(peaks.values())) == 1
    kept = 9456 * 832 * 480  # bytes: two frames of the input of every convolution
    assert kept < peaks[250] < kept + 1.2 * GB
    whole = [published.codec.decode_bytes(frames, 480, 832) for frames in (11, 21)]
    assert whole[0] < whole[1] < peaks[21]  # rows of all frames take less than all rows of a few frames


def test_a_long_clip_is_decoded_in_chunks_and_a_short_one_whole(published) -> None:
    alone = replace(CLIP, samples=0)
    assert plan(published, "auto", alone).chunk is None
    long = replace(alone, cells=replace(CLIP.cells, frames=250))
    assert plan(published, "auto", long).chunk == 4
    small = replace(alone, cells=ClipShape(16, 100, 8, 8))  # rows of 397 frames: more than frames of 8 rows
    sizes = [published.codec.decode_bytes(100, 64, 64, chunk) for chunk in (None, 4, 2, 1)]
    assert sizes == sorted(sizes, reverse=True)
    least = plan(published, "all", small).peak - sizes[0] + sizes[-1]
    tight = plan(published, least, replace(small, results=0))
    assert tight.peak <= least


def test_what_is_encoded_and_what_is_given_count(published) -> None:
    peaks = [plan(published, "all", replace(CLIP, samples=0, results=bytes)).peak for bytes in (3, 12)]
    assert peaks[1] - peaks[0] == 9 * 81 * 832 * 480
    for frames in (1, 81):
        assert published.codec.encode_bytes(frames, 480, 832) > 12 * frames * 832 * 480
    alone = replace(CLIP, samples=0, results=0, cells=ClipShape(16, 1, 60, 104))
    encoded = plan(published, "all", replace(alone, encoded=81)).peak
    assert encoded - plan(published, "all", alone).peak > 12 * 80 * 832 * 480


def test_a_causal_model_needs_one_chunk_and_both_parts_at_once(published) -> None:
    causal = replace(CLIP, samples=1, length=10, results=0)
    peaks = [
        plan(published, "all", replace(causal, cells=replace(CLIP.cells, frames=n))).peak for n in (21, 210)
    ]
    assert peaks[0] == peaks[1]
    both = published.codec.decode_bytes(21, 480, 832, 11) + COPIES * 11 * 30 * 52 * 2240 * 4
    weights = published.weights
    assert peaks[0] > BASE + weights.text + weights.transformer + weights.decoder + both


def test_the_manual_shows_the_refusal_of_the_published_model(published) -> None:
    """Without other sizes to draw: those that it learned are all as large."""
    page = (ROOT / "docs" / "video.md").read_text("utf-8")
    published.sizes = trained_sizes(30)
    try:
        with pytest.raises(MemoryLimitError) as caught:
            plan(published, "3GB")
    finally:
        published.sizes = ()
    assert f"Error: {caught.value}\n" in page


def test_a_clip_that_does_not_fit_is_refused_with_what_would(published) -> None:
    with pytest.raises(MemoryLimitError, match=r"81 frames of 832x480 px do not fit in 3\.0 GB") as caught:
        plan(published, "3GB")
    words = str(caught.value)
    least = words.split("at least ")[1].split(", or")[0]
    assert plan(published, least).residence == "layered"
    frames, size = int(words.split("draw ")[1].split()[0]), words.split(" or ")[-1].split()[0]
    width, height = map(int, size.split("x"))
    fewer = ClipShape(16, 1 + (frames - 1) // 4, 60, 104)
    smaller = ClipShape(16, 21, height // 8, width // 8)
    assert 1 < frames < 81
    assert width % 16 == height % 16 == 0
    for cells in (fewer, smaller):
        assert plan(published, "3GB", replace(CLIP, cells=cells)).peak <= 3 * GB
    for cells in (
        replace(fewer, frames=fewer.frames + 1),
        ClipShape(16, 21, height // 8 + 2, width // 8 + 4),
    ):
        with pytest.raises(MemoryLimitError):
            plan(published, "3GB", replace(CLIP, cells=cells))


def test_only_sizes_that_the_model_learned_are_named(published, monkeypatch) -> None:
    monkeypatch.setattr(published, "sizes", ((832, 480), (256, 256), (128, 128)))
    with pytest.raises(MemoryLimitError, match=r" or 256x256 px\.$"):
        plan(published, "3GB")


def test_auto_goes_leaner_where_little_is_left_and_tries_all_the_same(published) -> None:
    assert plan(published, "auto", available=4 * GB).residence == "layered"
    assert plan(published, "auto", available=10**6).residence == "layered"


def test_the_autoencoder_of_ltx_2_is_planned_at_constant_memory() -> None:
    planner = full_size(SANA_VIDEO_2B_720P, lambda: LTX2VAE(LTX2_VAE))
    sizes = [planner.codec.decode_bytes(latents, 704, 1280, 4) for latents in (11, 40)]
    assert sizes[0] == sizes[1]
    assert planner.codec.decode_bytes(11, 704, 1280) - sizes[0] == 12 * (81 - 32) * 704 * 1280
    assert planner.codec.encode_bytes(81, 704, 1280) > 12 * 81 * 704 * 1280


@pytest.mark.parametrize("residence", ["resident", "staged", "layered"])
def test_every_plan_draws_the_same_clip(video_folder, video_pipe, monkeypatch, residence) -> None:
    called = {"steps": 2, "guidance": 3.0, "seed": 1, "output": "latent"}
    wanted = video_pipe("a red apple", **called).clips
    pipe, released = TextToVideo.from_pretrained(video_folder, device="cpu"), []
    monkeypatch.setattr(ClipPlanner, "plan", lambda *_: ClipPlan(residence, 0, 0))
    monkeypatch.setattr(
        "sanakit.pipelines.memory.release", lambda part: (released.append(part), release(part))
    )
    assert torch.equal(pipe("a red apple", **called).clips, wanted)
    blocks = list(pipe.transformer.blocks)
    times = 2 if residence == "layered" else 0
    assert [part for part in released if part in blocks] == times * blocks


def test_a_budget_that_is_too_small_is_refused_before_any_work(video_folder) -> None:
    pipe = TextToVideo.from_pretrained(video_folder, device="cpu", memory="1MB")
    with pytest.raises(MemoryLimitError, match="9 frames of 96x64 px do not fit in 1 MB"):
        pipe.steps("a red apple")
    latents = torch.randn(1, 4, 3, 8, 12)
    with pytest.raises(MemoryLimitError) as caught:
        pipe.decode(latents)
    assert caught.value.latents is latents


def test_parts_that_wait_outside_come_in_for_their_stage(video_pipe) -> None:
    parts = (video_pipe.transformer, video_pipe.autoencoder, video_pipe.text_encoder.model)
    own = {"patch": 2, "sizes": (), "device": torch.device("meta"), "budget": "all"}
    assert ClipPlanner(*parts, **own).plan(CLIP).residence == "staged"


MEASURE = """
import json, sys
import torch
from pathlib import Path
from sanakit.models.video.frame_rule import chunk_sizes
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from sanakit.pipelines.video.memory import blocks_given_back
width, how, latents, rows, columns, chunk = json.loads(sys.argv[1])
vae = WanVAE(WanVAEConfig(width=width))
torch.set_grad_enabled(False)

def run(latents, rows, columns):
    if how == "encode":
        return vae.encode(torch.randn(1, 3, 4 * latents - 3, 8 * rows, 8 * columns))
    noise = torch.randn(1, 16, latents, rows, columns)
    if chunk is None:
        return vae.decode(noise)
    for frames in vae.decode_stream(noise.split(chunk_sizes(latents, chunk), dim=2)):
        pass

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

with blocks_given_back():
    run(1, 2, 2)
    base = resident("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")
    run(latents, rows, columns)
    print(resident("VmHWM:") - base)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("how", "chunk", "latents", "rows", "columns"),
    [("decode", None, 9, 8, 16), ("decode", 1, 5, 16, 16), ("encode", None, 5, 8, 16)],
)
def test_an_autoencoder_takes_what_is_planned(how, chunk, latents, rows, columns) -> None:
    """Of a third of the published width: the measured peak is from 0.4 of the plan to all of it."""
    vae = WanVAE(WanVAEConfig(width=32))
    given = json.dumps([32, how, latents, rows, columns, chunk])
    result = subprocess.run([sys.executable, "-c", MEASURE, given], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    size = (8 * rows, 8 * columns)
    frames = 4 * latents - 3
    planned = vae.encode_bytes(frames, *size) if how == "encode" else vae.decode_bytes(latents, *size, chunk)
    assert 0.4 * planned <= int(result.stdout) <= planned
