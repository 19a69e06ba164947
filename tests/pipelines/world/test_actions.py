"""Keys to poses: the sign of every key in both dialects, diffusers' numbers, easing, going on and back."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.pipelines.sana_wm.cam_utils import action_string_to_c2w
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.pipelines.world.actions import (
    ACTION_DIALECTS,
    STRAFING,
    TURNING,
    Walker,
    action_poses,
    find_dialect,
    parse_actions,
)

AXES = {"right": (0, 1), "left": (0, -1), "forward": (2, 1), "back": (2, -1)}
KEYS = {  # what each key does in each dialect
    "strafing": {"w": "forward", "s": "back", "a": "left", "d": "right"},
    "turning": {"w": "forward", "s": "back", "j": "left", "l": "right"},
}
TURNS = {"strafing": {"j": -1, "l": 1}, "turning": {"a": -1, "d": 1}}


def seen_by(pose: Tensor, point: Tensor) -> Tensor:
    """A point of the world as a camera sees it: x right, y down, z ahead."""
    return torch.linalg.inv(pose)[:3, :3] @ point + torch.linalg.inv(pose)[:3, 3]


@pytest.mark.parametrize(
    ("dialect", "key", "way"), [(name, key, way) for name, keys in KEYS.items() for key, way in keys.items()]
)
def test_a_key_walks_its_way(dialect, key, way):
    path = action_poses(f"{key}-3", find_dialect(dialect))
    axis, sign = AXES[way]
    moved = path[:, :3, 3]
    steps = sign * moved[:, axis].diff()
    assert (steps - find_dialect(dialect).speed).abs().max() < 1e-12
    assert torch.equal(path[:, :3, :3], torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    still = [other for other in range(3) if other != axis]
    assert not moved[:, still].any()


@pytest.mark.parametrize(
    ("dialect", "key", "sign"),
    [(name, key, sign) for name, keys in TURNS.items() for key, sign in keys.items()],
)
def test_a_key_turns_its_way(dialect, key, sign):
    """What lies straight ahead moves to the left of an image when the camera turns right."""
    path = action_poses(f"{key}-5", find_dialect(dialect))
    ahead = seen_by(path[-1], torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64))
    assert ahead[0] * sign < 0
    angle = math.radians(5 * find_dialect(dialect).degrees)
    assert abs(ahead[0] + sign * 4 * math.sin(angle)) < 1e-12
    assert abs(ahead[1]) < 1e-12
    assert not path[:, :3, 3].any()


@pytest.mark.parametrize("dialect", ACTION_DIALECTS)
@pytest.mark.parametrize(("key", "sign"), [("i", 1), ("k", -1)])
def test_looking_up_moves_what_lies_ahead_down(dialect, key, sign):
    path = action_poses(f"{key}-5", find_dialect(dialect))
    ahead = seen_by(path[-1], torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64))
    angle = math.radians(5 * find_dialect(dialect).degrees)
    assert abs(ahead[1] - sign * 4 * math.sin(angle)) < 1e-12
    assert abs(ahead[0]) < 1e-12


@pytest.mark.parametrize("dialect", ACTION_DIALECTS)
def test_walking_ahead_brings_things_nearer_and_stays_level(dialect):
    point = torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)
    path = action_poses("k-10,w-20", find_dialect(dialect))
    assert seen_by(path[-1], point)[2] < seen_by(path[10], point)[2]
    assert not path[:, 1, 3].any()  # looks down, but walks in the plane
    assert (path[:, :3, :3] @ path[:, :3, :3].mT - torch.eye(3)).abs().max() < 1e-12


@pytest.mark.parametrize(
    "text", ["w-24", "dw-24,jl-3,al-9", "i-80", "k-3,none-2,kj-60,sa-4", "wasdijkl-3", "L-8, I-2 ,W-1"]
)
def test_paths_of_the_older_dialect_are_those_of_diffusers(text):
    ours, theirs = action_poses(text, STRAFING), torch.from_numpy(action_string_to_c2w(text))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-6


def test_looking_up_ends_at_the_limit():
    def pitches(text, dialect):
        axes = action_poses(text, dialect)[:, :3, :3]
        return torch.rad2deg(torch.atan2(-axes[:, 1, 2], axes[:, 1, 1]))

    older, newer = pitches("i-90", STRAFING), pitches("i-120,k-10", TURNING)
    assert abs(older.max() - 84) < 1e-9  # 70 steps of 1.2: the next one would go beyond 85
    assert abs(newer.max() - 60) < 1e-9
    assert newer[-1] < newer[-11]  # and it comes back at once


def test_speeds_ease_as_the_authors_scripts_say():
    """A fresh press has its full speed at once; released, 1 - e^(-1/16) of it goes every frame."""
    path = action_poses("w-4,none-20", TURNING)
    steps = path[:, 2, 3].diff()
    assert (steps[:4] - 0.025).abs().max() < 1e-12
    left = 0.025 * torch.exp(-torch.arange(1, 21, dtype=torch.float64) / 16)
    assert (steps[4:] - left).abs().max() < 1e-12
    partly = action_poses("wd-4,w-8", TURNING)  # d is let go: the turn eases out while walking goes on
    turned = torch.atan2(partly[:, 0, 2], partly[:, 2, 2]).diff()
    angle = math.radians(0.6)
    assert (turned[:4] - angle).abs().max() < 1e-12
    left = angle * torch.exp(-torch.arange(1, 9, dtype=torch.float64) / 16)
    assert (turned[4:] - left).abs().max() < 1e-12
    held = action_poses("ws-4,w-8", TURNING)[:, 2, 3].diff()  # s is let go: w is held already, and eases in
    grown = 0.025 * (1 - torch.exp(-torch.arange(1, 9, dtype=torch.float64) / 16 / 0.45))
    assert not held[:4].any()
    assert (held[4:] - grown).abs().max() < 1e-12
    again = action_poses("w-2,none-3,d-1", TURNING)  # a fresh press ends what coasts
    assert torch.equal(again[-1, :3, 3], again[-2, :3, 3])


@pytest.mark.parametrize("dialect", ACTION_DIALECTS)
def test_a_walk_goes_on_chunk_by_chunk_and_back_to_a_kept_place(dialect):
    start = Walker(find_dialect(dialect))
    whole, _ = start.walk("wd-8,i-8,s-8")
    first, kept = start.walk("wd-8")
    second, on = kept.walk("i-8")
    third, _ = on.walk("s-8")
    assert torch.equal(torch.cat([first, second, third]), whole)
    other, _ = kept.walk("k-8")
    assert not torch.equal(other, second)
    assert torch.equal(kept.walk("i-8")[0], second)
    assert torch.equal(start.pose, torch.eye(4, dtype=torch.float64))


def test_out_and_back_is_where_it_began():
    path = action_poses("w-10,s-10,d-5,a-5,j-7,l-7", STRAFING)
    assert (path[-1] - path[0]).abs().max() < 1e-12


def test_texts_are_read_leniently_in_blanks_and_capitals():
    assert parse_actions(" W d-2,\n none-1") == [frozenset("wd")] * 2 + [frozenset()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not an action"),
        ("w", "'w' is not an action"),
        ("w-", "'w-' is not an action"),
        ("w-0", "'w-0' is not an action"),
        ("w-²", "is not an action"),
        ("w--3", "unknown keys"),
        ("w-3,", "'' is not an action"),
        ("wx-3", "unknown keys (x)"),
        ("-3", 'write "none-3"'),
        ("w-100001", "more than 100,000 frames"),
        ("w-99999999999999999999999", "more than 100,000 frames"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(text, said):
    with pytest.raises(SettingsError) as caught:
        parse_actions(text)
    assert said in str(caught.value)


def test_zeros_in_front_of_a_number_do_not_pass_the_limit():
    assert len(parse_actions("w-0000000012")) == 12
    with pytest.raises(SettingsError, match="more than 100,000 frames"):
        parse_actions("w-0000000012000000")


def test_unknown_dialects_are_refused():
    with pytest.raises(SettingsError, match="use strafing or turning"):
        find_dialect("flying")
