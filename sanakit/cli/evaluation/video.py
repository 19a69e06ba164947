"""`sana evaluate MODEL` for models like pocket-video: recognition, and with real clips all that moves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanakit.alone import alone_in
from sanakit.cli.evaluation.clips import RECOGNITION
from sanakit.cli.evaluation.output import output_folder, save_report
from sanakit.cli.terminal import print_json, progress_bar
from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.clips.clip import VideoClip
    from sanakit.pocket.evaluate.recognition import Shares
    from sanakit.pocket.evaluate.video import VideoReport

CLIPS, SUFFIX = "clips", ".webp"  # the folder of drawn clips in that of the results
SHEET, SHOWN = "sheet.png", 5  # frames of each clip in the sheet


def measures_video(model: str | None) -> bool:
    """Return whether a model of clips is to be measured: an embedded one, or a folder here."""
    from sanakit.weights.find.catalog import CLIP_MODELS
    from sanakit.weights.find.resolve import INDEX, resolve

    if model is None or not (model in CLIP_MODELS or (Path(model).expanduser() / INDEX).is_file()):
        return False
    source = resolve(model, ())
    return source.makes_clips and not source.makes_worlds


def evaluate_video_model(
    model: str,
    names: Sequence[str],
    reference: Path | None,
    *,
    seed: int,
    limit: int | None,
    device: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure a model of clips; draw, print the figures, and keep clips, a sheet and the report in `output`.

    reference: the folder of `sana data pocket-clips`.
    """
    if others := [name for name in names if name != RECOGNITION]:
        raise SettingsError(
            f"{others[0]} does not measure a model of clips: leave it out, and pass the data set of clips "
            "with --reference for motion, flicker and first frames. Of clips that are drawn, give the folder."
        )
    from sanakit.pocket.data.clips.dataset import open_clips
    from sanakit.pocket.evaluate.video import evaluate_video
    from sanakit.weights.fingerprint import fingerprint_weights

    shown: list[VideoClip] = []
    with ExitStack() as held, progress_bar() as show:
        folder = None if output is None else output_folder(output)
        if folder is not None:
            held.enter_context(alone_in(folder))
            (folder / CLIPS).mkdir(exist_ok=True)

        def keep(number: int, clip: VideoClip) -> None:
            if folder is not None:
                clip.save(folder / CLIPS / f"{number:03d}{SUFFIX}")
                shown.append(clip)

        clips = None if reference is None else open_clips(reference)
        asked: dict[str, Any] = {"seed": seed, "limit": limit, "device": device}
        report = evaluate_video(model, clips, **asked, progress=show, keep=keep)
        told = {"model": model, "weights": str(fingerprint_weights(model)), "reference": reference}
        told |= {"measures": {RECOGNITION: report}}
        if folder is not None:
            save_report(folder, told)
            _save_sheet(folder / SHEET, shown)
    if as_json:
        print_json(told)
        return
    _print(report)


def _save_sheet(path: Path, clips: Sequence[VideoClip]) -> None:
    """Lay out some frames of each clip, three clips in a row."""
    import numpy as np

    from sanakit.images.image import to_tensor
    from sanakit.images.sheets import contact_sheet

    frames = [clip.frames[np.linspace(0, len(clip.frames) - 1, SHOWN).round().astype(int)] for clip in clips]
    contact_sheet(to_tensor(np.concatenate(frames)), columns=3 * SHOWN, side=96).save(path)


def _print(report: VideoReport) -> None:
    def line(what: str, shares: Shares) -> None:
        print(f"  {what:<36}top-1 {shares.top1:6.1%}  top-5 {shares.top5:6.1%}")

    print(f"{report.model}: {report.steps} steps, guidance {report.guidance:g}, seeds from {report.seed}")
    print(f"middle frames recognised, of {report.prompts} prompts for {report.things} animated things:")
    line("clips that the model drew", report.recognised)
    if (real := report.real) is not None:
        line("real clips through the autoencoder", real.ceiling)
        alone = f"the autoencoder alone {real.first_frame_ceiling:.2f}"
        rows = {
            "motion over that of real clips": f"{real.dynamic_degree:.2f}",
            "flicker on still pixels over theirs": f"{real.still_flicker:.2f}",
            "first frame": f"{real.first_frame:.2f} dB ({alone})",
            "autoencoder, held-out clips": f"{real.autoencoder:.2f} dB, flicker "
            f"{real.autoencoder_flicker:.3f}",
        }
        for what, text in rows.items():
            print(f"  {what:<36}{text}")
    else:
        print(f"  {'motion, flicker on still pixels':<36}{report.motion:.2f} %, {report.still_flicker:.3f} %")
    print(f"{report.seconds_per_clip:.2f} s a clip")
