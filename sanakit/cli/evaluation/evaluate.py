"""`sana evaluate`: the figures that a model card or a paper quotes.

Measures that draw what they ask for themselves (recognition, pocket-eval) run on the model; the published
ones on images, which are drawn first or lie in a folder. Clips have a file of their own.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sanakit.alone import alone_in
from sanakit.cli.evaluation.clips import RECOGNITION, evaluate_clips, measures_clips
from sanakit.cli.evaluation.options import check_draws_images, check_known, check_networks, check_used
from sanakit.cli.evaluation.output import output_folder, places_of_weights, save_report
from sanakit.cli.evaluation.video import evaluate_video_model, measures_video
from sanakit.cli.evaluation.worlds import evaluate_worlds, measures_worlds
from sanakit.cli.terminal import AsJson, Debug, print_json, progress_bar
from sanakit.errors import SettingsError
from sanakit.wording import counted

if TYPE_CHECKING:
    from sanakit.eval.folder import ImageCase
    from sanakit.eval.measures import Figures, OnProgress
    from sanakit.pocket.evaluate.first_prompts import FirstPromptFigures as FirstPrompts
    from sanakit.pocket.evaluate.pocket_eval import PocketEval
    from sanakit.pocket.evaluate.recognition import Shares
    from sanakit.pocket.evaluate.report import PocketReport

SHARES = {  # figures of the report: their beginning -> what was looked up
    "": "things the model drew",
    "styled_": "the same in a named style",
    "ceiling_": "real images, other designs",
    "ceiling_other_artist_": "real images, another artist",
    "floor_": "random images",
}
POCKET_EVAL, FIRST = "pocket-eval", "first-prompts"
DRAWS_ITSELF = (RECOGNITION, POCKET_EVAL, FIRST)  # measures that need a model, and no images


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="What to measure: a model's name, folder or Hub repository; or a clip, a folder of clips.",
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            "-m",
            help="recognition, pocket-eval, first-prompts, fid, fid-lite0, clip-score, geneval, dpg or "
            "image-reward; may be repeated. [default: recognition] For clips: subject-consistency, "
            "background-consistency, temporal-flicker, still-flicker, motion-smoothness, motion, "
            "difference-error, first-frame, dynamic-degree, frechet-lite0 or recognition. "
            "[default: the first six] For worlds: path-retrieval, path-psnr, drift, revisit, key-signs or "
            "pose-judge.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Measure the images in this folder instead of drawing.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts of the images: a benchmark's file, .txt or .jsonl.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="For fid: a folder of real images, or statistics (.npz). For clips: a folder of real clips; "
            "for first-frame also of images. For a model like pocket-video: the data set of clips. For "
            "worlds: a folder of true clips with cameras."
        ),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(help="For pose-judge: other true clips with cameras, from which the judge learns."),
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="For dpg: dpg_bench.csv.")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLACE",
            help="Folder of a measure's network: inception, clip, image-reward, bert, mask2former or vqa.",
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="For dpg: URL of the server that runs --weights vqa=NAME.")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option(min=1, help="Images per prompt. [default: 4 for geneval and dpg, else 1]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only this many prompts, spread evenly.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first image.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")] = "auto",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for images and results; continues an earlier run."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure what a model can draw, finished clips, or a world.

    Of a world: whether it obeys its cameras. Without options: the autoencoder's fidelity, and how many of 200
    common things are recognised. Needs the extra eval.
    """
    elsewhere = {"--images": images, "--prompts": prompts, "--questions": questions}
    elsewhere |= {"--endpoint": endpoint, "--num-images": num_images}
    if measures_worlds(measure or []):
        if unused := [option for option, value in elsewhere.items() if value is not None]:
            raise SettingsError(f"{' and '.join(unused)} cannot be used with worlds: leave it out.")
        if weights:
            raise SettingsError("--weights cannot be used with worlds: leave it out.")
        shared: dict[str, Any] = {"seed": seed, "limit": limit, "device": device, "output": output}
        evaluate_worlds(model, measure or [], reference, judge, **shared, as_json=as_json)
        return
    if judge is not None:
        raise SettingsError("--judge is for the measure pose-judge of worlds: name it, or leave --judge out.")
    if model is not None and measures_video(model):
        if unused := [option for option, value in elsewhere.items() if value is not None]:
            raise SettingsError(f"{' and '.join(unused)} cannot be used with a model of clips: leave it out.")
        if weights:
            raise SettingsError("--weights cannot be used with a model of clips: leave it out.")
        shared = {"seed": seed, "limit": limit, "device": device, "output": output}
        evaluate_video_model(model, measure or [], reference, **shared, as_json=as_json)
        return
    if measures_clips(model, measure or []):
        elsewhere |= {"--limit": limit, "--seed": seed or None}
        if unused := [option for option, value in elsewhere.items() if value is not None]:
            raise SettingsError(f"{' and '.join(unused)} cannot be used with clips: leave it out.")
        evaluate_clips(
            model, measure or [], reference, places_of_weights(weights or []), device, output, as_json
        )
        return
    names = list(dict.fromkeys(measure or [RECOGNITION]))
    published = [name for name in names if name not in DRAWS_ITSELF]
    check_known(names, DRAWS_ITSELF)
    if images is not None and len(published) < len(names):
        own = " and ".join(name for name in names if name in DRAWS_ITSELF)
        raise SettingsError(f"{own} draws its own images: choose other measures for --images.")
    if model is None and images is None:
        raise SettingsError("MODEL is missing: name what to measure, or give images with --images.")
    if model is not None and images is not None:
        raise SettingsError("MODEL and --images cannot be combined: give what is to be measured once.")
    own_device = device if device != "auto" else None
    drawn = {"--limit": limit, "--num-images": num_images, "--seed": seed, "--device": own_device}
    told = {"--prompts": prompts, "--reference": reference, "--questions": questions, "--endpoint": endpoint}
    check_used(names, {"--images": images, "--weights": weights, **drawn, **told}, seeded=[POCKET_EVAL])
    places = places_of_weights(weights or [])
    check_networks(names, places)
    if model is not None:
        check_draws_images(model)
    if images is not None and prompts is None and (limit or num_images):
        raise SettingsError(
            "--limit and --num-images choose among the prompts of a file: give it with --prompts."
        )
    found: dict[str, Any] = {}
    notes: list[str] = []
    with ExitStack() as held, progress_bar() as show:
        if output is not None:
            held.enter_context(alone_in(output))
        if RECOGNITION in names:
            from sanakit.pocket.evaluate.report import evaluate_pocket

            found[RECOGNITION] = evaluate_pocket(model or "", progress=show)
        if POCKET_EVAL in names:
            from sanakit.pipelines.text_to_image import TextToImage
            from sanakit.pocket.evaluate.pocket_eval import evaluate_scenes
            from sanakit.pocket.evaluate.report import drawing

            pipe = TextToImage.from_pretrained(model or "")
            found[POCKET_EVAL] = evaluate_scenes(drawing(pipe), seed=seed, progress=show)
        if FIRST in names:
            from sanakit.pocket.evaluate.first_prompts import evaluate_first_prompts

            found[FIRST] = evaluate_first_prompts(model or "", show)
        if published:
            from sanakit.eval.folder import count_note
            from sanakit.eval.measures import Tools

            tools = Tools(
                weights=places,
                reference=reference,
                questions=questions,
                endpoint=endpoint,
                device=device,
            )
            per_prompt = num_images or (4 if {"geneval", "dpg"} & set(published) else 1)
            with tempfile.TemporaryDirectory() as passing:
                folder = output_folder(output) if output is not None else Path(passing)
                shown = _images(model, images, prompts, folder, per_prompt, limit, seed, device, show)
                if images is not None:
                    from sanakit.eval.clip_folder import clips_among_images

                    counts = "" if prompts is None else count_note(shown, num_images)
                    notes = [note for note in (counts, clips_among_images(images)) if note]
                found |= _measure(published, shown, tools, folder, show)
    report = {"model": model, "images": images, "prompts": prompts, "seed": seed, "measures": found}
    if model is not None and images is None:
        from sanakit.weights.fingerprint import fingerprint_weights

        report["weights"] = str(fingerprint_weights(model))
    for note in notes:
        print(f"Warning: {note}", file=sys.stderr)
    if output is not None:
        save_report(output_folder(output), report)
    if as_json:
        print_json(found[RECOGNITION] if names == [RECOGNITION] else report)
        return
    if RECOGNITION in found:
        _print_recognition(found[RECOGNITION])
    if POCKET_EVAL in found:
        _print_scenes(found[POCKET_EVAL])
    if FIRST in found:
        _print_first(found[FIRST])
    for name in published:
        _print_figures(name, found[name])


