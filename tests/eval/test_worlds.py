"""Measures of worlds: of one that obeys, of one that turns left for right, and of one that stands still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sanakit.errors import DataError, SettingsError
from sanakit.eval import worlds
from sanakit.eval.metrics.obedience import drift, retrieved
from sanakit.eval.world_folder import WorldScene, list_scenes
from sanakit.eval.worlds import Judging, check_world_measures, measure_worlds, world_notes
from sanakit.pipelines.world.actions import STRAFING, action_poses
from tests.eval.metrics.walls import backwards, truth
from tests.eval.true_clips import save_clip, save_scenes

MOVED = ("path-retrieval", "path-psnr", "drift", "revisit")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[WorldScene]:
    return list_scenes(save_scenes(tmp_path_factory.mktemp("true") / "clips"))[0]


def still(path: str | Tensor, steered: bool = True) -> np.ndarray:
    return truth(path, False)


@pytest.fixture
def measured(monkeypatch) -> Callable[..., dict[str, Any]]:
    """Measure what draws in a world's place; `calls` gets every path."""

    def run(draw, names, scenes, **settings):
        def drawer(world, image, prompt, **given):
            calls = settings.get("calls", [])
            return lambda path, steered: calls.append((given["seed"], steered)) or draw(path, steered)

        monkeypatch.setattr(worlds, "drawer", drawer)
        given = {name: value for name, value in settings.items() if name != "calls"}
        return measure_worlds(names, None, "weights", scenes, **given)[0]  # pyright: ignore

    return run


def test_a_world_that_obeys_is_told_from_ones_that_do_not(measured, scenes) -> None:
    found = measured(truth, MOVED, scenes)
    assert found["path-retrieval"].value == 1
    assert found["path-retrieval"].details == {"chance": 0.25}
    assert found["path-retrieval"].clips == 4
    psnr = found["path-psnr"]
    assert psnr.value == 100
    assert set(psnr.details) == {"other-path", "no-camera", "first-frame"}
    assert max(psnr.details.values()) < 30
    assert psnr.details["no-camera"] == pytest.approx(psnr.details["first-frame"])
    assert (found["drift"].value, found["revisit"].value) == (0, 100)
    assert found["revisit"].details["pairs"] == 8

    mirrored = measured(backwards, MOVED[:2], scenes)
    assert mirrored["path-retrieval"].value == 0.5, "steps aside are wrong, those ahead and up are not"
    frozen = measured(still, MOVED[:3], scenes)
    assert frozen["path-retrieval"].value <= 0.25
    assert frozen["path-psnr"].value == pytest.approx(frozen["path-psnr"].details["first-frame"])
    assert frozen["drift"].value > 1, "the true clip goes away from it"


def test_each_key_is_told(measured, scenes) -> None:
    found = measured(backwards, ["key-signs"], scenes)["key-signs"]
    assert found.value == 0.5
    assert found.details == {key: float(key in "wsik") for key in "ajdlikws"}


def test_a_clip_alone_is_compared_with_its_inverted_path_and_not_retrieved(measured, tmp_path) -> None:
    save_clip(tmp_path, "one", "d-16")
    alone, _ = list_scenes(tmp_path)
    calls: list[Any] = []
    found = measured(truth, ["path-psnr"], alone, calls=calls)["path-psnr"]
    assert found.details["other-path"] < found.details["no-camera"] < found.value
    assert [steered for _, steered in calls] == [True, True, False]
    with pytest.raises(
        DataError, match="path-retrieval: it needs two clips or more that begin with the same"
    ):
        measured(truth, ["path-retrieval"], alone)
    save_clip(tmp_path / "two", "still", "none-16")
    both, _ = list_scenes(tmp_path)
    assert world_notes(["path-psnr", "revisit"], both) == [
        "1 of 2 scenes are not counted in revisit: it needs clips of three frames or more whose camera moves."
    ]


