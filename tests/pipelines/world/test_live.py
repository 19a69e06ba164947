"""Worlds to walk through: moments that nothing changes, branches, undoing, and memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from sanakit.errors import NumericsError, SettingsError
from sanakit.models.video.ltx2_blocks import FrameCache
from sanakit.pipelines.world.actions import TURNING, Walker, action_poses
from sanakit.pipelines.world.live import LiveWorld, Moment
from sanakit.pipelines.world.world import World
from tests.pipelines.world.tiny import STREAMING, photo, save_world

IMAGE = photo(64, 64)
CALLED = {"fov": 60.0, "seed": 5, "width": 64, "height": 64}


@pytest.fixture
def live(streaming: World) -> LiveWorld:
    return streaming.enter(IMAGE, "a red apple", **CALLED)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with Wan's autoencoder: four frames and eight pixels a latent."""
    config = replace(STREAMING, plucker_channels=24)
    return World.from_pretrained(save_world(tmp_path_factory.mktemp("wan") / "model", config, None))


def tensors(moment: Moment) -> Iterator[torch.Tensor]:
    """All that a moment holds, but for its prompt and the moments before."""
    yield torch.from_numpy(moment.frame)
    yield moment.pose
    yield moment.point.random
    if moment.point.state is not None:
        for block in moment.point.state.blocks:
            yield block.last
            parts = block.attention
            nested = [parts] if hasattr(parts, "latest") else list(parts)
            yield from (x for part in nested for x in part if x is not None)  # pyright: ignore
    past = moment.decoder
    kept = past._neighbours.values() if isinstance(past, FrameCache) else past
    yield from (x for x in kept if x is not None)  # pyright: ignore


@pytest.mark.parametrize("kind", ["streaming", "wan"])
def test_two_branches_of_one_moment_are_drawn_again_bit_for_bit(kind, request) -> None:
    live = request.getfixturevalue(kind).enter(IMAGE, "a red apple", **CALLED)
    count = live.chunk_frames
    live.move(f"w-{count}")
    here = live.snapshot()
    before = [x.clone() for x in tensors(here)]
    left = live.move(f"a-{count}")
    live.restore(here)
    right = live.move(f"d-{2 * count}")
    assert all(torch.equal(now, then) for now, then in zip(tensors(here), before, strict=True))
    live.restore(here)
    assert np.array_equal(live.move(f"a-{count}"), left)
    live.restore(here)
    assert np.array_equal(live.move(f"d-{2 * count}"), right)
    assert not np.array_equal(left, right[:count])
    assert live.frames == 1 + 3 * count


def test_a_way_that_was_gone_again_is_that_of_a_new_world(streaming, live) -> None:
    first = live.frame
    frames = [live.move("w-24"), live.move("d-24")]
    live.undo(2)
    assert live.frames == 1
    assert np.array_equal(live.frame, first)
    again = streaming.enter(IMAGE, "a red apple", **CALLED)
    assert np.array_equal(live.move("w-24"), again.move("w-24"))
    assert np.array_equal(again.move("d-24"), frames[1])


def test_one_move_of_two_chunks_is_two_moves(streaming, live) -> None:
    frames = live.move("w-30,wd-18")
    other = streaming.enter(IMAGE, "a red apple", **CALLED)
    parts = [other.move("w-24"), other.move("w-6,wd-18")]
    assert np.array_equal(frames, np.concatenate(parts))
    walked = Walker(TURNING).walk("w-30,wd-18")[0][-1]
    assert torch.equal(live.snapshot().pose, walked)
    assert torch.equal(other.snapshot().pose, walked)
    live.undo()
    assert live.frames == 25
    assert np.array_equal(live.frame, parts[0][-1])


def test_as_many_chunks_can_be_undone_as_are_kept(streaming) -> None:
    live = streaming.enter(IMAGE, undo=1, **CALLED)
    live.move("w-72")
    live.undo()
    assert live.frames == 49
    with pytest.raises(SettingsError, match="1 chunk cannot be undone, but 0: enter with a larger `undo`"):
        live.undo()
    assert live.frames == 49
    all_of_them = streaming.enter(IMAGE, undo=None, **CALLED)
    all_of_them.move("w-72")
    for count in (0, -1, True):
        with pytest.raises(SettingsError, match=f"chunks = {count}, but it must be a whole number from 1"):
            all_of_them.undo(count)
    assert all_of_them.frames == 73
    all_of_them.undo(3)
    assert all_of_them.frames == 1


