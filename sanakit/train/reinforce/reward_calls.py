"""Rewards by others' code: a Python function, or an endpoint over HTTP.

A function is called with a list of PIL images and a list of their prompts, and returns a number for each. An
endpoint gets the same in a POST, as JSON, and answers with the numbers:

    {"prompts": ["a fox", ...], "images": ["<PNG in base64>", ...]}     ->     {"scores": [0.7, ...]}

Shapes: B images, H W pixels.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import BusyError, SettingsError
from sanakit.images.image import encode, to_pil

TIMEOUT = 120.0  # seconds for one answer
RETRIES = 5  # after a first attempt, with 1 s before the first, then twice that, up to 16 s
AGAIN = (408, 409, 429)  # statuses after which another attempt may help, as after a server's own faults
LONGEST = 16 * 2**20  # bytes of an answer that are read

Judge = Callable[[list[Image.Image], list[str]], Any]


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """A Python function, by its name."""

    name: str
    function: Judge

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return what it returns, B. Raises SettingsError for anything but numbers."""
        return _numbers(self.function(to_pil(images), list(prompts)), f"The reward {self.name}")

    @classmethod
    def open(cls, text: str) -> FunctionReward:
        """Import MODULE:FUNCTION, or FILE.py:FUNCTION. Raises SettingsError if there is none."""
        place, _, name = text.rpartition(":")
        try:
            module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        except (ImportError, OSError) as error:
            raise SettingsError(
                f"The reward {text} cannot be imported ({error}): write MODULE:FUNCTION with a module that "
                "Python finds, or FILE.py:FUNCTION."
            ) from error
        function = getattr(module, name, None)
        if not callable(function):
            raise SettingsError(f"{place} has no function {name!r}: write the one that scores images.")
        return cls(name, function)


@dataclass(frozen=True, slots=True)
class EndpointReward:
    """An endpoint, by its address.

    timeout: seconds for an answer. retries: attempts after the first; pause: seconds before the first of
    them, then twice as long each.
    """

    url: str
    timeout: float = TIMEOUT
    retries: int = RETRIES
    pause: float = 1.0

    @property
    def name(self) -> str:
        """The host's name."""
        return urlsplit(self.url).hostname or "endpoint"

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return its scores, B.

        Raises BusyError if it does not answer after all attempts, SettingsError for a refusal or an answer
        without scores.
        """
        files = [base64.b64encode(encode(image, "PNG")).decode("ascii") for image in to_pil(images)]
        answer = self._ask(json.dumps({"prompts": list(prompts), "images": files}).encode())
        try:
            scores = json.loads(answer)["scores"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SettingsError(
                f'{self.url} answers without scores: it must return {{"scores": [...]}}, a number an image.'
            ) from None
        return _numbers(scores, self.url)

    def _ask(self, body: bytes) -> bytes:
        """Return the answer to a question; see `__call__`."""
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        said = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(self.pause * 2 ** (attempt - 1), 16 * self.pause))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return answer.read(LONGEST)
            except urllib.error.HTTPError as error:
                said = f"{error.code} {error.reason}"
                if error.code not in AGAIN and error.code < 500:
                    raise SettingsError(
                        f"{self.url} refuses images ({said}): check the address, and that it takes a POST."
                    ) from None
            except OSError as error:  # a broken connection, a timeout, no such host
                said = str(getattr(error, "reason", "") or error or type(error).__name__)
        raise BusyError(
            f"{self.url} does not answer ({said}), tried {self.retries + 1} times: start it, then continue "
            "with --resume."
        )


def _from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "of a name that ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _numbers(scores: Any, whose: str) -> Tensor:
    """Return scores as float32. Raises SettingsError for anything but a row of numbers."""
    try:
        return torch.as_tensor(scores, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise SettingsError(
            f"{whose} returned {str(scores)[:80]} instead of scores: return a number for each image."
        ) from None
