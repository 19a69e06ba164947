"""From the model of a finished run to the embedded one: its own networks, with pocket's text encoder.

    embed_video("runs/pocket-video/model")

A run keeps the text encoder that it learned with. Where that is pocket's, or one whose features pocket's
keeps, the package needs no second copy of it: sanakit.json names the model that it is shared with.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sanakit.errors import WeightsError
from sanakit.pocket.words.known_things import fitted
from sanakit.text.known_things import FILE, KnownThings
from sanakit.weights import load_text_encoder
from sanakit.weights.find.catalog import CLIP_MODELS, find
from sanakit.weights.find.resolve import INDEX, OURS, TEXT_OF, TEXT_PARTS
from sanakit.weights.read.disk import read_json
from sanakit.weights.save import check_replaced, exported, write_json
from sanakit.weights.video.settings import load_video_configs

NAME = "pocket-video"
CARD = "README.md"
MOST = 25_000_000  # bytes of the embedded model, a shared text encoder not counted


def embed_video(
    model: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, *, text_of: str = "pocket"
) -> Path:
    """Write the embedded form of a model of clips; a folder that is there is replaced, its card is kept.

    model: a folder of `sana train pocket-video`. folder: None: the package's own. text_of: the embedded model
    of images whose text encoder and tokenizer it shares. Other words for things, in other languages too, are
    those of that model, and what counts as unknown is measured with its encoder. Returns the folder.
    Raises WeightsError for a folder without known things, for a text encoder of another width, and for a
    result above 25 MB.
    """
    model, target = Path(model), Path(folder) if folder is not None else CLIP_MODELS[NAME]
    trained, owner = KnownThings.load(model), find(text_of).folder
    shared = KnownThings.load(owner) if owner is not None else None
    if trained is None or shared is None:
        raise WeightsError(f"{model} or {text_of} has no {FILE}: embed what its own recipe trained.")
    encoder = load_text_encoder(text_of, dtype="float32")
    width = load_video_configs(model)[0].text_width
    if encoder.model.config.width != width:
        raise WeightsError(
            f"{model} reads features of width {width}, and {text_of}'s have {encoder.model.config.width}: "
            "train it with that text encoder."
        )
    things = {phrase: shared.things.get(phrase, words) for phrase, words in trained.things.items()}
    known = fitted(things, encoder, trained.animated)
    check_replaced(target, INDEX, "model")
    with exported(target) as partial:
        ignored = shutil.ignore_patterns(*TEXT_PARTS, CARD)
        shutil.copytree(model, partial, ignore=ignored)
        if (target / CARD).is_file():
            shutil.copy(target / CARD, partial / CARD)
        write_json(partial / OURS, read_json(model / OURS) | {TEXT_OF: text_of})
        (partial / FILE).write_text(known.text(), encoding="utf-8")
        size = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        if size > MOST:
            raise WeightsError(
                f"{model} would take {size / 1e6:.1f} MB in the package, above {MOST / 1e6:g}."
            )
    return target
