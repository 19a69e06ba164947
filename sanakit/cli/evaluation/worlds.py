"""`sana evaluate MODEL --reference CLIPS` for worlds: whether a model goes where its cameras go."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanakit.alone import alone_in
from sanakit.cli.evaluation.clips import print_figures
from sanakit.cli.evaluation.output import output_folder, tell_report
from sanakit.cli.terminal import progress_bar
from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.eval.world_folder import WorldScene


def measures_worlds(names: Sequence[str]) -> bool:
    """Return whether a measure of worlds is named. Raises SettingsError where others are, too."""
    if not names:
        return False
    from sanakit.eval.worlds import WORLD_MEASURES

    others = [name for name in names if name not in WORLD_MEASURES]
    if others and len(others) < len(names):
        raise SettingsError(f"{others[0]} is not a measure of worlds: measure it by itself.")
    return not others


def evaluate_worlds(
    model: str | None,
    names: Sequence[str],
    reference: Path | None,
    judge: Path | None,
    *,
    seed: int,
    limit: int | None,
    device: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure a world model on true clips with cameras; print the figures and what the user should know."""
    from sanakit.eval.world_folder import list_scenes
    from sanakit.eval.worlds import Judging, check_world_measures, drawn_by, measure_worlds, world_notes
    from sanakit.pipelines.world.world import World
    from sanakit.weights.fingerprint import fingerprint_weights
    from sanakit.weights.video.settings import load_world_settings

    names = list(dict.fromkeys(names))
    check_world_measures(names, judge is not None)
    if model is None:
        raise SettingsError("MODEL is missing: name the world model to measure.")
    if reference is None:
        raise SettingsError(
            f"{names[0]} compares with true clips and cameras: pass their folder with --reference."
        )
    settings = load_world_settings(model)  # tells other models before clips are read
    with ExitStack() as held, progress_bar() as show:
        if output is not None:
            held.enter_context(alone_in(output))
        scenes, notes = list_scenes(reference)
        scenes = _spread(scenes, limit)
        notes += world_notes(names, scenes)
        judging = None
        if judge is not None:
            learned, told = list_scenes(judge)
            notes += [f"Judge: {note}" for note in told]
            clips = [clip for scene in learned for clip in scene.clips]
            judging = Judging(clips=clips, device=device)
        world = World.from_pretrained(model, device=device)
        weights = str(fingerprint_weights(model))
        with tempfile.TemporaryDirectory() as passing:
            folder = output_folder(output) if output is not None else Path(passing)
            called: dict[str, Any] = {"seed": seed, "judging": judging, "folder": folder, "progress": show}
            found, told = measure_worlds(names, world, drawn_by(weights, settings), scenes, **called)
        notes += told
    notes = list(dict.fromkeys(notes))
    report: dict[str, Any] = {"model": model, "weights": weights, "reference": reference, "judge": judge}
    report |= {"seed": seed, "scenes": len(scenes), "notes": notes, "measures": found}
    if tell_report(report, output, as_json=as_json):
        return
    for name, figures in found.items():
        print_figures(name, figures)


def _spread(scenes: list[WorldScene], limit: int | None) -> list[WorldScene]:
    """Return so many scenes, spread evenly."""
    if limit is None or limit >= len(scenes):
        return scenes
    return [scenes[number * len(scenes) // limit] for number in range(limit)]
