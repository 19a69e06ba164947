"""The refiner's loop around diffusers' own transformer equals diffusers' refiner; and what the loop keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.transformers.transformer_sana_wm_refiner import (
    SanaWMLTX2RefinerTransformer3DModel,
    SanaWMRefinerKVCache,
)
from diffusers.pipelines.sana_wm.refiner import SanaWMLTX2Refiner
from torch import Tensor

from sanakit.errors import NumericsError, SettingsError
from sanakit.pipelines.world.refine import SIGMAS, refine

FPS = 16.0
SHAPE = (1, 4, 10, 2, 3)
Pairs = list[tuple[Tensor, Tensor]]  # keys and values of each layer


@dataclass
class Held:
    """Keys of the sink, before rotation, and of refined frames, after it."""

    sink: Pairs
    history: Pairs = field(default_factory=list)


class Published:
    """diffusers' transformer as a `RefinerModel`."""

    dtype = torch.float32

    def __init__(self, model: SanaWMLTX2RefinerTransformer3DModel, text: Tensor, mask: Tensor) -> None:
        self.model, self.text, self.mask = model, text, mask
        self.layers = len(model.transformer_blocks)

    def sink(self, latents: Tensor) -> Held:
        cache = SanaWMRefinerKVCache(self.layers)
        self._run(latents, 0.0, cache, 0, "capture_pre_rope")
        return Held([cache.get(i).get_captured_pre_rope() for i in range(self.layers)])

    def velocity(self, latents: Tensor, sigma: float, keys: Held, first: int, sink_first: int) -> Tensor:
        return self._run(latents, sigma, self._cache(keys, sink_first, latents), first, "inject")

    def extend(self, keys: Held, latents: Tensor, first: int, sink_first: int, most: int) -> Held:
        cache = self._cache(keys, sink_first, latents)
        self._run(latents, 0.0, cache, first, "inject_and_capture_post_rope")
        new = [cache.get(i).get_captured_post_rope() for i in range(self.layers)]
        old = keys.history or [(pair[0][:, :0], pair[1][:, :0]) for pair in new]
        kept = -most * latents.shape[3] * latents.shape[4]
        both = [
            tuple(torch.cat(parts, dim=1)[:, kept:] for parts in zip(*pair, strict=True))
            for pair in zip(old, new, strict=True)
        ]
        return replace(keys, history=both)

    def _cache(self, keys: Held, sink_first: int, latents: Tensor) -> SanaWMRefinerKVCache:
        cache, cells = SanaWMRefinerKVCache(self.layers), latents.shape[3] * latents.shape[4]
        for number in range(self.layers):
            cache.get(number).store_sink(*keys.sink[number])
            if keys.history:
                cache.get(number).store_history(*keys.history[number])
        frames = keys.sink[0][0].shape[1] // cells
        cache.sink_pe = self._places(latents, sink_first, frames)
        return cache

    def _places(self, latents: Tensor, first: int, frames: int):
        return self.model.build_rotary_emb_for_absolute_positions(
            batch_size=len(latents),
            frame_positions=list(range(first, first + frames)),
            height=latents.shape[3],
            width=latents.shape[4],
            device=latents.device,
            fps=FPS,
        )

    def _run(self, latents: Tensor, sigma: float, cache, first: int, mode: str) -> Tensor:
        tokens = latents.flatten(2).transpose(1, 2)
        scale = float(self.model.config.timestep_scale_multiplier)
        found = self.model(
            hidden_states=tokens,
            encoder_hidden_states=self.text,
            timestep=torch.full(tokens.shape[:2], sigma * scale),
            video_rotary_emb=self._places(latents, first, latents.shape[2]),
            encoder_attention_mask=self.mask,
            kv_cache=cache,
            kv_cache_mode=mode,
            return_dict=False,
        )[0]
        return found.transpose(1, 2).unflatten(2, latents.shape[2:])


@pytest.fixture(scope="module")
def published() -> Published:
    torch.manual_seed(0)
    model = SanaWMLTX2RefinerTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=16,
        rope_double_precision=False,
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    text = torch.randn(1, 5, 16)
    return Published(model, text, torch.ones(1, 5, dtype=torch.long))


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def theirs(published: Published, latents: Tensor, **settings) -> Tensor:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    parts = {"connectors": None, "tokenizer": None, "text_encoder": None}
    pipe = SanaWMLTX2Refiner(transformer=published.model, scheduler=scheduler, **parts)  # pyright: ignore
    pipe._encode_prompt = lambda *_, **__: (published.text, published.mask)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(42)
    return pipe(latents, "", fps=FPS, output_type="latent", generator=generator, **settings)


def apart(ours: Tensor, other: Tensor) -> float:
    return ((ours - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize(
    "settings", [{}, {"window": 5}, {"block": 2, "sink": 2, "window": 7}], ids=["usual", "short", "other"]
)
def test_refined_latents_are_those_of_diffusers(published, latents, settings) -> None:
    """A window of five keeps four refined frames in sight: history is cut in the middle of a block."""
    names = {"block": "block_size", "sink": "sink_size", "window": "kv_max_frames"}
    wanted = theirs(published, latents, **{names[name]: value for name, value in settings.items()})
    found = refine(published, latents, **settings)
    assert apart(found, wanted) < 1e-5
    sink = settings.get("sink", 1)
    assert torch.equal(found[:, :, :sink], latents[:, :, :sink])
    assert apart(found[:, :, sink:], latents[:, :, sink:]) > 0.1


def test_the_window_and_the_seed_count(published, latents) -> None:
    found = refine(published, latents)
    assert torch.equal(refine(published, latents), found)
    short = refine(published, latents, window=5)
    assert torch.equal(short[:, :, :7], found[:, :, :7]), (
        "four frames are in sight of the second block in both"
    )
    assert not torch.equal(short[:, :, 7:], found[:, :, 7:])
    assert not torch.equal(refine(published, latents, seed=1), found)
    assert torch.equal(refine(published, latents[:, :, :7]), found[:, :, :7]), "blocks see no later ones"


def test_what_cannot_be_refined_is_refused(published, latents, monkeypatch) -> None:
    with pytest.raises(SettingsError, match="1 latent frames, 1 of them the sink"):
        refine(published, latents[:, :, :1])
    with pytest.raises(SettingsError, match="a window that is longer than the sink"):
        refine(published, latents, window=1)
    with pytest.raises(SettingsError):
        refine(published, latents, sigmas=SIGMAS[:-1])
    monkeypatch.setattr(published, "velocity", lambda x, *_: torch.full_like(x, torch.nan))
    with pytest.raises(NumericsError, match="Refined latent frames 1 to 3 became NaN"):
        refine(published, latents)