def _images(
    model: str | None,
    images: Path | None,
    prompts: Path | None,
    folder: Path,
    num_images: int,
    limit: int | None,
    seed: int,
    device: str,
    show: OnProgress,
) -> list[ImageCase]:
    """Return the images that are measured: those of a folder, or drawn now."""
    from sanakit.eval.cases import read_cases
    from sanakit.eval.folder import shown_in

    cases = read_cases(prompts, limit) if prompts is not None else None
    if images is not None:
        return shown_in(images, cases)
    if cases is None or model is None:
        raise SettingsError(
            "These measures need prompts to draw: give them with --prompts, or images with --images."
        )
    from sanakit.eval.draw import draw_cases

    loading = {"device": device}
    return draw_cases(model, cases, folder, num_images=num_images, seed=seed, loading=loading, progress=show)


def _measure(
    names: list[str], shown: list[ImageCase], tools: Any, folder: Path, show: OnProgress
) -> dict[str, Figures]:
    from sanakit.eval.measures import measure

    return {name: measure(name, shown, tools, folder=folder, progress=show) for name in names}


def _print_figures(name: str, figures: Figures) -> None:
    print(f"{name:<14}{figures.value:10.4g}  {counted(figures.pictures, 'image')}, by {figures.by}")
    for part, value in figures.details.items():
        print(f"  {part:<24}{value:.4g}")


