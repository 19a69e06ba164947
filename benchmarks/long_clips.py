"""A long clip, chunk after chunk: seconds, resident memory and what the state's sums do, by random weights.

    python benchmarks/long_clips.py [--model tiny | 2b-2-blocks] [--frames 1000] [--side 8] [--every 10]
        [--decode] [--window CHUNKS]

Time and memory depend on shapes, not on what was learned. `tiny` has two blocks of width 64, `2b-2-blocks`
the width of LongSANA 2B and two of its twenty blocks. --side: of the latents. --decode: by a tiny
autoencoder, so that frames are drawn too. S and z are the sums of the first block: R k v^T and k. Relative
errors at the end compare the state with that of a float64 copy, which takes in the same latents.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from sanakit.flow.few_step import FewStep
from sanakit.models.video.sana_video import LONG_SANA_2B_480P, SanaVideo, SanaVideoConfig
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from sanakit.pipelines.memory import resident_bytes
from sanakit.pipelines.video.chunks import ChunkSampler, ClipPoint
from sanakit.pipelines.video.streaming import LatentChunk, decoded, stream

MODELS = {
    "tiny": SanaVideoConfig(
        depth=2, width=64, cross_heads=2, head_dim=32, text_width=32, latent_channels=4, causal=True
    ),
    "2b-2-blocks": replace(LONG_SANA_2B_480P, depth=2),
}
TOKENS = 20  # of the prompt


def main() -> None:
    """Draw the clip and print a row every few chunks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", choices=MODELS)
    parser.add_argument("--frames", type=int, default=1000, help="latent frames")
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--every", type=int, default=10, help="chunks")
    parser.add_argument("--window", type=int)
    parser.add_argument("--decode", action="store_true")
    asked = parser.parse_args()
    torch.manual_seed(0)
    model = drawn(MODELS[asked.model])
    text = torch.randn(TOKENS, model.config.text_width)
    prompt = model.prepare([text])
    sampler = sampler_of(model, asked.side, asked.window)
    chunks = stream(sampler, [prompt], asked.frames, start=0)
    pairs = (
        with_frames(chunks, model.config.latent_channels) if asked.decode else ((0, one) for one in chunks)
    )
    print(
        f"{asked.model}, {asked.side}x{asked.side} latents, {asked.frames} latent frames, "
        f"{torch.get_num_threads()} threads"
    )
    print("| chunk | latent frames | s | resident MB | std of latents | largest of S | mean of z |")
    print("|---|---|---|---|---|---|---|")
    kept, pixels, began = [], 0, time.perf_counter()
    for number, (frames, chunk) in enumerate(pairs):
        seconds, pixels = time.perf_counter() - began, pixels + frames
        if number % asked.every == 0 or chunk.point.frames == asked.frames:
            print(row(number, chunk, seconds), flush=True)
        if asked.model == "tiny":
            kept.append(chunk.latents)
        began = time.perf_counter()
    print(f"{pixels} frames decoded" if asked.decode else "nothing decoded")
    if kept:
        told = errors(model, text, kept, asked.window)
        print(f"relative errors of the state in float32: S {told[0]:.1e}, z {told[1]:.1e}")


def drawn(config: SanaVideoConfig) -> SanaVideo:
    """Return a model whose weights have variance 1 / fan-in and whose norms have gain 1."""
    with torch.device("meta"):
        model = SanaVideo(config)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(1.0).add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


def sampler_of(model: SanaVideo, side: int, window: int | None) -> ChunkSampler:
    """Return LongSANA's sampler of square frames."""
    return ChunkSampler(transformer=model, height=side, width=side, solver=FewStep(), window=window)


def with_frames(chunks: Iterator[LatentChunk], channels: int) -> Iterator[tuple[int, LatentChunk]]:
    """Decode chunks by a tiny random autoencoder; yield how many frames each has."""
    config = WanVAEConfig.from_diffusers(
        {
            "base_dim": 8,
            "z_dim": channels,
            "dim_mult": [1, 2, 4, 4],
            "num_res_blocks": 2,
            "temperal_downsample": [False, True, True],
            "latents_mean": [0.0] * channels,
            "latents_std": [1.0] * channels,
        }
    )
    for frames, chunk in decoded(WanVAE(config, "decoder").eval(), chunks):
        yield frames.shape[2], chunk


def row(number: int, chunk: LatentChunk, seconds: float) -> str:
    """Return a line of the table."""
    state = chunk.point.state
    assert state is not None
    sums = state.blocks[0].sums
    values = (sums.products.abs().max(), sums.keys.mean(), chunk.latents.std())
    largest, mean, std = (value.item() for value in values)
    return (
        f"| {number} | {chunk.point.frames} | {seconds:.2f} | {resident_bytes() / 1e6:.0f} | {std:.3f} | "
        f"{largest:.4g} | {mean:.4g} |"
    )


def errors(model: SanaVideo, text: Tensor, chunks: list[Tensor], window: int | None) -> tuple[float, float]:
    """Return the largest relative errors of S and z, over blocks, against a float64 copy of the model."""
    points = []
    for dtype in (torch.float32, torch.float64):
        model = model.to(dtype)
        prompt, point = model.prepare([text.to(dtype)]), ClipPoint.start(0)
        for latents in chunks:
            point = sampler_of(model, latents.shape[3], window).follow(point, latents, prompt)
        assert point.state is not None
        points.append(point.state)
    worst = []
    for part in ("products", "keys"):
        pairs = zip(*((getattr(block.sums, part) for block in state.blocks) for state in points), strict=True)
        worst.append(max(((own - exact).abs().max() / exact.abs().max()).item() for own, exact in pairs))
    return worst[0], worst[1]


if __name__ == "__main__":
    main()
