"""`sana generate --prompts FILE`: a file of prompts in, a folder of images out.

The options are parsed in `cli/drawing/generate.py`, which hands them on; reading, drawing and saving are in
`pipelines/prompt_file.py`, `pipelines/batch.py` and, on several processes, `pipelines/batch_ray.py`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sanakit.cli.drawing.options import HintName, control_model_for, steering_option
from sanakit.cli.terminal import print_json, progress_bar
from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.pipelines.prompt_file import PromptImage

Steering = tuple[Path | None, HintName | None, float, tuple[float, float]]
"""The options --control, --control-kind, --control-scale and --control-range."""

NAMED = 3  # lines of the file that one warning names


def draw_prompts(
    prompts: Path,
    output: str | None,
    *,
    model: str,
    loading: dict[str, Any],
    size: str | None,
    seed: int | None,
    defaults: dict[str, Any],
    steering: Steering,
    overwrite: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Draw what a file of prompts asks for and is not there yet; print what was done.

    output: the folder; None: the file's name without its suffix, here. loading: as for `from_pretrained`.
    defaults, steering: settings of rows that do not have their own. workers: processes of Ray; None: this
    one.
    """
    folder = Path(prompts.stem if output is None else output).expanduser()
    started = time.monotonic()
    with progress_bar() as show, ExitStack() as stack:
        from sanakit.adapters.pipeline import open_adapters, record_of
        from sanakit.images.image import parse_size
        from sanakit.pipelines.batch import MANIFEST, draw_group, drawn_by, finished, groups, held, save_all
        from sanakit.pipelines.prompt_file import StoredControl, read_prompts
        from sanakit.pipelines.request import ModelSpec, check_request
        from sanakit.pipelines.text_to_image import TextToImage
        from sanakit.weights.control import controlnets_for, hint_of
        from sanakit.weights.fingerprint import first_digits
        from sanakit.weights.settings import load_configs, load_settings

        # 1. All rows are read and checked, and the folder is looked at, before anything is drawn
        show("reading", 0, 0)
        width, height = parse_size(size) if size is not None else (None, None)
        defaults = defaults | {"width": width, "height": height}
        opened = open_adapters(model, loading["adapters"])
        spec = ModelSpec.of(load_settings(model), *load_configs(model))
        given = loading["control_model"]
        net = control_model_for(model, given, steered=True)  # rows may name images to steer by
        nets = controlnets_for(model, net)
        spec = replace(spec, adapters=record_of(opened), controlnets=len(nets), nets=tuple(nets.values()))
        spec = replace(spec, fingerprint=first_digits(model))
        file, kind, scale, (start, end) = steering
        kind = kind or next((hint for net in nets if (hint := hint_of(net))), "as-is")
        path = "" if file is None else os.path.abspath(file.expanduser())
        usual = StoredControl(path=path, kind=cast(HintName, kind), scale=scale, start=start, end=end)
        check = partial(check_request, spec)
        entries = read_prompts(prompts, check, seed=seed or 0, control=usual, **defaults)
        _check_used(steering, given, entries)
        loading = loading | {"control_model": net if any(one.control for one in entries) else given}
        weights = drawn_by(model, loading.get("plan"))
        stack.enter_context(held(folder))
        done = finished(entries, folder, weights, overwrite=overwrite)
        waiting = groups(entries, done)

        # 2. Draw, save and report missing images
        if not waiting:
            drawn = iter(())
        elif workers is None:
            pipe = TextToImage.from_pretrained(model, **loading)
            drawn = (one for group in waiting for one in draw_group(pipe, group, done))
        else:
            from sanakit.pipelines.batch_ray import draw_on_cluster

            drawn = draw_on_cluster(model, waiting, done, workers=workers, **loading)
        notes: dict[str, list[int]] = {}  # what is told -> the lines it is told of
        total, count = len(entries) - len(done), 0
        show("drawing", count, total)
        for count, one in enumerate(save_all(drawn, entries, folder, done, weights), start=1):
            show("drawing", count, total)
            for note in one.warnings:
                if (line := one.entry.line) not in notes.setdefault(note, []):
                    notes[note].append(line)

    warnings = [f"{_lines(lines)}: {note}" for note, lines in notes.items()]
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    seconds = time.monotonic() - started
    if as_json:
        report = {"folder": folder, "manifest": folder / MANIFEST, "pictures": len(entries)}
        print_json(report | {"drawn": count, "kept": len(done), "seconds": seconds, "warnings": warnings})
    else:
        kept = f", {len(done)} were there" if done else ""
        print(f"{folder}  {count} drawn{kept}  {seconds:.0f} s")


def _check_used(steering: Steering, net: str | None, entries: Sequence[PromptImage]) -> None:
    """Raise SettingsError for options that steer, where no row is steered."""
    if any(one.control for one in entries):
        return
    _, kind, scale, span = steering
    if option := steering_option(net, kind, scale, span):
        raise SettingsError(
            f"{option} needs images to steer by: name them in the column control, or one with --control."
        )


def _lines(lines: list[int]) -> str:
    """Name the lines that a warning is about, the first few of many.

    >>> _lines([4]), _lines([1, 2, 5, 6, 9])
    ('Line 4', 'Lines 1, 2, 5 and 2 more')
    """
    named = ", ".join(map(str, lines[:NAMED]))
    more = f" and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    return f"Line{'s' if len(lines) > 1 else ''} {named}{more}"
