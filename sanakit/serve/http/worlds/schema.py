"""The wire format of walks: requests, replies, events and their description in /openapi.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.pipelines.world.world import WorldDrawSettings
from sanakit.serve.engine.walk import MOST_CHUNKS, Walk, WalkMoment
from sanakit.serve.http.openai_schema import MAX_PROMPT, MAX_SEED, TEXT, Reply, known_alone

MOST_ACTIONS = 10_000  # characters of a move's keys
MOST_POSES = MOST_CHUNKS * 64  # of a move; models have at most 24 frames a chunk so far
Row = Annotated[list[float], Field(min_length=4, max_length=4)]
Pose = Annotated[list[Row], Field(min_length=4, max_length=4)]


class WalkForm(BaseModel):
    """The fields of POST /v1/worlds beside its file, image; a form's values are texts."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    _known = model_validator(mode="before")(known_alone)

    prompt: str = Field("", max_length=MAX_PROMPT, pattern=TEXT, description="A sentence on the image.")
    model: str | None = Field(
        None, max_length=200, description="An id of /v1/models; left out: the server's world model."
    )
    fov: float | None = Field(
        None, description="Degrees that the whole image spans across, 25 to 120; left out: 60, and told."
    )
    intrinsics: str | None = Field(
        None,
        max_length=200,
        description="Instead of fov: fx,fy,cx,cy in pixels of the image.",
        examples=["640,640,640,352"],
    )
    keys: Literal["turning", "strafing"] = Field(
        "turning", description="Whether a and d turn (the authors' way), or step aside (diffusers')."
    )
    size: str | None = Field(
        None,
        pattern=r"^[0-9]{1,5}x[0-9]{1,5}$",
        description="Width x height in pixels; the image is cut to it; left out: the model's own.",
    )
    fps: float | None = Field(
        None, ge=0.01, le=1000, description="Frames a second of the clip; left out: the model's own."
    )
    negative_prompt: str | None = Field(
        None, max_length=MAX_PROMPT, pattern=TEXT, description="What to avoid; needs guidance above 1."
    )
    prompt_weights: bool = Field(False, description="Read (red:1.5) in prompts as a weight of these words.")
    steps: int | None = Field(None, ge=1, le=1000, description="Of each chunk; refused by distilled models.")
    guidance: float | None = Field(None, ge=0, le=100, description="1 turns it off.")
    guidance_kind: str | None = Field(None, max_length=200, pattern=TEXT)
    solver: str | None = Field(None, max_length=50)
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="The same seed and moves draw the same frames; else random."
    )
    frames: Literal["jpeg", "png"] = Field(
        "jpeg", description="How frames are sent and recorded; png is exact, and larger."
    )

    def settings(self) -> WorldDrawSettings:
        """Return the settings of `WorldEngine.check`. Raises SettingsError."""
        width, height = (int(side) for side in self.size.split("x")) if self.size else (None, None)
        found: WorldDrawSettings = {"keys": self.keys, "fov": self.fov, "rate": self.fps, "seed": self.seed}
        found |= {"intrinsics": self._lens(), "width": width, "height": height, "solver": self.solver}
        found |= {"steps": self.steps, "guidance": self.guidance, "guidance_kind": self.guidance_kind}
        return {**found, "prompt_weights": self.prompt_weights}

    def _lens(self) -> list[float] | None:
        if self.intrinsics is None:
            return None
        try:
            return [float(number) for number in self.intrinsics.split(",")]
        except ValueError:
            raise SettingsError("intrinsics must be four numbers, fx,fy,cx,cy in pixels.") from None


