"""Depth pruning: the blocks that change their tokens least are left out (SANA-1.5).

A block's importance is 1 - cosine(tokens before it, tokens after it), averaged over tokens, prompts and
noise levels: 0 for a block that does nothing. The most important blocks are kept in their order, with all
that is not a block. Removed blocks still had a small effect; a short fine-tuning makes up for it, by images
or with the whole transformer as the teacher (`teacher_of`).

Source: SANA-1.5 (arXiv:2501.18427): 60 blocks to 40, 30 or 20, some 100 steps of recovery.
Shapes: B batch, C H W latents, N tokens, D width, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.flow.path import interpolate
from sanakit.models.sana import Sana
from sanakit.text.encoder import TextEncoder
from sanakit.train.distill.depth import Teacher
from sanakit.train.objectives.velocity import VelocityObjective

Arguments = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Arguments of `Sana.forward`: noisy latents B C H W, times B, text B L E, mask B L."""

CALIBRATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)  # 1 is pure noise


@torch.no_grad()
def block_importance(transformer: Sana, batches: Iterable[Arguments]) -> Tensor:
    """Measure how much each block changes its tokens: depth values in [0, 2], float64, on the CPU.

    batches: the device to run it on; noise levels from nearly clean to nearly pure noise and prompts like
    those it will meet, empty ones among them. Every token counts the same.
    Raises SettingsError if there are no batches.
    """
    sums = torch.zeros(transformer.config.depth, dtype=torch.float64)
    counts = torch.zeros_like(sums)

    def watch(number: int, block: nn.Module):
        def compare(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            likeness = F.cosine_similarity(given[0].double(), result.double(), dim=-1)  # B N
            sums[number] += likeness.sum().cpu()
            counts[number] += likeness.numel()

        return block.register_forward_hook(compare)

    hooks = [watch(number, block) for number, block in enumerate(transformer.blocks)]
    try:
        for arguments in batches:
            transformer(*arguments)
    finally:
        for hook in hooks:
            hook.remove()
    if not counts.all():
        raise SettingsError("Importance cannot be measured without batches: pass at least one.")
    return 1 - sums / counts


@torch.no_grad()
def calibration(objective: VelocityObjective, count: int = 64) -> Iterator[Arguments]:
    """Yield what `block_importance` needs: watched samples at several noise levels, always the same.

    count: how many of the first that the objective watches, at most; every eighth of them without its
    caption. Raises SettingsError for an objective that watches none.
    """
    if not objective.watched:
        raise SettingsError(
            "Importance cannot be measured without samples: set samples to watch in the objective."
        )
    watched = objective.watched[0]
    latents = watched.latents[:count].to(objective.device)
    yield from noised(latents, watched.captions[:count], objective.encoder)


@torch.no_grad()
def noised(latents: Tensor, captions: Sequence[str], encoder: TextEncoder) -> Iterator[Arguments]:
    """Yield latents B C H W at several noise levels with their captions, every eighth one without."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32).to(latents)
    text, mask = encoder.encode_tokens(encoder.tokenize(captions, notes=[]))
    mask[::8, 1:] = False
    for time in CALIBRATION_TIMES:
        t = torch.full((len(latents),), time, device=latents.device, dtype=torch.float32)
        yield interpolate(latents, noise, t), t, text, mask


def kept_blocks(importance: Tensor | Sequence[float], depth: int) -> list[int]:
    """Return the numbers of the `depth` most important blocks, ascending; ties go to the first.

    Raises SettingsError for a depth below 1 or above the number of blocks.
    """
    values = torch.as_tensor(importance, dtype=torch.float32)
    if not 1 <= depth <= len(values):
        raise SettingsError(f"{len(values)} blocks cannot be pruned to {depth}: choose 1 to {len(values)}.")
    return sorted(values.argsort(descending=True, stable=True)[:depth].tolist())


def prune(transformer: Sana, importance: Tensor | Sequence[float], depth: int) -> Sana:
    """Return a transformer of the `depth` most important blocks, in their order; it shares no memory with it.

    importance: one value a block, as from `block_importance`.
    Raises SettingsError for a depth out of range or values that are not one a block.
    """
    if len(importance) != transformer.config.depth:
        raise SettingsError(
            f"{len(importance)} values of importance came for {transformer.config.depth} blocks: pass one "
            "per block."
        )
    numbers = {old: new for new, old in enumerate(kept_blocks(importance, depth))}
    state = {}
    for name, tensor in transformer.state_dict().items():
        kind, number, *rest = name.split(".", 2)
        if kind != "blocks":
            state[name] = tensor
        elif int(number) in numbers:
            state[".".join([kind, str(numbers[int(number)]), *rest])] = tensor
    like = next(transformer.parameters())
    pruned = Sana(replace(transformer.config, depth=depth)).to(like.device, like.dtype)
    pruned.load_state_dict(state)
    return pruned.train(transformer.training)


def teacher_of(transformer: Sana, importance: Tensor | Sequence[float], depth: int) -> Teacher:
    """Make a transformer the teacher of what `prune` makes of it with the same arguments.

    Each block that is kept answers for those that are left out behind it too: it is to give the tokens that
    the next one was fed with. Raises SettingsError for a depth out of range.
    """
    kept = kept_blocks(importance, depth)
    return Teacher(transformer, [*(number - 1 for number in kept[1:]), transformer.config.depth - 1])
