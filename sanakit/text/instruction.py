"""The complex human instruction that SANA puts before every prompt, and the token bookkeeping around it.

Source: SANA (arXiv:2410.10629, section 3.1) and diffusers 0.42, SanaPipeline: the text is prompt data of the
published models and must be reproduced byte for byte to get the published features. (NVIDIA's own repository
writes "Enhanced prompt" in double quotes, see `text/native.py`; diffusers, the default, in single ones.)

With N tokens in the instruction (BOS included) and room for M = 300 features, the published pipeline cuts
instruction + prompt at N + M - 2 tokens and keeps the hidden states of positions 0 and N-1, N, ...: the BOS
and the prompt, whose first token holds the space that ends the instruction. A negative prompt stands alone,
cut at M."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Tokenizer

from sanakit.errors import SettingsError

COMPLEX_HUMAN_INSTRUCTION = "\n".join(
    [
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions "
        "suitable for image generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and "
        "spatial relationships to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without "
        "overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round "
        "shape, sleeping peacefully on a warm sunny windowsill, surrounded by pots of blooming red "
        "flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring "
        "glowing street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus "
        "passing by towering glass skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any "
        "additional commentary or evaluations:",
        "User Prompt: ",
    ]
)

WORD_START = "▁"  # what Gemma's tokenizer writes for a space; it only ever begins a token


def clean_prompt(prompt: str, told: list[str] | None = None) -> str:
    """Return the prompt as the published pipeline tokenises it: lower case, no white space around it.

    told: unused. Raises SettingsError if it is not a string that UTF-8 can write.
    """
    if not isinstance(prompt, str):
        raise SettingsError(f"A prompt is a text (str), not {type(prompt).__name__}.")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise SettingsError(
            "The prompt holds half a surrogate pair, which is not text: type it again."
        ) from None
    return prompt.lower().strip()


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """A text's window: the prefix that all texts share, the tokens kept as features, and the limit.

    A text's tokens are prefix + tail. Features are kept of position 0 and from position `first_kept` on.
    """

    text: str  # the instruction, or ""
    prefix: tuple[int, ...]  # ids that begin every text, BOS first; their keys and values are computed once
    first_kept: int  # >= len(prefix)
    limit: int  # most tokens of a text, prefix included
    clean: Callable[[str, list[str]], str] = clean_prompt  # what is typed to what is tokenised

    def tail(self, tokenizer: Tokenizer, prompt: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a prompt from the prefix to the limit, and the ids that were cut off.

        prompt: as `clean` gives it.
        Raises SettingsError if the prompt changes the prefix, which it never does with Gemma's vocabulary.
        """
        ids = tokenizer.encode(self.text + prompt).ids
        start = len(self.prefix)
        if tuple(ids[:start]) != self.prefix:
            raise SettingsError(
                "The prompt merges with the last word of the instruction: end the instruction with a space."
            )
        return ids[start : self.limit], ids[self.limit :]


def instruction_window(tokenizer: Tokenizer, instruction: str, max_tokens: int) -> TokenWindow:
    """Return the window of prompts after an instruction; "" means no instruction.

    max_tokens: M, features a prompt can have at most, at least 2; 300 in all published models.
    """
    if max_tokens < 2:
        raise SettingsError(f"max_tokens is {max_tokens}; a prompt needs at least 2.")
    encoded = tokenizer.encode(instruction)
    if not instruction:
        return TokenWindow("", tuple(encoded.ids), 1, max_tokens)
    count = len(encoded.ids)  # N
    # The instruction's last word may merge with the prompt's first; words before it cannot. In the published
    # instruction that last word is the single space at position N-1.
    shared = max((i for i in range(1, count) if encoded.tokens[i].startswith(WORD_START)), default=1)
    return TokenWindow(instruction, tuple(encoded.ids[:shared]), count - 1, count + max_tokens - 2)
