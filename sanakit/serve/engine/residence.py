"""The models of a server: loaded on demand, unloaded when others need the memory.

The least recently used goes first; a model that is drawing stays.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from sanakit.adapters.attach import Use, checked_weight, recorded, recorded_weights
from sanakit.adapters.pipeline import StrPath
from sanakit.adapters.read import AdapterFile
from sanakit.errors import ModelNotFoundError, SettingsError
from sanakit.models.contracts import ModelPart
from sanakit.pipelines.memory import MemoryPlan, available_bytes, choose_device, parse_budget, stage
from sanakit.pipelines.request import ModelSpec
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights import load_configs, load_settings
from sanakit.weights.control import controlnets_of
from sanakit.weights.find.resolve import resolve

log = logging.getLogger(__name__)
NO_CONTROL = "The model has a ControlNet, which this server does not use: the model draws alone."
SHARE = 0.8  # of the memory that is there at the start, which "auto" lets all models together take


class ModelPool:
    """Models by name, as many in memory as fit.

    paths: catalog names, folders, files or Hub repositories; the first is the default. device, dtype, memory:
    as for `TextToImage.from_pretrained`; the budget holds for all models together. adapters: name -> file,
    for all models that each fits; a request chooses among them.
    Raises what loading a model's settings and opening an adapter raise, or SettingsError where two models
    share a name.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        device: str,
        dtype: str,
        memory: str | int,
        adapters: Mapping[str, StrPath] | None = None,
    ) -> None:
        if not paths:
            raise SettingsError("No model was named: pass at least one.")
        self.device, self.dtype, self.memory = choose_device(device), dtype, parse_budget(memory)
        self.specs: dict[str, ModelSpec] = {}
        self.adapters: dict[str, dict[str, AdapterFile]] = {}  # model -> name of an adapter -> its file
        self._paths: dict[str, str] = {}
        opened = {name: AdapterFile(file) for name, file in (adapters or {}).items()}
        unfit = dict(opened)
        for path in paths:
            transformer, autoencoder = load_configs(path)
            spec = ModelSpec.of(load_settings(path), transformer, autoencoder)
            name = spec.settings.name
            if name in self.specs:
                raise SettingsError(
                    f"Two models are named {name!r}: rename one in its sanakit.json or, if it has none, "
                    "rename its folder."
                )
            self.specs[name], self._paths[name] = spec, path
            graphs = resolve(path, ("transformer",)).runtime
            if graphs:
                self.specs[name] = replace(spec, depth=0)  # nothing looks into their blocks
            elif controlnets_of(path):
                notes = (*spec.settings.notes, NO_CONTROL)
                self.specs[name] = replace(spec, settings=replace(spec.settings, notes=notes))
            fitting = {} if graphs else {n: file for n, file in opened.items() if file.fits(transformer)}
            self.adapters[name] = fitting
            unfit = {n: file for n, file in unfit.items() if n not in fitting}
        for file in unfit.values():
            file.check(load_configs(paths[0])[0])  # tells why it does not fit
            raise SettingsError(f"{file.path} fits none of the models {', '.join(self.specs)}: leave it out.")
        self.limit: int | None = None  # bytes for all models together
        if self.memory != "all":
            share = int(SHARE * available_bytes(self.device))
            self.limit = share if self.memory == "auto" else int(self.memory)
        self._loaded: OrderedDict[str, TextToImage] = OrderedDict()  # least recently used first
        self._sizes: dict[str, int] = {}  # bytes of the weights of every model that was ever loaded
        self._lock = threading.Lock()

    @property
    def default(self) -> str:
        """The name of the model that draws where none is named."""
        return next(iter(self.specs))

    @property
    def loaded(self) -> list[str]:
        """Names of the models in memory."""
        with self._lock:
            return list(self._loaded)

    def spec(self, name: str | None) -> ModelSpec:
        """Return the facts about a model; None: the default. Raises ModelNotFoundError."""
        name = self.default if name is None else name
        if name not in self.specs:
            raise ModelNotFoundError(f"There is no model {name!r} here; there are: {', '.join(self.specs)}.")
        return self.specs[name]

    def adapted(self, name: str | None, weights: Mapping[str, float]) -> ModelSpec:
        """Return the facts about a model with adapters of these weights. Raises SettingsError, as `spec`."""
        spec = self.spec(name)
        known, uses = self.adapters[spec.settings.name], []
        for adapter, weight in weights.items():
            if adapter not in known:
                have = f"there are: {', '.join(known)}" if known else "it has none here"
                raise SettingsError(f"{spec.settings.name} has no adapter {adapter!r}; {have}.")
            file, weight = known[adapter], checked_weight(adapter, weight)
            uses.append(Use(name=adapter, file=file.path.name, weight=weight, fingerprint=file.fingerprint))
        uses.sort(key=lambda use: list(known).index(use.name))
        return replace(spec, adapters=recorded([use for use in uses if use.weight]))

    def fits(self, name: str, busy: Collection[str]) -> bool:
        """Say whether a model is loaded, or can be without giving back one that is busy."""
        with self._lock:
            if name in self._loaded or self.limit is None:
                return True
            kept = sum(self._sizes[other] for other in self._loaded if other in busy)
            return kept == 0 or kept + self._sizes.get(name, max(self._sizes.values())) <= self.limit

    def stays(self, name: str) -> bool:
        """Say whether the weights of a model that was loaded fit in memory, all parts at once."""
        return self.limit is None or self._sizes[name] <= self.limit

    def get(self, name: str, busy: Collection[str] = (), adapters: str = "") -> TextToImage:
        """Return a model, loading it if need be, with the adapters of a record (`ModelSpec`) and no others.

        busy: models that must stay in memory. Raises what `TextToImage.from_pretrained` raises.
        """
        pipe = self._get(name, busy)
        if self.adapters[name]:
            pipe.set_adapters(recorded_weights(adapters))
        return pipe

    def _get(self, name: str, busy: Collection[str]) -> TextToImage:
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
        self._make_room(self._sizes.get(name, 0), busy)
        where = {"device": self.device, "dtype": self.dtype, "memory": self.memory}
        # Requests bring no control images: a model's own ControlNet would only take memory.
        pipe = TextToImage.from_pretrained(self._paths[name], **where, encoder=True, control_model=())
        parts = (pipe.transformer, pipe.autoencoder, pipe.text_encoder.model)
        self._sizes[name] = sum(weight.nbytes for part in parts for weight in part.parameters())
        self._make_room(self._sizes[name], busy)
        if self.memory == "auto" and self.stays(name):  # weights that fit are not released between stages
            pipe = TextToImage(
                pipe.transformer,
                pipe.autoencoder,
                pipe.text_encoder,
                pipe.settings,
                device=pipe.device,
                memory="all",
            )
        for adapter, file in self.adapters[name].items():
            pipe.load_adapter(file, 0.0, adapter)
        self._sizes[name] += pipe.adapter_set.bytes if self.adapters[name] else 0
        with self._lock:
            self._loaded[name] = pipe
        log.info("model %s is loaded, %d MB", name, self._sizes[name] // 10**6)
        return pipe

    def _make_room(self, size: int, busy: Collection[str]) -> None:
        """Unload idle models, the least recently used first, until `size` more bytes fit."""
        with self._lock:
            for name in [name for name in self._loaded if name not in busy]:
                held = sum(self._sizes[other] for other in self._loaded)
                if self.limit is None or held + size <= self.limit:
                    return
                del self._loaded[name]
                log.info("model %s was unloaded to make room", name)


class CurrentPart:
    """The part of a model that works now, see `memory.stage`; only one is on it at a time."""

    def __init__(self) -> None:
        self.part: ModelPart | None = None
        self._stack = ExitStack()

    def enter(self, part: ModelPart, pipe: TextToImage, plan: MemoryPlan) -> None:
        """Go over to another part of a model: parts that the plan does not keep are unloaded in between."""
        if part is not self.part:
            self.leave()
            self._stack.enter_context(stage(part, plan, pipe.device))
            self.part = part

    def leave(self) -> None:
        """Let the part go, which its plan may unload."""
        self.part = None
        self._stack.close()
