"""The measures of clips as one call: clips in, figures out, for each clip and for all of them.

Each measure has its own file in `metrics/`; here they are loaded, run and summed up. Results of single clips
are kept in `MEASURE.jsonl`, as those of images are (`measures.py`). They are known by the bytes of the clip
and of its reference, by the network's weights, and by the measure's constants.
Shapes: T frames, H W pixels, F features.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sanakit.errors import DataError, SettingsError
from sanakit.eval.clip_folder import (
    FoundClip,
    digest,
    first_frame,
    list_clips,
    read_clip,
    references_of,
    shortened,
)
from sanakit.eval.measures import Ledger, OnProgress, Tools
from sanakit.eval.metrics import flicker, motion
from sanakit.eval.metrics.clip_distance import ClipMoments, clip_distance
from sanakit.eval.metrics.consistency import consistency
from sanakit.eval.metrics.similarity import WINDOW, psnr, ssim
from sanakit.images.image import to_tensor
from sanakit.pipelines.memory import choose_device
from sanakit.weights.clip import POCKET_CLIP, clip_folder, load_clip
from sanakit.weights.find.hub import found_here
from sanakit.weights.fingerprint import fingerprint_weights

# Each clip by itself.
ALONE = (
    *("subject-consistency", "background-consistency"),
    *("temporal-flicker", "still-flicker", "motion-smoothness", "motion"),
)
PAIRED = ("difference-error", "first-frame")  # each clip with its own reference
AS_SETS = ("dynamic-degree", "frechet-lite0")  # all clips with all reference clips
CLIP_MEASURES = (*ALONE, *PAIRED, *AS_SETS)
LEAST = {"motion-smoothness": 3, "first-frame": 1}  # frames that a measure needs, where not two
LITE0 = "EfficientNet-Lite0"
BEST_PSNR = 100.0  # dB, of equal frames, for which it is infinite
BATCH = 16  # frames in a network at once
_CONSTANTS = f"block {flicker.BLOCK} still {flicker.STILL} reach {motion.REACH}"

Extract = Callable[[np.ndarray], Tensor]
"""Frames, T H W 3 uint8, to their features, T F."""
Found = dict[str, float]
"""Figures of one clip; "value" is the figure that is quoted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFigures:
    """The result of one measure of clips.

    value: the quoted figure. clips: how many were measured. by: the network or the equation. details: its
    parts. each: the name of a clip -> its own figures; empty for a distance of sets. notes: sentences on the
    reference.
    """

    value: float
    clips: int
    by: str
    details: Found = field(default_factory=dict)
    each: dict[str, Found] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_clip_measures(names: Sequence[str], tools: Tools) -> None:
    """Raise SettingsError for a measure that is not known here, or a tool that is missing or not used."""
    for name in names:
        if name not in CLIP_MEASURES:
            raise SettingsError(f"There is no measure {name!r} of clips: use {', '.join(CLIP_MEASURES)}.")
    needing = [name for name in names if name not in ALONE]
    if needing and tools.reference is None:
        what = "the reference of each clip" if needing[0] in PAIRED else "real clips"
        raise SettingsError(f"{needing[0]} compares with {what}: pass their folder with --reference.")
    if tools.reference is not None and not needing:
        raise SettingsError(
            f"--reference is not used by {' or '.join(names)}: add one of {', '.join((*PAIRED, *AS_SETS))}."
        )
    for name in tools.weights:
        if name != "clip" or "background-consistency" not in names:
            raise SettingsError(f"--weights {name}=... is not used by {' or '.join(names)}: leave it out.")


def measure_clips(
    name: str,
    clips: Sequence[FoundClip],
    tools: Tools,
    *,
    folder: Path | None = None,
    progress: OnProgress = lambda what, done, total: None,
) -> ClipFigures:
    """Compute one measure of clips; those with too few frames for it are not counted.

    `clip_notes` names them. name: of CLIP_MEASURES. tools: weights["clip"], reference and device are used.
    folder: keeps the results for later runs; None: keeps nothing.
    Raises SettingsError, DataError, and what loading the measure's network raises.
    """
    check_clip_measures([name], Tools(reference=tools.reference if name not in ALONE else None))
    clips = [clip for clip in clips if _long_enough(name, clip)]
    if not clips:
        raise DataError(f"No clip has the {_least(name)} frames that {name} needs: measure longer ones.")
    if name == "frechet-lite0":
        return _distance(clips, tools, progress)
    if name == "dynamic-degree":
        return _dynamic_degree(clips, tools, folder, progress)
    references, notes = [], []
    if name in PAIRED and tools.reference is not None:
        references, notes = references_of(clips, tools.reference, images=name == "first-frame")
    found = _each(name, clips, references, tools, folder, progress)
    return _add_up(name, clips, found, _by(name, tools), notes)


