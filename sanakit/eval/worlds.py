"""Does a world model obey? Its measures as one call: true clips with cameras in, figures out.

Of each scene (`world_folder.py`) clips are drawn from its first frame, all with one noise, and compared by
`metrics/obedience.py` and a judge of poses. Results of scenes are kept in `MEASURE.jsonl`, known by the
clips, their cameras, the model's weights and defaults, the seed, and, for poses, by what the judge learned
from.
Shapes: F frames, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image

from sanakit.errors import DataError, SettingsError
from sanakit.eval.clip_measures import BEST_PSNR, ClipFigures, Found
from sanakit.eval.measures import Ledger, OnProgress
from sanakit.eval.metrics.obedience import drift, likeness_to_truth, retrieved
from sanakit.eval.networks.pose_judge import STEPS, VERSION, PoseJudge, train_pose_judge
from sanakit.eval.world_folder import WorldClip, WorldScene, inverted
from sanakit.eval.world_measures import Draw, drawer, key_signs, revisit
from sanakit.pipelines.memory import choose_device
from sanakit.pipelines.world.request import covering
from sanakit.pipelines.world.world import World
from sanakit.weights.video.settings import VideoSettings

JUDGED = "pose-judge"
WORLD_MEASURES = ("path-retrieval", "path-psnr", "drift", "revisit", "key-signs", JUDGED)
LEAST_MOTION = 1e-3  # of any number of a pose: below it a path stands still
_BY = {"path-psnr": "PSNR in dB", "drift": "PSNR in dB", "revisit": "PSNR in dB", JUDGED: "its pose judge"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """How poses are judged. clips: that the judge learns from. steps: of its training."""

    clips: Sequence[WorldClip]
    steps: int = STEPS
    device: str = "auto"

    @property
    def key(self) -> str:
        """Tell the judge from others by what it learns from."""
        told = " ".join([f"{VERSION} {self.steps}", *(clip.key for clip in self.clips)])
        return hashlib.sha256(told.encode()).hexdigest()

    def train(self, progress: OnProgress) -> PoseJudge:
        """Return the judge."""
        return train_pose_judge(
            [(clip.frames(), clip.camera.poses) for clip in self.clips],
            steps=self.steps,
            device=choose_device(self.device),
            progress=lambda done, total: progress("training the pose judge", done, total),
        )


@dataclass
class _Drawn:
    """A scene with what is drawn of it, each clip once."""

    world: World
    scene: WorldScene
    seed: int
    notes: list[str] = field(default_factory=list)

    @cached_property
    def draw(self) -> Draw:
        clip = self.scene.clips[0]
        settings = {"seed": self.seed, "intrinsics": clip.lens.tolist()}
        with self._told():
            return drawer(self.world, self.scene.image(), clip.prompt, **settings)

    @cached_property
    def own(self) -> list[np.ndarray]:
        """A clip along each path."""
        return [self.along(clip) for clip in self.scene.clips]

    def along(self, clip: WorldClip, *, back: bool = False, steered: bool = True) -> np.ndarray:
        """Draw along a clip's path, or the other way. steered: whether the model sees its cameras."""
        poses = clip.camera.poses
        with self._told():
            return self.draw(inverted(poses) if back else poses, steered)

    @cached_property
    def plain(self) -> np.ndarray:
        """A clip whose cameras the model does not see: that of all paths of a scene."""
        return self.along(self.scene.clips[0], steered=False)

    @cached_property
    def truths(self) -> list[np.ndarray]:
        """The true clips in the size and length of the drawn ones."""
        count, height, width = self.own[0].shape[:3]
        found = []
        for clip in self.scene.clips:
            images = map(Image.fromarray, clip.frames()[:count])
            found.append(np.stack([np.asarray(covering(image, width, height)) for image in images]))
        return found

    @cached_property
    def likeness(self) -> list[dict[str, list[float]]]:
        """PSNR of each frame, of the clip along each path and of its controls."""
        found = []
        for number, (clip, truth) in enumerate(zip(self.scene.clips, self.truths, strict=True)):
            others = [drawn for i, drawn in enumerate(self.own) if i != number]
            others = others or [self.along(clip, back=True)]
            controls = {f"other-path {i}": other for i, other in enumerate(others)}
            each = likeness_to_truth(self.own[number], truth, {**controls, "no-camera": self.plain})
            capped = ([min(value, BEST_PSNR) for value in values] for values in each.values())
            found.append(dict(zip(each, capped, strict=True)))
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Keep what drawing warns of."""
        import warnings

        with warnings.catch_warnings(record=True, action="always") as caught:
            yield
        self.notes += [str(one.message) for one in caught]


def drawn_by(weights: str, settings: VideoSettings) -> str:
    """Return what tells the drawings of a model from others: its weights, and the defaults that it draws by.

    weights: see `fingerprint_weights`, which leaves those out.
    """
    own = settings.shared
    told = (own.width, own.height, own.steps, own.guidance, own.guidance_kind, own.solver, own.shift)
    return f"{weights} {(*told, settings.negative_prompt, settings.chunks)}"


def check_world_measures(names: Sequence[str], judging: bool) -> None:
    """Raise SettingsError for an unknown measure, or for a judge that is missing or not used."""
    for name in names:
        if name not in WORLD_MEASURES:
            raise SettingsError(f"There is no measure {name!r} of worlds: use {', '.join(WORLD_MEASURES)}.")
    if judging != (JUDGED in names):
        raise SettingsError(
            f"{JUDGED} learns from true clips with cameras: pass their folder with --judge."
            if JUDGED in names
            else f"--judge is not used by {' or '.join(names)}: add {JUDGED}."
        )


def measure_worlds(
    names: Sequence[str],
    world: World,
    weights: str,
    scenes: Sequence[WorldScene],
    *,
    seed: int = 0,
    judging: Judging | None = None,
    folder: Path | None = None,
    progress: OnProgress = lambda what, done, total: None,
) -> tuple[dict[str, ClipFigures], list[str]]:
    """Measure a world model on scenes; return the figures by name, and what the user should know.

    weights: tells the model from others, see `drawn_by`. seed: of all noise. judging: for
    "pose-judge". folder: keeps results for later runs; None: keeps nothing.
    Raises SettingsError, DataError, and what drawing raises.
    """
    check_world_measures(names, judging is not None)
    if judging is not None:
        _check_apart(scenes, judging)
    ledgers = {name: Ledger(folder / f"{name}.jsonl" if folder else None, weights) for name in names}
    judge, notes = None, list[str]()
    found: dict[str, dict[str, Found]] = {name: {} for name in names}
    for number, scene in enumerate(scenes):
        drawn = _Drawn(world, scene, seed)
        for name in names:
            progress(f"{name}: scenes", number, len(scenes))
            if not counted(name, scene):
                continue
            beside = judging.key if judging is not None and name == JUDGED else ""
            key = hashlib.sha256(f"{name} {weights} {seed} {scene.key} {beside}".encode()).hexdigest()
            if key not in ledgers[name]:
                if name == JUDGED and judge is None and judging is not None:
                    judge = judging.train(progress)
                ledgers[name].add(key, scene.clips[0].clip.path, _MEASURE[name](drawn, judge))
            found[name][scene.name] = ledgers[name][key]
        notes += drawn.notes
    progress("scenes", len(scenes), len(scenes))
    if without := [name for name in names if not found[name]]:
        raise DataError(f"No scene can be measured by {without[0]}: {NEEDS[without[0]]}.")
    return {name: _add_up(name, found[name], scenes) for name in names}, list(dict.fromkeys(notes))


NEEDS = {
    "path-retrieval": "it needs two clips or more that begin with the same frame",
    "drift": "it needs clips of four frames or more",
    "revisit": "it needs clips of three frames or more whose camera moves",
}


def counted(name: str, scene: WorldScene) -> bool:
    """Return whether a measure can be taken of a scene."""
    poses = scene.clips[0].camera.poses
    if name == "path-retrieval":
        return len(scene.clips) > 1
    if name == "drift":
        return len(poses) >= 4
    moves = float((poses - poses[:1]).abs().max()) > LEAST_MOTION
    return name != "revisit" or (len(poses) >= 3 and moves)


def world_notes(names: Sequence[str], scenes: Sequence[WorldScene]) -> list[str]:
    """Return which measures leave scenes out."""
    notes = []
    for name in names:
        left = sum(not counted(name, scene) for scene in scenes)
        if left and left < len(scenes):
            notes.append(f"{left} of {len(scenes)} scenes are not counted in {name}: {NEEDS[name]}.")
    return notes


def _check_apart(scenes: Sequence[WorldScene], judging: Judging) -> None:
    """Raise DataError where the judge would be tested on what it learned."""
    learned = {clip.key for clip in judging.clips}
    if same := [clip.clip.name for scene in scenes for clip in scene.clips if clip.key in learned]:
        raise DataError(
            f"The pose judge would learn from {same[0]}, on which its own error is measured: give other "
            "clips with --judge."
        )


def _retrieval(drawn: _Drawn, _: PoseJudge | None) -> Found:
    right = retrieved(drawn.own, drawn.truths)
    return {"value": fmean(right), "chance": 1 / len(right)}


def _path_psnr(drawn: _Drawn, _: PoseJudge | None) -> Found:
    names = ("own", "other-path", "no-camera", "first-frame")
    means = {
        name: fmean(
            value
            for each in drawn.likeness
            for control, values in each.items()
            if control == name or control.startswith(f"{name} ")
            for value in values
        )
        for name in names
    }
    return {"value": means.pop("own"), **means}


def _drift(drawn: _Drawn, _: PoseJudge | None) -> Found:
    return {"value": fmean(drift(each["own"]) for each in drawn.likeness)}


def _revisit(drawn: _Drawn, _: PoseJudge | None) -> Found:
    poses = drawn.scene.clips[0].camera.poses
    with drawn._told():
        likeness, pairs = revisit(drawn.draw, poses[: (len(poses) + 1) // 2])
    return {"value": min(likeness, BEST_PSNR), "pairs": pairs}


def _key_signs(drawn: _Drawn, _: PoseJudge | None) -> Found:
    with drawn._told():
        signs = key_signs(drawn.draw)
    return {"value": fmean(sign.obeyed for sign in signs.values())} | {
        key: float(sign.obeyed) for key, sign in signs.items()
    }


def _pose_judge(drawn: _Drawn, judge: PoseJudge | None) -> Found:
    assert judge is not None, "it was trained"
    each = list(zip(drawn.own, drawn.truths, drawn.scene.clips, strict=True))
    found = [judge.errors(frames, clip.camera.poses[: len(frames)]) for frames, _, clip in each]
    own = [judge.errors(truth, clip.camera.poses[: len(truth)]) for _, truth, clip in each]
    wrong = [judge.errors(truth, inverted(clip.camera.poses[: len(truth)])) for _, truth, clip in each]
    return {
        "value": fmean(one.degrees for one in found),
        "degrees of true clips": fmean(one.degrees for one in own),
        "degrees of inverted paths": fmean(one.degrees for one in wrong),
        "distance": fmean(one.distance for one in found),
        "distance of true clips": fmean(one.distance for one in own),
        "distance of inverted paths": fmean(one.distance for one in wrong),
    }


_MEASURE: dict[str, Callable[[_Drawn, PoseJudge | None], Found]] = {
    "path-retrieval": _retrieval,
    "path-psnr": _path_psnr,
    "drift": _drift,
    "revisit": _revisit,
    "key-signs": _key_signs,
    JUDGED: _pose_judge,
}


def _add_up(name: str, found: dict[str, Found], scenes: Sequence[WorldScene]) -> ClipFigures:
    """Take the mean over scenes, each of which counts as often as it has clips."""
    clips = {scene.name: len(scene.clips) for scene in scenes if scene.name in found}
    total = sum(clips.values())
    parts = next(iter(found.values()))
    details = {part: sum(clips[scene] * one[part] for scene, one in found.items()) / total for part in parts}
    value = details.pop("value")
    figures = ClipFigures(value=value, clips=total, by=_BY.get(name, "its equation"), details=details)
    return replace(figures, each=found)
