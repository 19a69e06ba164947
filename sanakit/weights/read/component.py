"""Which files of one part's folder make its checkpoint: `transformer/`, `vae/`, `text_encoder/`.

A folder may hold several checkpoints: variants (fp16, bf16), an unsharded file, shards with their index, and
what an earlier export left. The choice is that of the library that the part is of. diffusers takes the shards
that an index lists; transformers, whose files are called `model`, takes an unsharded file first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sanakit.errors import WeightsError
from sanakit.weights.read.disk import AGAIN, read_json

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # stems of the files of either library
WEIGHT_NAME = re.compile(
    rf"(?P<stem>{DIFFUSERS}|{TRANSFORMERS})(?:\.(?P<variant>[A-Za-z]\w*))?"
    r"(?:-(?P<shard>\d{5})-of-(?P<count>\d{5}))?(?:\.(?P<late>[A-Za-z]\w*))?\.safetensors"
)
INDEX_NAME = re.compile(
    rf"(?P<stem>{DIFFUSERS}|{TRANSFORMERS})(?:\.(?P<variant>[A-Za-z]\w*))?"
    r"\.safetensors\.index(?:\.(?P<late>[A-Za-z]\w*))?\.json"
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
NAMED = 4  # file names that an error message quotes


@dataclass(frozen=True, slots=True)
class Choice:
    """Files that make one checkpoint, and the complete sets beside them that were not chosen."""

    files: tuple[str, ...]
    others: tuple[tuple[str, ...], ...] = ()


@dataclass(slots=True)
class _Variant:
    """The files of one stem and variant."""

    stem: str
    whole: str = ""  # the unsharded file
    splits: dict[int, list[str]] = field(default_factory=dict)  # number of shards -> those that are there
    index: str = ""
    listed: frozenset[str] = frozenset()  # by the index


def component_files(folder: Path, variant: str | None = None) -> list[Path]:
    """List the safetensors of one part of a folder, all shards of one variant. Raises WeightsError."""
    return [folder / name for name in choose_files(folder, variant).files]


def choose_files(folder: Path, variant: str | None = None) -> Choice:
    """Choose the safetensors of one part of a folder. variant: to prefer. Raises WeightsError."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        raise WeightsError(
            f"{folder} is missing or not readable: the model's folder is incomplete. {AGAIN}"
        ) from None
    config = read_json(folder / "config.json") if "config.json" in names else {}
    stem = TRANSFORMERS if "architectures" in config else DIFFUSERS
    indexes = {name: _listed(folder / name) for name in names if INDEX_NAME.fullmatch(name)}
    if choice := _choose(names, variant, stem, indexes, f"{folder}: "):
        return choice
    tensors = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(PICKLED)]
    if tensors:
        raise WeightsError(
            f"{folder} holds {', '.join(tensors[:NAMED])}, and nothing tells which of them to use: keep the "
            f"right ones and call them {stem}.safetensors, or pass the path of one file."
        )
    if pickles:
        raise WeightsError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when opened: "
            "download the .safetensors files of the same repository, or convert them with their own tool."
        )
    raise WeightsError(f"{folder} holds no .safetensors file: the model's folder is incomplete. {AGAIN}")


def select_weights(names: Iterable[str], variant: str | None = None, stem: str = DIFFUSERS) -> list[str]:
    """Choose, among the file names of one part, those that make one checkpoint.

    The requested variant is preferred, then files without a variant, then the only variant there is. stem: of
    the files to prefer, DIFFUSERS or TRANSFORMERS. An index stands for all shards of its variant.
    Raises WeightsError when shards of the chosen set are missing; returns [] when nothing can be chosen.
    >>> select_weights(["config.json", "model.fp16.safetensors", "model.safetensors"], "fp16")
    ['model.fp16.safetensors']
    """
    names = list(names)
    choice = _choose(names, variant, stem, {name: None for name in names if INDEX_NAME.fullmatch(name)}, "")
    return list(choice.files) if choice else []


def _choose(
    names: Iterable[str],
    variant: str | None,
    stem: str,
    indexes: Mapping[str, frozenset[str] | None],
    where: str,
) -> Choice | None:
    """Choose as `select_weights` does. indexes: the files that each lists; None: not known."""
    names = sorted(names)
    found: dict[tuple[str, str | None], _Variant] = {}
    for name in names:
        match = WEIGHT_NAME.fullmatch(name) or INDEX_NAME.fullmatch(name)
        if match is None:
            continue
        one = found.setdefault((match["stem"], match["variant"] or match["late"]), _Variant(match["stem"]))
        if name in indexes:
            one.index = name
        elif count := match.groupdict()["count"]:
            one.splits.setdefault(int(count), []).append(name)
        else:
            one.whole = name
    for one in found.values():
        shards = frozenset(name for members in one.splits.values() for name in members)
        listed = indexes.get(one.index)
        one.listed = shards if listed is None else listed
    there = {key: one for key, one in found.items() if one.whole or one.splits or one.listed & set(names)}
    stems = {key[0] for key in there}
    stem = stem if stem in stems else min(stems, default=stem)
    variants = {key[1]: one for key, one in there.items() if key[0] == stem}
    for tag in (variant, None, "bf16", "fp16", *(variants if len(variants) == 1 else ())):
        if tag in variants:
            return _of_variant(variants[tag], set(names), where)
    return None


def _of_variant(one: _Variant, names: set[str], where: str) -> Choice:
    """Choose among an unsharded file and shards. Raises WeightsError where shards are missing."""
    complete = [tuple(members) for count, members in sorted(one.splits.items()) if len(members) == count]
    missing = sorted(one.listed - names)
    if one.index and one.listed and not missing:
        complete = [
            tuple(sorted(one.listed)),
            *(members for members in complete if set(members) != one.listed),
        ]
    sets = [*complete, (one.whole,)] if one.whole else complete
    if one.whole and (one.stem == TRANSFORMERS or not (one.index and one.listed & names)):
        chosen = (one.whole,)
    elif one.index and missing:
        raise WeightsError(
            f"{where}{missing[0]} is missing, {len(missing)} of the {len(one.listed)} shards that the index "
            f"{one.index} lists. {AGAIN}"
        )
    elif len(complete) == 1 or (complete and one.index):
        chosen = complete[0]
    elif complete:
        raise WeightsError(
            f"{where}{complete[0][0]} and {complete[1][0]} belong to two complete checkpoints, and no index "
            "tells which one to use: remove the files of the other."
        )
    else:
        count, members = min(one.splits.items())
        raise WeightsError(
            f"{where}{len(members)} of the {count} shards like {members[0]} are there. {AGAIN}"
        )
    return Choice(chosen, tuple(files for files in sets if files != chosen))


def _listed(path: Path) -> frozenset[str]:
    """Return the file names in a checkpoint's index. Raises WeightsError when it is damaged."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{path} has no weight_map. {AGAIN}")
    return frozenset(str(name) for name in weight_map.values())
