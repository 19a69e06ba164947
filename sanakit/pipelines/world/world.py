"""An image, a sentence and a camera path to a clip: worlds that are drawn whole, or chunk after chunk.

    world = World.from_pretrained(folder)
    clip = world(image, "an old harbour", path="w-24,d-48", seed=0)   # a path that is known
    live = world.enter(image, "an old harbour", seed=0)               # one that is not: see `live.py`
    frames = live.move("w-24")

The steps are those of clips (`pipelines/video/text_to_video.py`), with a model that is bound to the cameras
of the path (`models/world/steered.py`). The image is the first frame, which no step changes. Bidirectional
weights draw whole clips; streaming ones draw three latents at a time, with a state that does not grow.
Source: SANA-WM; diffusers' SanaWMPipeline draws the same from the same weights and noise.
Shapes: T frames, H W pixels, B C t h w latents.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Unpack

import torch
from PIL import Image
from torch import Tensor

from sanakit.arguments import OF_WORLDS, check_arguments
from sanakit.errors import SettingsError
from sanakit.models.contracts import TextModel, VideoCodec
from sanakit.models.world.sana_wm import SanaWM
from sanakit.models.world.steered import SteeredWorld
from sanakit.pipelines.memory import parse_budget
from sanakit.pipelines.video.in_chunks import ClipChunk
from sanakit.pipelines.video.loading import load_parts
from sanakit.pipelines.video.memory import ClipPlan, ClipPlanner
from sanakit.pipelines.video.request import VideoSpec
from sanakit.pipelines.video.result import ClipOutput, ClipResult, ClipStep, clips_of
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.pipelines.world.actions import TURNING
from sanakit.pipelines.world.live import LiveWorld
from sanakit.pipelines.world.paths import CameraPath
from sanakit.pipelines.world.request import Lens, WorldDrawSettings, WorldRequest, check_world_request
from sanakit.weights.about.loaded import Loaded
from sanakit.weights.video.settings import VideoSettings, load_world_settings


class World(Loaded):
    """A model that draws what a camera sees on its way from an image on.

    transformer, autoencoder with its encoder, text_encoder, settings: the parts and their defaults. device:
    where they compute; None: the transformer's device. memory: as for `TextToVideo`.
    """

    def __init__(
        self,
        transformer: SanaWM,
        autoencoder: VideoCodec,
        text_encoder: TextModel,
        settings: VideoSettings,
        *,
        device: torch.device | None = None,
        memory: str | int = "auto",
    ) -> None:
        self.transformer = transformer
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.settings = settings
        self.device = device or next(transformer.parameters()).device
        # One for all calls: what they leave in memory is not counted again by the next.
        self._memory = ClipPlanner(
            transformer,
            autoencoder,
            text_encoder.model,
            patch=transformer.config.patch,
            sizes=settings.shared.sizes,
            device=self.device,
            budget=parse_budget(memory),
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        memory: str | int = "auto",
        **unknown: object,
    ) -> World:
        """Load a world model: a folder in diffusers' layout, or a Hub "org/repo" that holds one.

        All as for `TextToVideo.from_pretrained`, and WeightsError for a model of images or clips.
        """
        check_arguments(unknown, ours=OF_WORLDS)
        settings, budget = load_world_settings(path), parse_budget(memory)
        parts = load_parts(path, "world", device=device, dtype=dtype, memory=budget, encoder=True)
        return cls(*parts[:3], settings, device=parts[3], memory=budget)

    @property
    def spec(self) -> VideoSpec:
        """The facts about the model that checking a call needs."""
        return VideoSpec.of(self.settings, self.transformer.config, self.autoencoder.config)

    def __call__(
        self,
        image: Image.Image,
        prompt: str = "",
        negative_prompt: str | None = None,
        *,
        path: str | Tensor | CameraPath | None = None,
        keys: str = TURNING.name,
        fov: float | None = None,
        intrinsics: Lens | None = None,
        frames: int | None = None,
        rate: int | float | str | Fraction | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_kind: str | None = None,
        seed: int | None = None,
        solver: str | None = None,
        latents: Tensor | None = None,
        output: ClipOutput = "clip",
        prompt_weights: bool = False,
        **others: object,
    ) -> ClipResult:
        """Draw the clip that a camera sees on a path from an image on. None means the model's default.

        image: the first frame, of any size; it is cut to the size that is drawn, and the camera with it.
        path: held keys and frames, such as "w-24,d-48", which add to the first frame; or poses, F 4 4
        camera-to-world with OpenCV's axes, the first one of the image; or what `paths.read_path` returns.
        keys: the meaning of the keys, "turning" (the authors') or "strafing" (diffusers'), see `actions.py`.
        fov: degrees that the image spans across, 25 to 120; None: 60, and told. intrinsics: instead of it,
        fx, fy, cx, cy in pixels of the image.
        frames: only so many of the path, 1 + a multiple of 8 with LTX-2; None: as many as are such a number,
        and told. seed: None: a random one, stated in the result. latents: initial noise, 1 C t h w, of which
        the first frame is not used. All else as for `TextToVideo.__call__`, which tells errors, too.
        """
        settings: WorldDrawSettings = {} if path is None else {"path": path}
        settings |= {"keys": keys, "fov": fov, "intrinsics": intrinsics}
        settings |= {"frames": frames, "rate": rate, "width": width, "height": height, "steps": steps}
        settings |= {"guidance": guidance, "guidance_kind": guidance_kind, "seed": seed, "solver": solver}
        settings |= {"latents": latents, "output": output, "prompt_weights": prompt_weights}
        drawn = self.steps(image, prompt, negative_prompt, **settings, **others)
        return clips_of(deque(drawn, maxlen=1).pop())

    def steps(
        self,
        image: Image.Image,
        prompt: str = "",
        negative_prompt: str | None = None,
        **settings: Unpack[WorldDrawSettings],
    ) -> Iterator[ClipStep]:
        """Yield each `ClipStep` of `__call__` when it is done, of streaming weights one for each chunk.

        Settings are checked at once; the work begins with the first step requested.
        """
        return self.draw(self.checked(image, prompt, negative_prompt, **settings))

    def stream(
        self,
        image: Image.Image,
        prompt: str = "",
        negative_prompt: str | None = None,
        **settings: Unpack[WorldDrawSettings],
    ) -> Iterator[ClipChunk]:
        """Yield the clip of `__call__` chunk by chunk as it is drawn; memory does not grow with it.

        All is checked at once. Raises SettingsError for weights that do not stream, too.
        """
        return self.chunks(self.checked(image, prompt, negative_prompt, **settings))

    def draw(self, request: WorldRequest, *, steered: bool = True) -> Iterator[ClipStep]:
        """Yield the steps of a checked request, as `steps` does. steered: whether its cameras are seen."""
        return self._along(request, steered).draw(request.clip)

    def chunks(self, request: WorldRequest) -> Iterator[ClipChunk]:
        """Yield the chunks of a checked request, as `stream` does."""
        self.check_streams()
        return self._along(request).chunks(request.clip)

    def enter(
        self,
        image: Image.Image,
        prompt: str = "",
        negative_prompt: str | None = None,
        *,
        undo: int | None = 4,
        **settings: Unpack[WorldDrawSettings],
    ) -> LiveWorld:
        """Return a world to walk through from an image on, whose path is not known yet.

        undo: how many chunks can be undone; each keeps a state (0.8 GB of SANA-WM); None: all. settings: of
        `__call__` but for path, frames, latents and output. Raises as that does, and SettingsError for
        weights that do not stream.
        """
        request = self.entry(image, prompt, negative_prompt, **settings)
        return LiveWorld(self.transformer, self._along(request), request, settings.get("keys"), undo)

    def entry(
        self,
        image: Image.Image,
        prompt: str = "",
        negative_prompt: str | None = None,
        **settings: Unpack[WorldDrawSettings],
    ) -> WorldRequest:
        """Return what `enter` begins with, checked: a clip of one chunk whose camera stands still.

        Raises as `enter` does.
        """
        if unused := sorted({"path", "frames", "latents", "output"} & settings.keys()):
            raise SettingsError(f"{unused[0]} is of a call for a known path: omit it, and use `move`.")
        self.check_streams()
        frames = self.spec.rule.frames(1 + self.settings.chunks.length)
        still = torch.eye(4, dtype=torch.float64).expand(frames, 4, 4)  # for the size of a chunk alone
        return self.checked(image, prompt, negative_prompt, **{"path": still, **settings})

    def plan(self, request: WorldRequest) -> ClipPlan:
        """Return how the work of a request fits in memory. Raises MemoryLimitError where it does not."""
        return self._along(request).plan(request.clip)

    def check_streams(self) -> None:
        """Raise SettingsError for weights that draw whole clips."""
        if not self.transformer.config.causal:
            raise SettingsError(
                f"{self.settings.shared.name} draws whole clips: call it with a path, or load streaming "
                "weights."
            )

    def checked(
        self,
        image: Image.Image,
        prompt: str = "",
        negative_prompt: str | None = None,
        **settings: Unpack[WorldDrawSettings],
    ) -> WorldRequest:
        """Return a call as a request, for `draw` and `chunks`; all as for `__call__`."""
        return check_world_request(self.spec, image, prompt, negative_prompt, **settings)

    def _along(self, request: WorldRequest, steered: bool = True) -> TextToVideo:
        """Return what draws clips along a request's path, or without any."""
        chunks, lengths = None, ()
        if self.transformer.config.variant == "chunk_causal":
            chunks = teacher_chunks(request.clip.sampling.cells.frames, self.settings.chunks.length)
            lengths = (chunks[0] - 1, *chunks[1:])  # the image is given
        model = SteeredWorld(self.transformer, request.inputs if steered else None, chunks=chunks)
        parts = (self.autoencoder, self.text_encoder, self.settings)
        shared = {"device": self.device, "memory": self._memory}
        return TextToVideo(model, *parts, **shared, chunk_lengths=lengths)


def teacher_chunks(frames: int, chunk: int) -> list[int]:
    """Return the latent frames of each chunk as weights that see chunks without a state were trained.

    The first has one more, and a last one that is too short joins the one before it.

    >>> teacher_chunks(7, 3), teacher_chunks(9, 3), teacher_chunks(2, 3)
    ([4, 3], [4, 5], [2])
    """
    count = max(1, (frames - 1) // chunk)
    sizes = [chunk + 1] + [chunk] * (count - 1)
    sizes[-1] += frames - sum(sizes)
    return sizes
