"""A world to walk through: frames of the next chunk for held keys or poses, and moments to come back to.

    live = World.from_pretrained(folder).enter(image, "an old harbour", seed=0)
    frames = live.move("w-24")                       # F H W 3
    here = live.snapshot()
    left, _ = live.move("a-24"), live.restore(here)
    right = live.move("d-24")                        # as if the camera had never turned left

All of a world at one moment is a value that nothing changes: the transformer's state, the decoder's last
frames, the random numbers, and where the camera stands. The same moves from one moment give the same frames,
bit for bit. A move is drawn chunk after chunk; if one fails, the world stands behind the last that did not.
Shapes: F frames, H W pixels; 1 C T h w latents.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from sanakit.errors import NumericsError, SettingsError
from sanakit.images.image import resize_and_crop, to_levels
from sanakit.models.world.camera import CameraInputs, camera_inputs
from sanakit.models.world.sana_wm import SanaWM, WorldState
from sanakit.models.world.steered import SteeredWorld
from sanakit.pipelines.memory import memory_limit, stage
from sanakit.pipelines.request import whole_number
from sanakit.pipelines.video.chunks import ClipPoint
from sanakit.pipelines.video.memory import blocks_given_back
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.pipelines.world.actions import MOST_FRAMES, TURNING, Walker, find_dialect, parse_actions
from sanakit.pipelines.world.paths import check_poses
from sanakit.pipelines.world.request import WorldRequest
from sanakit.wording import counted


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moment:
    """All of a world at one moment; keep it to come back to it.

    frame: H W 3, uint8, the last one. frames: so far, the image among them. pose: 4 4, camera-to-world, from
    the image's camera on.
    """

    frame: np.ndarray
    frames: int
    walker: Walker
    point: ClipPoint[WorldState] = field(repr=False)  # behind the last chunk
    decoder: object = field(repr=False)  # the past of what is decoded next
    world: object = field(repr=False)  # tells whose moment it is
    before: Moment | None = field(default=None, repr=False)  # the chunk before, as far as it is kept

    @property
    def pose(self) -> Tensor:
        """The camera's pose."""
        return self.walker.pose


