"""Draw the images of a file of prompts into a folder; an interrupted run resumes where it stopped.

1 held: the folder, from now on for this process alone    2 finished: what it holds, by the settings in PNGs
3 groups: what is drawn together    4 draw_group: one group of images    5 save_all: files and manifest

An existing image with the same settings, by the same model, is not drawn again; other files are replaced only
on request. Models may share a name, so the manifest notes of each image which model drew it (`drawn_by`).
Groups depend only on the file of prompts, so an interrupted run draws the same pixels as a complete one. If
one image of a group is missing, the whole group is drawn and the missing image is saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from sanakit.alone import alone_in
from sanakit.errors import MemoryLimitError, OutputError, SettingsError
from sanakit.images.image import FORMATS, Metadata, read_metadata, save
from sanakit.pipelines.prompt_file import PromptImage
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.reading import check_file, json_line, read_text, split_lines
from sanakit.text.prompt_weights import weigh
from sanakit.weights.find.resolve import resolve
from sanakit.weights.fingerprint import fingerprint_weights
from sanakit.weights.known_things import unknown_prompts
from sanakit.weights.settings import instruction_of, load_settings
from sanakit.whole import ABANDONED, sweep, written_whole

MANIFEST = "manifest.jsonl"  # in the folder of the results: one line per image, in the order of the prompts
WEIGHTS = "weights"  # key of a manifest's line: what drew the image, as `drawn_by` tells it
# Settings of a model that are those of each image, or names and offers.
NOT_OF_IMAGES = (
    *("steps", "guidance", "guidance_kind", "width", "height", "solver"),
    *("name", "licence", "styles", "example_prompts", "sizes", "control_models", "known_things", "notes"),
)
REMEDY = "Choose another folder, or replace them with --overwrite."
AT_ONCE = 8  # images of a group, at most
PIXELS_AT_ONCE = AT_ONCE * 512 * 512  # of a group, unless one image has more
NAMED = 3  # files that a message shows
# Of what a file carries: they change no pixel, or are known otherwise (`drawn_by`).
NO_SETTINGS = ("version", "best_of", "score", "fingerprint")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """An image that has been drawn, and what its user should know of it."""

    entry: PromptImage
    image: Image.Image
    warnings: list[str]


def drawn_by(model: str | os.PathLike[str], plan: str | None = None) -> str:
    """Return what tells the images of one model from those of another, whatever the two are called.

    It is the fingerprint of the weights, "/", and a hash of what else decides on images and is not among an
    image's own settings. plan: by which the model is quantised. Raises ModelNotFoundError or WeightsError.
    """
    settings, source = load_settings(model), resolve(model, ("transformer",))
    told = {
        one.name: getattr(settings, one.name) for one in fields(settings) if one.name not in NOT_OF_IMAGES
    }
    beside = (sorted(told.items()), *instruction_of(source), plan)
    return f"{fingerprint_weights(model)}/{hashlib.sha256(repr(beside).encode()).hexdigest()[:16]}"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for the images of this process alone.

    Two processes in one folder would take each other's lines from the manifest. Raises OutputError where
    another one draws into it, or it cannot take images.
    """
    _check_folder(folder)
    with alone_in(folder) as locked:
        sweep(folder, older=0 if locked else ABANDONED)
        yield


def finished(
    entries: Sequence[PromptImage],
    folder: Path,
    weights: str = "",
    *,
    overwrite: bool = False,
    remedy: str = REMEDY,
) -> set[str]:
    """Return the names of images in the folder that the same model drew with the same settings.

    weights: of the model, as `drawn_by` returns it; "": models are known by their names. overwrite: replace
    files of these names with other settings; they count as unfinished. remedy: what to do about such files.
    Raises OutputError where the folder cannot take the images, or holds such files.
    """
    _check_folder(folder)
    rows = _rows(folder / MANIFEST)
    every = {str(row.get(WEIGHTS, "")) for row in rows.values()} or {""}
    done, others = set(), []
    for entry in entries:
        difference = _difference(folder / entry.file, entry.metadata)
        by = {str(rows[entry.file].get(WEIGHTS, ""))} if entry.file in rows else every
        if not difference and by != {weights} and os.path.lexists(folder / entry.file):
            difference = f"drawn by {'weights that no manifest names' if '' in by else 'other weights'}"
        if difference:
            others.append(f"{entry.file} ({difference})")
        elif os.path.lexists(folder / entry.file):
            done.add(entry.file)
    if others and not overwrite:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        raise OutputError(
            f"{folder} holds other images under these names: {', '.join(others[:NAMED])}{more}. {remedy}"
        )
    return done


