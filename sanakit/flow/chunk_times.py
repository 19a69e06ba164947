"""Random times for training on clips in chunks: a time for each chunk.

A model that draws chunk after chunk reads earlier chunks less noisy than the one it draws, or clean. In the
order "incremental" a sample's times therefore never fall from chunk to chunk; in "uniform" they are
independent. "last" is "incremental" whose logit-normal time is always the last chunk's, and "clean" has the
chunks before that one at time 0, as they are in drawing.
Source: LongSANA (arXiv:2509.24695), the sampler of its released training (diffusion/model/respace.py), whose
mixture for SANA-WM names the last two "last_chunk_anchor" and "teacher_forcing_clean".
Shapes: n samples, K chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.path import MODEL_TIME_SCALE, shift_times
from sanakit.flow.schedule import sample_training_times

ChunkOrder = Literal["incremental", "uniform", "last", "clean"]
ChunkWay = ChunkOrder | Literal["same"]  # one time in all chunks


def sample_chunk_times(
    n: int, chunks: int, shift: float, generator: torch.Generator, order: ChunkOrder = "incremental"
) -> Tensor:
    """Draw the times at which the chunks of a batch's clips are noised, float32 n K in [0, 1].

    "uniform": each as `sample_training_times` draws it. "incremental": one chunk, any of them, gets a
    logit-normal time; the others are uniform among all sequences of the 1,000 published steps, 0 to 999, that
    never fall and meet it there. "last", "clean": the last chunk gets it, the others as in "incremental", or
    0. shift: of all of them, > 0. generator: on the CPU.
    Raises SettingsError for another order, fewer than one sample or chunk, or a shift out of range.
    """
    if order not in get_args(ChunkOrder):
        raise SettingsError(f"order = {order!r}, but it must be one of {', '.join(get_args(ChunkOrder))}.")
    if chunks < 1:
        raise SettingsError(f"Times of {chunks} chunks were requested: request at least 1.")
    if order == "uniform":
        return sample_training_times(n * chunks, shift, generator).view(n, chunks)
    anchors = (sample_training_times(n, 1.0, generator) * MODEL_TIME_SCALE).long()
    anchors = anchors.clamp(max=MODEL_TIME_SCALE - 1).tolist()
    if order == "incremental":
        places = torch.randint(chunks, (n,), generator=generator).tolist()
    else:
        places = [chunks - 1] * n
    if order == "clean":
        times = torch.zeros(n, chunks, dtype=torch.float32)
        times[:, -1] = torch.tensor(anchors, dtype=torch.float32) / MODEL_TIME_SCALE
        return shift_times(times, shift)
    rows = [
        torch.cat(
            [
                _never_falling(place, 0, anchor, generator),
                torch.tensor([anchor]),
                _never_falling(chunks - 1 - place, anchor, MODEL_TIME_SCALE - 1, generator),
            ]
        )
        for anchor, place in zip(anchors, places, strict=True)
    ]
    return shift_times(torch.stack(rows).float() / MODEL_TIME_SCALE, shift)


def mix_chunk_times(
    which: Tensor,
    chunks: int,
    shift: float,
    generator: torch.Generator,
    ways: Iterable[tuple[ChunkWay, float]],
) -> Tensor:
    """Draw times of chunks in several ways, float32 n K; NaN where a sample is to have the same in all.

    which: n, uniform in [0, 1], which decides on the way of each sample. ways: each with its share, 1 in all;
    they draw one after the other, for all samples. Others and errors: as for `sample_chunk_times`.
    """
    used: list[tuple[ChunkWay, float]] = [(way, share) for way, share in ways if share > 0]
    ends = torch.tensor([share for _, share in used], dtype=torch.float64).cumsum(0)
    chosen = torch.searchsorted(ends, which.double(), right=True).clamp(max=len(used) - 1)
    times = torch.full((len(which), chunks), torch.nan, dtype=torch.float32)
    for number, (way, _) in enumerate(used):
        if way != "same":
            drawn = sample_chunk_times(len(which), chunks, shift, generator, way)
            times = torch.where((chosen == number)[:, None], drawn, times)
    return times


def _never_falling(count: int, least: int, most: int, generator: torch.Generator) -> Tensor:
    """Draw one of all sequences of so many whole numbers that never fall, all alike, within the two limits.

    Adding 0, 1, 2 ... makes it rise strictly: such sequences are the subsets of a longer range.
    """
    choices = most - least + count
    subset = torch.randperm(choices, generator=generator)[:count].sort().values
    return least + subset - torch.arange(count)
