"""One caption out of several for one image: SANA's CLIPScore-based sampler (arXiv:2410.10629).

An image has captions of several writers, good and bad ones. Each time the image is trained on, one of
them is drawn: P(i) = softmax(score_i / temperature) over the captions whose score reaches a threshold. A
score is 100 * max(cos, 0) of CLIP's image and text vectors (see `data/annotate/scoring.py`), so the
published temperature 0.1 is nearly "the best one": a point of score makes a caption e^10 times as likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sanakit.errors import DataError, SettingsError

TEMPERATURE = 0.1  # in points of score; the official configs' clip_thr_temperature
THRESHOLD = 25.0  # points of score; the official configs' clip_thr


@dataclass(frozen=True, slots=True)
class Caption:
    """A text that describes an image.

    score: CLIPScore, higher is better; None: not scored.   source: the model that wrote it; "": it came
    with the image. Raises DataError for a score that is NaN or infinite: the scorer failed there, and no
    order of the captions would mean anything; and for half a surrogate pair ("\\ud83d" alone, as JSON may
    hold), which no tokenizer takes.
    """

    text: str
    score: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.score is not None and not math.isfinite(self.score):
            raise DataError(
                f"The caption {self.text[:60]!r} has the score {self.score}: a score is a finite number, or "
                "null. Remove it, or score the images again."
            )
        try:
            self.text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"The caption {self.text[:60]!a} holds half a surrogate pair: type it again."
            ) from None


def draw_caption(
    captions: Sequence[Caption], u: float, *, temperature: float = TEMPERATURE, threshold: float = THRESHOLD
) -> Caption:
    """Draw one caption of an image.

    captions: at least one.   u: a number drawn uniformly from [0, 1); the same one gives the same caption.
    temperature, threshold: see `caption_chances`. Raises SettingsError for a number out of its range, and for
    an image without captions.
    >>> draw_caption([Caption("a red apple", 31.0), Caption("food", 26.0)], u=0.9).text
    'a red apple'
    """
    if not 0 <= u < 1:
        raise SettingsError(f"u is {u}: it must be at least 0 and less than 1.")
    chances = caption_chances(captions, temperature=temperature, threshold=threshold)
    reached = 0.0
    for caption, chance in zip(captions, chances, strict=True):
        reached += chance
        if u < reached:
            return caption
    # Chances add up to 1 within rounding only, and u lies in the gap: it belongs to the last possible one.
    return captions[max(i for i, chance in enumerate(chances) if chance > 0)]


def caption_chances(
    captions: Sequence[Caption], *, temperature: float = TEMPERATURE, threshold: float = THRESHOLD
) -> list[float]:
    """Return each caption's probability of being drawn; they add up to 1.

    temperature: in points of score, greater than 0; math.inf draws uniformly above the threshold.
    threshold: captions with a lower score are not drawn; -math.inf keeps all. Where none reaches it, the best
    one is drawn. Where no caption has a score, all are equally likely; where some have one, only those are
    drawn: an unscored text cannot be compared with them.
    Raises SettingsError for a temperature or threshold out of range, and without captions.
    """
    if not captions:
        raise SettingsError("There is no caption to choose: leave out images without captions.")
    if not temperature > 0:
        raise SettingsError(f"The temperature of captions is {temperature}: it must be greater than 0.")
    if math.isnan(threshold):
        raise SettingsError("The threshold of captions is NaN: it must be a number.")
    scores = [caption.score for caption in captions if caption.score is not None]
    if not scores:
        return [1 / len(captions)] * len(captions)
    best = max(scores)
    floor = min(threshold, best)  # none reaches the threshold: the best one remains
    # exp of differences to the best is at most 1, whatever the scores and however low the temperature.
    weights = [
        math.exp((caption.score - best) / temperature)
        if caption.score is not None and caption.score >= floor
        else 0.0
        for caption in captions
    ]
    total = sum(weights)
    return [weight / total for weight in weights]
