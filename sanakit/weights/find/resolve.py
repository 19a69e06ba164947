"""Resolve a user's name for a model to files: catalog name, folder, file or Hub repository."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.weights.find import catalog, hub
from sanakit.weights.find.catalog import CATALOG, CLIP_MODELS, CONTROLNETS, CatalogEntry
from sanakit.weights.read.disk import read_json
from sanakit.weights.read.files import TensorFiles, open_file
from sanakit.whole import leftovers, told_unfinished

INDEX = "model_index.json"
OURS = "sanakit.json"  # defaults, precision rule, instruction: ours, ignored by diffusers
FORMAT = 1  # of sanakit.json
TEXT_OF = "text_encoder_of"  # key of sanakit.json: the embedded model whose text encoder a folder shares
TEXT_PARTS = ("text_encoder", "tokenizer")
SCORER = "clip_scorer"  # the kind of a CLIP, as `identify` tells it
PLAIN = (
    *("SanaPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline", "SanaControlNetPipeline"),
    "SanaGraphs",
)
WORLDS = "SanaWMPipeline"
CLIPS = (
    "SanaVideoPipeline",
    "SanaImageToVideoPipeline",
    WORLDS,
    "SanaStreamingPipeline",
)  # their networks have classes of their own
LEFT_OUT = {  # pipelines whose networks are opened as the plain model's -> what is not done
    "SanaPAGPipeline": "its perturbed attention guidance is not used",
}
FILES = (".pth", ".pt", ".safetensors", "/")  # ends of what is a path, not a name
LEFTOVERS = ("y_embedding", "pos_embed", "logvar_linear.weight", "logvar_linear.bias")  # of training
CHECKPOINT = re.compile(r"checkpoint-\d+(\.part)?")  # a folder in that of a training
COPIES = "controlnet."  # names of a ControlNet's tensors, beside those of the model that it steers
WITH_OTHERS = "vae."  # names of the video autoencoder in a whole LTX-2 checkpoint, beside other networks
MAX_PREFIXES = 3  # before the names of a file's tensors, as wrappers put there


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """The location of a model: a diffusers folder, one part of such a folder, or a single weight file."""

    path: Path
    entry: CatalogEntry | None = None  # the release it is, as far as its name says
    guessed: bool = False  # the release is only what the path looks like
    notes: tuple[str, ...] = ()  # what the user should know about how it is taken

    @property
    def name(self) -> str:
        """The name of the folder, file, or Hub repository (organisation/name); ? for what is not UTF-8."""
        path = Path(os.path.abspath(self.path))
        owner = path.parent.parent.name.removeprefix("models--").replace("--", "/")
        return (owner if _is_snapshot(path) else path.name).encode("utf-8", "replace").decode()

    @property
    def is_file(self) -> bool:
        """Whether it is a single .safetensors or .pth file."""
        return self.path.is_file()

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a whole diffusers folder rather than one part of it."""
        return (self.path / INDEX).is_file()

    @property
    def makes_clips(self) -> bool:
        """Whether it is a whole folder that says it makes clips."""
        return self.is_pipeline and read_json(self.path / INDEX).get("_class_name") in CLIPS

    @property
    def makes_worlds(self) -> bool:
        """Whether it is a whole folder that says it makes clips along camera paths."""
        return self.is_pipeline and read_json(self.path / INDEX).get("_class_name") == WORLDS

    @property
    def runtime(self) -> str:
        """The runtime of a folder of graphs (`weights/graphs.py`): "onnx" or "openvino"; else ""."""
        return str(read_json(self.path / INDEX).get("runtime", "")) if self.is_pipeline else ""

    @property
    def variant(self) -> str | None:
        """The preferred variant among several weight files."""
        return self.entry.variant if self.entry else None

    def folder(self, name: str) -> Path:
        """Return the place of one part, there or not; of a shared text encoder that of its owner.

        Raises WeightsError where sanakit.json names another model than an embedded one for it.
        """
        own = self.path / name if self.is_pipeline else self.path
        if name not in TEXT_PARTS or not self.is_pipeline or own.is_dir():
            return own
        if (owner := self.ours().get(TEXT_OF)) is None:
            return own
        entry = CATALOG.get(owner) if isinstance(owner, str) else None
        if entry is None or entry.folder is None:
            raise WeightsError(
                f"{self.path / OURS} says {TEXT_OF} = {owner!r}; it must be the name of an embedded model, "
                "such as pocket."
            )
        return entry.folder / name

    def part(self, name: str, class_name: str) -> Path:
        """Return the folder of one part (`transformer`, `vae`, ...), which holds a `class_name`.

        Raises WeightsError when it is missing or holds something else.
        """
        folder = self.folder(name)
        config = read_json(folder / "config.json")
        names = config.get("architectures")
        came = config.get("_class_name") or (names[0] if isinstance(names, list) and names else names or "?")
        if class_name not in str(came):
            raise WeightsError(
                f"{folder} holds a {came}, not the {class_name} of a SANA model: give the model's whole "
                f"folder (with {INDEX}) or another one."
            )
        return folder

    def ours(self) -> dict[str, Any]:
        """Return the content of the folder's sanakit.json, or {}: published folders have none.

        Raises WeightsError when it is damaged or of another format.
        """
        path = self.path / OURS
        content = read_json(path) if not self.is_file and path.exists() else {}
        came = content.get("format", FORMAT)
        if type(came) is not int or came != FORMAT:
            raise WeightsError(
                f"{path} has the format {came!r}, and this version reads {FORMAT}: update sanakit, or get "
                "the model for this version."
            )
        return content


