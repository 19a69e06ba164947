"""One model behind Replicate's Cog: its queue, its API, one image after the other.

MODEL: a catalog name, a folder beside this file, or a Hub repository; what is not said in a call is the
model's own setting. Source: Cog's reference of `BaseRunner`, whose older name is `Predictor` in `predict.py`.
"""

from __future__ import annotations

import tempfile

from cog import BaseRunner, Input, Path

from sanakit import TextToImage
from sanakit.images.image import save

MODEL = "pocket"


class Runner(BaseRunner):
    """Loads the model once, then draws one image a call."""

    def setup(self) -> None:
        """Load the model, before the first call."""
        self.pipe = TextToImage.from_pretrained(MODEL)

    def run(
        self,
        prompt: str = Input(description="What to draw"),
        negative_prompt: str = Input(default="", description="What not to draw; needs guidance over 1"),
        width: int | None = Input(default=None, ge=64, le=4096, description="Pixels; the model's own"),
        height: int | None = Input(default=None, ge=64, le=4096, description="Pixels; the model's own"),
        steps: int | None = Input(default=None, ge=1, le=200, description="More are finer and slower"),
        guidance: float | None = Input(
            default=None, ge=0, le=100, description="1 turns it off: half the time"
        ),
        seed: int | None = Input(default=None, ge=0, description="The same seed draws the same again"),
    ) -> Path:
        """Draw an image; its PNG carries all it takes to draw it again."""
        result = self.pipe(
            prompt,
            negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            seed=seed,
        )
        # Always the same file: Cog has sent the last image before it asks for the next.
        path = Path(tempfile.gettempdir(), "picture.png")
        save(result.images[0], path, result.metadata[0])
        return path
