"""Checks of a call with a causal model, besides those of all calls for clips.

Such a model draws chunk after chunk. Each chunk may have its own prompt: "<split>" parts them in one text, as
in the released scripts. A distilled model has few fixed steps and no guidance.
Source: LongSANA (arXiv:2509.24695) and its released samplers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sanakit.dialect import Dialect
from sanakit.errors import SettingsError
from sanakit.flow.guidance_kinds import PLAIN
from sanakit.flow.solver import Solver
from sanakit.pipelines.video.chunks import ClipPoint
from sanakit.pipelines.video.streaming import LatentChunk, chunk_lengths
from sanakit.text.prompt_weights import WeightedText, read_all
from sanakit.text.video import with_motion
from sanakit.weights.video.settings import ChunkSettings
from sanakit.wording import counted

SPLIT = "<split>"  # between the prompts of chunks
FEW_STEP = "few-step"  # the solver's name, in the settings of a clip


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkPlan:
    """How the clips of a call are drawn in chunks.

    prompts: for each clip's prompt, that of each chunk; the last one is for all that follow. length: latent
    frames of a chunk. count: chunks to draw of each clip. after, start: the chunks of a clip that is gone on
    with, and the point behind them.
    """

    prompts: list[list[WeightedText]]
    length: int
    count: int
    after: tuple[LatentChunk, ...] = ()
    start: ClipPoint | None = None


def split_prompt(prompt: str) -> list[str]:
    """Return the prompts of a clip's chunks.

    >>> split_prompt("a fox <split> the fox jumps")
    ['a fox', 'the fox jumps']
    """
    parts = prompt.split(SPLIT)
    return parts if len(parts) == 1 else [part.strip() for part in parts]


def joined(prompt: str | Sequence[str]) -> str:
    """Return the prompts of a clip's chunks as one text. Raises SettingsError for none."""
    if isinstance(prompt, str):
        return prompt
    if not prompt or not all(isinstance(part, str) for part in prompt):
        raise SettingsError("The prompts of chunks must be a list of texts, one or more.")
    return f" {SPLIT} ".join(prompt)


def check_distilled(
    name: str,
    chunks: ChunkSettings,
    *,
    negative_prompt: str | Sequence[str] | None,
    guidance: float | None,
    guidance_kind: str | None,
    steps: int | None,
    solver: str | None,
) -> Solver:
    """Return the sampler of a distilled model. Raises SettingsError for settings that it has no use for."""
    assert chunks.times is not None
    negatives = [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or []
    if any(negatives):
        text = f"{name} is a distilled model, which takes no negative prompt: omit it."
        raise SettingsError(text, setting="negative_prompt")
    if guidance not in (None, 1) or guidance_kind not in (None, str(PLAIN)):
        text = f"{name} is a distilled model, drawn without guidance: omit it, or use 1."
        raise SettingsError(text, setting="guidance")
    if steps not in (None, len(chunks.times)):
        raise SettingsError(
            f"steps = {steps!r}, but {name} is distilled to {len(chunks.times)} steps: omit it.",
            setting="steps",
        )
    if solver not in (None, FEW_STEP):
        text = f'solver = {solver!r}, but {name} supports only "{FEW_STEP}": omit it.'
        raise SettingsError(text, setting="solver")
    return chunks.solver(chunks.times)


def check_chunks(
    chunks: ChunkSettings,
    prompts: Sequence[str],
    *,
    latents: int,
    motion: int,
    dialect: Dialect,
    guided: bool,
    prompt_weights: bool,
) -> ChunkPlan:
    """Return how clips are drawn in chunks.

    latents: frames of latents to draw. Raises SettingsError for more prompts than chunks.
    """
    count = len(chunk_lengths(latents, chunks.length))
    found = []
    for prompt in prompts:
        parts = split_prompt(prompt)
        if len(parts) > count:
            raise SettingsError(
                f"{len(parts)} prompts came for {counted(count, 'chunk')} of {chunks.length} latent frames: "
                f"pass at most {count}, or ask for more frames.",
                setting="prompt",
            )
        if len(parts) > 1 and guided and dialect == "native":
            raise SettingsError(
                "Guidance in the native dialect pads the negative prompt to one prompt's length: pass one "
                "prompt for all chunks, or use the dialect diffusers."
            )
        texts, _, _ = read_all(
            [with_motion(part, motion) for part in parts], [""] * len(parts), prompt_weights
        )
        found.append(texts)
    return ChunkPlan(prompts=found, length=chunks.length, count=count)
