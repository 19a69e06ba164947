"""Is it what was requested? The middle frame of clips, recognised as pocket's images are.

A clip's prompt is in its file, where the package wrote it, or in NAME.txt beside it. It has to be one of the
200 common things that the reference images show (`recognition.py`), by name or as it asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sanakit.clips.reading import open_clip
from sanakit.errors import DataError, SettingsError
from sanakit.eval.clip_folder import FoundClip, shortened
from sanakit.eval.clip_measures import LITE0, ClipFigures
from sanakit.eval.measures import OnProgress
from sanakit.eval.networks.efficientnet import image_features, load_efficientnet
from sanakit.images.image import to_tensor
from sanakit.pocket.evaluate.recognition import TOP
from sanakit.pocket.evaluate.reference import PocketReference, load_reference
from sanakit.reading import read_text


def recognise_clips(
    clips: Sequence[FoundClip], *, progress: OnProgress = lambda what, done, total: None
) -> ClipFigures:
    """Look the middle frame of each clip up among real images of 200 common things.

    The value is the share of clips whose thing is the nearest (top-1), "top-5" the share among the five
    nearest. Clips of another prompt, or of none, are named in the notes.
    Raises DataError when no clip is of one of these things, MissingExtraError without the extra eval.
    """
    reference = load_reference()
    things = {clip.name: _thing(clip, reference) for clip in clips}
    known = [clip for clip in clips if things[clip.name] is not None]
    if not known:
        raise DataError(
            "No clip has a prompt that asks for one of the 200 common things: write it into NAME.txt beside "
            "the clip."
        )
    network, gallery, each = load_efficientnet(), reference.gallery, {}
    for done, clip in enumerate(known):
        progress("recognition", done, len(known))
        try:
            with open_clip(clip.path) as file:
                frame = np.array(next(file.frames(clip.facts.frames // 2, 1)))
        except SettingsError as error:
            raise DataError(f"{error} Draw or download it again, or remove it.") from None
        points = gallery.project(image_features(network, to_tensor(frame[None])))
        rank = int(gallery.ranks(points, torch.tensor([things[clip.name]])))
        each[clip.name] = {"value": float(rank < 1), "top-5": float(rank < TOP), "rank": rank + 1}
    others = [clip.name for clip in clips if things[clip.name] is None]
    note = f"Not recognised, as their prompt asks for none of the 200 common things: {shortened(others)}."
    return ClipFigures(
        value=sum(one["value"] for one in each.values()) / len(each),
        clips=len(each),
        by=f"{LITE0}, middle frames",
        details={"top-5": sum(one["top-5"] for one in each.values()) / len(each)},
        each=each,
        notes=[note] if others else [],
    )


def _thing(clip: FoundClip, reference: PocketReference) -> int | None:
    """Return the number of the concept that a clip's prompt asks for, or None."""
    asked = _prompt(clip).strip().lower()
    for names in (reference.prompts, reference.styled_prompts, reference.gallery.concepts):
        for number, name in enumerate(names):
            if name.lower() == asked:
                return number
    return None


def _prompt(clip: FoundClip) -> str:
    """Return a clip's prompt: of its own settings, else the first line of NAME.txt; "" where it has none."""
    if "prompt" in clip.facts.settings:
        return str(clip.facts.settings["prompt"])
    text = clip.path.with_name(f"{Path(clip.stem).name}.txt")
    if not text.is_file():
        return ""
    try:
        return read_text(text).strip().partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{text} cannot be read ({error}): save it as UTF-8.") from None