def _print_recognition(report: PocketReport) -> None:
    figures = asdict(report)
    print("{model}: {steps} steps, guidance {guidance:g}, seeds from {seed}".format(**figures))
    print(
        "autoencoder: PSNR {autoencoder_psnr:.2f} dB, SSIM {autoencoder_ssim:.3f} "
        "on {held_out_pictures} held-out images".format(**figures)
    )
    print("recognised, of {prompts} common things:".format(**figures))
    for name, what in SHARES.items():
        print(f"  {what:<32}top-1 {figures[f'{name}top1']:6.1%}  top-5 {figures[f'{name}top5']:6.1%}")
    print("{seconds_per_picture:.2f} s an image".format(**figures))


def _print_scenes(report: PocketEval) -> None:
    print(f"{'pocket-eval':<14}{report.shares['all']:6.1%}  of {report.questions} questions (real scenes)")
    for kind, share in report.shares.items():
        if kind != "all":
            print(f"  {kind:<12}{share:6.1%}  ({report.judge[kind]:.1%})")


def _print_first(found: FirstPrompts) -> None:
    def line(what: str, shares: Shares) -> None:
        print(f"  {what:<36}top-1 {shares.top1:6.1%}  top-5 {shares.top5:6.1%}")

    print("first-prompts, recognised:")
    line("100 first prompts, 2 seeds", found.first)
    line("300 further things", found.further)
    for code, shares in found.languages.items():
        line(f"200 common things, in {code}", shares)
    for size, shares in found.sizes.items():
        line(f"100 common things, {size}", shares)
    print(f"  {'colour asked for is the main one':<36}      {found.colour:6.1%}")
    print(f"  {'distance between seeds':<36}      {found.variety:6.3f} of that between prompts")
    if found.told is not None:
        rows = {"40 with nothing known": found.told.unknown, "100 first prompts": found.told.first}
        rows |= {"500 things asked for": found.told.asked}
        rows |= {f"200 common things, in {code}": share for code, share in found.told.languages.items()}
        print("told to have nothing known:")
        for what, share in rows.items():
            print(f"  {what:<36}      {share:6.1%}")
