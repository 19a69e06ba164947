"""From a taught text encoder and the data set to a model that draws: the run of `pocket-drawings`.

The transformer is new, or another model's: then its time becomes t in [0, 1] and its caption projection is
fitted to the new text encoder before the first step (`dense_time`, `new_text`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sanakit.errors import SettingsError
from sanakit.models.dc_ae import DCAE, DCAEConfig
from sanakit.models.gemma2 import Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pocket.data import sources
from sanakit.pocket.data.dataset import PocketImages, open_designs, packages_of
from sanakit.pocket.data.drawn import drawn_at
from sanakit.pocket.data.encoding import encode_images
from sanakit.pocket.data.pool import build_pool
from sanakit.pocket.data.samples import FIRST_MIX, Mix, list_samples
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.data.sources import SIZE
from sanakit.pocket.data.toy import is_toy
from sanakit.pocket.data.wording import Wording
from sanakit.pocket.train.feed import PocketFeed
from sanakit.pocket.train.new_text import read_instead
from sanakit.pocket.train.words_run import taught_encoder
from sanakit.pocket.words.captions import STYLES
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.pocket.words.known_things import known_things
from sanakit.pocket.words.teaching.vocabulary import LANGUAGES
from sanakit.text.encoder import TextEncoder
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.objectives.autoencoder import autoencoder_state
from sanakit.train.objectives.velocity import Sheet, VelocityObjective, Watched
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, averaged_parts, compile_blocks, fill_averaged
from sanakit.train.state.checkpoint import has_checkpoint
from sanakit.train.surgery.dense_time import with_dense_time
from sanakit.weights import load_image_autoencoder, load_text_encoder, load_transformer, save_diffusers
from sanakit.weights.fingerprint import weights_sha256
from sanakit.weights.quantized import check_trainable

SHEET = (
    *("a dog", "a cute cat", "a house with a garden", "draw me a panda", "a blue cat", "cat", "puppy"),
    *("un perro", "a horse", "a red car", "a purple elephant", "logo of a fox", "a man", "a woman", "a baby"),
    *("a beach", "a fox to the left of a star", "a star to the left of a fox", "an apple above a bus"),
    *("a bus above an apple", "three bananas", "a big cat and a small tree", "a rocket and a castle"),
    "a green bird",
)
WATCHED_SCENES = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawings:
    """Settings of a drawings run.

    scenes: how many are composed. defaults, offers: stored in the model. mix: what is drawn, how often.
    side: of the drawings in px; other than 256, they are drawn again from the packages. keep_text: read the
    source's text encoder whatever words run lies beside.
    """

    transformer: SanaConfig
    text: Gemma2Config
    autoencoder: DCAEConfig
    shift: float
    scenes: int
    defaults: Mapping[str, Any]
    offers: Mapping[str, Any]
    mix: Mix = FIRST_MIX
    side: int = SIZE
    keep_text: bool = False


def drawings_run(
    data: Path,
    output: Path,
    what: Drawings,
    config: TrainConfig,
    *,
    source: str | os.PathLike[str] | None = None,
) -> Run:
    """Train a transformer on the latents of a pool that is made first, with the encoder of `pocket-words`.

    source: the model whose transformer and autoencoder it begins with, and whose text encoder it keeps
    without a words run; None: a new transformer, and the autoencoder of the runs beside `output`. The run's
    notes tell when something is left out or kept for want of data or of an earlier stage.
    Raises DataError where one is missing that it cannot do without, SettingsError for a source that is
    quantised or of another architecture.
    """
    if source is not None:
        check_trainable(source)
    notes: list[str] = []
    pocket, both = open_designs(data, notes)
    if what.side != SIZE:
        pocket, both = drawn_at(what.side, data, pocket), drawn_at(what.side, data, both)
    scenes = Scenes(pocket, what.scenes, mirrored=what.mix.mirrored_in_scenes)
    foreign = foreign_names(data)
    encoder = _encoder(output.parent / "pocket-words", what, source, notes)
    torch.manual_seed(config.seed)
    transformer = Sana(what.transformer)
    if source is None:
        transformer.init_weights()
    elif not has_checkpoint(output):
        transformer.load_state_dict(_started(what, encoder, pocket, source, notes).state_dict())
    codec, scale = _codec(output, what, pocket, source)
    device = training_device()
    samples = list_samples(both, what.scenes, mix=what.mix)
    pool = build_pool(output / "pool", samples, both, scenes, codec.to(device))
    codec.cpu()
    transformer.to(device)
    encoder.model.to(device)
    if config.compile:
        compile_blocks(transformer)
    feed = PocketFeed(
        pool,
        both.rows,
        scenes,
        Wording(foreign, what.mix),
        scale=scale,
        shares=what.mix.shares,
        seed=config.seed,
    )
    side = what.transformer.sample_size
    objective = VelocityObjective(
        transformer,
        encoder,
        feed,
        shift=what.shift,
        seed=config.seed,
        watched=watched_sets(pocket, codec, scale),
        sheet=Sheet(
            prompts=SHEET,
            guidance=what.defaults["guidance"],
            steps=what.defaults["steps"],
            shape=(what.transformer.latent_channels, side, side),
            decode=lambda z: torch.cat([codec.decode(part / scale) for part in z.cpu().split(8)]),
        ),
    )

    def finish(folder: Path) -> None:
        trained, _ = averaged_parts(folder, objective)
        finished = DCAE(replace(codec.config, scaling_factor=scale))
        finished.load_state_dict(codec.state_dict())
        save_diffusers(
            folder / MODEL,
            transformer=trained,
            autoencoder=finished,
            text_encoder=encoder,
            flow_shift=what.shift,
            defaults=what.defaults,
            dtype=torch.float16,
            name="pocket",
            licence="Apache-2.0",
            known_things=known_things([row.concept for row in both.rows], encoder, foreign),
            **what.offers,
        )

    made_with = MadeWith(
        source=source,
        parts={
            "text encoder in use": weights_sha256(encoder.model),
            "autoencoder in use": weights_sha256(codec),
        },
        data=data,
        content=both.fingerprint,
        choices={"scenes": what.scenes, "shift": what.shift, "mix": asdict(what.mix), "side": what.side},
    )
    return Run(objective, config, finish, tuple(notes), made_with)


def _encoder(
    words: Path, what: Drawings, source: str | os.PathLike[str] | None, notes: list[str]
) -> TextEncoder:
    """Return the encoder of the words run, or without one that of the source."""
    if source is None or (has_checkpoint(words) and not what.keep_text):
        return taught_encoder(words, what.text)
    if not what.keep_text:
        notes.append(f"{words} holds no words run: the text encoder of {os.fspath(source)} is kept.")
    encoder = load_text_encoder(source, dtype="float32")
    encoder.model.eval().requires_grad_(False)
    return encoder


def _codec(
    output: Path, what: Drawings, pocket: PocketImages, source: str | os.PathLike[str] | None
) -> tuple[DCAE, float]:
    """Return the autoencoder, on the CPU, and the scale of its latents."""
    if source is not None:
        codec = load_image_autoencoder(source, part="both", dtype="float32").eval()
        return codec, codec.config.scaling_factor
    codec = DCAE(what.autoencoder).eval()
    refined = output.parent / "pocket-decoder"
    stage = refined if refined.exists() else output.parent / "pocket-autoencoder"
    fill_averaged(codec, stage, autoencoder_state)
    some = np.linspace(0, len(pocket.rows) - 1, min(256, len(pocket.rows))).astype(int)
    return codec, 1 / encode_images(codec, [pocket.images[i] for i in some]).std().item()


def _started(
    what: Drawings,
    encoder: TextEncoder,
    pocket: PocketImages,
    source: str | os.PathLike[str],
    notes: list[str],
) -> Sana:
    """Return the source's transformer, fitted to another time and text encoder where they are others."""
    started, wanted = load_transformer(source, kind="image", dtype="float32"), what.transformer
    same = replace(started.config, time_scale=wanted.time_scale, sample_size=wanted.sample_size)
    if same != wanted:
        raise SettingsError(
            f"{os.fspath(source)} has another transformer than this recipe: use one of pocket's."
        )
    if started.config.time_scale != wanted.time_scale:
        started, error = with_dense_time(started)
        notes.append(f"Its time is t in [0, 1] now; the new embedding differs by {error:.0%}.")
    old = load_text_encoder(source, dtype="float32")
    if not _same(old, encoder):
        phrases = list(COMMON_CONCEPTS.values())
        texts = [*phrases, *FURTHER_CONCEPTS.values(), *{row.captions[-1] for row in pocket.rows}]
        texts += [f"{phrase}, {style.suffix}" for phrase in phrases for style in STYLES]
        explained = read_instead(started, old, encoder, texts)
        notes.append(f"It reads another text encoder, which explains {explained:.0%} of the old features.")
    return started


