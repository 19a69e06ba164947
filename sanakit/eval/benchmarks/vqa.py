"""Judges that answer a question about an image with yes or no: a local vision-language model, or a server.

Neither is the judge of a published benchmark; say which one it was when you quote a figure.
"""

from __future__ import annotations

import os
import re

from sanakit.eval.benchmarks.dpg import Ask
from sanakit.eval.networks.chat import endpoint_chat, local_chat

INSTRUCTION = "{question} Answer with one word, yes or no."
TOKENS = 8  # of an answer
_YES = re.compile(r"\W*yes\b", re.I)


def is_yes(answer: str) -> bool:
    """Return whether an answer begins with yes; anything else, even an empty answer, is a no.

    >>> is_yes(" Yes, there is."), is_yes("no"), is_yes("yesterday")
    (True, False, False)
    """
    return _YES.match(answer) is not None


def transformers_judge(place: str | os.PathLike[str], device: str = "cpu") -> Ask:
    """Load a vision-language model of transformers; place and errors as in `chat.local_chat`."""
    ask = local_chat(place, extra="eval", max_tokens=TOKENS, device=device)
    return lambda image, question: is_yes(ask([image], INSTRUCTION.format(question=question))[0])


def endpoint_judge(url: str, model: str, key: str | None = None) -> Ask:
    """Ask a server that speaks OpenAI's chat completions.

    url: such as http://localhost:8000/v1.   model: its name there.   key: None: OPENAI_API_KEY, if it is set.
    Errors as in `chat.endpoint_chat`; an image that the server refuses is one, since it has no figure.
    """
    ask = endpoint_chat(
        url,
        model,
        key or os.environ.get("OPENAI_API_KEY"),
        extra="eval",
        settings={"max_tokens": TOKENS, "temperature": 0},
        file_format="PNG",
    )
    return lambda image, question: is_yes(ask(image, INSTRUCTION.format(question=question)))
