"""Text as NVIDIA's own scripts read it: the dialect "native" of prompts, instruction and null prompt.

Prompts keep their capitals; what follows a flag such as --ar is cut off, then the white space around them.
A negative prompt stays as it is typed. The published instruction has double quotes where diffusers has single
ones. Prompts of clips have no flags, and the instruction for images stands before them, too. A null prompt is
padded to M tokens, and its padding is read as far as the prompt's mask reaches: it was trained so, with the
null prompt under each caption's own mask.
Source: NVlabs/Sana, app/sana_pipeline.py and `prepare_prompt_ar` in diffusion/model/utils.py (read in 2026).
Shapes: M features of a prompt at most, L of them real, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from tokenizers import Tokenizer
from torch import Tensor

from sanakit.dialect import Dialect
from sanakit.models.gemma2 import KVCache
from sanakit.text.instruction import (
    COMPLEX_HUMAN_INSTRUCTION,
    TokenWindow,
    clean_prompt,
    instruction_window,
)
from sanakit.text.video import VIDEO_INSTRUCTION

NATIVE_INSTRUCTION = COMPLEX_HUMAN_INSTRUCTION.replace("'Enhanced prompt'", '"Enhanced prompt"')
FLAGS = ("--aspect_ratio", "--ar", "--hw")
PAD = 0  # id of <pad> in Gemma's vocabulary


def script_prompt(prompt: str, told: list[str]) -> str:
    """Return a prompt as the scripts tokenise it. told: takes a sentence if a flag was cut off.

    Raises SettingsError if it is not a string that UTF-8 can write.
    >>> script_prompt(" A Red CAT --ar 3:4", [])
    'A Red CAT'
    """
    clean_prompt(prompt)  # for its errors
    kept = prompt
    for flag in FLAGS:
        kept = kept.split(flag)[0]
    if kept != prompt:
        told.append(
            f"{prompt[len(kept) :][:40]!r} was cut off the prompt, as NVIDIA's scripts do. It does not set "
            "the size: use width and height."
        )
    return kept.strip()


def script_video_prompt(prompt: str, told: list[str]) -> str:
    """Return a prompt of a clip as the scripts tokenise it. told: unused. Raises as `script_prompt`.

    >>> script_video_prompt(" A Red CAT --ar 3:4 ", [])
    'A Red CAT --ar 3:4'
    """
    clean_prompt(prompt)  # for its errors
    return prompt.strip()


def typed_text(prompt: str, told: list[str]) -> str:
    """Return a text as it is typed. told: unused. Raises as `script_prompt`.

    So the scripts tokenise negative prompts, and diffusers all texts of worlds.
    """
    clean_prompt(prompt)  # for its errors
    return prompt


def dialect_windows(
    tokenizer: Tokenizer, instruction: str, max_tokens: int
) -> dict[Dialect, tuple[TokenWindow, TokenWindow]]:
    """Return each dialect's windows of prompts and of negative prompts, as `instruction_window` does."""
    plain = instruction_window(tokenizer, "", max_tokens)
    usual = instruction_window(tokenizer, instruction, max_tokens)
    quoted, clean = usual, script_prompt
    if instruction == NATIVE_INSTRUCTION:  # of worlds, whose texts diffusers takes as they are typed, too
        usual, plain = (replace(window, clean=typed_text) for window in (usual, plain))
    if instruction in (COMPLEX_HUMAN_INSTRUCTION, VIDEO_INSTRUCTION):
        quoted = instruction_window(tokenizer, NATIVE_INSTRUCTION, max_tokens)
    if instruction == VIDEO_INSTRUCTION:
        clean = script_video_prompt
    native = (replace(quoted, clean=clean), replace(plain, clean=typed_text))
    return {"diffusers": (usual, plain), "native": native}


def padded(
    run: Callable[[Tensor, KVCache, bool], Tensor],
    first: Tensor,
    prefix: KVCache,
    tail: Sequence[int],
    max_tokens: int,
) -> Tensor:
    """Return the features of a negative prompt and of its padding to M tokens, M E.

    run: the language model, told whether the tokens are padding. first, prefix: the feature 1 1 E and the
    cache of BOS. tail: the ids of the prompt, fewer than M.
    Padding sees the prompt alone, neither itself nor other padding. After the empty prompt, which is BOS, its
    features are therefore all alike, and are computed once.
    """
    seen, rows = prefix.expand(1), [first]
    if tail:
        rows.append(run(torch.tensor([tail], device=first.device), seen, False))
    missing = max_tokens - 1 - len(tail)
    if missing:
        count = missing if tail else 1
        found = run(torch.full((1, count), PAD, dtype=torch.int64, device=first.device), seen, True)
        rows.append(found.expand(-1, missing, -1))
    return torch.cat(rows, dim=1)[0]