class LiveWorld:
    """A world that was entered; made by `World.enter`, which tells the arguments' meaning."""

    def __init__(
        self,
        transformer: SanaWM,
        pipe: TextToVideo,
        request: WorldRequest,
        keys: str | None,
        undo: int | None,
    ) -> None:
        if undo is not None and (isinstance(undo, bool) or not isinstance(undo, int) or undo < 0):
            raise SettingsError(
                f"undo = {undo!r}, but it must be a number of chunks from 0, or None for all."
            )
        self.rate: Fraction = request.clip.rate  # frames a second
        self._transformer, self._pipe, self._undo, self._world = transformer, pipe, undo, object()
        self._size, self._lens = request.clip.sampling.size, request.lens[0]
        assert request.clip.chunks is not None, "the weights stream"
        self._length = request.clip.chunks.length
        self._plan = pipe.plan(request.clip)
        sampler, self._prompt, self.warnings = pipe.first_sampler(request.clip, self._plan)
        self._sampler = replace(sampler, renew=False)  # there is one prompt
        for note in self.warnings:
            warnings.warn(note, stacklevel=3)
        assert request.clip.first is not None, "a world begins with an image"
        with stage(pipe.autoencoder, self._plan, pipe.device):
            self._first = pipe.encode(request.clip.first)
            frames, decoder = self._decoded(self._first, None)
        self._moment = Moment(
            frame=frames[-1].copy(),  # the caller may change what it gets
            frames=1,
            walker=Walker(TURNING if keys is None else find_dialect(keys)),
            point=ClipPoint.start(request.clip.sampling.seeds[0]),
            decoder=decoder,
            world=self._world,
        )

    @property
    def frame(self) -> np.ndarray:
        """The last frame, H W 3, uint8; at first the image as the autoencoder gives it back."""
        return self._moment.frame.copy()

    @property
    def frames(self) -> int:
        """The number of frames so far, the image among them."""
        return self._moment.frames

    @property
    def chunk_frames(self) -> int:
        """The number of frames of a chunk, 24 of SANA-WM: moves are multiples of it."""
        return self._pipe.autoencoder.config.frame_rule.per_latent * self._length

    def move(self, actions: str) -> np.ndarray:
        """Walk on while keys are held, such as "w-24,wd-48"; return the frames, F H W 3, uint8.

        Raises SettingsError for a text that cannot be read, or for other than whole chunks; SizeError for
        more frames than the model has positions for; NumericsError, or MemoryLimitError.
        """
        return np.concatenate(list(self.moving(actions)))

    def moving(self, actions: str) -> Iterator[np.ndarray]:
        """Yield the frames of each chunk of `move` as soon as they are drawn; the text is checked at once."""
        held = parse_actions(actions)
        self._check_whole(len(held))
        return self._moving(held)

    def follow(self, poses: Tensor) -> np.ndarray:
        """Walk on along poses of the next frames; return the frames, all else as for `move`.

        poses: F 4 4, camera-to-world, where the image's camera is the identity. Keys go on from the last of
        them, standing still.
        """
        poses = check_poses(poses.detach().cpu().double(), "The path", "poses")
        self._check_whole(len(poses))
        drawn = [
            self._chunk(part, self._moment.walker.standing_at(part[-1]))
            for part in poses.split(self.chunk_frames)
        ]
        return np.concatenate(drawn)

    def snapshot(self) -> Moment:
        """Return this moment, to come back to."""
        return self._moment

    def restore(self, moment: Moment, seed: int | None = None) -> None:
        """Go back to a moment of this world. seed: of another future; None: the same moves draw the same.

        Raises SettingsError for a moment of another world.
        """
        if moment.world is not self._world:
            raise SettingsError("The moment is of another world: restore one of this world's snapshots.")
        self._moment = moment if seed is None else replace(moment, point=moment.point.with_seed(seed))

    def undo(self, chunks: int = 1) -> None:
        """Take back the last chunks, at least one.

        Raises SettingsError for more than there are, or than are kept.
        """
        moment = self._moment
        for done in range(whole_number("chunks", chunks, 1, MOST_FRAMES)):
            if moment.before is None:
                raise SettingsError(
                    f"{counted(chunks, 'chunk')} cannot be undone, but {done}: enter with a larger `undo`, "
                    "or restore a snapshot."
                )
            moment = moment.before
        self._moment = moment

    def _moving(self, held: Sequence[frozenset[str]]) -> Iterator[np.ndarray]:
        for start in range(0, len(held), self.chunk_frames):
            yield self._chunk(*self._moment.walker.hold(held[start : start + self.chunk_frames]))

    def _check_whole(self, frames: int) -> None:
        whole = self.chunk_frames
        if frames % whole:
            below = frames // whole * whole
            nearest = f"{below} or {below + whole}" if below else f"{whole}"
            raise SettingsError(
                f"The move takes {counted(frames, 'frame')}, but this world goes on by {whole} at a time: "
                f"make them {nearest} in all."
            )

    def _chunk(self, poses: Tensor, walker: Walker) -> np.ndarray:
        """Draw one chunk along poses; return its frames, and stand behind it."""
        now, pipe = self._moment, self._pipe
        starts = now.point.frames == 0
        with (
            stage(pipe.transformer, self._plan, pipe.device),
            stage(pipe.autoencoder, self._plan, pipe.device),
        ):
            steered = SteeredWorld(self._transformer, self._inputs(poses, starts), first=now.point.frames)
            sampler = replace(self._sampler, transformer=steered)
            known = self._first if starts else None
            latents, point = sampler.draw(now.point, self._length + starts, self._prompt, known)
            frames, decoder = self._decoded(latents[:, :, 1:] if starts else latents, now.decoder)
        self._moment = Moment(
            frame=frames[-1].copy(),  # the caller may change what it gets
            frames=now.frames + len(frames),
            walker=walker,
            point=point,
            decoder=decoder,
            world=self._world,
            before=_kept(now, self._undo),
        )
        return frames

    def _inputs(self, poses: Tensor, starts: bool) -> CameraInputs:
        """Return what the model takes of a chunk's poses, which are relative to the image's camera."""
        config = self._pipe.autoencoder.config
        height, width = (self._first.shape[axis] * config.compression for axis in (3, 4))
        found = camera_inputs(
            torch.cat([torch.eye(4, dtype=torch.float64)[None], poses]),
            self._lens,
            size=(height, width),
            compression=(config.frame_rule.per_latent, config.compression),
        )
        return found if starts else CameraInputs(found.cameras[1:], found.plucker[:, 1:])

    @torch.no_grad()
    def _decoded(self, latents: Tensor, past: object | None) -> tuple[np.ndarray, object]:
        """Return the frames of the next latents, F H W 3, and the decoder's past with them."""
        codec = self._pipe.autoencoder
        with memory_limit("decoding a chunk: take a smaller size"), blocks_given_back():
            scaled = codec.denormalise(latents).to(codec.dtype)
            frames, after = codec.decode_next(scaled, past)
        if not bool(torch.isfinite(frames).all()):
            raise NumericsError(
                "The decoded frames became NaN or infinity: load the autoencoder in float32, or check its "
                "weights."
            )
        return to_levels(resize_and_crop(frames[0].float().transpose(0, 1), *self._size)).numpy(), after


def _kept(moment: Moment | None, count: int | None) -> Moment | None:
    """Return a moment with no more than `count` moments, itself among them; None: with all."""
    if moment is None or count == 0:
        return None
    return moment if count is None else replace(moment, before=_kept(moment.before, count - 1))
