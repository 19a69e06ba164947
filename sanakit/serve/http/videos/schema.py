"""The wire format of videos: requests, replies and their description in /openapi.json.

Source: the types of the `openai` Python client, 3.54 (video_create_params, video, video_delete_response), and
vLLM-Omni's page on its Videos API, whose words for frames, steps, guidance and sides are taken, too. Unknown
fields are refused, as for images; null means the default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from sanakit.errors import SettingsError
from sanakit.serve.http.openai_schema import (
    MAX_PROMPT,
    MAX_SEED,
    TEXT,
    ErrorDetail,
    Reply,
    known_alone,
)
from sanakit.weights.video.settings import MOST_FRAMES, MOST_MOTION

MAX_REFERENCE = 6_000_000  # characters of an image in base64
REFERENCE = "input_reference"
# Fields that other servers have and no model here can follow -> what to do instead.
REFUSED = {
    "strength": "is of redrawing a clip, which is not done here: use `sana video --clip`",
    "n": "is not a field of videos, which are made one by one: send a request for each",
    "input_reference[file_id]": "names a file of another server: send the image itself",
}
_SECONDS = r"^[0-9]{1,4}(\.[0-9]{1,3})?$"
_FILE = {"type": "string", "format": "binary"}
_Value = TypeVar("_Value")


def _as_text(seconds: Any) -> Any:
    """Return a number as OpenAI's client sends it, which is a text; anything else as it came."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return seconds
    return f"{seconds:.3f}" if isinstance(seconds, float) else str(seconds)


Seconds = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(pattern=_SECONDS),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _SECONDS},
                {"type": "number", "minimum": 0, "maximum": 9999},
            ]
        }
    ),
]


class ImageReference(BaseModel):
    """An image in a body of JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)
    _known = model_validator(mode="before")(known_alone)

    image_url: str = Field(
        max_length=MAX_REFERENCE,
        description="A data URL of a PNG, JPEG or WebP file: data:image/png;base64,... Nothing is fetched.",
    )


class VideoRequest(BaseModel):
    """The body of POST /v1/videos; as a form, input_reference is a file."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    _known = model_validator(mode="before")(known_alone)

    prompt: str = Field(
        max_length=MAX_PROMPT, pattern=TEXT, description="What to draw.", examples=["a cat waves"]
    )
    model: str | None = Field(
        None, max_length=200, description="An id of /v1/models; null: the server's first video model."
    )
    seconds: Seconds | None = Field(
        None,
        description="How long; the nearest number of frames that the model can draw is told; "
        "null: the model's default.",
        examples=["4"],
    )
    size: str | None = Field(
        None,
        pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$",
        description='Width x height in pixels; "auto": the model\'s default, in the shape of the image.',
        examples=["832x480"],
    )
    input_reference: ImageReference | None = Field(None, description="The image that the clip begins with.")

    # Of the SANA family: `extra_body` in OpenAI's client
    frames: int | None = Field(
        None, ge=1, le=MOST_FRAMES, description="Instead of seconds; refused unless the model can draw it."
    )
    fps: float | None = Field(
        None, ge=0.01, le=1000, description="Frames a second of the file; null: the model's default."
    )
    motion: int | None = Field(None, ge=0, le=MOST_MOTION, description="How much moves, 1 to 100; 0: unsaid.")
    negative_prompt: str | None = Field(
        None,
        max_length=MAX_PROMPT,
        pattern=TEXT,
        description="What to avoid; needs guidance above 1; null: the model's own.",
    )
    prompt_weights: bool | None = Field(
        None, description="Read (red:1.5) in the prompts as a weight of these words; false: it is text."
    )
    steps: int | None = Field(
        None, ge=1, le=1000, description="More steps are finer and slower; null: the model's default."
    )
    guidance: float | None = Field(
        None, ge=0, le=100, description="Higher follows the prompt more closely; 1 turns it off."
    )
    guidance_kind: str | None = Field(
        None, max_length=200, pattern=TEXT, description='How it guides, such as "apg,interval=0.2-0.9".'
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="The same seed draws the same clip; null: random."
    )
    solver: str | None = Field(None, max_length=50, description="dpm or euler; null: the model's default.")

    # vLLM-Omni's words for the same
    width: int | None = Field(None, ge=1, le=99_999, description="Instead of size, with height.")
    height: int | None = Field(None, ge=1, le=99_999, description="Instead of size, with width.")
    num_frames: int | None = Field(None, ge=1, le=MOST_FRAMES, description="The same as frames.")
    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="The same as steps.")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="The same as guidance.")

    @property
    def sides(self) -> tuple[int | None, int | None]:
        """Width and height in pixels; None: not said. Raises SettingsError for both ways to say them."""
        sides = self.width, self.height
        if self.size is not None and sides != (None, None):
            raise SettingsError("size and width or height cannot be combined: send one or the other.")
        if self.size in (None, "auto"):
            return sides
        width, height = self.size.split("x")
        return int(width), int(height)

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `ClipEngine.check`, without model and image. Raises SettingsError."""
        width, height = self.sides
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "frames": _one("frames", self.frames, "num_frames", self.num_frames),
            "seconds": self.seconds,
            "rate": self.fps,
            "width": width,
            "height": height,
            "motion": self.motion,
            "steps": _one("steps", self.steps, "num_inference_steps", self.num_inference_steps),
            "guidance": _one("guidance", self.guidance, "guidance_scale", self.guidance_scale),
            "guidance_kind": self.guidance_kind,
            "seed": self.seed,
            "solver": self.solver,
            "prompt_weights": bool(self.prompt_weights),
        }


class VideoForm(VideoRequest):
    """The fields of a form, whose values are texts, beside its file."""

    model_config = ConfigDict(strict=False)


class VideoReply(Reply):
    """The current state of a video."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(description="Percent.")
    created_at: int = Field(description="Seconds since 1970, like completed_at.")
    completed_at: int | None
    expires_at: int | None = Field(
        default=None, description="The server's operator says how long videos are kept."
    )
    prompt: str
    remixed_from_video_id: str | None = Field(default=None, description="Videos are not remixed here.")
    seconds: str = Field(description="From the first frame to the last, as it is drawn.")
    size: str = Field(description="Width x height of the file.")
    error: ErrorDetail | None
    frames: int
    fps: float
    format: str = Field(description="mp4; webp (animated) where the server has no PyAV.")
    request: dict[str, Any] = Field(description="The settings to draw it again, including the seed.")
    warnings: list[str] = Field(
        description="Notes: another number of frames is drawn, a prompt was cut, an image was resized."
    )


class VideoList(Reply):
    """Videos, the newest first unless the order is asc."""

    object: Literal["list"] = "list"
    data: list[VideoReply]
    first_id: str | None
    last_id: str | None
    has_more: bool = Field(description="Whether more follow: request them with after = last_id.")


class VideoDeleted(Reply):
    """The answer to DELETE."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


def form_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the form for that of `VideoRequest`: a file in place of the object."""
    image = "A PNG, JPEG or WebP file: the image that the clip begins with."
    fields = {**schema["properties"], REFERENCE: _FILE | {"description": image}}
    return {**schema, "title": VideoForm.__name__, "properties": fields}


def _one(name: str, value: _Value | None, other: str, same: _Value | None) -> _Value | None:
    """Return the value of a field that has two names. Raises SettingsError where both were sent."""
    if value is not None and same is not None:
        raise SettingsError(f"{name} and {other} are the same: send one of them.")
    return same if value is None else value
