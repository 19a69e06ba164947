"""The wire format: requests, replies, stream events and errors, as OpenAI's clients expect them.

Source: the types of the `openai` Python client, 3.54 (image_generate_params, images_response, image_gen_* and
image_edit_* events, model). Our own additions are the settings of the SANA family (`DrawingSettings`, second
part) and `metadata` beside each image. Unknown fields are refused: a typing error in `guidance` would
otherwise draw the wrong image. null means the default, as in the client's types.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from sanakit.images.hints import HintKind
from sanakit.pipelines.control import MAX_SCALE
from sanakit.pipelines.upscale.lanczos import MOST as MOST_UPSCALE
from sanakit.serve.engine.steering import MAX_CONTROLS

MAX_PROMPT = 32_000  # characters, as OpenAI's
MAX_IMAGES = 10  # of one request
MAX_ADAPTERS = 16  # of one request
MAX_CONTROL = 6_000_000  # characters of a control image in base64
MAX_SEED = 2**53 - 1  # the largest whole number that every JSON reader keeps exact

_IGNORED = "Accepted for existing clients; has no effect here."
TEXT = r"^[^\x00]*$"  # no file format and no database keeps a NUL
_NO_NUL = "the character NUL is not allowed: remove it"
# A field's pattern in words.
EXPECTED = {
    "size": "write WIDTHxHEIGHT such as 256x256, or auto",
    "seconds": "write a number of seconds such as 4 or 2.5",
    "prompt": _NO_NUL,
    "negative_prompt": _NO_NUL,
}


Adapters = dict[Annotated[str, Field(max_length=200, pattern=TEXT)], float]


def plain_name(name: str) -> str:
    """Return a field's name as it may stand in an answer: short, and of ASCII."""
    return name[:50].encode("ascii", "backslashreplace").decode()


def known_alone(cls: type[BaseModel], fields: Any) -> Any:
    """Refuse a body at its first unknown field: an error for each of a million would take seconds."""
    names = fields if isinstance(fields, dict) else ()
    if (unknown := next((name for name in names if name not in cls.model_fields), None)) is not None:
        raise PydanticCustomError("extra_forbidden", "Unknown field", {"field": plain_name(unknown)})
    return fields


class ControlField(BaseModel):
    """An image that steers the drawing through one of the server's ControlNets."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    _known = model_validator(mode="before")(known_alone)

    name: str = Field(
        max_length=200, pattern=TEXT, description="Of the ControlNet, see `controls` of /v1/models."
    )
    image: str = Field(
        max_length=MAX_CONTROL, description="A PNG, JPEG or WebP file in base64, or a data URL of it."
    )
    kind: HintKind | None = Field(
        None, description="Hint to make of the image; as-is: it is one; null: what the ControlNet learned."
    )
    scale: float | None = Field(
        None, ge=-MAX_SCALE, le=MAX_SCALE, description="0 does not steer, 1 as trained; 1."
    )
    start: float | None = Field(None, ge=0, le=1, description="Share of the steps from which it steers; 0.")
    end: float | None = Field(None, ge=0, le=1, description="Share of the steps until which it steers; 1.")


class DrawingSettings(BaseModel):
    """Fields that generations and edits share."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    _known = model_validator(mode="before")(known_alone)

    prompt: str = Field(
        max_length=MAX_PROMPT, pattern=TEXT, description="What to draw.", examples=["a red apple"]
    )
    model: str | None = Field(
        None, max_length=200, description="An id of /v1/models; null: the server's first model."
    )
    n: int | None = Field(
        None, ge=1, le=MAX_IMAGES, description="Images to draw: this seed and those after it; 1."
    )
    size: str | None = Field(
        None,
        pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$",
        description='Width x height in pixels; "auto": the model\'s default, or the size of the upload.',
        examples=["256x256"],
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="b64_json (default): the image is only in the reply. url: the server keeps "
        "it and the reply has its URL.",
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        None, description="png (default) carries its settings as text chunks."
    )
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of jpeg and webp, 95 by default; png supports only 100."
    )
    stream: bool | None = Field(None, description="Answer with server-sent events, including previews.")
    partial_images: int | None = Field(
        None, ge=0, le=3, description="Number of previews of each image in a stream; 0."
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="Every image is opaque.")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        None, description=f"{_IGNORED} For finer images use more `steps`."
    )
    style: Literal["vivid", "natural"] | None = Field(None, description=_IGNORED)
    moderation: Literal["auto", "low"] | None = Field(
        None, description=f"{_IGNORED} The server's operator chooses its filters."
    )
    user: str | None = Field(None, max_length=512, description=_IGNORED)
    safety_identifier: str | None = Field(None, max_length=512, description=_IGNORED)

    # Of the SANA family: `extra_body` in OpenAI's client
    negative_prompt: str | None = Field(
        None, max_length=MAX_PROMPT, pattern=TEXT, description="What to avoid; needs guidance above 1."
    )
    prompt_weights: bool | None = Field(
        None, description="Read (red:1.5) in the prompts as a weight of these words; false: it is text."
    )
    steps: int | None = Field(
        None, ge=1, le=1000, description="More steps are finer and slower; null: the model's default."
    )
    guidance: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Higher follows the prompt more closely; 1 turns it off and is twice as fast.",
    )
    guidance_kind: str | None = Field(
        None,
        max_length=200,
        pattern=TEXT,
        description='How it guides, such as "apg,interval=0.2-0.9"; null: the model\'s default.',
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="The same seed draws the same image; null: random."
    )
    solver: Literal["dpm", "euler", "scm"] | None = Field(
        None, description="dpm needs fewer steps than euler; SANA-Sprint models support only scm."
    )
    adapters: Adapters | None = Field(
        None,
        max_length=MAX_ADAPTERS,
        description="Weights of the server's adapters (LoRA) by name, see /v1/models; others are off.",
        examples=[{"style": 0.8}],
    )
    control: list[ControlField] | None = Field(
        None, max_length=MAX_CONTROLS, description="Images that steer it, each through a ControlNet."
    )
    upscale: float | None = Field(
        None,
        gt=1,
        le=MOST_UPSCALE,
        description="Times each side is enlarged after drawing; by Lanczos where the model draws no detail.",
    )
    deadline: float | None = Field(
        None, gt=0, le=3600, description="Seconds after which the request fails with 504."
    )

    @property
    def sides(self) -> tuple[int | None, int | None]:
        """Width and height in pixels; None: not said."""
        if self.size in (None, "auto"):
            return None, None
        width, height = self.size.split("x")
        return int(width), int(height)


