"""SANA-WM's two kinds of self-attention, each with a branch that sees cameras (`blocks.N.attn`).

Three of four blocks have gated delta attention (`ops/gated_delta.py`), the fourth softmax attention. Both
have the same weights, but for the convolution of keys. The main branch knows positions, the camera branch
rays (`rays.py`); their sum is gated and projected.

Clips may come in chunks, as the configuration's variant says: frames of a chunk see each other and those
before. The past, as far as the next chunk needs it, is returned as `DeltaState` or `SoftmaxState`.
Shapes: B batch, T frames, S tokens of a frame, N = T*S, D width, h heads, d head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.models.layers import Linear, RMSNorm
from sanakit.models.video.sana_video_blocks import ClipGrid
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.delta import delta_attention, frame_gates
from sanakit.models.world.rays import Rays, growth
from sanakit.ops.gated_delta import gated_delta, wide
from sanakit.ops.rotary_linear_attention import rotated

_FLASH_WIDTHS = (32, 64, 128, 256)  # that the published softmax attention does not pad


class DeltaState(NamedTuple):
    """The past of gated delta attention; it does not grow."""

    products: Tensor  # of rotated keys and values, B h d d
    keys: Tensor  # of keys alone, for the denominator, B h d 1
    camera: Tensor | None  # of the camera branch, B h d d; None: no camera was given
    latest: Tensor  # frames of keys before their convolution, B n S D; n = taps - 1, or fewer at the start


class KeysValues(NamedTuple):
    """The keys and values of one chunk for softmax attention: B n h d each, positions and rays in them."""

    key: Tensor
    value: Tensor
    camera_key: Tensor | None
    camera_value: Tensor | None


SoftmaxState = tuple[KeysValues, ...]  # of the chunks that the next one sees
State = DeltaState | SoftmaxState


@dataclass(frozen=True, slots=True)
class WorldView:
    """The frames at hand, as all blocks see them."""

    grid: ClipGrid
    chunks: Sequence[int]  # frames of each, T in all
    rays: Rays | None = None  # None: no camera

    def for_batch(self, batch: int) -> WorldView:
        """Return the view of so many clips, a multiple of those that it is of."""
        return replace(self, rays=self.rays and self.rays.for_batch(batch))


class KeyConvolution(nn.Module):
    """A depthwise convolution over time, the same to both sides (`conv_k`, `conv_k_cam`).

    y_t = w_0 x_t + sum_j w_j (x_(t-j) + x_(t+j)); the file holds the taps from the farthest to w_0.
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, 1, taps))
        nn.init.ones_(self.weight[..., -1].detach())

    def forward(self, x: Tensor, chunks: Sequence[int], before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve frames, B T S D. before: the frames before them, B n S D; None: zeros.

        Frames see earlier ones of all chunks, later ones of their own. Returns also `before` of what follows.
        """
        taps = self.weight[:, 0].unbind(-1)
        reach, frames = len(taps) - 1, x.shape[1]
        past = x[:, :0] if before is None else before.to(x.dtype)
        longer = torch.cat([x.new_zeros(len(x), reach - past.shape[1], *x.shape[2:]), past, x], dim=1)
        out = x * taps[-1]
        for j in range(1, reach + 1):
            out = out + longer[:, reach - j : reach - j + frames] * taps[-1 - j]
            start = 0
            for count in chunks:
                if count > j:
                    out[:, start : start + count - j] += x[:, start + j : start + count] * taps[-1 - j]
                start += count
        return out, torch.cat([past, x], dim=1)[:, max(0, past.shape[1] + frames - reach) :].clone()


class WorldAttention(nn.Module, ABC):
    """The weights that both kinds have, and what both do with their two branches."""

    def __init__(self, config: SanaWMConfig) -> None:
        super().__init__()
        self.config = config
        width, heads = config.width, config.width // config.head_dim
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_norm, self.k_norm = RMSNorm(width), RMSNorm(width)
        self.beta_proj, self.gate_proj = Linear(width, heads), Linear(width, heads)
        self.A_log, self.dt_bias = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.zeros(heads))
        self.recall_gate = nn.Parameter(torch.zeros(1), requires_grad=False)  # in every file, used nowhere
        self.output_gate, self.proj = Linear(width, width), Linear(width, width)
        self.q_proj_cam, self.k_proj_cam = Linear(width, width), Linear(width, width)
        self.v_proj_cam, self.out_proj_cam = Linear(width, width), Linear(width, width)
        self.q_norm_cam, self.k_norm_cam = RMSNorm(width), RMSNorm(width)

    def forward(self, x: Tensor, view: WorldView, past: State | None) -> tuple[Tensor, State]:
        """B N D -> B N D, and the state with these frames."""
        main, camera, state = self.branches(x, view, past)
        if camera is not None:
            main = main + self.out_proj_cam(camera)
        return self.proj((main * F.silu(wide(self.output_gate(x)))).to(x.dtype)), state

    @torch.no_grad()
    def init_gates(self) -> None:
        """Set the published first values: gates that do next to nothing, a silent camera branch."""
        for layer, bias in ((self.beta_proj, 5.0), (self.gate_proj, 0.0), (self.output_gate, 1.27846)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)  # silu(1.27846) = 1
        nn.init.zeros_(self.A_log)
        nn.init.constant_(self.dt_bias, -5.0)
        cameras = (self.q_proj_cam, self.k_proj_cam, self.v_proj_cam)
        for layer, weight in zip(cameras, self.qkv.weight.chunk(3), strict=True):
            layer.weight.copy_(weight)
        nn.init.zeros_(self.out_proj_cam.weight)

    @abstractmethod
    def branches(self, x: Tensor, view: WorldView, past: State | None) -> tuple[Tensor, Tensor | None, State]:
        """Return what the main and the camera branch attend to, B N D each, and the state."""

    def _camera_heads(self, key: Tensor, x: Tensor) -> list[Tensor]:
        """Return queries, keys and values of the camera branch, B N h d each, in wide floats."""
        parts = self.q_norm_cam(self.q_proj_cam(x)), self.k_norm_cam(key), self.v_proj_cam(x)
        return [wide(self._heads(part)) for part in parts]

    def _heads(self, x: Tensor) -> Tensor:  # ... D -> ... h d
        return x.unflatten(-1, (-1, self.config.head_dim))


class DeltaAttention(WorldAttention):
    """Gated delta attention: a state of constant size instead of keys of the whole past."""

    def __init__(self, config: SanaWMConfig) -> None:
        super().__init__(config)
        self.conv_k = KeyConvolution(config.width, config.taps)
        self.conv_k_cam = KeyConvolution(config.width, config.taps)

    def branches(self, x: Tensor, view: WorldView, past: State | None) -> tuple[Tensor, Tensor | None, State]:
        """As for both kinds."""
        assert past is None or isinstance(past, DeltaState)
        frames, turns = (view.grid.frames, -1), view.grid.rotation.flatten(0, 1)
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        key, latest = self.conv_k(key.unflatten(1, frames), view.chunks, past.latest if past else None)
        scale = (self.config.head_dim * key.shape[2]) ** -0.5  # keeps a step bounded
        query = wide(self._heads(self.q_norm(query))).relu()
        key = wide(self._heads(self.k_norm(key.flatten(1, 2)))).relu() * scale
        value = wide(self._heads(value))
        beta, decay = self._gates(x.unflatten(1, frames))
        sums = (past.products, past.keys) if past else None
        main, products, keys = delta_attention(query, key, value, turns, beta, decay, view.chunks, sums)
        if view.rays is None:
            return main, None, DeltaState(products, keys, None, latest)
        camera_key = self._camera_key(self.k_proj_cam(x).unflatten(1, frames), view.chunks)
        query, key, value = self._camera_heads(camera_key.flatten(1, 2), x)
        query, key = query.relu(), key.relu() * scale
        seen = view.rays.key(key)
        longer = growth(key.unflatten(1, frames), seen.unflatten(1, frames))  # B T h
        parts = view.rays.query(query), seen, view.rays.key(value)
        query, key, value = (part.unflatten(1, frames) for part in parts)
        less, before = beta / longer.clamp(min=1.0)[:, :, None], past.camera if past else None
        camera, state = gated_delta(query, key, value, less, decay, state=before, chunks=view.chunks)
        camera = view.rays.result(camera.flatten(1, 2)).flatten(2).to(x.dtype)
        return main, camera, DeltaState(products, keys, state, latest)

    def _gates(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return beta, B T S h, and the decay, B T h, of frames, B T S D."""
        return frame_gates(frames, self.beta_proj, self.gate_proj, self.A_log, self.dt_bias)

    def _camera_key(self, key: Tensor, chunks: Sequence[int]) -> Tensor:
        """Convolve keys of the camera branch (B T S D): in streaming they see nothing of other chunks."""
        if self.config.variant != "streaming":
            return self.conv_k_cam(key, chunks, None)[0]
        parts = key.split(list(chunks), dim=1)
        return torch.cat([self.conv_k_cam(part, [part.shape[1]], None)[0] for part in parts], dim=1)


class SoftmaxAttention(WorldAttention):
    """Softmax attention; the gates of the other kind are in its file and have no effect."""

    def branches(self, x: Tensor, view: WorldView, past: State | None) -> tuple[Tensor, Tensor | None, State]:
        """As for both kinds."""
        assert not isinstance(past, DeltaState)
        turns, earlier = view.grid.rotation.flatten(0, 1), past or ()
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key = (wide(self._heads(part)) for part in (self.q_norm(query), self.k_norm(key)))
        query, key, value = rotated(query, turns), rotated(key, turns), wide(self._heads(value))
        mask, padded = self._mask(view), self._padded_scale()
        plain = self.config.variant == "bidirectional"
        main = self._attend(
            query,
            [*(one.key for one in earlier), key],
            [*(one.value for one in earlier), value],
            self.config.head_dim**-0.5 if plain else padded,
            mask,
        )
        if view.rays is None:
            return main.flatten(2), None, self._kept(earlier, KeysValues(key, value, None, None))
        camera_query, camera_key, camera_value = self._camera_heads(self.k_proj_cam(x), x)
        camera_key, camera_value = view.rays.key(camera_key), view.rays.key(camera_value)
        camera = self._attend(
            view.rays.query(camera_query),
            [*(one.camera_key for one in earlier if one.camera_key is not None), camera_key],
            [*(one.camera_value for one in earlier if one.camera_value is not None), camera_value],
            padded,
            mask,
        )
        camera = view.rays.result(camera).flatten(2).to(x.dtype)
        own = KeysValues(key, value, camera_key, camera_value)
        return main.flatten(2), camera, self._kept(earlier, own)

    def _attend(
        self, query: Tensor, keys: list[Tensor], values: list[Tensor], scale: float, mask: Tensor | None
    ) -> Tensor:
        """Return what queries (B N h d) see, B N h d in their dtype."""
        parts = [part.transpose(1, 2) for part in (query, torch.cat(keys, dim=1), torch.cat(values, dim=1))]
        if self.config.rounded and query.dtype == torch.float32:
            parts = [part.bfloat16() for part in parts]
            if query.requires_grad and query.device.type == "cpu":
                # On a CPU the backward pass of bf16 attention takes 9x the float32 one (torch 2.13, Zen 5).
                parts = [part.float() for part in parts]
        out = F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale)
        return out.transpose(1, 2).to(query.dtype)

    def _mask(self, view: WorldView) -> Tensor | None:
        """Return which tokens see which, N N, if the frames at hand are several chunks of a stream."""
        if self.config.variant != "streaming":
            return None
        return seen_tokens(view, self.config.sink_chunks, self.config.recent_chunks)

    def _kept(self, earlier: SoftmaxState, own: KeysValues) -> SoftmaxState:
        """Return what the next chunk sees of these."""
        # Values are a part of a product with queries and keys, whose memory would be kept as well.
        own = own._replace(value=own.value.contiguous())
        return kept_chunks((*earlier, own), self.config.sink_chunks, self.config.recent_chunks)

    def _padded_scale(self) -> float:
        """Return the scale of scores of the published code where it pads heads: that of the wider ones."""
        width = self.config.head_dim
        if width not in _FLASH_WIDTHS and width < _FLASH_WIDTHS[-1]:
            width = 128 if width <= 128 else 256
        return width**-0.5


def seen_tokens(view: WorldView, sink: int, recent: int) -> Tensor | None:
    """Return which tokens see which, N N, if the frames at hand are several chunks of a stream.

    sink: chunks at the start that all see. recent: chunks before its own that each sees.
    """
    if len(view.chunks) == 1:
        return None
    tokens = torch.tensor(list(view.chunks)) * view.grid.rotation.shape[1]
    chunk = torch.repeat_interleave(torch.arange(len(tokens)), tokens).to(view.grid.rotation.device)
    back = chunk[:, None] - chunk
    return (back >= 0) & ((back <= recent) | (chunk < sink))


def kept_chunks(chunks: SoftmaxState, sink: int, recent: int) -> SoftmaxState:
    """Return those of a stream's chunks that the next one sees; all as for `seen_tokens`."""
    first = chunks[:sink]
    return first + chunks[max(len(first), len(chunks) - recent) :]
