"""Load weights into modules: strictly, memory-mapped, converted to the compute dtype or left as stored.

A module is built without memory (on the meta device) and every tensor is assigned to it once, so there is
never a second copy. Names and shapes are compared on the headers before any data is read: missing or unknown
keys are errors that name them, skipped keys are listed by name.

`mapped=True` (on a CPU in float32) leaves the big weights in their file, in their stored 16 bits: matrices,
dense convolutions and the embedding table. The operations of `ops/` and a gather widen them exactly on the
fly. The module computes the same as its float32 copy and owns almost no memory. Everything else (biases,
norms, tables, depthwise kernels) becomes float32, the dtype that `module.dtype` tells.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.dc_ae import DCAE
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana
from sanakit.models.video.wan_blocks import CausalConv
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
from sanakit.weights.layouts.parts import (
    NAMED,
    TEXT_SKIPPED,
    Module,
    Pairs,
    autoencoder_pairs,
    differences,
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
from sanakit.weights.precision import choose_dtype, dtype_name
from sanakit.weights.read.disk import AGAIN
from sanakit.weights.read.files import TensorFiles
from sanakit.weights.read.mapping import release, release_tensors
from sanakit.weights.settings import dialect_of, instruction_of, precision_rule

StrPath = str | os.PathLike[str]

FLOATS = ("float16", "bfloat16", "float32", "float64")
STORED = (torch.float16, torch.bfloat16, torch.float32)  # what the operations widen, exactly
# Parameters outside the embedding table from which the instruction's keys and values are worth a file: it
# takes them a second or so to compute. The embedded model has 2 million, Gemma 2 2B has 2,024 million.
KEEP_PREFIX_FROM = 100_000_000


def load_transformer(
    path: StrPath,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
    plan: str | None = None,
) -> Sana:
    """Load a diffusion transformer, ready for inference or training.

    path: catalog name, diffusers folder (whole or its transformer/), official .pth, .safetensors in either
    layout, or Hub "organisation/name". The size is read from config.json, else from the shapes. dtype: to
    compute in; None chooses (float32 on a CPU, else the one the model was trained for). mapped: leave the big
    weights in their file, as stored (see the module's text). home: the first device of the weights, if not
    the one that the dtype is chosen for. plan: quantise by this plan of `quant.plans.PLANS`; a quantised
    folder (`sana quantize`) needs none.
    Raises ModelNotFoundError, WeightsError, PrecisionError if the dtype gives wrong images with this model,
    or SettingsError for `mapped` except on a CPU in float32.
    """
    source = examined(resolve(path, ("transformer",)))
    if source.runtime:
        check_graphs(dtype, plan)
        return load_graph_transformer(source)
    files, layout, config = open_transformer(source)
    _tell(source.notes if source.is_file else (*source.notes, *files.notes))
    rule, stored = precision_rule(source, files.dtype), stored_plan(source, "transformer")
    wanted = _wanted_plan(source, stored, plan, device)
    held = rule if stored else files.dtype
    dtype = choose_dtype(device, held, dtype or "auto", rule=rule, what=_name(source))
    module = empty(partial(Sana, config), source, stored)
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
    tokenizer = load_tokenizer(source.path / "tokenizer" if source.is_pipeline else source.path)
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


def fill(
    module: Module,
    files: TensorFiles,
    pairs: Pairs,
    *,
    skipped: Mapping[str, str],
    device: str | torch.device,
    dtype: torch.dtype,
    mapped: bool = False,
) -> Module:
    """Assign a checkpoint's tensors to a module on the meta device.

    pairs: (names in the file, names in the module): the file's tensors, put one below the other, are cut into
    as many equal parts as there are names in the module. skipped: names in the file to leave out, with the
    reason. mapped: leave the weights that `widened` names as they are stored.
    Raises WeightsError naming what is missing, unknown, or of the wrong shape or type; SettingsError for
    `mapped` elsewhere than on a CPU in float32.
    """
    if mapped and (torch.device(device).type != "cpu" or dtype != torch.float32):
        raise SettingsError(
            f"mapped=True leaves weights in their file, which only works on a CPU in float32, not "
            f"{device} in {dtype_name(dtype)}: use device='cpu' and dtype='float32', or mapped=False."
        )
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    pairs = list(pairs)
    buffers = {name: buffer.dtype for name, buffer in module.named_buffers()}  # of quantised layers
    check_fit(expected, files, pairs, skipped, buffers)
    as_stored = widened(module) if mapped else set()
    state: dict[str, Tensor] = {}
    for sources, targets in pairs:
        if targets[0] in buffers:
            state[targets[0]] = files.read(sources[0]).to(device).reshape(expected[targets[0]])
            continue
        whole = _stack(files, sources, device, dtype, keep=as_stored.issuperset(targets))
        pieces = [whole] if len(targets) == 1 else whole.chunk(len(targets))
        state |= {name: piece.reshape(expected[name]) for name, piece in zip(targets, pieces, strict=True)}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def check_fit(
    expected: Mapping[str, tuple[int, ...]],
    files: TensorFiles,
    pairs: Pairs,
    skipped: Mapping[str, str],
    buffers: Mapping[str, torch.dtype],
) -> None:
    """Compare a checkpoint's headers with a module's names and shapes; arguments as for `fill`.

    buffers: the dtypes that those of quantised layers must have; others are of any float one. Raises
    WeightsError.
    """
    where, pairs = files.paths[0], list(pairs)
    missing, unknown = differences(expected, files, pairs, skipped)
    given = {target: sources for sources, targets in pairs for target in targets[:1]}
    count = sum(len(given.get(name, [name])) for name in expected if name in given or name in missing)
    if missing and len(missing) == count:
        raise WeightsError(
            f"{where} holds none of this model's {count} tensors: it has {_listed(list(files.infos))} where "
            f"{_listed(missing)} are expected. It is another model: use the weights of this one."
        )
    if missing:
        raise WeightsError(
            f"{where} lacks {len(missing)} of this model's {count} tensors: {_listed(missing)}. {AGAIN}"
        )
    if unknown:
        raise WeightsError(
            f"{where} holds {len(unknown)} tensors that this model does not have: {_listed(unknown)}. It is "
            "another model, or its config.json belongs to another file."
        )
    for sources, targets in pairs:
        infos = [files.infos[name] for name in sources]
        came = (sum(info.shape[0] for info in infos), *infos[0].shape[1:]) if infos[0].shape else ()
        wanted = [expected[name] for name in targets]
        total = (sum(shape[0] for shape in wanted), *wanted[0][1:]) if wanted[0] else ()
        if _stripped(came) != _stripped(total) or len({info.shape[1:] for info in infos}) > 1:
            raise WeightsError(
                f"{where}: {sources[0]} has shape {infos[0].shape}, this model needs {wanted[0]} for "
                f"{targets[0]}. It is another size, or its config.json belongs to another file."
            )
        for name, info in zip(sources, infos, strict=True):
            if wanted_dtype := buffers.get(targets[0]):
                if info.dtype != dtype_name(wanted_dtype):
                    planned = dtype_name(wanted_dtype)
                    raise WeightsError(
                        f"{where}: {name} is stored as {info.dtype}, its plan has {planned}. {AGAIN}"
                    )
            elif info.dtype not in FLOATS:
                raise WeightsError(
                    f"{where}: {name} is stored as {info.dtype}: it was quantised by another tool, which "
                    "must load it."
                )


def widened(module: nn.Module) -> set[str]:
    """Return the names of weights that may have any float dtype: those of linear layers, of dense 1x1 and 3x3
    and of causal convolutions, and the embedding table."""
    names = set()
    for name, part in module.named_modules():
        dense = isinstance(part, nn.Conv2d) and part.groups == 1 and part.kernel_size in ((1, 1), (3, 3))
        causal = isinstance(part, CausalConv)
        if isinstance(part, nn.Linear | nn.Embedding) or causal or (dense and part.stride == (1, 1)):
            names.add(f"{name}.weight")
    return names


def _stack(
    files: TensorFiles, names: Sequence[str], device: str | torch.device, dtype: torch.dtype, *, keep: bool
) -> Tensor:
    """Put tensors one below the other, on the device and, floats only, in the dtype; keep: as stored.

    Weights that need no conversion stay mapped to their file: a single tensor, or several that follow each
    other there, as in the folders we write. Others are copied to their place, one after the other: converting
    them first would leave holes of their size in the heap (0.6 GB for the 0.6B model). Of queries, keys and
    values of a published diffusers folder that copy is 0.37 GB for the 0.6B model in 16 bits, 1.0 GB for the
    1.6B.
    """
    parts = [files.read(name) for name in names]
    stored = {part.dtype for part in parts}
    if (keep and len(stored) == 1 and stored <= set(STORED)) or not parts[0].is_floating_point():
        dtype = parts[0].dtype
    whole = parts[0] if len(parts) == 1 else files.read_stacked(names)
    if whole is not None:
        moved = whole.to(device=device, dtype=dtype)
    else:
        rows = [len(part) for part in parts]
        moved = torch.empty((sum(rows), *parts[0].shape[1:]), device=device, dtype=dtype)
        for place, part in zip(moved.split(rows), parts, strict=True):
            place.copy_(part)
    if moved is not whole:
        release_tensors(parts)  # their pages have been read for the last time
    return moved


def _stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Less its trailing ones: a 1x1 convolution and a matrix are the same numbers."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


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