def resolve(
    model: str | os.PathLike[str], parts: Iterable[str] = hub.PARTS, *, makes: str = ""
) -> ModelSource:
    """Find a model, and download the named parts if it is on the Hub.

    model: a name of the catalog, of an embedded ControlNet or model of clips, a diffusers folder, a
    .safetensors or .pth file, or a Hub "organisation/name". A name takes precedence over a folder of that
    name: write ./name for the folder. makes: "clips" or "worlds": of which it must be a model, as far as its
    name tells; "": of anything.
    Raises ModelNotFoundError if the name matches nothing, WeightsError for an unsupported model.
    """
    text = os.fspath(model)
    if not text.strip():
        raise ModelNotFoundError(
            "The model's name is empty: use a catalog name (see `sana models`), or a path."
        )
    if text in CATALOG:
        if makes and CATALOG[text].repo is not None:  # before gigabytes are downloaded
            raise WeightsError(
                f"{text} is a model of images: draw with `sana generate`, or name a model of {makes}."
            )
        return _from_catalog(CATALOG[text], parts)
    if text in CONTROLNETS:
        return ModelSource(path=CONTROLNETS[text])
    if text in CLIP_MODELS:
        if not (CLIP_MODELS[text] / INDEX).is_file():
            raise ModelNotFoundError(
                f"The model {text!r} is not in this installation: name another one, a folder or a Hub "
                "repository such as Efficient-Large-Model/SANA-Video_2B_480p_diffusers, or train it (`sana "
                f"train {text}`)."
            )
        return ModelSource(path=CLIP_MODELS[text])
    path = Path(text).expanduser()
    check_finished(path)
    if os.path.exists(path):
        return _from_disk(path)
    if (
        path.is_absolute()
        or text.startswith((".", "~"))
        or text.lower().endswith((".pth", ".pt", ".safetensors", "/"))
    ):
        raise ModelNotFoundError(
            f"There is no file or folder {text!r}: check the path, or use a catalog name (see `sana models`)."
        )
    if hub.REPO_NAME.fullmatch(text):
        entry = catalog.recognise(text)
        path = hub.fetch(text, parts, entry.variant if entry else None)
        guessed = entry is not None and text != entry.repo
        return ModelSource(path=path, entry=entry, guessed=guessed, notes=_class_notes(path))
    return _from_catalog(catalog.find(text, makes), parts)