def test_a_moment_does_not_grow(streaming) -> None:
    live, sizes = streaming.enter(IMAGE, undo=0, **CALLED), []
    for _ in range(5):
        live.move("wl-24")
        moment = live.snapshot()
        assert moment.before is None
        held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors(moment)}
        sizes.append(sum(held.values()))
    assert sizes[2] == sizes[3] == sizes[4]


def test_blocks_are_given_back_while_chunks_are_decoded(streaming, monkeypatch) -> None:
    inside, seen, decode = [], [], streaming.autoencoder.decode_next

    @contextmanager
    def spied() -> Iterator[None]:
        inside.append(1)
        yield
        inside.pop()

    monkeypatch.setattr("sanakit.pipelines.world.live.blocks_given_back", spied)
    monkeypatch.setattr(
        streaming.autoencoder, "decode_next", lambda *given: seen.append(len(inside)) or decode(*given)
    )
    streaming.enter(IMAGE, **CALLED).move("w-24")
    assert seen == [1, 1]
    assert not inside


def test_another_seed_is_another_future(live) -> None:
    live.move("w-24")
    here = live.snapshot()
    frames = live.move("w-24")
    live.restore(here, seed=6)
    other = live.move("w-24")
    assert not np.array_equal(other, frames)
    live.restore(here, seed=6)
    assert np.array_equal(live.move("w-24"), other)


def test_poses_go_where_keys_go_and_keys_go_on_from_them(streaming, live) -> None:
    poses = action_poses("wd-24")[1:]
    frames = live.move("wd-24")
    other = streaming.enter(IMAGE, "a red apple", **CALLED)
    assert np.array_equal(other.follow(poses), frames)
    assert torch.equal(other.snapshot().pose, poses[-1])
    assert np.array_equal(other.move("none-24").shape, (24, 64, 64, 3))
    assert torch.allclose(other.snapshot().pose, poses[-1], atol=1e-12), "it stands still"


def test_a_walker_at_a_pose_looks_up_as_far_as_the_pose() -> None:
    _, walker = Walker(TURNING).walk("i-20,wd-10")
    at = walker.standing_at(walker.pose)
    assert at.pitch == pytest.approx(walker.pitch)
    assert (at.velocity.forward, at.held) == (0.0, frozenset())


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        ("w-16", "takes 16 frames, but this world goes on by 24 at a time: make them 24 in all"),
        ("w-50", "make them 48 or 72 in all"),
        ("x-24", "unknown keys"),
    ],
)
def test_other_than_whole_chunks_are_refused_at_once(live, actions, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence):
        live.moving(actions)
    assert live.frames == 1


def test_moments_are_of_one_world(streaming, live) -> None:
    other = streaming.enter(IMAGE, **CALLED)
    with pytest.raises(SettingsError, match="another world"):
        live.restore(other.snapshot())


def test_what_is_of_known_paths_is_refused(streaming) -> None:
    with pytest.raises(SettingsError, match="path is of a call for a known path: omit it, and use `move`"):
        streaming.enter(IMAGE, path="w-24", **CALLED)
    with pytest.raises(SettingsError, match="undo = -1"):
        streaming.enter(IMAGE, undo=-1, **CALLED)
    with pytest.warns(UserWarning, match="60 degrees are taken"):
        live = streaming.enter(IMAGE, width=64, height=64)
    assert "60 degrees are taken" in live.warnings[0]


def test_a_move_that_fails_leaves_the_world_behind_the_last_good_chunk(live, monkeypatch) -> None:
    decode, calls = live._pipe.autoencoder.decode_next, []

    def failing(latents, past):
        calls.append(1)
        frames, after = decode(latents, past)
        return (frames * float("nan") if len(calls) == 2 else frames), after

    monkeypatch.setattr(live._pipe.autoencoder, "decode_next", failing)
    with pytest.raises(NumericsError, match="decoded frames became NaN"):
        live.move("w-48")
    assert live.frames == 25
    assert live.move("w-24").std() > 1
