"""Memory planning: which parts are loaded when, so that drawing stays within a budget.

Text encoder, transformer and decoder work one after the other, so only one of them must be in memory. On a
CPU their weights are mapped from files and released stage by stage, or layer by layer. Released weights are
read again from the file, usually from the system's cache. On an accelerator, parts wait in the machine's
memory and are moved in for their stage. The decoder works in the widest bands of rows that fit.

From the fastest to the smallest:
    resident   everything that was touched stays
    staged     a part is released after its stage; the text encoder, used once an image, layer by layer
    layered    the transformer is released block by block as well, in every step
The estimates cover the whole process: its memory before loading, the weights, and the work.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sanakit.errors import MemoryLimitError, SettingsError
from sanakit.models.contracts import BlockModel, Codec, LanguageModel, LatentShape, ModelPart, VelocityModel
from sanakit.pipelines.result import Output
from sanakit.weights import mapped_bytes, release

Residence = Literal["resident", "staged", "layered"]
Budget = int | Literal["auto", "all"]

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
SMALL = 10**9  # bytes of all weights, below which "auto" keeps them
TEXT_WORK = 150 * 10**6  # bytes: activations, and the instruction's keys and values, of Gemma 2 2B
LEAST_BAND = 1 / 8  # latent rows: four rows of the image; less saves nothing, as neighbours are kept too
SLACK = 80 * 10**6  # bytes: code that is loaded later, pages around those that are touched, holes in the heap
STEP_WORK = 120 * 10**6  # bytes: a band of the Mix-FFN, scratch of the kernels, the text's keys and values


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The plan for drawing one request."""

    residence: Residence
    band: float  # latent rows that are decoded at a time
    peak: int  # bytes of the whole process, as estimated

    @property
    def after_layer(self) -> Callable[[nn.Module], object] | None:
        """The callback after each layer of the text encoder."""
        return None if self.residence == "resident" else release

    @property
    def after_block(self) -> Callable[[nn.Module], object] | None:
        """The callback after each block of the transformer."""
        return release if self.residence == "layered" else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Bytes of each part's weights that can be released, and of the largest single layer."""

    text: int
    text_layer: int
    transformer: int
    block: int
    decoder: int

    @classmethod
    def of(
        cls, transformer: BlockModel, codec: ModelPart, text: LanguageModel, *nets: nn.Module, mapped: bool
    ) -> Weights:
        """Weigh the parts; mapped: only what is mapped from files counts, as the rest cannot leave."""
        weigh = mapped_bytes if mapped else _bytes
        embedding = weigh(text.embed_tokens) if mapped else 0  # its rows are gathered, never all of it
        return cls(
            text=weigh(text) - embedding,
            text_layer=max(map(weigh, text.layers)),
            transformer=weigh(transformer) + sum(map(weigh, nets)),
            block=max(map(weigh, transformer.blocks)),
            decoder=weigh(codec),
        )


def result_bytes(output: Output, drawn: tuple[int, int], size: tuple[int, int]) -> int:
    """Return the most bytes that one image's result takes: drawn at one size in pixels, given at another."""
    if output == "latent":
        return 0
    floats, levels = 12, 3  # of a pixel
    whole = floats if output == "pt" else levels if drawn == size else 2 * floats + levels
    return whole * max(drawn[0] * drawn[1], size[0] * size[1])


def parse_budget(text: str | int) -> Budget:
    """Read "auto", "all", bytes, or a size such as "4GB", "1.5 GiB" or "900M". Raises SettingsError.

    >>> parse_budget("1.5GB"), parse_budget("512MiB")
    (1500000000, 536870912)
    """
    if text in ("auto", "all"):
        return text  # pyright: ignore[reportReturnType] - narrowed by `in`
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([KMG]I?|)B?", str(text).strip().upper())
    if match is None or isinstance(text, bool) or not float(match[1]):
        raise SettingsError(f'memory = {text!r}, but it must be "auto", "all", or a size such as "4GB".')
    return int(float(match[1]) * UNITS[match[2]])


