"""Captioning models behind one type of function: pictures in, a text for each out.

`transformers_captioner` runs a vision-language model here; `endpoint_captioner` asks a server that speaks
OpenAI's chat completions, such as vLLM, SGLang, llama.cpp, or a paid one. Any other function of the type does
as well. Needs the extra [caption].
"""

from __future__ import annotations

import base64
import io
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from sanakit.errors import (
    BusyError,
    MissingExtraError,
    ModelNotFoundError,
    SanaError,
    SettingsError,
    WeightsError,
)

Captioner = Callable[[list[Image.Image]], list[str]]
"""Called with RGB pictures; gives a text for each, "" where it has none."""

PROMPT = (
    "Describe this picture for somebody who will draw it: the subject first, then its parts, colours, "
    "position, background and style. Two sentences, only what can be seen."
)
MAX_TOKENS = 160  # of an answer
LONGEST_SIDE = 1024  # pixels of what a model gets; servers scale more down, and are paid for it
QUALITY = 90  # of the JPEG that is sent
RETRIES = 6  # with 0.5 s between the first two, then twice that, up to 8 s, or what the server asks for


def transformers_captioner(
    model: str | os.PathLike[str],
    prompt: str = PROMPT,
    *,
    max_tokens: int = MAX_TOKENS,
    device: str = "auto",
    dtype: str = "auto",
) -> Captioner:
    """Load a vision-language model of transformers' AutoModelForImageTextToText, and caption with it.

    model: folder, or a repository of the Hub.   max_tokens: of an answer.   dtype: a torch name such as
    "bfloat16"; "auto": as it is stored. Answers are greedy: the same picture gives the same text.
    Raises MissingExtraError, ModelNotFoundError, and WeightsError for a model that can not be loaded or that
    has no chat template.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "caption") from None
    import torch

    from sanakit.pipelines.memory import choose_device

    place = os.fspath(model)
    where = choose_device(device)
    try:
        processor: Any = transformers.AutoProcessor.from_pretrained(place)
        network: Any = transformers.AutoModelForImageTextToText.from_pretrained(place, dtype=dtype)
    except OSError as error:  # transformers' kind for whatever is not there
        raise ModelNotFoundError(
            f"{place} is no captioning model that transformers finds: {_first_line(error)} Give a folder, or "
            "a repository of the Hub such as HuggingFaceTB/SmolVLM-256M-Instruct."
        ) from None
    except (ValueError, KeyError, ImportError, RuntimeError) as error:
        raise WeightsError(
            f"{place} can not be loaded as a vision-language model: {_first_line(error)} It has to be one of "
            "transformers' image-text-to-text models."
        ) from None
    if not getattr(processor, "chat_template", None):
        raise WeightsError(
            f"{place} has no chat template, so it can not be asked anything: take an instruction-tuned model."
        )
    network = network.to(where).eval()
    processor.tokenizer.padding_side = "left"  # so that all answers of a batch begin at the same place
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    question = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )

    def caption(images: list[Image.Image]) -> list[str]:
        inputs = processor(
            text=[question] * len(images),
            images=[[image] for image in images],
            padding=True,
            return_tensors="pt",
        ).to(where, network.dtype)
        with torch.inference_mode():
            tokens = network.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        return [_plain(text) for text in processor.batch_decode(answers, skip_special_tokens=True)]

    return caption


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
    """Caption by a server with OpenAI's /chat/completions.

    url: up to and with /v1.   model: the server's name for it.   key: None where the server asks for none.
    concurrency: questions that are open at once.   timeout: seconds for one answer.   retries: after 408,
    409, 429, a server's error, a timeout or a broken connection, with growing pauses.
    A picture that the server refuses gets "", with a warning that says why. Whatever else it refuses raises:
    SettingsError (key, question), ModelNotFoundError (model, address), BusyError (no answer after retries).
    """
    try:
        import openai
    except ImportError:
        raise MissingExtraError("openai", "caption") from None
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"The endpoint {url!r} is no address: it looks like http://localhost:8000/v1.")
    if concurrency < 1:
        raise SettingsError(f"{concurrency} questions at once is not possible: take at least 1.")
    # A server without keys still gets a word: the client wants one, and would look for it in the environment.
    client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout, max_retries=retries)

    def ask(image: Image.Image) -> str:
        picture = {"type": "image_url", "image_url": {"url": _data_url(image)}}
        messages: Any = [{"role": "user", "content": [picture, {"type": "text", "text": prompt}]}]
        try:
            answer = client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens)
        except openai.APIStatusError as error:
            said = _first_line(error).replace(key, "***") if key else _first_line(error)
            if error.status_code in (400, 413, 422):
                warnings.warn(f"{url} refused a picture: {said}", stacklevel=2)
                return ""
            raise _refusal(url, model, error.status_code, said, retries) from None
        except openai.APIConnectionError as error:  # a timeout too
            raise BusyError(
                f"{url} does not answer: {_first_line(error)} Tried {retries + 1} times. What is done is "
                "kept; the same command goes on."
            ) from None
        choices = answer.choices or []  # some servers answer an error with status 200 and without choices
        return _plain(choices[0].message.content or "") if choices else ""

    def caption(images: list[Image.Image]) -> list[str]:
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            asked = [pool.submit(ask, image) for image in images]
            try:
                return [one.result() for one in asked]
            finally:  # after a refusal that is for all, the others are not asked any more
                pool.shutdown(wait=False, cancel_futures=True)

    return caption


def _refusal(url: str, model: str, status: int, said: str, retries: int) -> SanaError:
    """The error for a server's no that is not about one picture."""
    if status in (401, 403):
        return SettingsError(f"{url} refuses the key ({status}): {said} Give its key with --key.")
    if status == 404:
        return ModelNotFoundError(
            f"{url} has no model {model!r}, or no chat completions at this address (404): {said} The address "
            "usually ends in /v1."
        )
    if status in (408, 409, 429) or status >= 500:
        return BusyError(
            f"{url} answers with {status}, {retries + 1} times: {said} What is done is kept; the same "
            "command goes on."
        )
    return SettingsError(f"{url} does not take the question ({status}): {said}")


def _data_url(image: Image.Image) -> str:
    """A picture as a JPEG within an address, scaled down to LONGEST_SIDE."""
    image = image.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def _plain(text: str) -> str:
    """One line without spaces around it: captions are lines of text files elsewhere."""
    return " ".join(text.split())


def _first_line(error: Exception) -> str:
    """The beginning of what a library says, as a sentence."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(". ")
    return f"{line}."
