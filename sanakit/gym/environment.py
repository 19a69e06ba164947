"""A world as an environment of Gymnasium: held keys in, the frame behind a chunk out.

    env = WorldEnv(World.from_pretrained(folder), image, "an old harbour", max_chunks=20)
    frame, info = env.reset(seed=0)
    frame, reward, terminated, truncated, info = env.step(held_keys("wd"))

An action tells for each of the eight keys whether it is held during the next chunk, 24 frames of SANA-WM. A
world has no task of its own: the reward is what the caller's function makes of the chunk's frames, else 0. An
episode never ends by itself; it is cut off after `max_chunks`.
Shapes: F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import numpy as np
from PIL import Image

from sanakit.errors import MissingExtraError, SettingsError
from sanakit.pipelines.request import whole_number
from sanakit.pipelines.world.live import LiveWorld
from sanakit.pipelines.world.world import World, WorldDrawSettings

try:
    import gymnasium
    from gymnasium import spaces
except ImportError:
    raise MissingExtraError("gymnasium", "gym") from None

KEYS = "wsadijkl"  # in the order of an action
_OPTIONS = ("image", "prompt")  # of `reset`
_SEEDS = 2**31  # of the worlds of one environment


class WorldEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A world to act in.

    world: with streaming weights. image, prompt: what an episode begins with. max_chunks: after which it is
    truncated. reward: from a chunk's frames, F H W 3 uint8, to a number; None: always 0. render_mode: None or
    "rgb_array". settings: as for `World.enter`, less the seed, which `reset` takes.
    Raises SettingsError for settings that do not fit.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 16}

    def __init__(
        self,
        world: World,
        image: Image.Image,
        prompt: str = "",
        *,
        max_chunks: int = 40,
        reward: Callable[[np.ndarray], float] | None = None,
        render_mode: str | None = None,
        **settings: Unpack[WorldDrawSettings],
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise SettingsError(f'render_mode = {render_mode!r}, but it must be "rgb_array" or None.')
        if "seed" in settings:
            raise SettingsError("seed is of an episode: pass it to `reset`.")
        world.entry(image, prompt, **settings)  # raises now what `reset` would raise
        most = (world.spec.max_positions - 1) // world.settings.chunks.length
        self.max_chunks = whole_number("max_chunks", max_chunks, 1, most)
        self.world, self.image, self.prompt, self.reward = world, image, prompt, reward
        self.render_mode, self.settings = render_mode, settings
        self.metadata = {**self.metadata, "render_fps": float(world.settings.rate)}
        height, width = (
            settings.get(name) or getattr(world.settings.shared, name) for name in ("height", "width")
        )
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = spaces.MultiBinary(len(KEYS))
        self._live: LiveWorld | None = None
        self._chunks = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Enter the world; return its first frame, H W 3, and its pose.

        seed: of this episode and those after it. options: another image or prompt, for this episode.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := sorted(options.keys() - set(_OPTIONS)):
            raise SettingsError(f"{unknown[0]} is not an option of `reset`: use {' or '.join(_OPTIONS)}.")
        image, prompt = options.get("image", self.image), options.get("prompt", self.prompt)
        own = int(self.np_random.integers(_SEEDS))
        self._live = self.world.enter(image, prompt, undo=0, **{**self.settings, "seed": own})
        self._chunks = 0
        return self._live.frame, self._info(self._live.frame[None])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold keys for a chunk. action: 8 of 0 or 1, see `held_keys`.

        Returns the last frame, the reward, False, whether the episode is cut off, and all frames with the
        camera's pose. Raises gymnasium's ResetNeeded before `reset` and behind the last chunk.
        """
        if self._live is None or self._chunks == self.max_chunks:
            raise gymnasium.error.ResetNeeded("The episode has not begun, or it is over: call `reset`.")
        held = "".join(key for key, down in zip(KEYS, action, strict=True) if down) or "none"
        frames = self._live.move(f"{held}-{self._live.chunk_frames}")
        self._chunks += 1
        reward = 0.0 if self.reward is None else float(self.reward(frames))
        return self._live.frame, reward, False, self._chunks == self.max_chunks, self._info(frames)

    def render(self) -> np.ndarray | None:
        """Return the last frame, H W 3, in the mode "rgb_array"."""
        return None if self._live is None or self.render_mode is None else self._live.frame

    def _info(self, frames: np.ndarray) -> dict[str, Any]:
        assert self._live is not None, "it was entered"
        return {"frames": frames, "pose": self._live.snapshot().pose.numpy().copy()}


def held_keys(keys: str) -> np.ndarray:
    """Return the action of held keys.

    >>> held_keys("wd").tolist()
    [1, 0, 0, 1, 0, 0, 0, 0]
    """
    if unknown := sorted(set(keys) - set(KEYS)):
        raise SettingsError(f"{', '.join(unknown)} are not keys of a world: use {', '.join(KEYS)}.")
    return np.array([key in keys for key in KEYS], dtype=np.int8)
