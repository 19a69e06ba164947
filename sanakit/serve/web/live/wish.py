"""One key of live drawing: what a body asks for, and the few steps in which a model draws it.

A model of few steps (SANA-Sprint) draws in one, and redraws a sketch in the second of two. Other models draw
in `FEW_STEPS`: pocket's images of three steps have the things, places and colours of those of ten, with
softer edges; of two, colours run. In a sketch more steps are counted, of which only a share is done.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sanakit.images.opening import flatten, open_image
from sanakit.pipelines.request import ModelSpec, Request, steps_done
from sanakit.serve.engine.decoding import header_size
from sanakit.serve.engine.engine import Engine
from sanakit.serve.http.failures import FailureError, invalid
from sanakit.serve.http.openai_schema import MAX_PROMPT, MAX_SEED, TEXT, known_alone
from sanakit.serve.http.uploads import file_of

FEW_STEPS = 3
SKETCH_FEW = 0.5  # strength of few-step models: one step of two
SKETCH_STRENGTH = 0.7  # of other models: the strokes' places and colours stay, their edges go
MOST_STEPS = 100
MOST_SKETCH = 1_400_000  # characters of base64: a megabyte
MOST_SIDE = 2048  # pixels


class LiveWish(BaseModel):
    """A body of the route. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    _known = model_validator(mode="before")(known_alone)

    tab: str = Field(pattern=r"^[A-Za-z0-9_-]{8,64}$", description="Names the tab: a random text.")
    number: int = Field(ge=0, le=MAX_SEED, description="Of the key; the largest of a tab wins.")
    prompt: str = Field(max_length=MAX_PROMPT, pattern=TEXT)
    model: str | None = Field(None, max_length=200)
    seed: int = Field(0, ge=0, le=MAX_SEED)
    width: int | None = Field(None, ge=1, le=MOST_SIDE)
    height: int | None = Field(None, ge=1, le=MOST_SIDE)
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="null: as few as the model likes.")
    guidance: float | None = Field(None, ge=0, le=100)
    sketch: str | None = Field(
        None, max_length=MOST_SKETCH, description="An image to start from, in base64, or a data URL."
    )
    strength: float | None = Field(None, ge=0, le=1, description="Of what is redrawn; only with a sketch.")


def read_wish(body: bytes) -> LiveWish:
    """Read a body of JSON. Raises FailureError, in a sentence."""
    try:
        return LiveWish.model_validate_json(body)
    except ValidationError as error:
        raise FailureError(invalid(error.errors(), LiveWish.model_fields)) from None


def checked(engine: Engine, wish: LiveWish) -> Request:
    """Check a wish against its model, and decode its sketch; blocks for a moment.

    Raises SettingsError, SizeError, ModelNotFoundError.
    """
    spec = engine.residence.adapted(wish.model, {})
    steps, strength = _few(spec, wish)
    # None means the model's own in all of them.
    settings: dict[str, Any] = {"seed": wish.seed, "steps": steps, "guidance": wish.guidance}
    settings |= {"width": wish.width, "height": wish.height, "strength": strength}
    if wish.sketch is None:
        return engine.check(wish.model, wish.prompt, **settings)
    file = file_of(wish.sketch, "The sketch")
    across, down = header_size(file)
    with engine.decoding.turn(across * down):
        sketch: Image.Image = flatten(open_image(file, "The sketch"))
        own = spec.settings.width, spec.settings.height
        settings |= {"width": wish.width or own[0], "height": wish.height or own[1]}
        return engine.check(wish.model, wish.prompt, image=sketch, **settings)


def _few(spec: ModelSpec, wish: LiveWish) -> tuple[int, float | None]:
    """Return how many steps a wish is drawn in, and the strength of its sketch."""
    usual, strength = spec.settings.steps, wish.strength
    if wish.sketch is None:
        few = 1 if spec.guidance_embed else min(usual, FEW_STEPS)
    elif spec.guidance_embed:  # all of its steps would forget the sketch
        strength = SKETCH_FEW if strength is None else strength
        few = next((steps for steps in (2, 3) if steps_done(steps, strength) < steps), 4)
    else:
        strength = SKETCH_STRENGTH if strength is None else strength
        few = min(usual, round(FEW_STEPS / max(strength, 0.3)))
    return wish.steps or few, strength