def clip_notes(names: Sequence[str], clips: Sequence[FoundClip]) -> list[str]:
    """Return what the user should know: clips that a measure leaves out, and mixed sizes or rates."""
    notes = []
    for least in (2, 3):
        affected = [name for name in names if _least(name) == least]
        short = [clip.name for clip in clips if clip.facts.frames < least]
        if affected and short:
            notes.append(
                f"Not counted in {', '.join(affected)}, for fewer than {least} frames: {shortened(short)}."
            )
    sizes = Counter(f"{clip.facts.width}x{clip.facts.height}" for clip in clips)
    rates = Counter(f"{float(clip.facts.rate):.5g}" for clip in clips)
    for what, several in (("sizes", sizes), ("rates", rates)):
        if len(several) > 1:
            told = shortened([f"{one} ({count})" for one, count in several.most_common()])
            notes.append(
                f"The clips have different {what}: {told}. Changes from frame to frame compare only where "
                "they are equal."
            )
    if changing := [clip.name for clip in clips if not clip.facts.constant_rate]:
        notes.append(f"Frames come at changing intervals, and count alike: {shortened(changing)}.")
    return notes


def _each(
    name: str,
    clips: Sequence[FoundClip],
    references: Sequence[Path],
    tools: Tools,
    folder: Path | None,
    progress: OnProgress,
    rate: Fraction | None = None,
) -> list[Found]:
    """Return what was found of each clip. references: one a clip, or none. rate: to read them at."""
    known: list[Path | None] = [*references] or [None] * len(clips)
    asked = [
        f"{name} {_CONSTANTS} {rate or ''} {digest(clip.path)} {digest(reference) if reference else ''}"
        for clip, reference in zip(clips, known, strict=True)
    ]
    ledger = Ledger(folder / f"{name}.jsonl" if folder else None, _by(name, tools))
    keys = _keys(asked, name, tools)
    if any(key not in ledger for key in keys):
        look = _load(name, tools)
        keys = _keys(asked, name, tools)  # of a network that has been downloaded now
        for done, (clip, reference, key) in enumerate(zip(clips, known, keys, strict=True)):
            progress(name, done, len(clips))
            if key in ledger:
                continue
            try:
                ledger.add(key, clip.path, look(read_clip(clip, rate).frames, reference))
            except SettingsError as error:
                raise DataError(f"{clip.name}: {error}") from None
    progress(name, len(clips), len(clips))
    return [ledger[key] for key in keys]


def _load(name: str, tools: Tools) -> Callable[[np.ndarray, Path | None], Found]:
    """Load what a measure looks with: at frames and, if it is paired, their reference."""
    if name.endswith("-consistency"):
        extract = _lite0_features(tools) if name == "subject-consistency" else _clip_features(tools)
        return lambda frames, _: {"value": consistency(extract(frames)), "pairs": len(frames) - 1}
    plain: dict[str, Callable[[np.ndarray], float]] = {
        "temporal-flicker": flicker.temporal_flicker,
        "still-flicker": flicker.still_flicker,
        "motion": motion.motion,
    }
    if name in plain:
        return lambda frames, _: {"value": plain[name](frames)}
    if name == "motion-smoothness":
        return _smoothness
    return _first_frame if name == "first-frame" else _difference_error


def _smoothness(frames: np.ndarray, _: Path | None) -> Found:
    found = motion.smoothness(frames)
    return {"value": found.blocks, "mean of neighbours": found.mean}


def _difference_error(frames: np.ndarray, reference: Path | None) -> Found:
    assert reference is not None
    real, _ = list_clips(reference)
    return {"value": flicker.difference_error(frames, read_clip(real[0]).frames)}


def _first_frame(frames: np.ndarray, reference: Path | None) -> Found:
    """Compare with an image, scaled and cut to the clip's size as for image to video."""
    assert reference is not None
    height, width = frames.shape[1:3]
    if min(height, width) < WINDOW:
        raise SettingsError(f"SSIM needs {WINDOW} pixels a side, and its frames are {width}x{height}.")
    image = Image.fromarray(first_frame(reference))
    scaled = image.size != (width, height)
    if scaled:
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    drawn, given = to_tensor(frames[:1]), to_tensor(np.array(image)[None])
    likeness = min(float(psnr(drawn, given)), BEST_PSNR)
    return {"value": likeness, "SSIM": float(ssim(drawn, given)), "scaled": float(scaled)}


def _add_up(
    name: str, clips: Sequence[FoundClip], found: list[Found], by: str, notes: list[str]
) -> ClipFigures:
    """Take the mean over clips; of motion the median."""
    details = {part: fmean(one[part] for one in found) for part in found[0]}
    value = details.pop("value")
    if name == "motion":
        details, value = {"mean": value}, median(one["value"] for one in found)
    elif name.endswith("-consistency"):  # as VBench adds up: a long clip counts more
        weighted = sum(one["value"] * one["pairs"] for one in found)
        details = {"mean over frames": weighted / sum(one["pairs"] for one in found)}
    each = {clip.name: one for clip, one in zip(clips, found, strict=True)}
    return ClipFigures(value=value, clips=len(clips), by=by, details=details, each=each, notes=notes)


