"""The record of a run: config.json in its folder tells what the run is made with, and a resumed run compares.

    recipe, settings    its name; those of `TrainConfig`
    choices             what the recipe sets besides: resolution, shift, instruction ...
    source              the model it starts from: as it was named, and a fingerprint of each part's weights
    data                their place and fingerprint
    versions            of Python and of the packages that compute
    earlier             the same of this run before it was resumed with something else, and until which step

Other weights of the source are refused: parts that are not trained would change. Other differences are told.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sanakit import __version__
from sanakit.errors import DataError, SettingsError
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import current_share
from sanakit.train.report import writing
from sanakit.train.state.checkpoint import has_checkpoint, last_step
from sanakit.weights.fingerprint import fingerprint_weights
from sanakit.whole import written_whole

RECORD = "config.json"  # in the run's folder
FORMAT = 1
PACKAGES = ("torch", "numpy", "pillow", "safetensors", "tokenizers")
# Settings that no trained weight depends on but by rounding, and those that decide on the batches' order.
WITHOUT_EFFECT = (
    *("log_every", "evaluate_every", "sheet_every", "checkpoint_every", "trackers"),
    *("micro_batch", "recompute", "compile", "parallel"),
)
OF_ORDER = ("seed", "batch_size", "resolution", "data")

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeWith:
    """Source, data and choices that a run is made with, besides the settings of its loop.

    source: the model that it starts from; None: nothing. parts: fingerprints of further weights that it uses,
    by name. data: their place. content: their fingerprint. choices: the recipe's own, as JSON.
    """

    source: StrPath | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    data: StrPath = ""
    content: str = ""
    choices: Mapping[str, Any] = field(default_factory=dict)


NOTHING = MadeWith()


def record_run(folder: Path, recipe: str, config: TrainConfig | None, made: MadeWith) -> list[str]:
    """Write what a run is made with, and return what a resumed run does otherwise than before.

    folder: the run's; where it holds a checkpoint, the run is resumed. config: None: of the folder of several
    runs. Rank 0 alone writes. Raises SettingsError for other weights than the run began with, DataError for a
    damaged record, OutputError, and what reading the source raises.
    """
    now = _plain(
        {
            "format": FORMAT,
            "recipe": recipe,
            "settings": {} if config is None else asdict(config),
            "choices": made.choices,
            "source": {"name": _name(made.source), "weights": _weights(made.source) | dict(made.parts)},
            "data": {"place": os.fspath(made.data), "fingerprint": made.content},
            "versions": _versions(),
        }
    )
    earlier: list[Any] = []
    notes: list[str] = []
    if has_checkpoint(folder):
        before = read_record(folder)
        if before is None:
            notes = [
                f"The run has no {RECORD}: whether it is continued with what it began with is not known."
            ]
        else:
            _refuse_other(folder, before["source"], now["source"])
            earlier = before["earlier"]
            if changes := _changes(before, now):
                notes = [f"The run continues with {', '.join(changes.values())}."]
                if changes.keys() & set(OF_ORDER):
                    notes[0] += (
                        " Batches follow in another order from here on, in which some images come sooner "
                        "again than others."
                    )
                earlier = [*earlier, {"until": last_step(folder), **before, "earlier": []}]
    if current_share().rank == 0:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with written_whole(folder / RECORD) as partial:
                partial.write_text(json.dumps(now | {"earlier": earlier}, indent=2) + "\n", encoding="utf-8")
    return notes


def check_source(folder: Path, source: StrPath) -> None:
    """Raise SettingsError if the run in a folder began with other weights than those of this source.

    For a run that is resumed, before anything is loaded. Raises DataError, and what reading a model raises.
    """
    if (before := read_record(folder)) is not None:
        now = {"name": _name(source), "weights": _weights(source)}
        weights = {name: text for name, text in before["source"]["weights"].items() if name in now["weights"]}
        _refuse_other(folder, before["source"] | {"weights": weights}, now)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return what the run in a folder is made with; None where nothing was recorded. Raises DataError."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        kinds = {name: dict for name in ("settings", "choices", "source", "data", "versions")}
        fits = all(isinstance(record[name], kind) for name, kind in (kinds | {"earlier": list}).items())
        fits &= isinstance(record["source"]["weights"], dict) and isinstance(record["source"]["name"], str)
        fits &= record["format"] == FORMAT and "recipe" in record
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}): restore it, or delete it to compare nothing."
        ) from None
    if not fits:
        raise DataError(f"{path} is not the record of a run: restore it, or delete it to compare nothing.")
    return record


def _refuse_other(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise SettingsError where the weights of two sources differ."""
    names = before["weights"].keys() | now["weights"].keys()
    other = sorted(name for name in names if before["weights"].get(name) != now["weights"].get(name))
    if not other:
        return
    differ = ", ".join(other)
    if before["name"] == now["name"]:
        place = f" of {now['name']}" if now["name"] else ""
        raise SettingsError(
            f"The weights{place} that the run in {folder} began with have changed since ({differ}): restore "
            "them, or train into another folder (--output)."
        )
    came, wanted = (f"from {one['name']}" if one["name"] else "without a source" for one in (now, before))
    remedy = f"name the same with --source {before['name']}" if before["name"] else "name no --source"
    raise SettingsError(
        f"The run in {folder} began {wanted}, and would continue {came}, whose weights differ "
        f"({differ}): {remedy}, or train into another folder (--output)."
    )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return what differs between two records, in words, by name."""
    changes: dict[str, str] = {}
    if before["recipe"] != now["recipe"]:
        changes["recipe"] = f"the recipe {now['recipe']} instead of {before['recipe']}"
    if before["data"].get("fingerprint") != now["data"]["fingerprint"]:
        changes["data"] = "other images or captions"
    for group in ("choices", "settings", "versions"):
        for name, value in now[group].items():
            if name not in WITHOUT_EFFECT and before[group].get(name) != value:
                changes[name] = f"{name} {_told(value)} instead of {_told(before[group].get(name))}"
    return changes


def _told(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _weights(source: StrPath | None) -> dict[str, str]:
    return {} if source is None else dict(fingerprint_weights(source).parts)


def _name(source: StrPath | None) -> str:
    return "" if source is None else os.fspath(source)


def _versions() -> dict[str, str]:
    own = {"python": platform.python_version(), "sanakit": __version__}
    return own | {name: version(name) for name in PACKAGES}


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return what a record is when it has been written and read: tuples are lists."""
    return json.loads(json.dumps(value))