def test_what_was_found_is_kept_until_seed_weights_or_clips_change(measured, scenes, tmp_path) -> None:
    calls: list[Any] = []
    first = measured(truth, MOVED, scenes, folder=tmp_path, calls=calls)
    count = len(calls)
    assert count == 6, "a clip along each path, one without cameras, one there and back"
    assert measured(truth, MOVED, scenes, folder=tmp_path, calls=calls) == first
    assert len(calls) == count
    measured(truth, MOVED, scenes, folder=tmp_path, calls=calls, seed=1)
    assert [seed for seed, _ in calls[count:]] == [1] * count
    measured(truth, ["drift"], scenes[:1], folder=None, calls=calls)
    assert len(calls) > 2 * count


def test_the_judges_own_error_stands_beside_what_it_says(measured, scenes, tmp_path) -> None:
    learned, _ = list_scenes(save_scenes(tmp_path / "other", paths=("w-16", "d-16")))
    with pytest.raises(DataError, match=r"would learn from 0-(a|d|w)-16"):
        measured(truth, ["pose-judge"], scenes, judging=Judging(clips=learned[0].clips, steps=1))
    save_clip(tmp_path / "more", "x", "w-16", wall=5)
    (more,), _ = list_scenes(tmp_path / "more")
    judging = Judging(clips=more.clips, steps=1, device="cpu")
    found = measured(truth, ["pose-judge"], scenes, judging=judging, folder=tmp_path)["pose-judge"]
    assert found.value == pytest.approx(found.details["degrees of true clips"])
    assert found.details["distance"] == pytest.approx(found.details["distance of true clips"])
    assert found.details["distance of inverted paths"] > 0
    assert Judging(clips=more.clips, steps=2).key != judging.key
    shown = measured(still, ["pose-judge"], scenes, judging=judging)["pose-judge"]
    assert shown.details["degrees of true clips"] == pytest.approx(found.value)
    assert shown.value != pytest.approx(found.value)


@pytest.mark.parametrize(
    ("names", "judging", "sentence"),
    [
        (["path-length"], False, "There is no measure 'path-length' of worlds: use path-retrieval,"),
        (["pose-judge"], False, "pass their folder with --judge"),
        (["drift"], True, "--judge is not used by drift: add pose-judge"),
    ],
)
def test_measures_that_cannot_be_taken_are_refused(names, judging, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence):
        check_world_measures(names, judging)


def test_retrieval_counts_clips_nearest_to_their_own_truth() -> None:
    truths = [np.full((3, 8, 8, 3), level, np.uint8) for level in (0, 100, 200)]
    drawn = [np.full((3, 8, 8, 3), level, np.uint8) for level in (60, 110, 190)]
    for clip in (*truths, *drawn):
        clip[0] = 50  # the first frame tells nothing
    assert retrieved(drawn, truths) == [False, True, True]
    assert retrieved(truths, drawn) == [True, True, True], "60 is what is nearest to 0"
    assert retrieved([truths[0], truths[0]], [truths[0], truths[0]]) == [False, False], "a tie is no answer"
    with pytest.raises(SettingsError, match="1 clip and 3 true"):
        retrieved(drawn[:1], truths)


def test_drift_is_the_fall_from_the_first_third_to_the_last() -> None:
    assert drift([30.0, 28.0, 5.0, 90.0, 20.0, 22.0]) == 8
    assert drift([30.0, 28.0, 26.0, 24.0]) == 6
    with pytest.raises(SettingsError, match="2 frames after its first: drift needs three"):
        drift([1.0, 2.0])


def test_poses_may_begin_anywhere(measured, scenes, tmp_path) -> None:
    """True clips in a room's frame of reference: the inverted path is that of the camera, not of the room."""
    start = torch.eye(4, dtype=torch.float64)
    start[2, 3] = 0.5
    save_clip(tmp_path, "moved", start @ action_poses("d-16", STRAFING))
    found = measured(
        lambda path, steered: truth(start @ torch.linalg.inv(path[:1]) @ path, steered),
        ["path-psnr"],
        list_scenes(tmp_path)[0],
    )
    assert found["path-psnr"].value == 100
