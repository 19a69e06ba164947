"""Transformer, text encoder and decoder that run in an external runtime; pipelines use them like modules.

Each has the interface that drawing needs of its parent class, and none of its weights. The file is opened at
first use. `weights.release` closes it again, as a memory plan says. Text is padded and masked, which gives
what unpadded text does. A graph computes a prompt's projection, keys and values in every step, while our
modules do it once: 0.3 % of its products at 1024 px and 20 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sanakit.errors import SettingsError
from sanakit.graphs import onnx, openvino
from sanakit.models.dc_ae import DCAE, DCAEConfig
from sanakit.models.gemma2 import Gemma2, Gemma2Config, KVCache
from sanakit.models.layers import TextKeysValues
from sanakit.models.sana import Sana, SanaConfig, TextContext

NOT_NATIVE = 'Graphs do not draw in the dialect "native": omit it, or use the model that they were made of.'
RUNTIMES = {"onnx": onnx, "openvino": openvino}  # each: FILE, write and load


class Graph(nn.Module):
    """A network's file, opened when it is first called. runtime: a key of RUNTIMES.

    It takes and gives tensors on the device of its one parameter, which is empty, and works on the CPU.
    """

    def __init__(self, folder: Path, runtime: str) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(0, dtype=torch.float32), requires_grad=False)
        self.path = folder / RUNTIMES[runtime].FILE
        self._load, self._run = RUNTIMES[runtime].load, None

    @property
    def bytes(self) -> int:
        """The content of its files."""
        return sum(path.stat().st_size for path in self.path.parent.glob(f"{self.path.stem}.*"))

    def forward(self, **inputs: Tensor) -> list[Tensor]:
        """Return the outputs in order. Raises MissingExtraError, or WeightsError for a damaged file."""
        self._run = self._run or self._load(self.path)
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in inputs.items()}
        return [torch.from_numpy(values).to(self.place.device) for values in self._run(arrays)]

    def close(self) -> None:
        """Free its memory; the next call opens the file again."""
        self._run = None


class GraphTransformer(Sana):
    """A transformer for sampling: `prepare` and `velocity`."""

    def __init__(self, config: SanaConfig, graph: Graph) -> None:
        nn.Module.__init__(self)  # none of the parent's weights
        self.config = config
        self.blocks = nn.ModuleList([graph])  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return torch.float32

    def prepare(
        self, features: Sequence[Tensor], counts: Sequence[int] | None = None, eps: float | None = None
    ) -> TextContext:
        """Take the prompts as they are: the one layer has their features, 1 L E, as its keys.

        Raises SettingsError for an eps that the graph does not have in it.
        """
        if eps is not None and self.config.qk_norm:
            raise SettingsError(NOT_NATIVE)
        counts = [1] * len(features) if counts is None else counts
        prompts = zip(features, counts, strict=True)
        return TextContext([[TextKeysValues(count, key=text[None]) for text, count in prompts]])

    @torch.no_grad()
    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
    ) -> Tensor:
        """As `Sana.velocity`; after_block is not called, as a graph has no blocks to release."""
        texts = [prompt.key[0] for prompt in context.layers[0] for _ in range(prompt.count)]  # pyright: ignore[reportOptionalSubscript]
        repeats = context.batch // len(latents)

        def each(values: float | Tensor) -> Tensor:
            one = torch.as_tensor(values, dtype=torch.float32, device=latents.device).reshape(-1)
            return one.expand(len(latents)).repeat(repeats)

        lengths = torch.tensor([len(text) for text in texts], device=latents.device)
        padded = pad_sequence(texts, batch_first=True)  # B L E
        inputs = {"latents": latents.repeat(repeats, 1, 1, 1), "t": each(t), "text": padded}
        inputs["mask"] = torch.arange(padded.shape[1], device=latents.device) < lengths[:, None]
        if guidance is not None:
            inputs["guidance"] = each(guidance)
        return self.blocks[0](**inputs)[0]


class GraphText(Gemma2):
    """A language model that keeps all keys and values in its cache, sliding layers or not."""

    def __init__(self, config: Gemma2Config, graph: Graph) -> None:
        nn.Module.__init__(self)
        self.config = config
        nothing = torch.empty(0, config.width, dtype=torch.float32)
        self.embed_tokens = nn.Embedding.from_pretrained(nothing)  # it tells the device
        self.layers = nn.ModuleList([graph])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return torch.float32

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        after_layer: Callable[[nn.Module], object] | None = None,
        padding: bool = False,
    ) -> Tensor:
        """As `Gemma2.forward`, without gradients; the prefix is the same for all prompts.

        after_layer is not called, as a graph has no layers to release. Raises SettingsError for padding.
        """
        if padding:
            raise SettingsError(NOT_NATIVE)
        cache = KVCache() if cache is None else cache
        config = self.config
        if cache.length:
            keys = torch.stack([key[:1] for key in cache.keys])
            values = torch.stack([value[:1] for value in cache.values])
        else:
            keys = values = torch.empty(
                config.depth, 1, config.kv_heads, 0, config.head_dim, dtype=torch.float32
            )
        features, keys, values = self.layers[0](tokens=tokens, keys=keys, values=values)
        cache.keys, cache.values = list(keys.unbind()), list(values.unbind())
        cache.length += tokens.shape[1]
        return features


class GraphAutoencoder(DCAE):
    """An autoencoder that decodes whole images."""

    def __init__(self, config: DCAEConfig, graph: Graph) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.encoder, self.decoder = None, _GraphDecoder(graph)  # pyright: ignore[reportAttributeAccessIssue]

    def decode(self, latents: Tensor, band: float | None = None) -> Tensor:
        """As `DCAE.decode`, whatever the band."""
        return self.check_latents(latents)(latents)

    def decode_rows(self, latents: Tensor, band: float | None = None) -> Iterator[Tensor]:
        """As `DCAE.decode_rows`, all rows at once."""
        yield self.decode(latents)


class _GraphDecoder(nn.Module):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, latents: Tensor) -> Tensor:
        return self.graph(latents=latents)[0]
