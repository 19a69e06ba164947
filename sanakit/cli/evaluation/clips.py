"""`sana evaluate CLIPS`: the figures of clips that are there, for each clip and for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sanakit.alone import alone_in
from sanakit.cli.evaluation.output import output_folder, tell_report
from sanakit.cli.terminal import progress_bar
from sanakit.errors import SettingsError
from sanakit.wording import counted

if TYPE_CHECKING:
    from sanakit.eval.clip_measures import ClipFigures

RECOGNITION = "recognition"  # of the embedded models' wing; of a clip: of its middle frame


def measures_clips(place: str | None, names: Sequence[str]) -> bool:
    """Return whether clips are to be measured: a measure of clips is named, or the place holds some."""
    if names:
        from sanakit.eval.clip_measures import CLIP_MEASURES

        if set(names) & set(CLIP_MEASURES):
            return True
    if place is None or not Path(place).exists():
        return False
    from sanakit.eval.clip_folder import is_place_of_clips

    return is_place_of_clips(place)


def evaluate_clips(
    place: str | None,
    names: Sequence[str],
    reference: Path | None,
    weights: dict[str, str],
    device: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure the clips of a place, print the figures and what the user should know of them."""
    from sanakit.eval.clip_folder import list_clips
    from sanakit.eval.clip_measures import ALONE, check_clip_measures, clip_notes, measure_clips
    from sanakit.eval.measures import Tools

    if place is None:
        raise SettingsError("MODEL is missing: name the folder of clips in its place.")
    names = list(dict.fromkeys(names or ALONE))
    tools = Tools(weights=weights, reference=reference, device=device)
    general = [name for name in names if name != RECOGNITION]
    check_clip_measures(general, tools)
    with ExitStack() as held, progress_bar() as show:
        if output is not None:
            held.enter_context(alone_in(output))
        clips, notes = list_clips(place)
        notes += clip_notes(general, clips)
        found: dict[str, ClipFigures] = {}
        with tempfile.TemporaryDirectory() as passing:
            folder = output_folder(output) if output is not None else Path(passing)
            for name in general:
                found[name] = measure_clips(name, clips, tools, folder=folder, progress=show)
        if RECOGNITION in names:
            from sanakit.pocket.evaluate.clips import recognise_clips

            found[RECOGNITION] = recognise_clips(clips, progress=show)
    notes += [note for figures in found.values() for note in figures.notes]
    notes = list(dict.fromkeys(notes))
    report = {"clips": place, "reference": reference, "notes": notes, "measures": found}
    if tell_report(report, output, as_json=as_json):
        return
    for name, figures in found.items():
        print_figures(name, figures)


def print_figures(name: str, figures: ClipFigures) -> None:
    """Print a figure, its parts, and those of each clip if there are several."""
    print(f"{name:<24}{figures.value:10.4g}  {counted(figures.clips, 'clip')}, by {figures.by}")
    for part, value in figures.details.items():
        print(f"  {part:<22}{value:10.4g}")
    for clip, parts in figures.each.items() if figures.clips > 1 else ():
        rest = ", ".join(f"{part} {value:.4g}" for part, value in parts.items() if part != "value")
        print(f"    {clip:<20}{parts['value']:10.4g}" + (f"  {rest}" if rest else ""))