class Planner:
    """Chooses how to draw each request with one model's parts within a budget.

    nets: ControlNets, which work with the transformer. device: where the parts compute; they may wait
    elsewhere. base: bytes that the process already holds.
    """

    def __init__(
        self,
        transformer: VelocityModel,
        autoencoder: Codec,
        text: LanguageModel,
        *nets: nn.Module,
        device: torch.device,
        budget: Budget,
    ) -> None:
        if isinstance(budget, int) and not sum(part.numel() for part in transformer.parameters()):
            raise SettingsError(
                "The memory of graphs cannot be limited: leave memory at auto, or use the original model."
            )
        self.on_cpu = device.type == "cpu"
        self.weights = Weights.of(transformer, autoencoder, text, *nets, mapped=self.on_cpu)
        self._copies = 2 * len(nets)  # activations of a ControlNet: its tokens, and what it adds
        self.transformer, self.autoencoder = transformer.config, autoencoder.config
        self.device, self.budget = device, budget
        self.base = resident_bytes() if self.on_cpu else 0
        self.residences: tuple[Residence, ...] = ("resident", "staged", "layered")
        if not self.on_cpu:
            waiting = next(transformer.parameters()).device != device
            self.residences = ("staged",) if waiting else ("resident",)

    def beside(self, *nets: nn.Module) -> Planner:
        """Return the same with ControlNets that were loaded later, beside those that it has."""
        other = copy.copy(self)
        counted, whole = sum(map(mapped_bytes if self.on_cpu else _bytes, nets)), sum(map(_bytes, nets))
        other.weights = replace(self.weights, transformer=self.weights.transformer + counted)
        other.base, other._copies = self.base + whole - counted, self._copies + 2 * len(nets)
        return other

    def plan(
        self, cells: LatentShape, samples: int, results: int = 0, available: int | None = None
    ) -> MemoryPlan:
        """Choose the fastest way to draw within the budget.

        cells: of one sample's latents. samples: latents in the batch, those for guidance included. results:
        bytes that the results take. available: bytes that the process may still take, which is what "auto"
        allows; None: look.
        Raises MemoryLimitError, which names the smallest sufficient budget and the largest square that fits.
        """
        height, width = (side * self.autoencoder.compression for side in (cells.height, cells.width))
        # On a CPU small bands cost no time, since they stay in its caches; elsewhere the whole map is first.
        bands = [self.autoencoder.default_band(height, width) if self.on_cpu else float(cells.height)]
        while bands[-1] > LEAST_BAND:
            bands.append(max(LEAST_BAND, bands[-1] / 2))

        def planned(residence: Residence, band: float) -> MemoryPlan:
            return MemoryPlan(residence, band, self._peak(cells, samples, residence, band) + results)

        if self.budget == "all":
            return planned(self.residences[0], bands[0])
        free = available_bytes(self.device) if available is None else available
        limit = self.budget if isinstance(self.budget, int) else self.base + free
        weights = self.weights
        small = weights.text + weights.transformer + weights.decoder < SMALL
        give_back = self.on_cpu and self.budget == "auto" and not small
        ways = (planned(way, band) for way in self.residences[give_back:] for band in bands)
        if plan := next((plan for plan in ways if plan.peak <= limit), None):
            return plan
        least = planned(self.residences[-1], LEAST_BAND)
        if self.budget == "auto":  # estimates are careful, and the system may make room: try before refusing
            return least
        squares = [LatentShape.image(cells.channels, n, n) for n in range(2, max(cells.dims[1:]) + 1)]
        fits = [
            square.width
            for square in squares
            if self._peak(square, samples, least.residence, LEAST_BAND) + results <= limit
        ]
        side = max(fits, default=0) * self.autoencoder.compression
        smaller = f", or draw {side}x{side} px" if side else ""
        enough = in_words(least.peak * 103 // 100)  # another process may begin with a little more
        raise MemoryLimitError(
            f"{width}x{height} px do not fit in {in_words(limit)}: allow at least {enough}{smaller}."
        )

    def _peak(self, cells: LatentShape, samples: int, residence: Residence, band: float) -> int:
        """Estimate the most bytes that the process holds at a time."""
        height, width = (side * self.autoencoder.compression for side in (cells.height, cells.width))
        weights, config = self.weights, self.transformer
        # A token at its widest: in the Mix-FFN (x, its norm, the result, three hidden widths). A CPU computes
        # blocks in bands, in place: there it is where x gets its positions, or its last norm.
        hidden = int(config.width * config.mlp_ratio)
        values = (3 + self._copies) * config.width + (0 if self.on_cpu else 3 * hidden)
        step = samples * cells.tokens * values * 4 + STEP_WORK
        decode = self.autoencoder.decode_bytes(height, width, band)
        if residence == "resident":
            everything = weights.text + weights.transformer + weights.decoder
            return self.base + SLACK + everything + max(TEXT_WORK, step, decode)
        text = 2 * weights.text_layer if self.on_cpu else weights.text  # one runs, one is being read
        blocks = weights.transformer if residence == "staged" else 3 * weights.block
        return self.base + SLACK + max(text + TEXT_WORK, blocks + step, weights.decoder + decode)


def in_words(size: int) -> str:
    """Return bytes as "3.4 GB", rounded up, so that the figure can be typed back.

    >>> in_words(3_310_000_000), in_words(612_000_001)
    ('3.4 GB', '613 MB')
    """
    return f"{-(-size // 10**8) / 10} GB" if size >= 10**9 else f"{-(-size // 10**6)} MB"


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device called so; "auto" is the accelerator if there is one. SettingsError if absent."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=device, dtype=torch.float32).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):  # torch has one for each reason
        raise SettingsError(f"There is no device {str(device)!r} here: use auto to choose one.") from None


@contextmanager
def stage(part: ModelPart, plan: MemoryPlan, device: torch.device) -> Iterator[None]:
    """Keep a part on the device while it works; free its memory afterwards if the plan says so."""
    home = next(part.parameters()).device
    if home != device:
        part.to(device)
    try:
        yield
    finally:
        if home != device:
            part.to(home)
        elif plan.residence != "resident":
            release(part)


@contextmanager
def memory_limit(what: str, latents: Tensor | None = None) -> Iterator[None]:
    """Turn an allocation that failed into a MemoryLimitError that keeps the latents."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch: RuntimeError on a CPU, a subclass of it on a GPU
        if isinstance(error, MemoryLimitError) or not (
            isinstance(error, MemoryError) or re.search("allocate memory|out of memory", str(error))
        ):
            raise
        raise MemoryLimitError(f"Out of memory while {what}.", latents) from None


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds; 300 MB, a usual figure, where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 300 * 10**6


def available_bytes(device: torch.device) -> int:
    """Return the available bytes on a device: on a CPU those of main memory, without swap.

    A container's own limit counts too (cgroup 2).
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    with suppress(OSError, ValueError):  # ValueError: "max", no limit
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        found.append(int((group / "memory.max").read_text()) - used)
    with suppress(OSError, AttributeError):
        match = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
        found.append(int(match[1]) * 1024)  # pyright: ignore[reportOptionalSubscript] - suppressed
    return max(0, min(found, default=1 << 62))  # unknown: the system will say


def _bytes(module: ModelPart) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def in_bands_that_fit(draw: Callable[[int, float], None], images: int, band: float) -> None:
    """Call draw(image, band) for each image, in bands (latent rows) that are halved where memory runs out."""
    for image in range(images):
        while True:
            try:
                draw(image, band)
                break
            except MemoryLimitError:
                if band <= LEAST_BAND:
                    raise
                band = max(LEAST_BAND, band / 2)
