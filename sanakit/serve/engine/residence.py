"""The models of a server and their ControlNets: loaded on demand, unloaded when others need the memory.

ControlNets go before models, and the least recently used of each first; what is drawing stays.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from sanakit.adapters.attach import Use, checked_weight, recorded, recorded_weights
from sanakit.adapters.pipeline import StrPath
from sanakit.adapters.read import AdapterFile
from sanakit.errors import ModelNotFoundError, SettingsError
from sanakit.models.contracts import ModelPart
from sanakit.models.controlnet import ControlNet, check_sizes
from sanakit.pipelines.memory import (
    MemoryPlan,
    available_bytes,
    choose_device,
    memory_limit,
    parse_budget,
    stage,
)
from sanakit.pipelines.request import ModelSpec
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights import load_configs, load_settings
from sanakit.weights.control import ControlFile, controlnets_of, load_controlnet
from sanakit.weights.find.resolve import resolve
from sanakit.weights.fingerprint import first_digits

log = logging.getLogger(__name__)
NO_CONTROL = "The model has a ControlNet, which this server does not offer: the model draws alone."
Resident = str | tuple[str, str]  # a model's name; or that and the name of one of its ControlNets
SHARE = 0.8  # of the memory that is there at the start, which "auto" lets all models together take


class ModelPool:
    """Models by name, as many in memory as fit.

    paths: catalog names, folders, files or Hub repositories; the first is the default; empty where no images
    are drawn. device, dtype, memory: as for `TextToImage.from_pretrained`; the budget holds for all models
    together. adapters: name -> file, for all models that each fits; a request chooses among them. controls:
    the same of ControlNets, each of which is loaded with the first request for it; those that a model itself
    offers are there, too.
    Raises what loading a model's settings, opening an adapter and opening a ControlNet raise, or
    SettingsError where two models share a name.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        device: str,
        dtype: str,
        memory: str | int,
        adapters: Mapping[str, StrPath] | None = None,
        controls: Mapping[str, StrPath] | None = None,
    ) -> None:
        self.device, self.dtype, self.memory = choose_device(device), dtype, parse_budget(memory)
        if not paths and (adapters or controls):
            raise SettingsError(
                "Adapters and ControlNets are for image models, and none is named: omit them."
            )
        self.specs: dict[str, ModelSpec] = {}
        self.adapters: dict[str, dict[str, AdapterFile]] = {}  # model -> name of an adapter -> its file
        self.controls: dict[str, dict[str, ControlFile]] = {}  # the same of ControlNets
        self._paths: dict[str, str] = {}
        opened = {name: AdapterFile(file) for name, file in (adapters or {}).items()}
        unfit, nets = dict(opened), {name: ControlFile(path) for name, path in (controls or {}).items()}
        for path in paths:
            transformer, autoencoder = load_configs(path)
            spec = ModelSpec.of(load_settings(path), transformer, autoencoder)
            spec = replace(spec, fingerprint=first_digits(path))
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
            own = {} if graphs else {name: ControlFile(name) for name in spec.settings.control_models}
            steering = {} if graphs else {n: net for n, net in nets.items() if net.fits(transformer)}
            self.controls[name] = {n: net for n, net in own.items() if net.fits(transformer)} | steering
            if not graphs and not steering and controlnets_of(path):
                notes = (*spec.settings.notes, NO_CONTROL)
                self.specs[name] = replace(spec, settings=replace(spec.settings, notes=notes))
            fitting = {} if graphs else {n: file for n, file in opened.items() if file.fits(transformer)}
            self.adapters[name] = fitting
            unfit = {n: file for n, file in unfit.items() if n not in fitting}
        used = {name for fitting in self.controls.values() for name in fitting}
        for net in (net for name, net in nets.items() if name not in used):
            check_sizes(net.config, load_configs(paths[0])[0])  # tells why it does not fit
            raise SettingsError(f"{net.path} fits none of the models {', '.join(self.specs)}: leave it out.")
        for file in unfit.values():
            file.check(load_configs(paths[0])[0])  # tells why it does not fit
            raise SettingsError(f"{file.path} fits none of the models {', '.join(self.specs)}: leave it out.")
        self.limit: int | None = None  # bytes for all models together
        if self.memory != "all":
            share = int(SHARE * available_bytes(self.device))
            self.limit = share if self.memory == "auto" else int(self.memory)
        self._loaded: OrderedDict[str, TextToImage] = OrderedDict()  # least recently used first
        self._nets: OrderedDict[tuple[str, str], ControlNet] = OrderedDict()  # the same
        self._steered: dict[tuple[str, tuple[str, ...]], TextToImage] = {}  # models with ControlNets
        self._sizes: dict[Resident, int] = {}  # bytes of the weights of all that was ever loaded
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
        if not self.specs:
            raise ModelNotFoundError(
                "This server has no image model: start it with --model and the name of one."
            )
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
                text = f"{spec.settings.name} has no adapter {adapter!r}; {have}."
                raise SettingsError(text, setting="adapters")
            file, weight = known[adapter], checked_weight(adapter, weight)
            uses.append(Use(name=adapter, file=file.path.name, weight=weight, fingerprint=file.fingerprint))
        uses.sort(key=lambda use: list(known).index(use.name))
        return replace(spec, adapters=recorded([use for use in uses if use.weight]))

    def holds(self, residents: Collection[Resident]) -> bool:
        """Say whether all of these are in memory."""
        with self._lock:
            return all(one in self._loaded or one in self._nets for one in residents)

    def fits(self, residents: str | Collection[Resident], busy: Collection[Resident]) -> bool:
        """Say whether all of these are loaded, or can be without giving back what is busy."""
        wanted = {residents} if isinstance(residents, str) else {*residents}
        with self._lock:
            held = [*self._loaded, *self._nets]
            missing = wanted.difference(held)
            if not missing or self.limit is None:
                return True
            kept = sum(self._sizes[other] for other in held if other in busy)
            guess = max(self._sizes.values(), default=0)
            need = sum(self._sizes.get(one, guess) for one in missing)
            return kept == 0 or kept + need <= self.limit

    def stays(self, name: str) -> bool:
        """Say whether the weights of a model that was loaded fit in memory, all parts at once."""
        return self.limit is None or self._sizes[name] <= self.limit

    def get(
        self, name: str, busy: Collection[Resident] = (), adapters: str = "", nets: tuple[str, ...] = ()
    ) -> TextToImage:
        """Return a model, loading it if need be, with the adapters of a record (`ModelSpec`) and no others.

        busy: what must stay in memory. nets: names of the ControlNets that the pipeline has, one for each
        control image. Raises what `TextToImage.from_pretrained` and `load_controlnet` raise.
        """
        pipe = self._get(name, busy)
        if self.adapters[name]:
            pipe.set_adapters(recorded_weights(adapters))
        if not nets:
            return pipe
        kept = {*busy, name, *((name, net) for net in nets)}
        loaded = [self._net(pipe, (name, net), kept) for net in nets]
        with self._lock:
            if (name, nets) not in self._steered:
                self._steered[name, nets] = pipe.beside(loaded)
            return self._steered[name, nets]

    def _net(self, pipe: TextToImage, key: tuple[str, str], busy: Collection[Resident]) -> ControlNet:
        """Return a model's ControlNet, loading it if need be."""
        with self._lock:
            if key in self._nets:
                self._nets.move_to_end(key)
                return self._nets[key]
        self._make_room(self._sizes.get(key, 0), busy)
        file, dtype = self.controls[key[0]][key[1]], pipe.transformer.dtype
        mapped = self.device.type == "cpu" and dtype == torch.float32
        net = load_controlnet(file.path, device=self.device, dtype=dtype, mapped=mapped, home="cpu")
        self._sizes[key] = sum(weight.nbytes for weight in net.parameters())
        self._make_room(self._sizes[key], busy)
        with memory_limit(f"loading the ControlNet {key[1]}: use a smaller model"):
            net.to(next(pipe.transformer.parameters()).device)  # where the model waits for its stage
        with self._lock:
            self._nets[key] = net
        log.info("ControlNet %s of %s is loaded, %d MB", key[1], key[0], self._sizes[key] // 10**6)
        return net

    def _get(self, name: str, busy: Collection[Resident]) -> TextToImage:
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
        self._make_room(self._sizes.get(name, 0), busy)
        where = {"device": self.device, "dtype": self.dtype, "memory": self.memory}
        # ControlNets are loaded when they are asked for.
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

    def _make_room(self, size: int, busy: Collection[Resident]) -> None:
        """Unload what is idle, the least recently used first, until `size` more bytes fit."""
        with self._lock:
            idle: list[Resident] = [one for one in (*self._nets, *self._loaded) if one not in busy]
            for one in idle:
                held = sum(self._sizes[other] for other in (*self._nets, *self._loaded))
                if self.limit is None or held + size <= self.limit:
                    return
                self._unload(one)

    def _unload(self, one: Resident) -> None:
        if isinstance(one, str):
            del self._loaded[one]
            log.info("model %s was unloaded to make room", one)
        gone = [key for key in self._nets if one in (key, key[0])]
        for key in gone:
            del self._nets[key]
            log.info("ControlNet %s of %s was unloaded to make room", key[1], key[0])
        for model, nets in [*self._steered]:
            if model == one or any((model, net) in gone for net in nets):
                del self._steered[model, nets]


class CurrentPart:
    """The part of a model that works now, see `memory.stage`; only one is on it at a time.

    A transformer and its ControlNets are one part.
    """

    def __init__(self) -> None:
        self.part: tuple[ModelPart, ...] = ()
        self._stack = ExitStack()

    def enter(self, pipe: TextToImage, plan: MemoryPlan, *part: ModelPart) -> None:
        """Go over to another part of a model: parts that the plan does not keep are unloaded in between."""
        if part != self.part:
            self.leave()
            for module in part:
                self._stack.enter_context(stage(module, plan, pipe.device))
            self.part = part

    def leave(self) -> None:
        """Let the part go, which its plan may unload."""
        self.part = ()
        self._stack.close()
