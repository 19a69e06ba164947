"""Train, save and load tokenizers of Gemma's kind: byte-pair encoding over whole words, bytes for the rest.

Source: the pipeline of Gemma 2's published tokenizer.json: spaces become "▁", which only ever begins a token;
unknown characters fall back to their UTF-8 bytes; BOS is put first.
The same folder loads here (tokenizers alone), in transformers' AutoTokenizer and in diffusers' SanaPipeline,
with the same ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from sanakit.errors import OutputError, SettingsError, WeightsError
from sanakit.whole import written_whole

PAD, EOS, BOS, UNK = SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids 0 to 3, as in Gemma
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))  # ids 4 to 259 here
ALPHABET = ("▁", "\n", *map(chr, range(33, 127)))  # always single tokens: space, newline, printable ASCII
# Merges are learned inside these pieces only: a word, one digit, a run of other signs, with the space before.
PIECES = Regex(r"▁?\p{L}[\p{L}\p{M}]*|▁?\p{N}|▁?[^\p{L}\p{N}▁]+|▁")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary from captions; takes seconds for 100,000 of them.

    texts: captions as `instruction.clean_prompt` leaves them, and the instruction as it is.
    vocab_size: at least 512: 4 special tokens, 256 bytes, the printable ASCII signs, then what is frequent;
    fewer tokens come out if the texts do not hold that many. Raises SettingsError if it is smaller.
    """
    if vocab_size < 512:
        raise SettingsError(f"A vocabulary of {vocab_size} is too small: it must be at least 512.")
    texts = [text.replace(" ", "▁") for text in texts]
    counts = Counter(sign for text in texts for sign in text)
    frequent = sorted(counts.keys() - set(ALPHABET), key=lambda sign: (-counts[sign], sign))
    alphabet = [*ALPHABET, *frequent[: vocab_size // 16]]  # all other signs are written as bytes
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(PIECES, behavior="isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *BYTES],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    # The trainer makes the bytes special, so that a typed "<0x41>" would become one: rebuild without it.
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=model["vocab"], merges=merges, unk_token=UNK, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, each whole or not at all.

    Raises OutputError if the folder cannot be written.
    """
    names = {"pad_token": PAD, "eos_token": EOS, "bos_token": BOS, "unk_token": UNK}
    config = {
        **names,
        # Loads tokenizer.json as it is in transformers 4 and 5; GemmaTokenizer of 5 builds its own pipeline.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "mask_token": None,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(config, indent=2, sort_keys=True),
        "special_tokens_map.json": json.dumps(names, indent=2, sort_keys=True),
    }
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with written_whole(Path(folder, name)) as partial:
                partial.write_text(text + "\n", encoding="utf-8")
    except OSError as reason:
        raise OutputError(f"The tokenizer cannot be written to {folder}: {reason.strerror}.") from reason


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer.json, or the one in a folder; without the padding and truncation it may ask for.

    Raises WeightsError if there is none or it cannot be read.
    """
    file = Path(path, "tokenizer.json") if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise WeightsError(f"There is no tokenizer at {file}: put the model's tokenizer.json there.")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as reason:  # the library raises bare Exception
        raise WeightsError(f"{file} is not a tokenizer ({reason}): download it again.") from reason
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
