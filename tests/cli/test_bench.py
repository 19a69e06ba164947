"""`sana bench` on the embedded model and on one of random numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sanakit
from sanakit.bench.speed import measure_speed

STAGES = ["text", "transformer step", "decode", "picture"]


@pytest.fixture(scope="module")
def report() -> dict:
    """The embedded model at its smallest size, once, as JSON carries it."""
    from dataclasses import asdict

    return asdict(measure_speed(width=64, height=64, runs=2, threads=1))


def test_every_stage_of_the_embedded_model_is_timed(report) -> None:
    assert [stage["name"] for stage in report["stages"]] == STAGES
    assert all(0 < stage["minimum"] <= stage["median"] for stage in report["stages"])
    assert (report["model"], report["width"], report["runs"], report["threads"]) == ("pocket", 64, 2, 1)


def test_the_picture_takes_as_long_as_its_stages(report) -> None:
    text, step, decode, picture = (stage["minimum"] for stage in report["stages"])
    assert text + report["steps"] * step + decode == pytest.approx(picture, rel=0.5)


def test_rates_are_work_over_time_and_of_the_machine_s_order(report) -> None:
    for stage in report["stages"][:3]:
        assert stage["rate"] == pytest.approx(stage["gflop"] / stage["median"])
        assert 0 < stage["rate"] < 20 * report["product_rate"]
    assert report["stages"][3]["rate"] is None
    assert report["peak_memory"] > 100e6  # torch alone takes more


def test_work_grows_with_the_picture(tiny: Path) -> None:
    small, large = (measure_speed(tiny, width=side, height=side, runs=1).stages for side in (64, 128))
    assert large[1].gflop > 3 * small[1].gflop
    assert 2 < large[2].gflop / small[2].gflop <= 4  # below 4: at 128 px Winograd begins to save
    assert large[0].gflop == small[0].gflop


def test_the_number_of_threads_is_given_back(tiny: Path) -> None:
    before = torch.get_num_threads()
    assert measure_speed(tiny, runs=1, threads=before + 1).threads == before + 1
    assert torch.get_num_threads() == before


def test_the_command_prints_a_line_for_each_stage(sana, tiny: Path) -> None:
    outcome = sana("bench", "--model", tiny, "--size", "64x96", "--runs", 1, "--threads", 1)
    assert outcome.code == 0
    assert "tiny: 64x96, 2 steps, guidance 2; cpu, 1 thread(s)" in outcome.out
    for words in [*STAGES, "matrix product", "peak memory"]:
        assert f"\n{words}" in outcome.out


def test_json_holds_the_same_figures(sana, tiny: Path) -> None:
    figures = json.loads(sana("bench", "--model", tiny, "--runs", 1, "--json").out)
    assert (figures["width"], figures["height"], figures["steps"]) == (96, 64, 2)
    assert [stage["name"] for stage in figures["stages"]] == STAGES


def test_info_names_versions_threads_and_kernels(sana) -> None:
    out = sana("bench", "--info").out
    for words in (sanakit.__version__, torch.__version__, "threads", "cpu", "kernels"):
        assert words in out
    facts = json.loads(sana("bench", "--info", "--json").out)
    assert facts["sanakit"] == sanakit.__version__
    assert any(name.startswith("kernels") for name in facts)


def test_a_slip_is_one_sentence(sana, tiny: Path) -> None:
    for words in (["--size", "huge"], ["--size", "65x64"], ["nothing-here"], ["--runs", 0]):
        outcome = sana("bench", "--model", *([] if words == ["nothing-here"] else [tiny]), *words)
        assert outcome.code == 2
        assert outcome.err.startswith("Error: ")
        assert len(outcome.err.splitlines()) == 1
