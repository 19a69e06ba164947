"""The guard lets ordinary steps pass, skips bad ones, slows down, recovers, and gives up with a remedy."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from sanakit.errors import DataError, NumericsError
from sanakit.train import guard as guard_module
from sanakit.train.guard import Guard


def ordinary(step: int, level: float = 1.0) -> tuple[float, float]:
    """Loss and gradient norm of a healthy run: falling, noisy, the norms with a heavy tail."""
    drawn = random.Random(step)
    falling = level * (0.3 + math.exp(-step / 200))
    return falling * drawn.lognormvariate(0, 0.15), 0.5 * level * drawn.lognormvariate(0, 0.35)


@pytest.fixture
def constants(monkeypatch: pytest.MonkeyPatch):
    """Give the guard other constants for a test, by their names in lower case."""

    def change(**values) -> None:
        for name, value in values.items():
            monkeypatch.setattr(guard_module, name.upper(), value)

    return change


def warmed(steps: int = 100) -> Guard:
    guard = Guard()
    assert all(guard.admit(step, *ordinary(step)) for step in range(steps))
    return guard


def test_an_ordinary_run_is_never_disturbed():
    guard = Guard()
    assert all(guard.admit(step, *ordinary(step)) for step in range(5000))
    assert guard.notes == []
    assert guard.factor == 1.0


def test_norms_that_grow_as_training_begins_are_no_spikes():
    guard = Guard()
    for step in range(400):
        loss, norm = ordinary(step)
        assert guard.admit(step, loss, norm * (1 + 14 * min(1, step / 150)))
    assert guard.notes == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["loss", "gradient norm"])
def test_what_is_not_a_number_is_skipped_from_the_first_step(value, place):
    guard = Guard()
    loss, norm = (value, 1.0) if place == "loss" else (1.0, value)
    assert not guard.admit(0, loss, norm)
    assert guard.notes == [f"Step 0 skipped: {place} {value:.4g} is not a number."]
    assert guard.admit(1, 1.0, 1.0)


@pytest.mark.parametrize("place", ["loss", "gradient norm"])
def test_a_spike_is_skipped_and_leaves_no_trace_in_what_is_usual(place):
    guard, undisturbed = warmed(), warmed()
    loss, norm = ordinary(100)
    spike = (50 * loss, norm) if place == "loss" else (loss, 50 * norm)
    assert not guard.admit(100, *spike)
    (note,) = guard.notes
    assert note.startswith(f"Step 100 skipped: {place} ")
    assert "the median of the last 100 is" in note
    for step in range(101, 150):
        assert guard.admit(step, *ordinary(step)) == undisturbed.admit(step, *ordinary(step)) is True
    assert guard.state_dict() == undisturbed.state_dict() | {"bad": [100]}
    assert guard.factor == 1.0


def test_spikes_are_looked_for_only_after_the_warm_up(constants):
    constants(warmup=10)
    guard = Guard()
    assert all(guard.admit(step, 1.0, 1.0) for step in range(9))
    assert guard.admit(9, 1.0, 99.0)
    assert not guard.admit(10, 1.0, 99.0)


def test_an_even_run_may_wiggle():
    guard = Guard()
    assert all(guard.admit(step, 1.0, 1.0) for step in range(60))
    assert guard.admit(60, 1.9, 1.9)
    assert not guard.admit(61, 2.1, 1.0)
    assert guard.admit(62, 1.0, 2.7)
    assert not guard.admit(63, 1.0, 2.8)


def test_negative_losses_have_spikes_too():
    guard = Guard()
    assert all(guard.admit(step, -1.0, 1.0) for step in range(60))
    assert guard.admit(60, -0.2, 1.0)
    assert not guard.admit(61, 0.2, 1.0)


def test_repeated_bad_steps_halve_the_rate_and_good_ones_bring_it_back_slowly(constants):
    constants(repeated=3, spell=20, recovery=50)
    guard = warmed()
    for step in (100, 105):
        assert not guard.admit(step, math.nan, 1.0)
        assert guard.factor == 1.0
        assert guard.admit(step + 1, *ordinary(step))
    guard.notes.clear()
    assert not guard.admit(110, 1.0, 1e6)
    assert guard.factor == 0.5
    assert guard.notes[1].startswith("Step 110: the learning rate is lowered to 0.5 of its usual value")
    guard.notes.clear()
    factors = []
    for step in range(111, 161):
        assert guard.admit(step, *ordinary(step))
        factors.append(guard.factor)
    assert factors == sorted(factors)
    assert factors[24] == pytest.approx(0.5**0.5)
    assert factors[48] < 1.0 == factors[49]
    assert guard.notes == ["Step 160: the learning rate is back at its usual value."]


def test_rare_bad_steps_do_not_slow_a_run_down(constants):
    constants(repeated=3, spell=20)
    guard = warmed()
    for step in range(100, 400):
        bad = step % 15 == 0
        assert guard.admit(step, *((math.nan, 1.0) if bad else ordinary(step))) is not bad
    assert guard.factor == 1.0


def test_a_lasting_new_level_is_taken_as_usual_at_a_lower_rate():
    guard = warmed()
    admitted = [guard.admit(step, *ordinary(step, level=40.0)) for step in range(100, 400)]
    assert admitted == [False] * 4 + [True] * 296
    assert "so were the 4 before it, so this is the new usual" in guard.notes[5]
    assert 0.5 < guard.factor < 1.0  # halved once, and on its way back
    guard.notes.clear()
    assert not guard.admit(400, 1e4, 1e4)  # and has its own spikes


def test_a_run_that_brings_only_nans_ends_with_a_remedy(constants):
    constants(hopeless=20, repeated=1000)
    guard = warmed()
    assert not any(guard.admit(step, math.nan, math.nan) for step in range(100, 119))
    with pytest.raises(NumericsError, match=r"last 20 steps up to 119 .* lower learning rate"):
        guard.admit(119, math.nan, math.nan)


def test_a_run_whose_first_weights_are_damaged_is_not_told_to_go_on(constants):
    constants(hopeless=3)
    guard = Guard()
    for step in range(2):
        assert not guard.admit(step, math.nan, math.nan)
    with pytest.raises(NumericsError, match=r"None of the 3 steps .* initial weights .* hold NaN"):
        guard.admit(2, math.nan, math.nan)


def test_a_run_that_never_calms_down_ends_with_a_remedy(constants):
    constants(repeated=3, lowest=1 / 8)
    guard = warmed()
    every_other = [((math.nan, 1.0) if step % 2 else ordinary(step)) for step in range(1000)]
    for step in range(100, 100 + 22):
        assert guard.admit(step, *every_other[step]) is (step % 2 == 0)
    assert guard.factor == pytest.approx(1 / 8, rel=0.05)
    with pytest.raises(NumericsError, match=r"halved to below 0.125 .* --resume"):
        [guard.admit(step, *every_other[step]) for step in range(122, 130)]


def wild(step: int) -> tuple[float, float]:
    loss, norm = ordinary(step)
    return {3: (math.nan, 1.0), 7: (loss, 1e3), 12: (1e3, norm)}.get(step % 41, (loss, norm))


def test_a_restored_guard_decides_like_the_one_that_went_on(constants):
    constants(lowest=1e-9)
    guard = Guard()
    for step in range(300):
        guard.admit(step, *wild(step))
    assert guard.factor < 1.0
    restored = Guard()
    restored.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    guard.notes.clear()
    for step in range(300, 800):
        assert guard.admit(step, *wild(step)) == restored.admit(step, *wild(step))
        assert guard.factor == restored.factor
    assert guard.notes == restored.notes != []
    assert guard.state_dict() == restored.state_dict()


def test_a_saved_state_does_not_change_with_the_guard():
    guard = warmed()
    saved = guard.state_dict()
    before = json.dumps(saved)
    guard.admit(100, math.nan, 1.0)
    guard.admit(101, *ordinary(101))
    assert json.dumps(saved) == before


def trained(guarded: bool, poison: dict[int, float]) -> tuple[float, Guard]:
    """Fit a line with Adam while some losses are multiplied by a poison; gives the final error, the guard."""
    torch.manual_seed(0)
    model, wanted = nn.Linear(8, 4), torch.randn(8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    guard = Guard()
    for step in range(400):
        x = torch.randn(64, 8)
        loss = (model(x) - x @ wanted).square().mean() + 0.1
        loss = loss * poison.get(step, 1.0)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        if not guarded or guard.admit(step, loss.item(), norm.item()):
            optimizer.param_groups[0]["lr"] = 0.03 * guard.factor * (1 - step / 400)
            optimizer.step()
        optimizer.zero_grad()
    x = torch.randn(64, 8)
    return (model(x) - x @ wanted).square().mean().item(), guard


def test_a_training_run_survives_nans_and_spikes(constants):
    constants(warmup=20, repeated=3, recovery=50)
    poison = {5: math.nan, 90: math.nan, 91: math.inf, 150: 1e5, 151: -1e6, 152: 1e4, 300: math.nan}
    calm, quiet = trained(True, {})
    survived, guard = trained(True, poison)
    assert quiet.notes == []
    assert survived < 1e-3
    assert survived < 10 * calm + 1e-4
    skipped = [int(note.split()[1]) for note in guard.notes if "skipped" in note]
    assert skipped == sorted(poison)
    assert any("lowered to 0.5" in note for note in guard.notes)
    lost, _ = trained(False, poison)
    assert math.isnan(lost)
    shaken, _ = trained(False, {150: 1e5, 151: -1e6, 152: 1e4})
    assert shaken > 100 * survived


def test_gradient_norms_that_vary_by_factors_are_usual():
    """Norms of a healthy run are log-normal; a guard of plain differences once ended such a run."""
    random = np.random.default_rng(0)
    guard = Guard()
    for step, norm in enumerate(0.4 * np.exp(0.35 * random.standard_normal(3000))):
        assert guard.admit(step, 1.0, float(norm)), guard.notes
    assert guard.factor == 1.0
    assert not guard.admit(3000, 1.0, 0.4 * 400)


def test_steps_without_a_sample_are_told_and_too_many_in_a_row_end_the_run(constants):
    constants(hopeless=3)
    guard = warmed()
    before = guard.state_dict()
    assert not guard.leave_out(100)
    assert not guard.leave_out(101)
    assert guard.notes[-1] == "Step 101 skipped: none of its images could be read."
    assert guard.state_dict() == before  # the learning rate is not lowered for it
    assert guard.admit(102, *ordinary(102))
    guard.leave_out(103)
    guard.leave_out(104)
    with pytest.raises(DataError, match=r"last 3 steps up to 105 .*--resume"):
        guard.leave_out(105)


@pytest.mark.parametrize(
    "change",
    [
        *({"factor": value} for value in (0, 2.0, math.nan, "1", None)),
        *({"losses": [0.1, math.nan]}, {"losses": 3}, {"norms": ["a"]}, {"norms": None}),
        *({"bad": [1.5]}, {"bad": "x"}, {"skipped": "many"}, {"high": 0.5}),
    ],
)
def test_numbers_that_a_guard_never_saves_are_not_taken(change):
    with pytest.raises((TypeError, ValueError)):
        Guard().load_state_dict(warmed().state_dict() | change)


def test_a_state_that_lacks_a_number_is_not_taken():
    state = warmed().state_dict()
    for name in state:
        with pytest.raises(KeyError):
            Guard().load_state_dict({key: value for key, value in state.items() if key != name})
