"""`sana best-of`: many images of a sentence are drawn, a judge chooses, the best are kept.

Options and file names are those of `sana generate`; torch is imported inside the functions, as there.
"""

from __future__ import annotations

import secrets
import sys
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from sanakit.cli.drawing import options as option
from sanakit.cli.drawing.outputs import Outputs, outputs_of, save_images
from sanakit.cli.terminal import AsJson, Debug, print_json, progress_bar

if TYPE_CHECKING:
    from sanakit.pipelines.result import Result


def best_of(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw, in a sentence.")],
    count: Annotated[
        int,
        typer.Option(
            "--count",
            "--num-images",
            "-n",
            metavar="N",
            min=1,
            help="Candidates to draw: this seed and those after it.",
        ),
    ] = 16,
    keep: Annotated[int, typer.Option(metavar="K", min=1, help="Images to keep.")] = 1,
    judge: Annotated[
        str, typer.Option(metavar="CLIP", help="pocket-clip, a folder of a CLIP model, or Hub org/repo.")
    ] = "pocket-clip",
    model: option.Model = "pocket",
    negative: option.Negative = "",
    prompt_weights: option.PromptWeights = False,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", show_default=option.OWN, help="Pixels, such as 256x192."),
    ] = None,
    width: option.Width = None,
    height: option.Height = None,
    steps: option.Steps = None,
    guidance: option.Guidance = None,
    guidance_kind: option.GuidanceKind = None,
    solver: option.Solver = None,
    dialect: option.DialectOption = None,
    seed: option.Seed = None,
    batch: Annotated[int, typer.Option(metavar="B", min=1, max=256, help="Images drawn at once.")] = 8,
    output: option.Output = None,
    device: option.Device = "auto",
    dtype: option.Dtype = "auto",
    memory: option.Memory = "auto",
    plan: option.Plan = None,
    adapter: option.Adapters = None,
    control: option.ControlFile = None,
    control_kind: option.ControlKind = None,
    control_scale: option.ControlScale = 1.0,
    control_range: option.ControlRange = (0.0, 1.0),
    control_model: option.ControlModel = None,
    no_metadata: option.NoMetadata = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw many images and keep those that fit the sentence best.

    The judge is a CLIP model. Each PNG carries its own seed, with which `sana generate` draws it again, and
    its score.
    """
    prompt = option.prompt_of(prompt)
    seed, chosen = secrets.randbelow(2**32) if seed is None else seed, option.parse_adapters(adapter)
    with (
        progress_bar("loading the models") as show,
        warnings.catch_warnings(action="ignore"),
    ):  # the result tells them
        from sanakit.data.annotate.scoring import clip_scorer
        from sanakit.images.image import parse_size
        from sanakit.pipelines.best_of import BestOf
        from sanakit.pipelines.text_to_image import TextToImage

        size = option.size_of(size, width, height)
        width, height = parse_size(size) if size is not None else (None, None)
        outputs = outputs_of(output, keep)
        words = (control, control_kind, control_scale, control_range)
        control_model = option.control_model_for(model, control_model, control is not None)
        shown = option.control_image(*words, model=model, control_model=control_model)
        score = clip_scorer(judge, device=device)
        pipe = TextToImage.from_pretrained(
            model,
            device=device,
            dtype=dtype,
            memory=memory,
            plan=plan,
            adapters=chosen,
            control_model=control_model,
        )
        chooser = BestOf(pipe, lambda text, images: score(images, [text] * len(images)), batch=batch)
        result = None
        for trial in chooser.stream(
            prompt,
            count=count,
            keep=keep,
            seed=seed,
            negative_prompt=negative,
            prompt_weights=prompt_weights,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            guidance_kind=guidance_kind,
            solver=solver,
            dialect=dialect,
            control=shown,
        ):
            show(f"best so far: seed {trial.best[0].seed}", trial.index, trial.total)
            result = trial.result
    assert result is not None  # the last trial carries it
    _deliver(result, outputs, seed, as_json=as_json, bare=no_metadata)


def _deliver(result: Result, outputs: Outputs, seed: int, *, as_json: bool, bare: bool) -> None:
    """Save the images, best first, and print seed and score of each. Raises OutputError."""
    paths = save_images(result, outputs, seed, bare=bare)
    for warning in result.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    rows = [{"path": str(path), **metadata} for path, metadata in zip(paths, result.metadata, strict=True)]
    if as_json:
        print_json({"images": rows, "timings": result.timings, "warnings": result.warnings})
        return
    for row in rows:
        print(f"{row['path']}  seed {row['seed']}  score {row['score']:.2f}")
