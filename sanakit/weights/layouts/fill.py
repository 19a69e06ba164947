"""Assign the tensors of a file to a module: strictly, memory-mapped, converted to a dtype or left as stored.

A module is built without memory (on the meta device) and every tensor is assigned to it once, so there is
never a second copy. Names and shapes are compared on the headers before any data is read: missing or unknown
keys are errors that name them, skipped keys are listed by name.

`mapped=True` (on a CPU in float32) leaves the big weights in their file, in their stored 16 bits: matrices,
dense convolutions and the embedding table. The operations of `ops/` and a gather widen them exactly on the
fly. The module computes the same as its float32 copy and owns almost no memory. Everything else (biases,
norms, tables, depthwise kernels) becomes float32, the dtype that `module.dtype` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.video.ltx2_blocks import FrameConv
from sanakit.models.video.wan_blocks import CausalConv
from sanakit.quant.layer import Quantized
from sanakit.weights.layouts.parts import NAMED, Module, Pairs, differences
from sanakit.weights.precision import dtype_name
from sanakit.weights.read.disk import AGAIN
from sanakit.weights.read.files import TensorFiles
from sanakit.weights.read.mapping import release_tensors

FLOATS = ("float16", "bfloat16", "float32", "float64")
DENSE = ((1, 1), (3, 3), (3, 1))  # kernels of convolutions that operations widen
STORED = (torch.float16, torch.bfloat16, torch.float32)  # what the operations widen, exactly


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
    buffers = _as_they_are(module)
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

    buffers: the dtypes that some must have, as those of quantised layers; others are of any float one. Raises
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


def _as_they_are(module: nn.Module) -> dict[str, torch.dtype]:
    """Return the buffers that a file must hold in their own dtype: quantised layers', and whole numbers."""
    layers = {name for name, part in module.named_modules() if isinstance(part, Quantized)}
    return {
        name: buffer.dtype
        for name, buffer in module.named_buffers()
        if name.rpartition(".")[0] in layers or not buffer.is_floating_point()
    }


def widened(module: nn.Module) -> set[str]:
    """Return the names of weights that may have any float dtype: those of linear layers, of dense 1x1, 3x3
    and 3x1 and of 3x3x3 convolutions over frames, and the embedding table."""
    names = set()
    for name, part in module.named_modules():
        dense = isinstance(part, nn.Conv2d) and part.groups == 1 and part.kernel_size in DENSE
        causal = isinstance(part, CausalConv)
        if isinstance(part, nn.Linear | nn.Embedding) or causal or (dense and part.stride == (1, 1)):
            names.add(f"{name}.weight")
        elif isinstance(part, FrameConv):
            names.add(f"{name}.conv.weight")
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
