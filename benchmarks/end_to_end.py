"""From prompt to picture at full size: ours against diffusers, 20 steps with guidance, in one process.

    python benchmarks/end_to_end.py [--sizes 512,1024] [--steps 20] [--runs 3] [--threads 1] [--write]
    python benchmarks/end_to_end.py --sprint [--sizes 1024] [--steps 1,2]

Both sides load one folder of random weights in float32 and draw from the same seed, in turn (Sprint's sampler
takes the noise between its steps from it as well); the pictures are compared first. All 26 layers of Gemma 2
take 10.4 GB in diffusers: with fewer (--text-layers, 4 by default) the time of the text is multiplied to 26
layers in a column that says so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import side_by_side as side

STAGES = ("text", "denoise", "decode")
TEXT_LAYERS = 26  # of the real Gemma 2
GUIDANCE = 4.5
SEED = 0

Draw = Callable[[], tuple[Any, dict[str, float]]]  # the picture, and seconds of each stage


def main() -> None:
    """Measure the sizes that were asked for."""
    parser = side.parser_of(__doc__)
    parser.add_argument("--sizes", type=side.numbers, default=[512, 1024], help="sides in pixels")
    parser.add_argument("--steps", type=side.numbers, help="default: 20; of Sprint 1,2")
    parser.add_argument("--sprint", action="store_true", help="SANA-Sprint, one pass a step")
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    import torch
    from diffusers import SanaPipeline, SanaSprintPipeline
    from random_weights import random_folder

    from sanakit import TextToImage

    model, peer = ("sprint-0.6b", SanaSprintPipeline) if asked.sprint else ("0.6b", SanaPipeline)
    folder = asked.folder or random_folder(model=model, text_layers=asked.text_layers, depth=asked.depth)
    ours = TextToImage.from_pretrained(folder)
    theirs = peer.from_pretrained(folder, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    what = f"{asked.threads} thread(s), model {Path(folder).name}, with guidance, float32."
    lines = side.heading("Prompt to picture at full size", what)
    text_factor = TEXT_LAYERS / theirs.text_encoder.config.num_hidden_layers
    for size, steps in product(asked.sizes, asked.steps or ([1, 2] if asked.sprint else [20])):
        draws = {"ours": our_draw(ours, size, steps), "diffusers": their_draw(theirs, size, steps)}
        lines += measure(draws, f"{size} px, {steps} step(s)", asked.runs, text_factor)
    name = "-".join(["sprint" if asked.sprint else "end-to-end", *map(str, asked.sizes)])
    side.publish(lines, f"{asked.threads}-threads-{name}", write=asked.write)


def measure(draws: dict[str, Draw], what: str, runs: int, text_factor: float) -> list[str]:
    """Draw in turn; the first picture of each side warms up and is compared."""
    import numpy as np

    first = {name: np.asarray(draw()[0], dtype=np.int16) for name, draw in draws.items()}
    apart = np.abs(first["ours"] - first["diffusers"])
    found: dict[str, list[dict[str, float]]] = {name: [] for name in draws}
    for run in range(runs):
        for name, draw in draws.items():
            found[name].append(draw()[1])
            print(f"{what}, run {run + 1}, {name}: {sum(found[name][-1].values()):.2f} s", flush=True)
    rows, totals, whole = [], {}, {}
    for name, each in found.items():
        totals[name] = [sum(stages.values()) for stages in each]
        whole[name] = [
            total + (text_factor - 1) * s["text"] for total, s in zip(totals[name], each, strict=True)
        ]
        medians = [statistics.median(stages[stage] for stages in each) for stage in STAGES]
        ends = [statistics.median(values) for values in (totals[name], whole[name])]
        rows.append([name, *(f"{value:.2f}" for value in medians + ends), f"{min(whole[name]):.2f}"])
    ratios = [side.compared(times, "ours")["diffusers"] for times in (totals, whole)]
    stages = [
        f"{float(theirs) / float(ours):.2f}" for ours, theirs in zip(rows[0][1:4], rows[1][1:4], strict=True)
    ]
    by_median = [f"**{median:.2f}**" for median, _ in ratios]
    rows.append(["**diffusers / ours**", *stages, *by_median, f"{ratios[1][1]:.2f}"])
    extrapolated = "total, text as of 26 layers" if text_factor != 1 else "total"
    head = ["median s", *STAGES, "measured total", extrapolated, "min of it"]
    return [
        "",
        f"## {what}",
        "",
        *side.table(head, rows),
        "",
        f"Largest difference of a pixel: {apart.max()} of 255; {(apart > 0).mean():.2%} of values differ.",
    ]


def our_draw(pipe: Any, size: int, steps: int) -> Draw:
    """Draw with ours; its result carries the seconds of each stage."""
    from random_weights import PROMPT

    def draw() -> tuple[Any, dict[str, float]]:
        started = time.perf_counter()
        settings = {"width": size, "height": size, "steps": steps, "guidance": GUIDANCE, "binned": False}
        result = pipe(PROMPT, seed=SEED, **settings)
        stages = {name: result.timings[name] for name in STAGES}
        stages["denoise"] += time.perf_counter() - started - sum(stages.values())  # what is between stages
        return result.images[0], stages

    return draw


def their_draw(pipe: Any, size: int, steps: int) -> Draw:
    """Draw with diffusers' own call; text ends where encode_prompt returns, denoising after the last step."""
    import torch
    from random_weights import PROMPT

    ends, encode_prompt = {}, pipe.encode_prompt
    # Sprint's default is the angle between two steps: other numbers are refused with it.
    grid = {"intermediate_timesteps": None} if pipe.transformer.config.guidance_embeds and steps != 2 else {}

    def timed_encode(*words: Any, **settings: Any) -> Any:
        found = encode_prompt(*words, **settings)
        ends["text"] = time.perf_counter()
        return found

    def after_step(_pipe: Any, _index: int, _time: Any, kept: dict[str, Any]) -> dict[str, Any]:
        ends["denoise"] = time.perf_counter()
        return kept

    pipe.encode_prompt = timed_encode

    def draw() -> tuple[Any, dict[str, float]]:
        started = time.perf_counter()
        images = pipe(
            PROMPT,
            generator=torch.Generator().manual_seed(SEED),
            width=size,
            height=size,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            use_resolution_binning=False,
            callback_on_step_end=after_step,
            **grid,
        ).images
        done = time.perf_counter()
        stages = {"text": ends["text"] - started, "denoise": ends["denoise"] - ends["text"]}
        return images[0], {**stages, "decode": done - ends["denoise"]}

    return draw


if __name__ == "__main__":
    main()
