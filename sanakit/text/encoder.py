"""Prompts to text features: tokenise, run Gemma 2, keep what SANA's cross-attention reads.

Source: behaviour of diffusers 0.42's SanaPipeline.encode_prompt, less the padding that its mask hides.
Shapes: B prompts, L features of a prompt (in a batch padded on the right to the longest), T tokens after the
prefix, E text width.
The instruction before every prompt is the same, so its keys and values are computed once and kept. So is
feature 0, the hidden state of BOS, which attends only to itself. A large model's prefix is also kept in a
file, from run to run (`prefix_cache`). Training runs through the same `encode_tokens`, which then computes
the prefix once a batch, with gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from sanakit.dialect import USUAL, Dialect
from sanakit.errors import SettingsError, WeightsError
from sanakit.models.gemma2 import Gemma2, KVCache
from sanakit.ops.torch_private import writes_to
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION, TokenWindow
from sanakit.text.native import dialect_windows, padded
from sanakit.text.prefix_cache import PrefixCache

BATCH = 16  # prompts in one forward pass: bounds the memory however many prompts come


class TextEncoder:
    """Turns prompts into features for the transformer.

    model: the language model, on its device and in its dtype; features come out in both.
    tokenizer: adds BOS itself, neither pads nor truncates (see `tokenizer.load_tokenizer`).
    instruction: stands before every positive prompt; end it with a space; "" = none.
    max_tokens: features a prompt can have at most (300 published).
    prefix_cache: file of the instruction's keys and values for the model as it is now; None: no file.
    after_layer: called with each layer when it has run; `weights.release` bounds the memory of a mapped model
    by that of one layer. Not called where gradients are computed.
    dialect: how prompts are read where a call does not say, and in training.
    """

    def __init__(
        self,
        model: Gemma2,
        tokenizer: Tokenizer,
        instruction: str = COMPLEX_HUMAN_INSTRUCTION,
        max_tokens: int = 300,
        prefix_cache: PrefixCache | None = None,
        after_layer: Callable[[nn.Module], object] | None = None,
        dialect: Dialect = USUAL,
    ) -> None:
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        if size > model.config.vocab_size:
            raise WeightsError(
                f"The tokenizer has {size} tokens but the text encoder {model.config.vocab_size}:"
                " use both from the same model."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.instruction = instruction
        self.max_tokens = max_tokens
        self.dialect: Dialect = dialect
        self.windows = dialect_windows(tokenizer, instruction, max_tokens)
        self.instructed, _ = self.windows[dialect]
        self.after_layer = after_layer
        each = self.windows.items()
        self._prefix_files = {both[0]: prefix_cache.of(name) for name, both in each if prefix_cache}
        self._loaded = self._fingerprint()
        self._prefixes: dict[TokenWindow, tuple[tuple, Tensor, KVCache]] = {}

    @torch.no_grad()
    def encode(
        self, prompts: Sequence[str], notes: list[str] | None = None, dialect: Dialect | None = None
    ) -> list[Tensor]:
        """Return features of positive prompts, one L E tensor each, unpadded, without gradients.

        notes: takes a sentence about each prompt that was cut; None: it is warned of (UserWarning).
        dialect: None: the encoder's own. Raises SettingsError if a prompt is not a text.
        """
        return self._encode(prompts, self.windows[dialect or self.dialect][0], notes)

    @torch.no_grad()
    def encode_negative(
        self, prompts: Sequence[str], notes: list[str] | None = None, dialect: Dialect | None = None
    ) -> list[Tensor]:
        """Return features of negative prompts, without instruction: 1 E of "", but native ones are padded."""
        dialect = dialect or self.dialect
        window = self.windows[dialect][1]
        if dialect != "native":
            return self._encode(prompts, window, notes)
        tails = self.tokenize(prompts, window, notes)
        return [padded(self._run, *self._prefix(window), tail, self.max_tokens) for tail in tails]

    def told(self, prompts: Sequence[str], dialect: Dialect | None = None) -> list[str]:
        """Return the notes of `encode` on positive prompts, without encoding them."""
        notes: list[str] = []
        self.tokenize(prompts, self.windows[dialect or self.dialect][0], notes)
        return notes

    def tokenize(
        self, prompts: Sequence[str], window: TokenWindow | None = None, notes: list[str] | None = None
    ) -> list[list[int]]:
        """Return each prompt's token ids after the shared prefix, cut at the limit, for `encode_tokens`.

        window: one of `windows`; None: `instructed`.   notes: as for `encode`.
        """
        if isinstance(prompts, str):
            raise SettingsError("Prompts must be a list of texts: wrap a single prompt in [ ].")
        window = window or self.instructed
        tails = []
        told = [] if notes is None else notes
        for prompt in prompts:
            tail, dropped = window.tail(self.tokenizer, window.clean(prompt, told))
            if dropped:
                told.append(
                    f"The prompt is too long: its last {len(dropped)} tokens, from"
                    f" {self.tokenizer.decode(dropped[:8])!r} on, were cut off. Shorten it."
                )
            tails.append(tail)
        for note in told if notes is None else ():
            warnings.warn(note, stacklevel=3)
        return tails

    def encode_tokens(
        self, tails: Sequence[Sequence[int]], window: TokenWindow | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return features B L E and their mask B L (True = real); differentiable if gradients are enabled.

        tails: B >= 1 lists of token ids as `tokenize` gives them.   window: the one they were made with.
        Feature 0 of every row is the BOS feature, which is all that an empty negative prompt has: to drop a
        caption in training, set its mask to False from 1 on.
        """
        window = window or self.instructed
        first, prefix = self._prefix(window)  # 1 1 E
        longest = max(len(tail) for tail in tails)
        skipped = window.first_kept - len(window.prefix)  # tail tokens that still belong to the instruction
        lengths = torch.tensor([1 + max(len(tail) - skipped, 0) for tail in tails], device=first.device)
        features = first.expand(len(tails), -1, -1)
        if longest > skipped:
            tokens = torch.tensor(
                [[*tail, *[0] * (longest - len(tail))] for tail in tails], device=first.device
            )
            hidden = self._run(tokens, prefix.expand(len(tails)))  # B T E
            features = torch.cat([features, hidden[:, skipped:]], dim=1)
        return features, torch.arange(features.shape[1], device=first.device) < lengths[:, None]

    def _encode(self, prompts: Sequence[str], window: TokenWindow, notes: list[str] | None) -> list[Tensor]:
        tails = self.tokenize(prompts, window, notes)
        features: dict[int, Tensor] = {}
        waiting = sorted(range(len(tails)), key=lambda i: len(tails[i]))
        while waiting:
            # Prompts of like length go together: padding may at most double the work of one pass.
            most = 2 * len(tails[waiting[0]]) + 8
            together = [i for i in waiting[:BATCH] if len(tails[i]) <= most]
            waiting = waiting[len(together) :]
            padded, mask = self.encode_tokens([tails[i] for i in together], window)
            lengths = mask.sum(1).tolist()
            features |= {i: row[:n] for i, row, n in zip(together, padded, lengths, strict=True)}
        return [features[i] for i in range(len(tails))]

    def _prefix(self, window: TokenWindow) -> tuple[Tensor, KVCache]:
        """Return the BOS feature 1 1 E and the prefix's cache; kept between calls unless gradients are on."""
        if torch.is_grad_enabled():
            return self._compute_prefix(window)
        weights = self._fingerprint()
        if window in self._prefixes and self._prefixes[window][0] == weights:
            return self._prefixes[window][1:]
        first, cache = self._shorter(window) or self._stored_prefix(window, weights)
        self._prefixes[window] = (weights, first, cache)
        return first, cache

    def _shorter(self, window: TokenWindow) -> tuple[Tensor, KVCache] | None:
        """Return the prefix of prompts without an instruction, BOS, as the instruction's first token."""
        length = len(window.prefix)
        longer = next((with_text for with_text, plain in self.windows.values() if plain == window), window)
        if window == longer or window.prefix != longer.prefix[:length]:
            return None
        first, cache = self._prefix(longer)
        start = cache.beginning(length)
        return None if start is None else (first, start)

    def _stored_prefix(self, window: TokenWindow, weights: tuple) -> tuple[Tensor, KVCache]:
        """Return the instruction's prefix from its file, or computed and written there."""
        file = self._prefix_files.get(window) if weights == self._loaded else None
        found = file.load(self.model.config, window.prefix) if file else None
        if found is None:
            found = self._compute_prefix(window)
            if file:
                file.save(self.model.config, window.prefix, *found)
        return found

    def _compute_prefix(self, window: TokenWindow) -> tuple[Tensor, KVCache]:
        cache = KVCache()
        tokens = torch.tensor([window.prefix], device=self.model.embed_tokens.weight.device)
        return self._run(tokens, cache)[:, :1], cache

    def _run(self, tokens: Tensor, cache: KVCache, padding: bool = False) -> Tensor:
        after_layer = None if torch.is_grad_enabled() else self.after_layer
        return self.model(tokens, cache, after_layer, padding)

    def _fingerprint(self) -> tuple:
        """Return a stamp of the weights, which changes when they are trained, loaded, moved or cast.

        A write through `parameter.data` escapes it: torch counts no version there.
        """
        return tuple(
            (weight.data_ptr(), weight.dtype, writes_to(weight)) for weight in self.model.parameters()
        )
