"""Adapters of a pipeline: loaded, weighed, unloaded, merged. `TextToImage` is such a pipeline."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

from sanakit.adapters.attach import AdapterSet, Use, checked_weight, recorded
from sanakit.adapters.read import DIFFUSERS_FILE, PEFT_FILE, AdapterFile
from sanakit.errors import SettingsError
from sanakit.models.contracts import VelocityModel
from sanakit.models.sana import has_blocks
from sanakit.weights.find.resolve import resolve
from sanakit.weights.layouts.parts import transformer_config
from sanakit.weights.settings import ModelSettings

StrPath = str | os.PathLike[str]
AdapterChoices = Iterable[tuple[StrPath, float]]
"""Files of adapters and their weights."""


class Budget(Protocol):
    """A memory plan's account."""

    base: int  # bytes that are held all the time


class Adaptable:
    """A pipeline whose transformer takes adapters (LoRA files)."""

    transformer: VelocityModel
    settings: ModelSettings

    @property
    def adapters(self) -> dict[str, float]:
        """The loaded adapters by name, and their weights; 0: turned off."""
        return self.adapter_set.weights

    @cached_property
    def adapter_set(self) -> AdapterSet:
        """The adapters of the transformer. Raises SettingsError for graphs."""
        if not has_blocks(self.transformer):
            raise SettingsError("Graphs take no adapters: load the model that they were made of.")
        return AdapterSet(self.transformer)

    @property
    def adapted_by(self) -> str:
        """The record of all adapters that change what is drawn now, merged ones too; "" without any."""
        return recorded(self.adapter_set.uses) if "adapter_set" in vars(self) else ""

    def load_adapter(self, file: StrPath | AdapterFile, weight: float = 1.0, name: str | None = None) -> str:
        """Load a LoRA, beside those that are loaded: their changes are summed. Returns its name.

        file: .safetensors in the names of diffusers, peft, Kohya's scripts or OneTrainer; or a folder of
        diffusers or peft with one. weight: from -100 to 100, the factor on its change; 0 turns it off.
        name: to weigh and unload it by; None: the file's.
        Raises ModelNotFoundError, WeightsError for a file that is not a LoRA of this model, or SettingsError.
        """
        opened = file if isinstance(file, AdapterFile) else AdapterFile(file)
        held = self.adapter_set.bytes
        adapter = opened.read(self.adapter_set.transformer.config)
        name = _free_name(opened.path, self.adapters) if name is None else name
        self.adapter_set.add(adapter, name, weight)
        self._account(self.adapter_set.bytes - held)
        self.settings = replace(self.settings, notes=(*self.settings.notes, *adapter.notes))
        for note in adapter.notes:
            warnings.warn(note, stacklevel=2)
        return name

    def load_opened(self, opened: Iterable[tuple[AdapterFile, float]]) -> None:
        """Load what `open_adapters` checked, each under its file's name."""
        for file, weight in opened:
            self.load_adapter(file, weight)

    def set_adapters(self, weights: Mapping[str, float]) -> None:
        """Set the weights of loaded adapters by name; those that are not named are turned off.

        Raises SettingsError for unknown names and for weights out of range.
        """
        self.adapter_set.weigh(weights)

    def unload_adapters(self, *names: str) -> None:
        """Take adapters off, all without a name: then the model is what it was, bit for bit.

        Those that were merged stay. Raises SettingsError for unknown names.
        """
        held = self.adapter_set.bytes
        left = self.adapter_set.remove(names or tuple(self.adapters))
        self._account(self.adapter_set.bytes - held)
        told = {note for adapter in left for note in adapter.notes}
        self.settings = replace(
            self.settings, notes=tuple(note for note in self.settings.notes if note not in told)
        )

    def merge_adapters(self) -> None:
        """Sum all adapters into the model's weights, at their weights now, and unload them; irreversible.

        Steps then take as long as without adapters. Warns where the model is quantised, which loses small
        changes. Raises SettingsError for a compiled model.
        """
        held = self.adapter_set.bytes
        for note in self.adapter_set.merge():
            warnings.warn(note, stacklevel=2)
        self._account(-held)

    def twin(self) -> Self:
        """Return a pipeline with the same weights in memory, whose adapters are its own.

        It begins with those of this one; changes to either do not reach the other. Raises SettingsError for a
        compiled model.
        """
        other, adapters = copy.copy(self), self.adapter_set.twin()
        plan = copy.copy(vars(self)["_memory"])
        vars(other).update(transformer=adapters.transformer, adapter_set=adapters, _memory=plan)
        return other

    def _account(self, more: int) -> None:
        """Have the memory plan know of bytes that are held all the time from now on."""
        plan: Budget = vars(self)["_memory"]  # whose type belongs to the pipeline
        plan.base += more

    def check_unchanged(self, record: object) -> None:
        """Raise SettingsError unless the adapters in use are those of a request's settings; None: none.

        What was prepared of its prompts holds keys and values of the weights of then.
        """
        if (record or "") != self.adapted_by:
            raise SettingsError(
                "The adapters were changed while an image was being drawn: draw it to its end before, or "
                "begin it again."
            )


def open_adapters(model: StrPath, chosen: AdapterChoices) -> list[tuple[AdapterFile, float]]:
    """Open files of adapters and check them against a model, by headers alone: before it is loaded.

    model: as for `load_transformer`. Raises ModelNotFoundError, WeightsError or SettingsError.
    """
    opened = [(AdapterFile(file), checked_weight(str(file), weight)) for file, weight in chosen]
    if opened:
        source = resolve(model, ("transformer",))
        if source.runtime:
            raise SettingsError(f"{model} holds graphs, which take no adapters: use the original model.")
        config = transformer_config(source)
        for file, _ in opened:
            file.check(config)
    return opened


def record_of(opened: Iterable[tuple[AdapterFile, float]]) -> str:
    """Return the record of adapters as a pipeline has it that was loaded with them; see `open_adapters`."""
    uses: dict[str, Use] = {}
    for file, weight in opened:
        name = _free_name(file.path, uses)
        uses[name] = Use(name=name, file=file.path.name, weight=weight, fingerprint=file.fingerprint)
    return recorded([use for use in uses.values() if use.weight])


def _free_name(path: Path, taken: Container[str]) -> str:
    """Return a name for an adapter by its file, or its folder where all files are named alike."""
    stem = path.parent.name if path.name in (DIFFUSERS_FILE, PEFT_FILE) else path.stem
    stem, number = stem or path.stem, 1
    name = stem
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name