class MoveRequest(BaseModel):
    """The body of POST /v1/worlds/{id}/moves: one of keys, actions and poses."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    _known = model_validator(mode="before")(known_alone)

    keys: str | None = Field(
        None, max_length=20, description='Held during one chunk, such as "wd"; "" stands still.'
    )
    actions: str | None = Field(
        None,
        max_length=MOST_ACTIONS,
        description="Keys and frames, whole chunks in all.",
        examples=["w-24,wd-24"],
    )
    poses: list[Pose] | None = Field(
        None,
        max_length=MOST_POSES,
        description="Camera-to-world matrices of the next frames, OpenCV's axes, relative to the image's.",
    )
    before: int | None = Field(
        None, ge=0, description="The moment to go on from; null: the one drawn last. Any other is a branch."
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Another future from here on; null: that of the walk's seed."
    )
    frames: Literal["all", "last"] = Field("all", description="Send all frames, or the last of each chunk.")

    def move(self, chunk_frames: int) -> str | Tensor:
        """Return the move for `Walk.split`: a text of keys, or poses.

        Raises SettingsError for none and for two.
        """
        given = [name for name in ("keys", "actions", "poses") if getattr(self, name) is not None]
        if len(given) != 1:
            came = " and ".join(given) or "none of them"
            raise SettingsError(f"A move is keys, actions or poses, but {came} came: send one of them.")
        if self.poses is not None:
            return torch.tensor(self.poses, dtype=torch.float64)
        return f"{self.keys or 'none'}-{chunk_frames}" if self.actions is None else self.actions


class MomentReply(Reply):
    """The world behind a chunk; number 0 is the image."""

    number: int
    before: int | None = Field(description="The moment that its chunk was drawn from.")
    frames: int = Field(description="From the image to here, the image among them.")
    actions: str | None = Field(description="Keys of its chunk; null for poses, and for the image.")
    seed: int | None = Field(description="Of another future that began with its chunk.")
    pose: Pose = Field(description="Of its last frame, camera-to-world.")

    @classmethod
    def of(cls, moment: WalkMoment) -> MomentReply:
        """Return the reply for a moment."""
        chunk = moment.chunk
        return cls(
            number=moment.number,
            before=moment.before,
            frames=moment.frames,
            actions=chunk.actions if chunk else None,
            seed=chunk.seed if chunk else None,
            pose=moment.walker.pose.tolist(),
        )


class MomentList(Reply):
    """All moments of a walk, in the order in which they were drawn."""

    object: Literal["list"] = "list"
    data: list[MomentReply]


class WalkReply(Reply):
    """A walk as it stands."""

    id: str
    object: Literal["world.walk"] = "world.walk"
    model: str
    width: int
    height: int
    fps: float
    chunk_frames: int = Field(description="Frames of a chunk: moves are whole chunks.")
    most_frames: int = Field(description="That the model has positions for, from the image on.")
    image_format: Literal["jpeg", "png"]
    at: int = Field(description="The moment that was drawn last.")
    moments: int = Field(description="How many there are: numbers go from 0.")
    actions: str | None = Field(
        description="Keys from the image to here, as `sana world --path` takes them; null where poses or "
        "seeds were sent."
    )
    settings: dict[str, Any] = Field(description="It is drawn with them, the seed among them.")
    warnings: list[str]

    @classmethod
    def of(cls, walk: Walk) -> WalkReply:
        """Return the reply for a walk."""
        return cls(
            id=walk.id,
            model=str(walk.metadata["model"]),
            width=walk.width,
            height=walk.height,
            fps=float(walk.rate),
            chunk_frames=walk.chunk_frames,
            most_frames=walk.most_frames,
            image_format=walk.image_format.lower(),  # pyright: ignore[reportArgumentType]
            at=walk.at,
            moments=len(walk.moments),
            actions=walk.actions(walk.at) or None,
            settings=walk.metadata,
            warnings=walk.warnings,
        )


class WalkList(Reply):
    """The walks of a caller, the oldest first."""

    object: Literal["list"] = "list"
    data: list[WalkReply]


class WalkDeleted(Reply):
    """The answer to DELETE."""

    id: str
    object: Literal["world.walk.deleted"] = "world.walk.deleted"
    deleted: Literal[True] = True


class WorldFrameEvent(Reply):
    """One frame of a move, or of a replay."""

    type: Literal["world.frame"] = "world.frame"
    frame: int = Field(description="Its number on the way from the image, which is 0.")
    pose: Pose = Field(description="Of the camera, camera-to-world.")
    b64_json: str


class WorldMomentEvent(Reply):
    """A chunk is done: its moment can be walked on from."""

    type: Literal["world.moment"] = "world.moment"
    moment: MomentReply
