"""A world that a server walks in as an environment of Gymnasium: the same steps as `WorldEnv`, over HTTP.

    env = RemoteWorldEnv("http://127.0.0.1:8000", "harbour.png", "an old harbour", fov=65)
    frame, info = env.reset(seed=0)
    frame, reward, terminated, truncated, info = env.step(held_keys("wd"))

Frames come as PNG, so they are the bits that a world here would draw from the same weights on that machine.
Shapes: F frames, H W pixels.
"""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from sanakit.errors import MissingExtraError, SanaError, SettingsError
from sanakit.gym.environment import KEYS
from sanakit.pipelines.request import whole_number

try:
    import gymnasium
    from gymnasium import spaces
except ImportError:
    raise MissingExtraError("gymnasium", "gym") from None

_SEEDS = 2**31  # of the worlds of one environment
_PATIENCE = 600.0  # seconds without a byte of an answer


class RemoteWorldEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A served world to act in.

    address: of the server, such as http://127.0.0.1:8000. image: the file an episode begins with. key: where
    the server has keys. max_chunks: after which an episode is truncated. reward: from a chunk's frames, F H W
    3 uint8, to a number; None: always 0. settings: the fields of POST /v1/worlds, less seed and frames.
    Raises SettingsError for what the server refuses, in its words, and SanaError where it does not answer.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 16}

    def __init__(
        self,
        address: str,
        image: str | os.PathLike[str],
        prompt: str = "",
        *,
        key: str | None = None,
        max_chunks: int = 40,
        reward: Callable[[np.ndarray], float] | None = None,
        render_mode: str | None = None,
        **settings: str | int | float,
    ) -> None:
        if urlsplit(address).scheme not in ("http", "https"):
            raise SettingsError(f"{address!r} is not a server's address: write one such as http://host:8000.")
        if render_mode not in (None, "rgb_array"):
            raise SettingsError(f'render_mode = {render_mode!r}, but it must be "rgb_array" or None.')
        if taken := sorted({"seed", "frames"} & settings.keys()):
            raise SettingsError(
                f"{taken[0]} is not a setting here: seeds are passed to `reset`, frames are PNG."
            )
        self.max_chunks = whole_number("max_chunks", max_chunks, 1, 100_000)
        self.reward, self.render_mode = reward, render_mode
        self._worlds, self._key = f"{address.rstrip('/')}/v1/worlds", key
        try:
            self._image = Path(image).read_bytes()
        except OSError as error:
            raise SettingsError(f"{image} cannot be read ({error.strerror}): check the path.") from None
        self._form = {"prompt": prompt, "frames": "png"} | {
            name: str(value) for name, value in settings.items()
        }
        self._walk: dict[str, Any] | None = None
        self._frame: np.ndarray | None = None
        self._chunks = 0
        told = self._enter(0)
        most = (told["most_frames"] - 1) // told["chunk_frames"]
        if max_chunks > most:
            self.close()
            whole_number("max_chunks", max_chunks, 1, most)
        self.metadata = {**self.metadata, "render_fps": told["fps"]}
        self.observation_space = spaces.Box(0, 255, (told["height"], told["width"], 3), np.uint8)
        self.action_space = spaces.MultiBinary(len(KEYS))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Enter the world again; return its first frame, H W 3, and its pose. seed: as for `WorldEnv`."""
        super().reset(seed=seed)
        if options:
            raise SettingsError(f"{sorted(options)[0]} is not an option of a served world: it has none.")
        walk = self._enter(int(self.np_random.integers(_SEEDS)))
        self._chunks = 0
        with self._ask(f"{self._worlds}/{walk['id']}/moments/0/frame") as answer:
            self._frame = frame = _pixels(answer.read())
        return frame, {"frames": frame[None], "pose": np.eye(4)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold keys for a chunk; action and what is returned: as for `WorldEnv.step`."""
        if self._walk is None or self._chunks == self.max_chunks:
            raise gymnasium.error.ResetNeeded("The episode has not begun, or it is over: call `reset`.")
        held = "".join(key for key, down in zip(KEYS, action, strict=True) if down)
        events = list(self._events(f"{self._worlds}/{self._walk['id']}/moves", {"keys": held}))
        frames = np.stack([_pixels(base64.b64decode(e["b64_json"])) for e in events if "b64_json" in e])
        frame, self._chunks = frames[-1], self._chunks + 1
        self._frame = frame
        reward = 0.0 if self.reward is None else float(self.reward(frames))
        info = {"frames": frames, "pose": np.array(events[-1]["moment"]["pose"])}
        return frame, reward, False, self._chunks == self.max_chunks, info

    def render(self) -> np.ndarray | None:
        """Return the last frame, H W 3, in the mode "rgb_array"."""
        return None if self.render_mode is None else self._frame

    def close(self) -> None:
        """End the walk on the server."""
        if self._walk is not None:
            with suppress(SanaError), self._ask(f"{self._worlds}/{self._walk['id']}", method="DELETE"):
                self._walk = None

    def _enter(self, seed: int) -> dict[str, Any]:
        self.close()
        mark = uuid.uuid4().hex
        parts = [
            _field(mark, name, value.encode()) for name, value in {**self._form, "seed": str(seed)}.items()
        ]
        body = b"".join([*parts, _field(mark, "image", self._image, file=True), f"--{mark}--\r\n".encode()])
        with self._ask(self._worlds, body, f"multipart/form-data; boundary={mark}") as answer:
            self._walk = json.loads(answer.read())
        assert self._walk is not None, "it is an object"
        return self._walk

    def _events(self, address: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the data of a stream's events. Raises SanaError for an error among them."""
        with self._ask(address, json.dumps(body).encode(), "application/json") as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise SanaError(event["error"]["message"])
                    yield event

    def _ask(self, address: str, body: bytes | None = None, kind: str = "", method: str | None = None) -> Any:
        headers = {"Content-Type": kind} if body is not None else {}
        headers |= {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(address, body, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=_PATIENCE)
        except urllib.error.HTTPError as error:
            with error:
                raise SettingsError(_sentence(error.read(), error.code)) from None
        except OSError as error:
            raise SanaError(f"{address} does not answer ({error}): start `sana serve` there.") from None


def _sentence(body: bytes, status: int) -> str:
    """Return what a server says of an error."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["error"]["message"])
    return f"The server answered {status} without a reason: check that it is a server of sanakit."


def _field(mark: str, name: str, value: bytes, *, file: bool = False) -> bytes:
    """Return one field of a form."""
    also = '; filename="image"\r\nContent-Type: application/octet-stream' if file else ""
    return (
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"{also}\r\n\r\n'.encode() + value + b"\r\n"
    )


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))