def groups(entries: Sequence[PromptImage], done: set[str]) -> list[list[PromptImage]]:
    """Return the images to draw together, group by group, without finished groups.

    Images of a group differ only in prompt, negative prompt and seed; one image steers them all. Groups are
    small, so little is lost when a run stops.
    """
    found: list[list[PromptImage]] = []
    growing: dict[tuple, list[PromptImage]] = {}  # by the settings that are shared
    for entry in entries:
        settings = _shared(entry)
        pixels = int(settings["width"]) * int(settings["height"])
        group = growing.setdefault(tuple(settings.values()), [])
        if not group or len(group) >= max(1, min(AT_ONCE, PIXELS_AT_ONCE // pixels)):
            group = growing[tuple(settings.values())] = []
            found.append(group)
        group.append(entry)
    return [group for group in found if any(entry.file not in done for entry in group)]


def draw_group(
    pipe: TextToImage,
    group: Sequence[PromptImage],
    done: Collection[str] = (),
    file: BinaryIO | None = None,
) -> Iterator[Drawn]:
    """Draw one group together, or in smaller parts if memory does not allow the whole. Yield each image.

    done: names of images to skip. Each of the others is yielded as soon as it is decoded. file: of the image
    that steers them all, where its path is another machine's.
    Raises MemoryLimitError, NumericsError, or SettingsError for a control image that was changed.
    """
    prompts = [str(entry.metadata["prompt"]) for entry in group]
    negatives = [str(entry.metadata["negative_prompt"]) for entry in group]
    shared, control = _shared(group[0]), group[0].control
    recorded, shown = shared.pop("control", None), control and control.open(file)
    request = check_request(pipe.spec, prompts, negatives, **shared, control=shown)
    if control is not None and request.metadata[0]["control"] != recorded:
        raise SettingsError(f"{control.path} was changed after its row was read: run the command again.")
    request = replace(request, seeds=[int(entry.metadata["seed"]) for entry in group], output="latent")
    try:
        with warnings.catch_warnings(action="ignore"):  # told below, each with its image
            for step in pipe.draw(request):
                latents = step.latents
    except MemoryLimitError:
        if len(group) == 1:
            raise
        middle = len(group) // 2
        for part in (group[:middle], group[middle:]):
            if file is not None:
                file.seek(0)
            yield from draw_group(pipe, part, done, file)
        return
    request = replace(request, output="pil")
    for index, entry in enumerate(group):
        if entry.file not in done:
            text, null = request.texts[index], request.negatives[index]
            notes = [*request.notes, *pipe.text_encoder.told([text.text], request.dialect)]
            weigh(pipe.text_encoder, [text], [null] if request.guided else [], notes, request.dialect)
            notes += unknown_prompts(pipe.settings, [text.text], pipe.text_encoder)
            (image,) = pipe.images(latents[index : index + 1], request)
            yield Drawn(entry=entry, image=image, warnings=notes)  # pyright: ignore[reportArgumentType]


def save_all(
    drawn: Iterable[Drawn], entries: Sequence[PromptImage], folder: Path, done: set[str], weights: str = ""
) -> Iterator[Drawn]:
    """Save images as they come; yield each when its file is complete.

    entries: all of the file of prompts, and done: those that lie in the folder, for the manifest, which gets
    an image's line when it is saved; at the beginning and the end, whatever ends it, the lines are put into
    the order of the prompts. An image that is still to be replaced keeps its line. weights: as for
    `finished`. Raises OutputError.
    """
    there, manifest = set(done), folder / MANIFEST

    def write() -> None:
        lines = {entry.file: _line(entry, weights) for entry in entries if entry.file in there}
        kept = {file: json_line(row) for file, row in before.items() if os.path.lexists(folder / file)}
        _write_manifest(manifest, entries, kept | lines)

    begun, before = False, _rows(manifest)
    try:
        for one in drawn:
            if not begun:
                _make_folder(folder)
                write()
                begun = True
            save(one.image, folder / one.entry.file, one.entry.metadata)
            there.add(one.entry.file)
            try:
                with manifest.open("a", encoding="utf-8") as lines:
                    lines.write(_line(one.entry, weights))
            except OSError as error:
                raise _unwritten(manifest, error) from None
            yield one
    finally:
        if begun or there:
            write()


def _check_folder(folder: Path) -> None:
    """Raise OutputError unless images can be written to a folder, which may be still to be made."""
    if folder.suffix.lower() in FORMATS:
        raise OutputError(f"{folder} is the name of an image: --prompts needs a folder for its images.")
    exists, reason = True, ""
    try:
        os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        exists = False
    except (OSError, ValueError) as error:  # names that no folder can have
        reason = getattr(error, "strerror", None) or str(error)
    if reason or (exists and not os.path.isdir(folder)):
        raise OutputError(f"{folder} is not a folder ({reason or 'but a file'}): choose another name.")
    if not os.path.isdir(folder.parent):
        raise OutputError(
            f"The folder {folder.parent} does not exist: create it first or choose another one."
        )
    if not os.access(folder if exists else folder.parent, os.W_OK):
        raise OutputError(f"{folder} is not writable: choose another folder.")
    if not _is_ours(folder / MANIFEST):
        raise OutputError(f"{folder / MANIFEST} was not written by this command: choose another folder.")


def _shared(entry: PromptImage) -> dict[str, Any]:
    """Return the settings that the images of a group have in common, as arguments of `check_request`."""
    own = ("prompt", "negative_prompt", "seed", "model", "fingerprint", "version")
    return {name: value for name, value in entry.metadata.items() if name not in own}


def _difference(path: Path, metadata: Metadata) -> str:
    """Return the setting in which a file differs from the wanted image; "" if none does, or it is missing."""
    if not os.path.lexists(path):
        return ""
    try:
        found = read_metadata(path)
    except SettingsError:
        return "which carries no settings"
    for name in sorted(found.keys() | metadata.keys()):
        if name not in NO_SETTINGS and found.get(name) != metadata.get(name):
            return f"{name} {reprlib.repr(found.get(name))}, not {reprlib.repr(metadata.get(name))}"
    return ""


def _is_ours(manifest: Path) -> bool:
    """Return whether a manifest may be replaced: it does not exist, or its lines look like ours."""
    if not os.path.lexists(manifest):
        return True
    try:
        check_file(manifest)
        with manifest.open(encoding="utf-8") as lines:
            first = lines.readline(1_000_000)
        return not first or {"file", "prompt", "model"} <= set(json.loads(first))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _make_folder(folder: Path) -> None:
    """Make the folder of the results unless it is there. Raises OutputError."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be created ({error.strerror}): choose another."
        ) from None


def _rows(manifest: Path) -> dict[str, dict[str, Any]]:
    """Return a manifest's rows by their files, the last of each; lines that are damaged are left out."""
    try:
        lines = split_lines(read_text(manifest))
    except (OSError, ValueError):
        return {}
    rows: dict[str, dict[str, Any]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            rows[row["file"]] = dict(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return rows


def _line(entry: PromptImage, weights: str) -> str:
    row = {"file": entry.file, "line": entry.line, **entry.metadata}
    return json_line(row | ({WEIGHTS: weights} if weights else {}))


def _write_manifest(path: Path, entries: Sequence[PromptImage], lines: Mapping[str, str]) -> None:
    """Write the lines of images that are there, in order, whole or not at all. Raises OutputError."""
    try:
        with written_whole(path) as partial, partial.open("x", encoding="utf-8") as file:
            file.writelines(lines[entry.file] for entry in entries if entry.file in lines)
    except OSError as error:
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written ({error.strerror}): check its permissions and the free space."
    )
