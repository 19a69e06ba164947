"""Durations in ticks of a format add up to the exact time."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sanakit.clips.formats.plan import WritePlan


@pytest.mark.parametrize("parts", [100, 1000])
@pytest.mark.parametrize("rate", [Fraction(24), Fraction(24000, 1001), Fraction(7, 3), Fraction(50)])
def test_no_error_adds_up(rate: Fraction, parts: int) -> None:
    plan = WritePlan(width=8, height=8, rate=rate, quality=80, settings={}, comment="")
    time = 0
    for number in range(500):
        ticks = plan.ticks(number, parts)
        assert abs(ticks - parts / rate) < 1
        time += ticks
        assert abs(time - (number + 1) * parts / rate) <= Fraction(1, 2)
