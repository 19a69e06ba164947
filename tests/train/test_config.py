"""The learning rate's way through a run."""

from __future__ import annotations

import math

import pytest

from sanakit.errors import SettingsError
from sanakit.train.config import TrainConfig, check_above_zero, check_weight


def config(**settings) -> TrainConfig:
    defaults = {
        "steps": 100,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 10,
        "decay_fraction": 0.4,
    }
    return TrainConfig(**(defaults | settings))


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_rate_warms_up_holds_and_falls(decay):
    rates = [config(decay=decay).rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:61] == [1.0] * 51
    assert rates[60:95] == sorted(set(rates[60:95]), reverse=True)
    assert rates[80] == pytest.approx(0.5)
    assert 0.02 <= rates[-1] < 0.03


def test_cosine_falls_slower_at_first_than_linear():
    assert config(decay="cosine").rate(65) > config().rate(65)
    assert config(decay="cosine").rate(95) < config().rate(95)


def test_the_rate_never_falls_below_its_final_fraction():
    assert config(final_fraction=0.3).rate(99) == 0.3
    assert config(final_fraction=0.3).rate(99) == config(final_fraction=0.3).rate(98)


@pytest.mark.parametrize(
    "settings", [{"decay_fraction": 0.0}, {"decay_fraction": 1.0}, {"warmup_steps": 0}, {"steps": 1}]
)
def test_extreme_schedules_stay_in_range(settings):
    schedule = config(**settings)
    rates = [schedule.rate(step) for step in range(schedule.steps)]
    assert all(0 < rate <= 1 for rate in rates)


def test_a_longer_run_repeats_the_shorter_one_until_its_decay():
    short, long = config(), config(steps=1000)
    assert [short.rate(step) for step in range(60)] == [long.rate(step) for step in range(60)]


def test_the_first_fitting_part_of_a_name_gives_the_factor():
    factors = config(rate_factors=((".conv1.", 1.0), ("decoder", 0.1)))
    assert [factors.factor(name) for name in ("decoder.conv1.weight", "decoder.bias", "encoder.bias")] == [
        1,
        0.1,
        1,
    ]


@pytest.mark.parametrize("settings", [{"steps": 0}, {"batch_size": 0}, {"decay_fraction": 1.5}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(SettingsError, match=str(next(iter(settings.values())))):
        config(**settings)


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"optimizer": "lion"}, "adamw, muon, came, came8bit"),
        ({"decay": "exponential"}, "linear, cosine"),
        ({"parallel": "zero3"}, "auto, ddp, fsdp"),
        ({"trackers": ("wandb", "mlflow")}, "wandb, trackio"),
    ],
)
def test_words_that_are_not_known_are_refused_with_those_that_are(settings, allowed):
    with pytest.raises(SettingsError, match=f"must be one of {allowed}"):
        config(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        *({"learning_rate": value} for value in (-1e-3, 0, float("nan"), float("inf"), "1e-3", True)),
        *({"log_every": value} for value in (0, 2.5, True)),
        *({"steps": 2.5}, {"batch_size": "8"}, {"warmup_steps": -1}, {"micro_batch": 0}, {"clip_norm": 0.0}),
        *({"seed": -1}, {"seed": 2**32}, {"seed": 0.5}),
        *({"weight_decay": -0.1}, {"weight_decay": float("nan")}, {"ema_decay": 1.5}, {"final_fraction": 2}),
        *({"betas": (0.9, 1.0)}, {"betas": (0.9,)}, {"came_betas": (0.9, -0.1, 0.9)}),
        *({"rate_factors": (("decoder", -1.0),)}, {"rate_factors": (("decoder", float("nan")),)}),
        *({"bf16": "false"}, {"compile": 1}, {"recompute": None}),
    ],
)
def test_numbers_and_switches_out_of_range_are_refused_by_name(settings):
    with pytest.raises(SettingsError, match=f"{next(iter(settings))}.* must be"):
        config(**settings)


def test_another_learning_rate_changes_both_optimizers_alike():
    config = TrainConfig(steps=1, batch_size=1, learning_rate=1e-3, muon_learning_rate=4e-3)
    changed = config.at(5e-4)
    assert (changed.learning_rate, changed.muon_learning_rate) == pytest.approx((5e-4, 2e-3), rel=1e-12)
    with pytest.raises(SettingsError, match="learning_rate = 0"):
        config.at(0)


def test_what_lies_at_the_ends_of_its_range_is_taken():
    edges = {"warmup_steps": 0, "weight_decay": 0, "ema_decay": 1, "final_fraction": 0, "seed": 2**32 - 1}
    assert config(**edges, betas=(0.0, 0.999), rate_factors=(("decoder", 0.0),)).weight_decay == 0


def test_a_smoke_run_and_another_length_are_checked_too():
    with pytest.raises(SettingsError, match="steps = 0"):
        config().lasting(0)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "1", None])
def test_numbers_above_zero(value) -> None:
    with pytest.raises(SettingsError, match=r"reach = .*above 0"):
        check_above_zero(clip=1.0, reach=value)


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, False, "1"])
def test_weights_may_be_zero(value) -> None:
    check_weight("kl", 0)
    with pytest.raises(SettingsError, match="at least 0"):
        check_weight("kl", value)
