"""How much memory clips take: decoding by Wan 2.1's autoencoder, and a whole drawing beside its plan.

    python benchmarks/clip_memory.py [--frames 41,81] [--size 416x240] [--ours-only] [--threads 1] [--write]
    python benchmarks/clip_memory.py --draw [--layers 20] [--frames 81] [--size 832x480] [--no-decode]

Decode: resident memory at its peak (`resource.getrusage`) above what is resident before, in a fresh process
for each figure; random weights of the published widths in float32, and only the decoder, on both sides. Ours
is planned as `TextToVideo` plans it without a limit. Draw: a random SANA-Video 2B in bfloat16, or its first
layers, with two layers of Gemma 2, for one step without guidance; the peak of the process beside the plan's.
Linux only, where ru_maxrss is in units of 1024 bytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import side_by_side as side

STATUS = Path("/proc/self/statm")
PEAK = Path("/proc/self/clear_refs")  # 5 sets the peak to what is resident
PROMPT = "a red apple rolls over a table"


def main() -> None:
    """Start a process for each figure and print the table; or be such a process."""
    parser = side.parser_of(__doc__, model=False)
    parser.add_argument("--frames", type=side.numbers, help="of the clips; default 41,81, with --draw 81")
    parser.add_argument("--size", help="default 416x240, with --draw 832x480")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--draw", action="store_true", help="measure a whole drawing in place of decoding")
    parser.add_argument("--layers", type=int, default=20, help="of the transformer's twenty")
    parser.add_argument("--no-decode", action="store_true", help="with --draw: end with the latents")
    parser.add_argument("--memory", default="auto", help="with --draw: the budget")
    parser.add_argument("--folder", help="with --draw: where the model is made, and found by later runs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        side.use_threads(asked.threads)
        what, *given = json.loads(asked.child)
        print(json.dumps({"ours": ours, "diffusers": theirs, "made": made, "drawn": drawn}[what](*given)))
        return
    size = [int(part) for part in (asked.size or ("832x480" if asked.draw else "416x240")).split("x")]
    frames = asked.frames or ([81] if asked.draw else [41, 81])
    lines = drawings(asked, frames, size) if asked.draw else decodings(asked, frames, size)
    head = [
        f"# Memory of clips, {date.today()}",
        "",
        f"{side.machine()}, {asked.threads} thread(s).",
        f"Command: `python benchmarks/clip_memory.py {' '.join(sys.argv[1:])}`",
        "",
    ]
    name = "clip-drawing" if asked.draw else "clip-decode"
    side.publish([*head, *lines], f"{asked.threads}-threads-{name}", write=asked.write)


def decodings(asked: argparse.Namespace, frames: list[int], size: list[int]) -> list[str]:
    """Return the table of decoding."""
    rows = []
    for count in frames:
        found = {"ours": measured(asked, "ours", count, *size)}
        if not asked.ours_only:
            found["diffusers"] = measured(asked, "diffusers", count, *size)
        for who, one in found.items():
            share = f"{found['ours']['peak'] / one['peak']:.2f}" if len(found) > 1 else "-"
            planned = f"{one['planned']:.0f}" if "planned" in one else "-"
            rows.append([count, who, f"{one['peak']:.0f}", planned, share, f"{one['seconds']:.0f}"])
    head = ["frames", "", "peak above MB", "planned MB", "ours / this", "seconds"]
    return [f"Decode, {size[0]}x{size[1]} px.", "", *side.table(head, rows)]


def drawings(asked: argparse.Namespace, frames: list[int], size: list[int]) -> list[str]:
    """Return the table of whole drawings."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = measured(asked, "made", asked.folder or place, asked.layers)
        for count in frames:
            one = measured(asked, "drawn", folder, count, *size, not asked.no_decode, asked.memory)
            plan = f"{one['residence']}, chunk {one['chunk']}"
            figures = [f"{one['peak']:.0f}", f"{one['planned']:.0f}", f"{one['peak'] / one['planned']:.2f}"]
            rows.append([count, plan, *figures, f"{one['seconds']:.0f}"])
    end = "to latents" if asked.no_decode else "to frames"
    told = f"One step of {asked.layers} of 20 layers, {size[0]}x{size[1]} px, without guidance, {end}."
    head = ["frames", "plan", "peak of the process MB", "planned MB", "peak / planned", "seconds"]
    return [told, "", *side.table(head, rows)]


