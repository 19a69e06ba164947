"""Made rooms: rays meet their six planes, panels and shadows lie where they were put."""

from __future__ import annotations

import numpy as np

from sanakit.pocket.data.worlds.rooms import BRIGHT, FLOOR, FacePanel, Room, make_room

DOWN, AHEAD = np.array([[0.0, 1.0, 0.0]]), np.array([[0.0, 0.0, 1.0]])


def test_rays_meet_the_planes_of_the_room_and_its_panels() -> None:
    room = make_room(np.random.default_rng(3))
    eye = np.array([0.2, -1.0, -0.3])
    rays = np.random.default_rng(0).normal(size=(200, 3))
    colours, depth = room.seen(eye, rays)
    met = eye + depth[:, None] * rays
    low, high = room.limits
    on_a_plane = np.minimum(np.abs(met - low), np.abs(met - high)).min(1)
    assert on_a_plane.max() < 1e-9
    assert (met > low - 1e-9).all()
    assert (met < high + 1e-9).all()
    assert (depth > 0).all()
    assert len(np.unique(colours.round(3), axis=0)) > 6


def test_a_panel_and_a_shadow_lie_where_they_were_put() -> None:
    panel = FacePanel(5, (0.5, -1.5), (1.5, -0.5), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    room = Room((5.0, 2.6, 6.0), "white", "stone", panels=(panel,))
    inside, _ = room.seen(np.array([1.0, -1.0, 0.0]), AHEAD)
    edge, _ = room.seen(np.array([0.53, -1.0, 0.0]), AHEAD)
    beside, depth = room.seen(np.array([0.4, -1.0, 0.0]), AHEAD)
    np.testing.assert_allclose(inside[0], [BRIGHT[5], 0, 0], rtol=1e-6)
    np.testing.assert_allclose(edge[0], [0, BRIGHT[5], 0], rtol=1e-6)
    assert beside[0].min() > 0.5
    assert depth[0] == 3.0
    shaded = Room((5.0, 2.6, 6.0), "white", "stone", shadows=((1.0, 1.0, 0.3),))
    at, away = np.array([1.0, -1.0, 1.0]), np.array([-1.0, -1.0, -1.5])
    assert shaded.seen(at, DOWN)[0].max() < 0.6 * room.seen(at, DOWN)[0].max()
    np.testing.assert_allclose(shaded.seen(away, DOWN)[0], room.seen(away, DOWN)[0], rtol=1e-4)


def test_rooms_differ_and_have_their_rug_on_the_floor() -> None:
    rooms = [make_room(np.random.default_rng(seed)) for seed in range(12)]
    assert len({room.size for room in rooms}) == 12
    faces = {panel.face for room in rooms for panel in room.panels}
    assert FLOOR in faces
    assert 2 not in faces  # nothing hangs from the ceiling