def _same(one: TextEncoder, other: TextEncoder) -> bool:
    """Tell whether two encoders are the same but for float16's rounding."""
    if one.model.config != other.model.config or one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        return False
    weights = other.model.state_dict()
    return all(torch.equal(w.half(), weights[name].half()) for name, w in one.model.state_dict().items())


def watched_sets(pocket: PocketImages, codec: DCAE, scale: float) -> list[Watched]:
    """Flat drawings of common and further things, and scenes of combinations that are not drawn."""
    index = {(row.concept, row.style): i for i, row in enumerate(pocket.rows)}
    watched = []
    for name, things in (("", COMMON_CONCEPTS), ("further_", FURTHER_CONCEPTS)):
        known = [(concept, said) for concept, said in things.items() if (concept, "fluent-flat") in index]
        if some := known[:: max(1, len(known) // 96)]:
            pictures = [pocket.images[index[concept, "fluent-flat"]] for concept, _ in some]
            latents = encode_images(codec, pictures) * scale
            watched.append(Watched(name, latents, [f"{said}, flat vector" for _, said in some]))
    held_out = Scenes(pocket, WATCHED_SCENES, 1, held_out=True)
    captions = [held_out.scene(i).captions[0] for i in range(WATCHED_SCENES)]
    return [*watched, Watched("scenes_", encode_images(codec, held_out) * scale, captions)]


def foreign_names(data: Path) -> dict[str, list[str]]:
    """Return names of concepts in other languages; none for made-up data."""
    return {concept: list(own.values()) for concept, own in names_by_language(data).items()}


def names_by_language(data: Path) -> dict[str, dict[str, str]]:
    """Return the same as concept -> language code -> name."""
    if is_toy(data):
        return {}
    tarball = sources.obtain(sources.EMOJIBASE, packages_of(data))
    return sources.foreign_names(sources.read_labels(tarball, ("en", *LANGUAGES)))