def measured(asked: argparse.Namespace, *job: Any) -> Any:
    """Do one job in a process of its own; return what it printed."""
    print(*job, "...", file=sys.stderr, flush=True)
    words = [sys.executable, __file__, "--threads", str(asked.threads), "--child", json.dumps(job)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def ours(frames: int, width: int, height: int) -> dict[str, float]:
    """Decode by our autoencoder as the pipeline does: to 8 bits, a few frames at a time."""
    import torch

    from sanakit.images.image import to_levels
    from sanakit.models.video.wan_vae import WAN_VAE, WanVAE
    from sanakit.pipelines.video.decoding import decode_frames
    from sanakit.pipelines.video.memory import CHUNKS, MOST_WHOLE, blocks_given_back

    model = filled(WanVAE(WAN_VAE, "decoder"))
    latents = torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
    chunk = None if 12 * frames * height * width <= MOST_WHOLE else CHUNKS[0]
    planned = model.decode_bytes(latents.shape[2], height, width, chunk) + 3 * frames * height * width

    def decode() -> None:
        levels = torch.empty(frames, height, width, 3, dtype=torch.uint8)
        start = 0
        with blocks_given_back():
            for some in decode_frames(model, latents, chunk):
                levels[start : start + some.shape[2]] = to_levels(some[0].transpose(0, 1))
                start += some.shape[2]

    return watched(decode) | {"planned": planned / 1e6}


def theirs(frames: int, width: int, height: int) -> dict[str, float]:
    """Decode by diffusers' autoencoder, which works latent after latent by itself."""
    import torch
    from diffusers import AutoencoderKLWan

    model = AutoencoderKLWan()
    del model.encoder
    filled(model)
    latents = torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
    return watched(lambda: model.decode(latents, return_dict=False))


def made(place: str, layers: int) -> str:
    """Write a random video model of the published widths to a folder."""
    import torch

    from sanakit.models.gemma2 import GEMMA2_2B, Gemma2
    from sanakit.models.video.sana_video import SANA_VIDEO_2B_480P, SanaVideo
    from sanakit.models.video.wan_vae import WAN_VAE, WanVAE
    from sanakit.text.encoder import TextEncoder
    from sanakit.text.tokenizer import train_tokenizer
    from sanakit.weights import load_autoencoder, load_transformer, save_autoencoder, save_diffusers
    from sanakit.weights.save import save_transformer, write_json

    folder = Path(place) / f"sana-video-{layers}-layers"
    if (folder / "model_index.json").exists():
        return str(folder)
    torch.manual_seed(0)
    gemma = replace(GEMMA2_2B, depth=2, vocab_size=600, sliding_layers=())
    tokenizer = train_tokenizer(["a red apple on a table", "two green foxes in the snow"] * 20, 520)
    config = replace(SANA_VIDEO_2B_480P, depth=layers)
    dtype = torch.bfloat16
    parts = {"transformer": load_transformer("pocket"), "autoencoder": load_autoencoder("pocket")}
    parts["text_encoder"] = TextEncoder(filled(Gemma2(gemma)), tokenizer, "", 20)
    save_diffusers(folder, **parts, flow_shift=8.0, dtype=dtype, name="random")  # transformer, vae: replaced
    with torch.device("meta"):
        transformer = SanaVideo(config)
    transformer = transformer.to(dtype).to_empty(device="cpu")  # float32 would take 8 GB
    save_transformer(folder / "transformer", filled(transformer), dtype=dtype)
    save_autoencoder(folder / "vae", filled(WanVAE(WAN_VAE)), dtype=dtype)
    classes = {"text_encoder": ["transformers", "Gemma2Model"], "vae": ["diffusers", "AutoencoderKLWan"]}
    classes |= {"transformer": ["diffusers", "SanaVideoTransformer3DModel"]}
    classes |= {"scheduler": ["diffusers", "DPMSolverMultistepScheduler"]}
    classes |= {"tokenizer": ["transformers", "PreTrainedTokenizerFast"]}
    write_json(folder / "model_index.json", {"_class_name": "SanaVideoPipeline", **classes})
    return str(folder)


def drawn(
    folder: str, frames: int, width: int, height: int, decode: bool, memory: str
) -> dict[str, float | str | None]:
    """Draw a clip by one step without guidance, and return what was planned beside what it took."""
    from sanakit import TextToVideo
    from sanakit.pipelines.video.request import check_clip_request

    pipe = TextToVideo.from_pretrained(folder, device="cpu", memory=memory, encoder=False)
    request = check_clip_request(
        pipe.spec,
        PROMPT,
        "",
        frames=frames,
        width=width,
        height=height,
        steps=1,
        guidance=1.0,
        seed=0,
        output="clip" if decode else "latent",
        binned=False,
    )
    plan, started = pipe.plan(request), time.perf_counter()
    for number, _ in enumerate(pipe.draw(request)):
        told = f"Result {number} after {time.perf_counter() - started:.0f} s, peak {peak():.0f} MB."
        print(told, file=sys.stderr, flush=True)
    found = {"peak": peak(), "planned": plan.peak / 1e6, "seconds": time.perf_counter() - started}
    return {**found, "residence": plan.residence, "chunk": plan.chunk}


def filled(model: Any) -> Any:
    """Give a model random weights whose products keep the size of what comes in."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(0.1)
    return model.eval()


def watched(call: Any) -> dict[str, float]:
    """Call; return megabytes at the peak, less what was there before, and seconds."""
    PEAK.write_text("5")  # loading may take more than stays: diffusers makes an encoder, too
    before = int(STATUS.read_text().split()[1]) * resource.getpagesize() / 1e6
    if before < 0.98 * peak():
        raise SystemExit("The kernel keeps the peak of loading: what decoding takes would be hidden.")
    started = time.perf_counter()
    call()
    return {"peak": peak() - before, "seconds": time.perf_counter() - started}


def peak() -> float:
    """Return the most megabytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
