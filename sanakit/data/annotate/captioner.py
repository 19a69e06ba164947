"""Captioning models as one type of function: images in, one text per image out.

`transformers_captioner` runs a vision-language model here; `endpoint_captioner` asks a server that speaks
OpenAI's chat completions, such as vLLM, SGLang, llama.cpp, or a paid one. Any other function of the type does
as well. Needs the extra [caption].
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from sanakit.errors import DataError, SettingsError
from sanakit.eval.networks.chat import PATTERNS, RETRIES, endpoint_chat, local_chat
from sanakit.weights.find.hub import fetch_files
from sanakit.weights.fingerprint import fingerprint_weights, told_apart

Captioner = Callable[[list[Image.Image]], list[str]]
"""Called with RGB images; gives a text for each, "" where it has none."""

PROMPT = (
    "Describe this picture for somebody who will draw it: the subject first, then its parts, colours, "
    "position, background and style. Two sentences, only what can be seen."
)
CLIP_PROMPT = (
    "The image shows frames of one clip in their order, row by row. Describe the clip for somebody who "
    "will film it: the subject first, then what moves and how, the place, the light, the camera and the "
    "style. Two sentences on the clip itself, not on the frames."
)
MAX_TOKENS = 160  # of an answer
LONGEST_SIDE = 1024  # pixels of what a model gets; servers scale more down, and are paid for it


def transformers_captioner(
    model: str | os.PathLike[str],
    prompt: str = PROMPT,
    *,
    max_tokens: int = MAX_TOKENS,
    device: str = "auto",
    dtype: str = "auto",
) -> Captioner:
    """Load a vision-language model of transformers, and caption with it.

    model, device, dtype, errors: as in `eval.chat.local_chat`.   max_tokens: of an answer.
    """
    ask = local_chat(model, extra="caption", max_tokens=max_tokens, device=device, dtype=dtype)
    return lambda images: [_plain(text) for text in ask(images, prompt)]


def captioner_name(
    model: str | os.PathLike[str], prompt: str = PROMPT, *, frames: int | None = None, remote: bool = False
) -> str:
    """Return the source of a model's captions: its name, and what else decides on them.

    That is which weights it has, what it is asked, and how many frames of a clip it is shown; None: images.
    remote: a server has it, and its name is all that is known. Raises ModelNotFoundError, or WeightsError for
    a folder without weights.
    """
    shown = () if frames is None else (f"{frames} frames",)
    if remote:
        return told_apart(model, *(() if prompt == PROMPT else (prompt,)), *shown)
    weights = fingerprint_weights(fetch_files(os.fspath(model), PATTERNS))
    return told_apart(model, str(weights), prompt, *shown)


def endpoint_captioner(
    url: str,
    model: str,
    key: str | None = None,
    *,
    prompt: str = PROMPT,
    max_tokens: int = MAX_TOKENS,
    concurrency: int = 8,
    timeout: float = 120.0,
    retries: int = RETRIES,
) -> Captioner:
    """Return a captioner that asks a server with OpenAI's /chat/completions.

    url, model, key, timeout, retries, errors: as in `eval.chat.endpoint_chat`.   concurrency: questions that
    are open at once. An image that the server refuses gets "", with a warning that says why.
    """
    if concurrency < 1:
        raise SettingsError(f"concurrency is {concurrency}: it must be at least 1.")
    chat = endpoint_chat(
        *(url, model, key),
        extra="caption",
        settings={"max_tokens": max_tokens},
        file_format="JPEG",
        timeout=timeout,
        retries=retries,
    )

    def ask(image: Image.Image) -> str:
        image = image.convert("RGB")
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        try:
            return _plain(chat(image, prompt))
        except DataError as refused:
            warnings.warn(str(refused), stacklevel=2)
            return ""

    def caption(images: list[Image.Image]) -> list[str]:
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            asked = [pool.submit(ask, image) for image in images]
            try:
                return [one.result() for one in asked]
            finally:  # after a refusal that is for all, the others are not asked any more
                pool.shutdown(wait=False, cancel_futures=True)

    return caption


def _plain(text: str) -> str:
    """Return the text as one line without surrounding spaces: text files hold one caption per line."""
    return " ".join(text.split())
