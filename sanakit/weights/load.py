"""Load models' parts, whichever layout they are in: transformers, autoencoders, text encoders.

How a file's tensors come into a module, and what `mapped` leaves in the file, stands in `layouts/fill.py`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Literal, overload

import torch

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.dc_ae import DCAE
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.streaming.sana_streaming import SanaStreaming
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.models.video.sana_video2 import SanaVideo2, SanaVideo2Config
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import SanaWM
from sanakit.quant.plans import PLANS, Plan, find_plan
from sanakit.quant.quantize import quantize
from sanakit.text.encoder import TextEncoder
from sanakit.text.prefix_cache import PrefixCache, default_places
from sanakit.text.tokenizer import load_tokenizer
from sanakit.weights.find.resolve import ModelSource, open_network, partner, resolve
from sanakit.weights.graphs import (
    check_graphs,
    load_graph_autoencoder,
    load_graph_text_encoder,
    load_graph_transformer,
)
from sanakit.weights.layouts.fill import fill
from sanakit.weights.layouts.parts import (
    TEXT_SKIPPED,
    autoencoder_pairs,
    build_transformer,
    empty,
    open_autoencoder,
    open_text_encoder,
    open_transformer,
    stored_plan,
    text_encoder_pairs,
    transformer_pairs,
    transformer_skipped,
)
from sanakit.weights.layouts.released import examined
from sanakit.weights.precision import choose_dtype
from sanakit.weights.read.mapping import release
from sanakit.weights.settings import dialect_of, instruction_of, precision_rule

StrPath = str | os.PathLike[str]

# Parameters outside the embedding table from which the instruction's keys and values are worth a file: it
# takes them a second or so to compute. The embedded model has 2 million, Gemma 2 2B has 2,024 million.
KEEP_PREFIX_FROM = 100_000_000


@overload
def load_transformer(
    path: StrPath,
    *,
    kind: Literal["image"],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
    plan: str | None = None,
) -> Sana: ...
@overload
def load_transformer(
    path: StrPath,
    *,
    kind: Literal["clip"],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
    plan: str | None = None,
) -> SanaVideo | SanaVideo2: ...
@overload
def load_transformer(
    path: StrPath,
    *,
    kind: Literal["edit"],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
    plan: str | None = None,
) -> SanaStreaming: ...
@overload
def load_transformer(
    path: StrPath,
    *,
    kind: Literal["world"],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
    plan: str | None = None,
) -> SanaWM: ...
@overload
def load_transformer(
    path: StrPath,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
    plan: str | None = None,
) -> Sana | SanaVideo | SanaVideo2 | SanaStreaming | SanaWM: ...
def load_transformer(
    path: StrPath,
    *,
    kind: Literal["image", "clip", "edit", "world"] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
    plan: str | None = None,
) -> Sana | SanaVideo | SanaVideo2 | SanaStreaming | SanaWM:
    """Load a diffusion transformer, ready for inference or training.

    path: catalog name, diffusers folder (whole or its transformer/), official .pth, .safetensors in either
    layout, or Hub "organisation/name". The size is read from config.json, else from the shapes. kind: what it
    must make, "image", "clip", "edit" (of a clip) or "world"; None: any. dtype: to compute in; None chooses
    (float32 on a CPU, else the one the model was trained for). mapped: leave the big weights in their file,
    as stored (see `layouts/fill.py`). home: the first device of the weights, if not the one that the dtype is
    chosen for. plan: quantise by this plan of `quant.plans.PLANS`; a quantised folder (`sana quantize`) needs
    none.
    Raises ModelNotFoundError, WeightsError, PrecisionError if the dtype gives wrong images with this model,
    or SettingsError for `mapped` except on a CPU in float32.
    """
    source = examined(resolve(path, ("transformer",)))
    if source.runtime:
        check_graphs(dtype, plan)
        return load_graph_transformer(source)
    files, layout, config = open_transformer(source)
    clips = {SanaVideoConfig: "clip", SanaVideo2Config: "clip"}
    makes = (clips | {SanaStreamingConfig: "edit", SanaWMConfig: "world"}).get(type(config), "image")
    if kind not in (None, makes):
        raise WeightsError(f"{source.path} is a transformer of {makes}s, not of {kind}s: use another model.")
    _tell(source.notes if source.is_file else (*source.notes, *files.notes))
    rule, stored = precision_rule(source, files.dtype), stored_plan(source, "transformer")
    wanted = _wanted_plan(source, stored, plan, device)
    held = rule if stored else files.dtype
    dtype = choose_dtype(device, held, dtype or "auto", rule=rule, what=_name(source))
    module = empty(build_transformer(config), source, stored)
    pairs = transformer_pairs(module.state_dict(), layout, config)
    skipped = transformer_skipped(layout, files)
    fill(module, files, pairs, skipped=skipped, device=home or device, dtype=dtype, mapped=mapped)
    if wanted is not None:
        quantize(module, wanted, release)
    return module


def load_image_autoencoder(
    path: StrPath,
    *,
    part: Literal["both", "encoder", "decoder"] = "both",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
) -> DCAE:
    """Load an autoencoder of images, or only one half of it.

    path: as for `load_transformer`; a file may hold a DC-AE in diffusers' or efficientvit's names, or a
    transformer of a released size, whose published autoencoder is then fetched. part: "both", "encoder" or
    "decoder". dtype: None chooses; never float16, in which DC-AE overflows. mapped, home: as for
    `load_transformer`; mapped 16-bit weights work under `torch.no_grad` only. Raises as that does.
    """
    if part not in ("both", "encoder", "decoder"):
        raise SettingsError(f"part is {part!r}; it must be 'both', 'encoder' or 'decoder'.")
    source = resolve(path, ("vae",))
    if source.runtime:
        check_graphs(dtype)
        return load_graph_autoencoder(source, part)
    if source.is_file and open_network(source.path)[1] == "transformer":
        source = partner(source, ("vae",))
    files, layout, config = open_autoencoder(source)
    _tell(files.notes)
    dtype = choose_dtype(device, files.dtype, dtype or "auto", rule="bfloat16", what="DC-AE")
    module = empty(partial(DCAE, config, part), source)
    other = {"encoder": "decoder.", "decoder": "encoder."}.get(part)
    pairs = [
        pair
        for pair in autoencoder_pairs(files.infos, layout)
        if not (other and pair[1][0].startswith(other))
    ]
    skipped = {
        name: "the half that was not asked for" for name in files.infos if other and name.startswith(other)
    }
    return fill(module, files, pairs, skipped=skipped, device=home or device, dtype=dtype, mapped=mapped)


def load_text_encoder(
    path: StrPath,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    layer_by_layer: bool = False,
    home: str | torch.device | None = None,
    plan: str | None = None,
) -> TextEncoder:
    """Load the language model with its tokenizer and its instruction before prompts.

    path: as for `load_transformer`; for a file with a transformer of a released size the published text
    encoder is fetched. dtype: None chooses; never float16, in which Gemma 2 overflows. mapped, home, plan
    and errors: as for `load_transformer`.
    layer_by_layer: release each layer's mapped weights once it has run, so that only one layer is in memory
    (156 MB of Gemma 2 2B in 16 bits); the next prompts read them again. In a pipeline its memory plan
    decides. On a CPU in float32 the keys and values of a large model's instruction are kept in a file beside
    the weights, or in the user's cache directory (see `text/prefix_cache.py`).
    """
    source = resolve(path, ("text_encoder", "tokenizer"))
    if source.runtime:
        check_graphs(dtype, plan)
        return load_graph_text_encoder(source)
    if source.is_file:
        source = partner(source, ("text_encoder", "tokenizer"))
    files, config = open_text_encoder(source)
    _tell(files.notes)
    stored = stored_plan(source, "text_encoder")
    wanted = _wanted_plan(source, stored, plan, device)
    held = "bfloat16" if stored else files.dtype
    dtype = choose_dtype(device, held, dtype or "auto", rule="bfloat16", what="Gemma 2")
    module = empty(partial(Gemma2, config), source, stored)
    pairs = text_encoder_pairs(files)
    fill(module, files, pairs, skipped=TEXT_SKIPPED, device=home or device, dtype=dtype, mapped=mapped)
    if wanted is not None:
        quantize(module, wanted, release)
    tokenizer = load_tokenizer(source.folder("tokenizer"))
    instruction, max_tokens = instruction_of(source)
    large = sum(layer.numel() for layer in module.layers.state_dict().values()) >= KEEP_PREFIX_FROM
    prefix_cache = None
    if large and dtype == torch.float32 and torch.device(device).type == "cpu":
        times = [path.stat().st_mtime_ns for path in files.paths]  # a change may miss what `digest` samples
        fingerprint = f"{files.digest()} {times} {plan}"
        prefix_cache = PrefixCache(default_places(files.paths[0].parent), fingerprint)
    after_layer = release if layer_by_layer else None
    dialect = dialect_of(source)
    return TextEncoder(module, tokenizer, instruction, max_tokens, prefix_cache, after_layer, dialect)


def _tell(notes: Iterable[str]) -> None:
    """Warn of what the caller should know about the files of a model."""
    for note in notes:
        warnings.warn(note, stacklevel=3)


def _name(source: ModelSource) -> str:
    return source.entry.name if source.entry else str(source.path)


def _wanted_plan(
    source: ModelSource, stored: Plan | None, asked: str | None, device: str | torch.device
) -> Plan | None:
    """Return the plan by which to quantise what is loaded, or None. Raises SettingsError."""
    wanted, kind = find_plan(asked) if asked else None, torch.device(device).type
    if stored is not None and wanted not in (None, stored):
        raise SettingsError(
            f"{source.path} is quantised already, by the plan {stored.name}: omit the plan {asked}, or "
            "use the original model."
        )
    plan = stored or wanted
    if plan is not None and kind not in plan.devices:
        others = ", ".join(other.name for other in PLANS.values() if kind in other.devices)
        raise SettingsError(f"The plan {plan.name} does not support {kind}: use another one ({others}).")
    return None if stored else wanted