def check_finished(path: Path) -> None:
    """Raise WeightsError for what a process is still writing, or was killed while it wrote.

    The path may be that of the unfinished file or folder itself, or the one that it is written for.
    """
    told = told_unfinished(path)
    if not told and not os.path.lexists(path):
        told = " ".join(map(told_unfinished, leftovers(path)[:1]))
    if told:
        raise WeightsError(told)


def partner(source: ModelSource, parts: tuple[str, ...]) -> ModelSource:
    """Return the release of the same size as a lone transformer file, with those parts downloaded.

    Raises WeightsError when no release has this size, or the file is not a transformer.
    """
    files, kind, _ = open_network(source.path)
    if kind != "transformer" and not holds_base(files):
        raise WeightsError(
            f"{source.path} holds {kind_words(kind)}, no {parts[0]}: use a model's whole diffusers folder."
        )
    kept = [name for name in files.infos if not name.endswith(LEFTOVERS) and not name.startswith(COPIES)]
    size = sum(files.infos[name].size for name in kept)
    same = [entry for entry in CATALOG.values() if entry.parameters == size]
    same = [entry for entry in same if entry.parts_of or not entry.unsupported]
    if not same:
        raise WeightsError(
            f"{source.path} holds only a transformer of an unreleased size ({size:,} parameters): its "
            f"{parts[0]} is unknown. Put it in a diffusers folder with the other parts."
        )
    chosen = source.entry if source.entry in same else same[0]
    return _from_catalog(CATALOG[chosen.parts_of] if chosen.parts_of else chosen, parts)


def open_network(path: Path) -> tuple[TensorFiles, str, str]:
    """Open a file that holds one network; return its tensors, kind and layout as `identify` does.

    Raises WeightsError as `open_file` does.
    """
    files = open_file(path)
    return files, *recognised(files)


def recognised(files: TensorFiles) -> tuple[str, str]:
    """Return kind and layout of a checkpoint.

    A prefix of all names, such as `module.`, is left out if they are known without it; `files.notes` tell.
    """
    names = list(files.infos)
    prefix = ""
    for _ in range(1 + MAX_PREFIXES):
        found = identify(name.removeprefix(prefix) for name in names)
        if found[0] != "foreign":
            if prefix:
                files.leave_out(prefix)
            return found
        begin = names[0].removeprefix(prefix).partition(".")[0] + "." if names else ""
        if not begin or not all(name.startswith(prefix + begin) for name in names):
            break
        prefix += begin
    return "foreign", ""


