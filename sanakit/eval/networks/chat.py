"""Vision-language models that answer questions about images: a local one of transformers, or a server's.

Judges (`eval.vqa`) and captioners (`data.captioner`) are made of these. No other file asks such a model.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from PIL import Image

from sanakit.errors import (
    BusyError,
    DataError,
    MissingExtraError,
    ModelNotFoundError,
    SanaError,
    SettingsError,
    WeightsError,
)
from sanakit.images.image import encode
from sanakit.weights.find.hub import fetch_files

LocalChat = Callable[[Sequence[Image.Image], str], list[str]]
"""Called with RGB images and one question about each of them; gives an answer for each."""
Chat = Callable[[Image.Image, str], str]
"""Called with an RGB image and a question about it."""

PATTERNS = ("*.j[is]*", "*.safetensors")  # of a model's folder: .json, and .jinja, its chat template
RETRIES = 6  # with 0.5 s between the first two, then twice that, up to 8 s, or what the server asks for
QUALITY = 90  # of a JPEG that is sent
KEPT = "Finished work is kept; the same command continues."


def local_chat(
    place: str | os.PathLike[str], *, extra: str, max_tokens: int, device: str = "auto", dtype: str = "auto"
) -> LocalChat:
    """Load a vision-language model of transformers' AutoModelForImageTextToText.

    place: folder, or a repository of the Hub.   extra: that brings transformers to who asks.   max_tokens: of
    an answer.   dtype: a torch name such as "bfloat16"; "auto": as it is stored. Answers are greedy: the same
    image gives the same text.
    Raises MissingExtraError, ModelNotFoundError, and WeightsError for a model that cannot be loaded or that
    has no chat template.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", extra) from None
    import torch

    from sanakit.pipelines.memory import choose_device

    where = choose_device(device)
    folder = fetch_files(os.fspath(place), PATTERNS)
    try:
        processor: Any = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        network: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, dtype=dtype
        )
    except Exception as error:  # transformers raises whatever comes
        raise WeightsError(
            f"{place} is not a vision-language model of transformers: {_first_line(error)} Choose one of "
            "its image-text-to-text models, such as HuggingFaceTB/SmolVLM-256M-Instruct."
        ) from error
    if not getattr(processor, "chat_template", None):
        raise WeightsError(
            f"{place} has no chat template, so it cannot answer questions: use an instruction-tuned model."
        )
    network = network.eval().requires_grad_(False).to(where)
    processor.tokenizer.padding_side = "left"  # so that all answers of a batch begin at the same place

    def ask(images: Sequence[Image.Image], question: str) -> list[str]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        asked = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(
            text=[asked] * len(images),
            images=[[image] for image in images],
            padding=True,
            return_tensors="pt",
        ).to(where, network.dtype)
        with torch.inference_mode():
            tokens = network.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        return processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask


def endpoint_chat(
    url: str,
    model: str,
    key: str | None = None,
    *,
    extra: str,
    settings: Mapping[str, Any],
    file_format: Literal["PNG", "JPEG"],
    timeout: float = 120.0,
    retries: int = RETRIES,
) -> Chat:
    """Ask a server with OpenAI's /chat/completions, from as many threads as you like.

    url: up to and with /v1.   model: the server's name for it.   key: None where the server asks for none.
    extra: that brings openai to who asks.   settings: of an answer, in the interface's own words, such as
    max_tokens.   file_format: in which images are sent.   timeout: seconds for one answer.   retries: after
    408, 409, 429, a server's error, a timeout or a broken connection, with growing pauses.
    Raises MissingExtraError and SettingsError. The function raises DataError for an image that the server
    refuses, SettingsError (key, question), ModelNotFoundError (model, address) and BusyError (no answer after
    retries); an answer without words is "".
    """
    try:
        import openai
    except ImportError:
        raise MissingExtraError("openai", extra) from None
    if not url.startswith(("http://", "https://")):
        raise SettingsError(
            f"The endpoint {url!r} is not an address: it looks like http://localhost:8000/v1."
        )
    # A server without keys still gets a word: the client wants one, and would look for it in the environment.
    client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout, max_retries=retries)

    def ask(image: Image.Image, question: str) -> str:
        file = base64.b64encode(encode(image, file_format, quality=QUALITY)).decode("ascii")
        picture = {"url": f"data:image/{file_format.lower()};base64,{file}"}
        content = [{"type": "image_url", "image_url": picture}, {"type": "text", "text": question}]
        messages: Any = [{"role": "user", "content": content}]
        try:
            answer = client.chat.completions.create(model=model, messages=messages, **settings)
        except openai.APIStatusError as error:
            said = _first_line(error).replace(key, "***") if key else _first_line(error)
            raise _refusal(url, model, error.status_code, said, retries) from None
        except openai.APIConnectionError as error:  # a timeout too
            raise BusyError(
                f"{url} does not answer: {_first_line(error)} Tried {retries + 1} times. {KEPT}"
            ) from None
        choices = answer.choices or []  # some servers answer an error with status 200 and without choices
        return (choices[0].message.content or "") if choices else ""

    return ask


def _refusal(url: str, model: str, status: int, said: str, retries: int) -> SanaError:
    """Return the error for a server's refusal."""
    if status in (400, 413, 422):
        return DataError(f"{url} refused an image: {said}")
    if status in (401, 403):
        return SettingsError(
            f"{url} refuses the key ({status}): {said} Pass the key for captions with --key, for judges in "
            "OPENAI_API_KEY."
        )
    if status == 404:
        return ModelNotFoundError(
            f"{url} has no model {model!r}, or no chat completions at this address (404): {said} The address "
            "usually ends in /v1."
        )
    if status in (408, 409, 429) or status >= 500:
        return BusyError(f"{url} answers with {status}, {retries + 1} times: {said} {KEPT}")
    return SettingsError(f"{url} rejects the question ({status}): {said}")


def _first_line(error: Exception) -> str:
    """Return the first line of a library's message as a sentence."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(". ")
    return f"{line}."
