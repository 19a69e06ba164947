"""From prompt to image at full size: ours against diffusers, 20 steps with guidance, in one process.

    python benchmarks/end_to_end.py [--sizes 512,1024] [--steps 20] [--runs 3] [--threads 1] [--write]
    python benchmarks/end_to_end.py --sprint [--sizes 1024] [--steps 1,2]
    python benchmarks/end_to_end.py --plan int8 [--sizes 512,1024]

Both sides load one folder of random weights in float32 and draw from the same seed, in turn (Sprint's sampler
takes the noise between its steps from it as well), after an image of two steps that warms up; their first
images are compared. All 26 layers of Gemma 2 take 10.4 GB in diffusers: with fewer (--text-layers, 4 by
default) the time of the text is multiplied to 26 layers in a column that says so. With --plan the transformer
and text encoder of ours are quantised.
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
OURS, THEIRS = "ours", "diffusers"

Draw = Callable[[], tuple[Any, dict[str, float]]]  # the image, and seconds of each stage


def main() -> None:
    """Measure the sizes that were asked for."""
    parser = side.parser_of(__doc__)
    parser.add_argument("--sizes", type=side.numbers, default=[512, 1024], help="sides in pixels")
    parser.add_argument("--steps", type=side.numbers, help="default: 20; of Sprint 1,2")
    parser.add_argument("--sprint", action="store_true", help="SANA-Sprint, one pass a step")
    parser.add_argument("--plan", help="quantise ours by this plan")
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    import torch
    from diffusers import SanaPipeline, SanaSprintPipeline
    from random_weights import random_folder

    from sanakit import TextToImage

    model, peer = ("sprint-0.6b", SanaSprintPipeline) if asked.sprint else ("0.6b", SanaPipeline)
    folder = asked.folder or random_folder(model=model, text_layers=asked.text_layers, depth=asked.depth)
    our_name = f"{OURS} {asked.plan}" if asked.plan else OURS
    ours = TextToImage.from_pretrained(folder, plan=asked.plan)
    theirs = peer.from_pretrained(folder, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    what = f"{asked.threads} thread(s), model {Path(folder).name}, with guidance, float32."
    lines = side.heading("Prompt to picture at full size", what)
    text_factor = TEXT_LAYERS / theirs.text_encoder.config.num_hidden_layers
    for size, steps in product(asked.sizes, asked.steps or ([1, 2] if asked.sprint else [20])):
        for warm_up in (our_draw(ours, size, 2), their_draw(theirs, size, 2)):
            warm_up()
        draws = {our_name: our_draw(ours, size, steps), THEIRS: their_draw(theirs, size, steps)}
        lines += measure(draws, f"{size} px, {steps} step(s)", asked.runs, text_factor)
        print("\n".join(lines[-12:]), flush=True)
    kind = "sprint" if asked.sprint else "end-to-end"
    name = "-".join([kind, *([asked.plan] if asked.plan else []), *map(str, asked.sizes)])
    side.publish(lines, f"{asked.threads}-threads-{name}", write=asked.write)


def measure(draws: dict[str, Draw], what: str, runs: int, text_factor: float) -> list[str]:
    """Draw in turn, and compare the first images."""
    import numpy as np

    first: dict[str, Any] = {}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in draws}
    for run in range(runs):
        for name, draw in draws.items():
            image, stages = draw()
            first.setdefault(name, np.asarray(image, dtype=np.int16))
            found[name].append(stages)
            print(f"{what}, run {run + 1}, {name}: {sum(found[name][-1].values()):.2f} s", flush=True)
    rows, totals, whole = [], {}, {}
    for name, each in found.items():
        totals[name] = [sum(stages.values()) for stages in each]
        whole[name] = [
            total + (text_factor - 1) * s["text"] for total, s in zip(totals[name], each, strict=True)
        ]
        ends = [statistics.median(values) for values in (totals[name], whole[name])]
        rows.append([name, *(f"{value:.2f}" for value in medians_of(each) + ends), f"{min(whole[name]):.2f}"])
    theirs = medians_of(found[THEIRS])
    for name in draws:
        if name != THEIRS:
            stages = [f"{t / o:.2f}" for t, o in zip(theirs, medians_of(found[name]), strict=True)]
            ratios = [side.compared(times, name)[THEIRS] for times in (totals, whole)]
            by_median = [f"**{median:.2f}**" for median, _ in ratios]
            rows.append([f"**{THEIRS} / {name}**", *stages, *by_median, f"{ratios[1][1]:.2f}"])
    extrapolated = "total, text as of 26 layers" if text_factor != 1 else "total"
    head = ["median s", *STAGES, "measured total", extrapolated, "min of it"]
    return [
        "",
        f"## {what}",
        "",
        *side.table(head, rows),
        "",
        *(f"{name}: {likeness(first[name], first[THEIRS])}  " for name in draws if name != THEIRS),
    ]


def medians_of(runs: list[dict[str, float]]) -> list[float]:
    """Seconds of each stage."""
    return [statistics.median(stages[stage] for stages in runs) for stage in STAGES]


def likeness(image: Any, theirs: Any) -> str:
    """Say how far an image is from diffusers'; both H W 3, levels from 0 to 255."""
    import torch

    from sanakit.eval.metrics.similarity import psnr

    apart = abs(image - theirs)
    decibels = psnr(*(torch.from_numpy(levels)[None] / 127.5 for levels in (image, theirs))).item()
    return (
        f"PSNR against {THEIRS} {decibels:.1f} dB; largest difference of a pixel {apart.max()} of 255, "
        f"{(apart > 0).mean():.2%} of values differ."
    )


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
