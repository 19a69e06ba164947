"""Score how well captions fit images, as one type of function: images and texts in, one number per pair out.

The scale is that of SANA's published thresholds: 100 * max(cos, 0) of CLIP's image and text vectors, from
0 to 100. Hessel et al. 2021 (arXiv:2104.08718), who named it CLIPScore, write 2.5 * max(cos, 0): the same
order, divided by 40. OpenAI's CLIPs give fitting captions 25 to 35; each CLIP has its own usual numbers, so
scores of two of them cannot be compared, nor share a threshold.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from PIL import Image

from sanakit.errors import SettingsError
from sanakit.eval.metrics.clip_score import clip_scores

Scorer = Callable[[list[Image.Image], list[str]], list[float]]
"""Called with RGB images and a text for each; gives a score for each pair, higher for a better fit."""


def scorer_name(model: str | os.PathLike[str], *, frames: int | None = None) -> str:
    """Return the name under which a CLIP's scores are stored: its own, and what else decides on them.

    That is which weights it has, and how many frames of a clip it is shown; None: images. model: as for
    `clip_scorer`. Raises as that does.
    """
    from sanakit.weights.clip import clip_folder
    from sanakit.weights.fingerprint import fingerprint_weights, told_apart

    shown = () if frames is None else (f"{frames} frames",)
    return told_apart(model, str(fingerprint_weights(clip_folder(model))), *shown)


def clip_scorer(model: str | os.PathLike[str] = "pocket-clip", *, device: str = "auto") -> Scorer:
    """Load a CLIP and score with it.

    model: "pocket-clip" (embedded), a folder as transformers' CLIPModel saves it, or a Hub repository.
    As `eval.clip_score.clip_scores`; that a text is longer than the model's context, so that its beginning
    alone counts, a warning says at the first one.
    Raises ModelNotFoundError, or WeightsError for a folder that holds something else.
    """
    from sanakit.pipelines.memory import choose_device
    from sanakit.weights.clip import load_clip

    clip = load_clip(model, device=choose_device(device))
    longest = clip.model.config.max_tokens
    told = False

    def score(images: list[Image.Image], texts: list[str]) -> list[float]:
        nonlocal told
        if len(images) != len(texts):
            raise SettingsError(f"{len(texts)} texts came for {len(images)} images: give one text per image.")
        if not images:
            return []
        if not told:
            encoded = clip.tokenizer.encode_batch(texts)
            told = any(len(one.ids) > longest or one.overflowing for one in encoded)
            if told:
                warnings.warn(
                    f"{os.fspath(model)} reads {longest - 2} tokens of a text: longer captions are scored by "
                    "their beginning.",
                    stacklevel=2,
                )
        return [max(score, 0.0) for score in clip_scores(clip, images, texts)]

    return score
