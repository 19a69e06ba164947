"""Made furniture stands on the floor, in sizes of furniture and in the colours that its name says."""

from __future__ import annotations

import numpy as np
import pytest

from sanakit.pocket.data.worlds.made import COLOURS, MADE, make_thing


@pytest.mark.parametrize("kind", MADE)
def test_things_stand_on_the_floor_and_have_the_colour_of_their_name(kind: str) -> None:
    seen = set()
    for seed in range(3):
        name, mesh = make_thing(np.random.default_rng(seed), kind)
        least, most = mesh.bounds
        assert most[1] == pytest.approx(0, abs=1e-6)
        assert 0.2 < -least[1] < 2.2
        assert 0.1 < mesh.radius < 1.4
        assert kind in name
        colour = next(word for word in name.split() if word in COLOURS)
        assert (np.abs(mesh.colours - np.array(COLOURS[colour], np.float32)).max(1) < 1e-6).any()
        seen.add((name, round(float(least[1]), 4)))
    assert len(seen) > 1
