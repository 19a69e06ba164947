"""Clips whose captions end with a motion score, as the prompts do that video models were trained with.

The published models learned int(mean optical flow of UniMatch), a network that does not come with this
package. So one score is set for all clips: that of the model's prompts, unless another one is named.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from sanakit.data.read.captions import Caption
from sanakit.data.read.source import Recaptioned, Source
from sanakit.errors import SettingsError
from sanakit.text.video import with_motion

MOST_SCORE = 100


class MotionScored(Recaptioned):
    """A source with a motion score behind every caption; clips without captions have none.

    score: a whole number from 0 to 100, 0 for none. Raises SettingsError for any other.
    """

    def __init__(self, source: Source, score: int) -> None:
        if type(score) is not int or not 0 <= score <= MOST_SCORE:
            raise SettingsError(
                f"The motion score is {score!r}: it must be a whole number, 0 to {MOST_SCORE}."
            )
        super().__init__(source)
        self.score = score

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return the source's captions, each with the score behind it."""
        found = self.source.captions(index)
        return tuple(replace(one, text=with_motion(one.text, self.score)) for one in found)

    def captions_fingerprint(self) -> str:
        """Tell the captions with this score from others."""
        both = f"{self.source.captions_fingerprint()} motion score {self.score}"
        return hashlib.sha256(both.encode()).hexdigest()
