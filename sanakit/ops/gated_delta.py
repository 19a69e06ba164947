"""Gated delta attention in steps of frames: the tokens of a frame read and change one state together.

M_t = g_t M_(t-1) + K_t^T D_t (V_t - K_t g_t M_(t-1));   out_t = Q_t (M_t + N_t)                  (SANA-WM)
K_t, V_t, Q_t: rows for the tokens of frame t; D_t = diag(beta_t); g_t: how much of the old state is kept. N_t
is the same from the other end: of the later frames of t's chunk, without t itself. The delta rule of Gated
DeltaNet (arXiv:2412.06464) has a token where this has a frame; for frames of one token both are equal.

With A_t = K_t^T D_t K_t and U_t = K_t^T D_t V_t the step is M_t = g_t (I - A_t) M_(t-1) + U_t. So three forms
give one result:
- recurrent: `recurrent_gated_delta`, step after step as defined. The others are held to it.
- parallel: `gated_delta`. A and U of all frames at once, for both directions; then a scan of small matrices.
- chunked: `gated_delta` chunk after chunk, each with the state that the one before returned.
Everything is computed in float32, or in float64 where the input is.
Kernel: native/gated_delta.cpp, the parallel form, and the recurrent one for values of one channel, where
products of keys would cost most; plain twin: torch's matrix products. Least work per frame and head, in
operations: S d^2 for the symmetric A, 4 S d e for U and results, 4 d^2 e for steps in both directions.
Shapes: B batch, T frames, S tokens of a frame, h heads, d width of queries and keys, e width of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import CDLL
from typing import NamedTuple

import torch
from torch import Tensor

from sanakit.ops import native


class DeltaProducts(NamedTuple):
    """Sums over the tokens of each frame: all that a step needs of them, alike in both directions."""

    keys: Tensor  # A, B T h d d
    values: Tensor  # U, B T h d e


def gated_delta(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    decay: Tensor,
    *,
    state: Tensor | None = None,
    chunks: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend to the frames before and, inside a chunk, to those after; the parallel form.

    query, key: B T S h d. value: B T S h e. beta: B T S h, in [0, 1]. decay: B T h, in [0, 1], 1 keeps all.
    state: B h d e, of earlier frames; None: there are none. chunks: how many frames each chunk has, T in all;
    None: one chunk, in which all frames see each other. With chunks of one frame nothing looks ahead.
    Returns the result, B T S h e, not rounded, and the state behind the last frame, B h d e.
    A step is bounded where beta times the squared norms of a frame's keys sum up to no more than 2.
    """
    chunks = [query.shape[1]] if chunks is None else chunks
    with torch.autocast(query.device.type, enabled=False):
        query, key, value, beta, decay = map(wide, (query, key, value, beta, decay))
        library = native.kernels(query, key, value, beta, decay, state)
        if library is not None and _fit(query, key, value, beta, decay, state, chunks):
            return _kernel(library, query, key, value, beta, decay, state, chunks)
        products = delta_products(key, value, beta)
        states = _scan(products, decay, state)
        last = states[:, -1].clone()  # alone in its memory: callers keep it
        states = states + _later(products, decay, chunks)
        return (query.transpose(2, 3) @ states).transpose(2, 3), last


def delta_products(key: Tensor, value: Tensor, beta: Tensor) -> DeltaProducts:
    """Return A and U of each frame; arguments as for `gated_delta`."""
    weighted = (key * beta[..., None]).permute(0, 1, 3, 4, 2)  # B T h d S
    return DeltaProducts(weighted @ key.transpose(2, 3), weighted @ value.transpose(2, 3))