def identify(names: Iterable[str]) -> tuple[str, str]:
    """Identify a checkpoint by its tensors' names: (kind, layout).

    kind: transformer, autoencoder, video_autoencoder, text_encoder, controlnet, clip_scorer, lora or foreign.
    layout: official, diffusers or "".
    """
    names = set(names)

    def has(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    if any("lora_" in name for name in names):
        return "lora", ""
    if has("controlnet.", "controlnet_blocks."):
        return "controlnet", "official" if has("controlnet.") else "diffusers"
    if {"x_embedder.proj.weight", "y_embedder.y_proj.fc1.weight"} & names and has("blocks.", "final_layer."):
        return "transformer", "diffusers" if "t_embedder.linear_1.weight" in names else "official"
    if {"patch_embed.proj.weight", "caption_projection.linear_1.weight"} & names and has(
        "transformer_blocks."
    ):
        return "transformer", "diffusers"
    if has("per_channel_statistics.", f"{WITH_OTHERS}per_channel_statistics."):
        return "video_autoencoder", "official"
    if "latents_mean" in names and has("encoder.down_blocks.", "decoder.up_blocks."):
        return "video_autoencoder", "diffusers"
    if has("encoder.downsamples.", "decoder.upsamples."):
        return "video_autoencoder", "official"
    if has("encoder.mid_block.", "decoder.mid_block.") and has("quant_conv.", "post_quant_conv."):
        return "video_autoencoder", "diffusers"
    if has("encoder.down_blocks.", "decoder.up_blocks."):
        return "autoencoder", "diffusers"
    if has("encoder.stages.", "decoder.stages."):
        return "autoencoder", "official"
    if has("layers.0.pre_feedforward_layernorm.", "model.layers.0.pre_feedforward_layernorm."):
        return "text_encoder", "diffusers"
    if "logit_scale" in names and has("text_model.") and has("vision_model."):
        return SCORER, ""
    return "foreign", ""


def holds_base(files: TensorFiles) -> bool:
    """Return whether a file holds a ControlNet and the model that it steers, as official ones do."""
    names = list(files.infos)
    return all(any(name.startswith(start) for name in names) for start in (COPIES, "blocks."))


def kind_words(kind: str) -> str:
    """Return the kind in words, for messages."""
    return {
        "lora": "a LoRA, which needs a base model",
        "controlnet": "a ControlNet, which needs the model it steers",
        SCORER: "a CLIP, which scores captions and draws nothing",
        "foreign": "no part of a SANA model",
    }.get(kind, f"a SANA {kind.replace('_', ' ')}")


def _from_catalog(entry: CatalogEntry, parts: Iterable[str]) -> ModelSource:
    if entry.unsupported:
        raise WeightsError(
            f"{entry.name} is {entry.unsupported}. Choose another one that `sana models` lists."
        )
    if entry.repo is None:
        folder = entry.folder
        if folder is None or not (folder / INDEX).is_file():
            raise ModelNotFoundError(
                f"The embedded model {entry.name!r} is missing from this installation: install the package "
                "again."
            )
        return ModelSource(path=folder, entry=entry)
    return ModelSource(path=hub.fetch(entry.repo, parts, entry.variant), entry=entry)


def _from_disk(path: Path) -> ModelSource:
    if path.is_file():
        entry = catalog.recognise(path.name) or catalog.recognise(path.resolve().parent.parent.name)
        return ModelSource(path=path, entry=entry, guessed=True)
    if not path.is_dir():
        raise WeightsError(f"{path} is neither a file nor a folder: use a model's folder or weight file.")
    index = path / INDEX
    if index.is_file():
        came = str(read_json(index).get("_class_name"))
        if not came.startswith("Sana"):
            raise WeightsError(f"{path} is a {came}, not a SANA model: use one that `sana models` lists.")
    elif (path / "config.json").is_file() and (path / "model" / INDEX).is_file():
        raise WeightsError(f"{path} is the folder of a training, not of a model: use {path / 'model'}.")
    elif CHECKPOINT.fullmatch(path.name):
        raise WeightsError(
            f"{path} is a checkpoint of a training, not a model: finish the training (--resume), which "
            f"writes {path.parent / 'model'}."
        )
    elif not (path / "config.json").is_file():
        inside = sorted(
            entry.name for entry in path.iterdir() if entry.suffix.lower() in (".pth", ".safetensors")
        )
        hint = f"the file itself, such as {path / inside[0]}" if inside else f"a folder that holds {INDEX}"
        raise WeightsError(f"{path} has no {INDEX}, so it is not a diffusers folder: use {hint}.")
    resolved = path.resolve()
    name = resolved.parent.parent.name if _is_snapshot(resolved) else resolved.name
    embedded = next((known for known in CATALOG.values() if known.folder == resolved), None)
    entry = embedded or catalog.recognise(name)
    return ModelSource(path=path, entry=entry, guessed=embedded is None, notes=_class_notes(path))


def _is_snapshot(path: Path) -> bool:
    """Return whether a path is a repository in the Hub's cache: models--org--name/snapshots/commit."""
    return path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--")


def _class_notes(folder: Path) -> tuple[str, ...]:
    """Return what is told of a folder whose pipeline does more than the plain one that is drawn with."""
    if not (folder / INDEX).is_file():
        return ()
    came = str(read_json(folder / INDEX).get("_class_name"))
    if came in (*PLAIN, *CLIPS):
        return ()
    left_out = LEFT_OUT.get(came, "what is particular to it is not done")
    return (f"{folder} is a {came}, which this version draws with as the plain model: {left_out}.",)