def _dynamic_degree(
    clips: Sequence[FoundClip], tools: Tools, folder: Path | None, progress: OnProgress
) -> ClipFigures:
    real, rate, notes = _real_clips("dynamic-degree", clips, tools)
    drawn = _each("motion", clips, [], tools, folder, progress)
    known = _each("motion", real, [], tools, folder, progress, rate)
    motions, others = ([one["value"] for one in found] for found in (drawn, known))
    return ClipFigures(
        value=motion.dynamic_degree(motions, others),
        clips=len(clips),
        by=_by("dynamic-degree", tools),
        details={
            "median motion": median(motions),
            "median of reference": median(others),
            "reference clips": len(real),
        },
        each={clip.name: one for clip, one in zip(clips, drawn, strict=True)},
        notes=notes,
    )


def _distance(clips: Sequence[FoundClip], tools: Tools, progress: OnProgress) -> ClipFigures:
    name = "frechet-lite0"
    real, rate, notes = _real_clips(name, clips, tools)
    extract = _lite0_features(tools)

    def moments(side: Sequence[FoundClip], at: Fraction | None, what: str) -> ClipMoments:
        found = ClipMoments()
        for done, clip in enumerate(side):
            progress(f"{name}: {what}", done, len(side))
            found.add(extract(read_clip(clip, at).frames))
        return found

    found = clip_distance(moments(clips, None, "clips"), moments(real, rate, "reference"))
    details = {"frames": found.frames, "changes": found.changes, "reference clips": len(real)}
    by = _by(name, tools)
    return ClipFigures(value=found.total, clips=len(clips), by=by, details=details, notes=notes)


def _real_clips(
    name: str, clips: Sequence[FoundClip], tools: Tools
) -> tuple[list[FoundClip], Fraction, list[str]]:
    """Return the reference clips, the rate of the clips, at which they are read, and sentences on both.

    Raises DataError for clips of several rates, and for references of a lower one.
    """
    assert tools.reference is not None
    rates = sorted({_rate(clip) for clip in clips})
    if len(rates) > 1:
        told = ", ".join(f"{float(rate):.5g}" for rate in rates)
        raise DataError(f"{name} compares at one rate, and the clips have {told}: measure each rate alone.")
    found, notes = list_clips(tools.reference)
    real = [one for one in found if _long_enough(name, one)]
    if not real:
        raise DataError(f"{tools.reference} holds no clip of two frames or more: choose another reference.")
    if short := [one.name for one in found if one not in real]:
        notes.append(f"Not counted, for one frame: {shortened(short)}.")
    if slower := [one.name for one in real if _rate(one) < rates[0]]:
        raise DataError(
            f"{tools.reference} has clips of fewer than {float(rates[0]):.5g} frames a second, such as "
            f"{slower[0]}: frames would be repeated. Draw at a lower rate, or choose other references."
        )
    if faster := [one.name for one in real if _rate(one) > rates[0]]:
        notes.append(f"Taken at {float(rates[0]):.5g} frames a second, as the clips: {shortened(faster)}.")
    sizes = {(one.facts.width, one.facts.height) for one in clips}
    if others := [one.name for one in real if (one.facts.width, one.facts.height) not in sizes]:
        notes.append(f"Of another size than the clips, which changes how much moves: {shortened(others)}.")
    return real, rates[0], [f"Reference: {note}" for note in notes]


def _rate(clip: FoundClip) -> Fraction:
    return clip.facts.rate.limit_denominator(1001)


def _lite0_features(tools: Tools) -> Extract:
    from sanakit.eval.networks.efficientnet import image_features, load_efficientnet

    device = choose_device(tools.device)
    lite = load_efficientnet().to(device)
    return lambda frames: _in_parts(frames, lambda images: image_features(lite, images.to(device)))


def _clip_features(tools: Tools) -> Extract:
    clip = load_clip(_clip_place(tools), device=choose_device(tools.device))
    return lambda frames: _in_parts(frames, clip.images)


def _in_parts(frames: np.ndarray, extract: Callable[[Tensor], Tensor]) -> Tensor:
    parts = range(0, len(frames), BATCH)
    return torch.cat([extract(to_tensor(frames[start : start + BATCH])).cpu() for start in parts])


def _clip_place(tools: Tools) -> str:
    return tools.weights.get("clip", POCKET_CLIP)


def _by(name: str, tools: Tools) -> str:
    """Return the network or the equation that judges, for the report and the ledger."""
    networks: dict[str, Any] = {"subject-consistency": LITE0, "frechet-lite0": LITE0}
    networks["background-consistency"] = _clip_place(tools)
    return networks.get(name, "the motion of blocks" if name == "motion-smoothness" else "its equation")


def _keys(asked: Sequence[str], name: str, tools: Tools) -> list[str]:
    """Return the names under which results are kept, by the network's fingerprint, or its name while away."""
    judge = _by(name, tools)
    if name == "background-consistency":
        here = clip_folder(judge) if judge == POCKET_CLIP else found_here(judge)
        judge = judge if here is None else str(fingerprint_weights(here))
    return [hashlib.sha256(f"{judge} {one}".encode()).hexdigest() for one in asked]


def _least(name: str) -> int:
    return LEAST.get(name, 2)


def _long_enough(name: str, clip: FoundClip) -> bool:
    return clip.facts.frames >= _least(name)