def recurrent_gated_delta(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    decay: Tensor,
    *,
    state: Tensor | None = None,
    chunks: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Do as `gated_delta` does, step after step: the definition in code."""
    with torch.autocast(query.device.type, enabled=False):
        query, key, value, beta, decay = map(wide, (query, key, value, beta, decay))
        batch, frames, _, heads, width = query.shape
        none = query.new_zeros(batch, heads, width, value.shape[-1])

        def step(old: Tensor, t: int) -> Tensor:  # B h d e
            keys, kept = key[:, t].transpose(1, 2), decay[:, t, :, None, None] * old  # B h S d, B h d e
            change = beta[:, t].transpose(1, 2)[..., None] * (value[:, t].transpose(1, 2) - keys @ kept)
            return kept + keys.transpose(-1, -2) @ change

        state = none if state is None else state
        ahead = []
        for t in range(frames):
            state = step(state, t)
            ahead.append(state)
        back, end = [none] * frames, frames
        for count in reversed(chunks or [frames]):
            for t in range(end - 2, end - count - 1, -1):
                back[t] = step(back[t + 1], t + 1)
            end -= count
        outs = [query[:, t].transpose(1, 2) @ (ahead[t] + back[t]) for t in range(frames)]
        return torch.stack(outs, dim=1).transpose(2, 3), state


def _fit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    decay: Tensor,
    state: Tensor | None,
    chunks: Sequence[int],
) -> bool:
    """Return whether these have the shapes that the kernel believes them to have, and contiguous rows."""
    if query.ndim != 5 or value.ndim != 5:
        return False
    batch, frames, tokens, heads, width = query.shape
    rows = (batch, frames, tokens, heads)
    shapes = key.shape == query.shape and value.shape[:4] == beta.shape == rows
    shapes = shapes and decay.shape == (batch, frames, heads)
    kept = state is None or state.shape == (batch, heads, width, value.shape[4])
    whole = min(chunks, default=0) > 0 and sum(chunks) == frames
    return shapes and kept and whole and query.stride(4) == key.stride(4) == value.stride(4) == 1


def _kernel(
    library: CDLL,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    decay: Tensor,
    state: Tensor | None,
    chunks: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return what `gated_delta` does, by the compiled kernel."""
    batch, frames, tokens, heads, width = query.shape
    values = value.shape[4]
    y, last = query.new_empty(value.shape), query.new_empty(batch, heads, width, values)
    lengths = torch.tensor(list(chunks), dtype=torch.int64, device="cpu")
    beta, decay = beta.contiguous(), decay.contiguous()
    state = None if state is None else state.contiguous()
    views = [number for x in (query, key, value) for number in (native.address(x), *x.stride()[:4])]
    status = library.sana_gated_delta(
        *views,
        *(native.address(beta), native.address(decay), native.address(state)),
        *(native.address(lengths), len(chunks)),
        *(batch, frames, tokens, heads, width, values, native.address(y), native.address(last)),
        native.threads(6 * y.numel() * width),
    )
    native.check(status)
    return y, last


def _scan(products: DeltaProducts, decay: Tensor, state: Tensor | None) -> Tensor:
    """Return the states behind all frames, from the first to the last: B T h d e."""
    states = []
    for number in range(decay.shape[1]):
        state = _step(products, decay, number, state)
        states.append(state)
    return torch.stack(states, dim=1)


def _later(products: DeltaProducts, decay: Tensor, chunks: Sequence[int]) -> Tensor:
    """Return, for each frame, the state of the later frames of its chunk: B T h d e."""
    none, states = torch.zeros_like(products.values[:, 0]), []
    end = decay.shape[1]
    for count in reversed(chunks):
        state = None
        states.append(none)
        for number in range(end - 1, end - count, -1):
            state = _step(products, decay, number, state)
            states.append(state)
        end -= count
    return torch.stack(states[::-1], dim=1)


def _step(products: DeltaProducts, decay: Tensor, number: int, state: Tensor | None) -> Tensor:
    """Return the state with one more frame, B h d e."""
    values = products.values[:, number]
    if state is None:
        return values
    kept = decay[:, number, :, None, None] * state
    return kept - products.keys[:, number] @ kept + values


def wide(x: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is in float64: what sums over frames are computed in."""
    return x if x.dtype == torch.float64 else x.float()