class GenerationRequest(DrawingSettings):
    """The body of POST /v1/images/generations and of POST /v1/jobs."""


class EditRequest(DrawingSettings):
    """The fields of the form of POST /v1/images/edits and POST /v1/jobs/edits, beside its files."""

    model_config = ConfigDict(strict=False)  # a form's values are texts

    strength: float | None = Field(
        None, ge=0, le=1, description="How much to change: 0 keeps the upload, 1 ignores it."
    )
    input_fidelity: Literal["low", "high"] | None = Field(None, description=f"{_IGNORED} See `strength`.")


class Reply(BaseModel):
    """Base of the server's replies."""


class ImageReply(Reply):
    """One image."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None  # prompts are drawn as they came
    metadata: dict[str, Any] = Field(
        description="The settings to draw it again: seed, steps, guidance, model, ..."
    )


class InputDetails(Reply):
    """The sources of the input tokens."""

    text_tokens: int
    image_tokens: int


class Usage(Reply):
    """Tokens as this model has them: cells of the latent grid. The prompt's are not counted: 0."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails

    @classmethod
    def of(cls, cells: int, num_images: int, *, edit: bool) -> Usage:
        """Count for `num_images` of `cells` latents each; an edit reads one such image, too."""
        read, drawn = cells if edit else 0, cells * num_images
        details = InputDetails(text_tokens=0, image_tokens=read)
        return cls(
            input_tokens=read, output_tokens=drawn, total_tokens=read + drawn, input_tokens_details=details
        )


OutputFormat = Literal["png", "jpeg", "webp"]
WARNINGS: list[str] = Field(
    description="Notes: a prompt was cut or names nothing known, or an image was resized."
)


class ImagesReply(Reply):
    """The answer to generations and edits that are not streamed."""

    created: int = Field(description="Seconds since 1970.")
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    size: str
    data: list[ImageReply]
    usage: Usage
    warnings: list[str] = WARNINGS


class _StreamEvent(Reply):
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: OutputFormat
    quality: Literal["auto"] = "auto"
    size: str
    picture: int = Field(description="Index of the image, from 0.")


class PartialImageEvent(_StreamEvent):
    """A small preview of an unfinished image: a linear map of its latents."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    partial_image_index: int


class CompletedEvent(_StreamEvent):
    """A finished image; one event for each of n."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    usage: Usage
    metadata: dict[str, Any]
    warnings: list[str] = WARNINGS


class ErrorDetail(Reply):
    """An error in OpenAI's format."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """Every answer that is not a success, and the `error` event of a stream."""

    error: ErrorDetail


class ModelReply(Reply):
    """One model that this server draws with, and its defaults."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Start of the server, in seconds since 1970.")
    owned_by: str = "sanakit"
    makes: Literal["images", "videos", "worlds"] = Field(
        description="For /v1/images and /v1/jobs, for /v1/videos, or for /v1/worlds."
    )
    defaults: dict[str, Any] = Field(description="Its defaults: size, steps, ...")
    adapters: list[str] = Field(description="Names of the adapters that a request may use with it.")
    controls: dict[str, str] = Field(
        description="ControlNets that a request may use with it, and the kind of hint each learned."
    )


class ModelList(Reply):
    """All models, the default one first."""

    object: Literal["list"] = "list"
    data: list[ModelReply]


class StateReply(Reply):
    """The answer of /health and of a ready /ready."""

    status: Literal["ok"] = "ok"
