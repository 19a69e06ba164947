"""Judges that answer a question about a picture with yes or no: a local vision-language model, or a server.

Neither is the judge of a published benchmark; say which one it was when you quote a figure.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

from PIL import Image

from sanakit.errors import MissingExtraError, ModelNotFoundError, SettingsError, WeightsError
from sanakit.eval.dpg import Ask
from sanakit.weights.hub import fetch_files

PATTERNS = ("*.json", "*.safetensors")  # of a model's folder, chat template included
INSTRUCTION = "{question} Answer with one word, yes or no."
TOKENS = 8  # of an answer
TIMEOUT = 120  # seconds for an answer
_YES = re.compile(r"\W*yes\b", re.I)


def is_yes(answer: str) -> bool:
    """Whether an answer begins with yes; anything else, silence too, is a no.

    >>> is_yes(" Yes, there is."), is_yes("no"), is_yes("yesterday")
    (True, False, False)
    """
    return _YES.match(answer) is not None


def transformers_judge(place: str | Path, device: str = "cpu") -> Ask:
    """Load a vision-language model of transformers (image-text-to-text, with a chat template).

    place: folder or Hub repository. Raises MissingExtraError, ModelNotFoundError, WeightsError.
    """
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError:
        raise MissingExtraError("transformers", "eval") from None
    import torch

    folder = fetch_files(str(place), PATTERNS)
    try:
        processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        network: Any = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, dtype="auto"
        )
    except Exception as error:  # transformers raises whatever comes
        raise WeightsError(
            f"{folder} is no vision-language model that transformers loads ({error})."
        ) from error
    if not getattr(processor, "chat_template", None):
        raise WeightsError(f"{folder} has no chat template: take a model that was trained to answer.")
    network = network.eval().requires_grad_(False).to(device)

    def ask(image: Image.Image, question: str) -> bool:
        content = [{"type": "image"}, {"type": "text", "text": INSTRUCTION.format(question=question)}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(text=[text], images=[[image]], return_tensors="pt").to(device, network.dtype)
        with torch.inference_mode():
            tokens = network.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        (answer,) = processor.batch_decode(
            tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return is_yes(answer)

    return ask


def endpoint_judge(url: str, model: str, key: str | None = None) -> Ask:
    """Ask a server that speaks OpenAI's chat completions.

    url: such as http://localhost:8000/v1.   model: its name there.   key: None: OPENAI_API_KEY, if it is set.
    Raises MissingExtraError, SettingsError; the function raises ModelNotFoundError when nobody answers.
    """
    try:
        import openai
    except ImportError:
        raise MissingExtraError("openai", "eval") from None
    import os

    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"{url!r} is no address of a server: write it as http://localhost:8000/v1.")
    client = openai.OpenAI(
        base_url=url,
        api_key=key or os.environ.get("OPENAI_API_KEY") or "none",
        timeout=TIMEOUT,
        max_retries=4,
    )

    def ask(image: Image.Image, question: str) -> bool:
        file = io.BytesIO()
        image.save(file, "PNG")
        picture = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": INSTRUCTION.format(question=question)},
        ]
        messages: Any = [{"role": "user", "content": content}]
        try:
            answer = client.chat.completions.create(
                model=model, messages=messages, max_tokens=TOKENS, temperature=0
            )
        except openai.OpenAIError as error:
            raise ModelNotFoundError(
                f"{url} did not answer for the model {model!r} ({' '.join(str(error).split())[:200]}): check "
                "the address, the name and the key; what was answered before is kept."
            ) from None
        return is_yes((answer.choices[0].message.content or "") if answer.choices else "")

    return ask
