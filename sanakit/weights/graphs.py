"""A model as a folder of graphs, ONNX or OpenVINO: written here, and loaded as any other model.

    model_index.json     the runtime that runs it
    sanakit.json         defaults, flow shift, instruction: as in the folders of `export.py`
    transformer/, vae_decoder/, text_encoder/     config.json and the graph
    tokenizer/

Drawing needs the decoder alone, so the folder has no encoder. Arithmetic is float32 in all of it; the large
weights may be stored in float16.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Literal, cast

import torch

from sanakit.errors import PrecisionError, SettingsError, WeightsError
from sanakit.graphs.networks import decoder_network, text_network, transformer_network
from sanakit.graphs.parts import RUNTIMES, Graph, GraphAutoencoder, GraphText, GraphTransformer
from sanakit.models.dc_ae import DCAE
from sanakit.models.sana import Sana
from sanakit.quant.layer import Quantized
from sanakit.text.encoder import TextEncoder
from sanakit.text.prefix_cache import PrefixCache, default_places
from sanakit.text.tokenizer import load_tokenizer
from sanakit.weights.find.resolve import INDEX, ModelSource
from sanakit.weights.known_things import load_known_things
from sanakit.weights.layouts.diffusers import write_sana_config
from sanakit.weights.layouts.parts import autoencoder_config, text_encoder_config, transformer_config
from sanakit.weights.precision import dtype_name, parse_dtype
from sanakit.weights.save import check_replaced, exported, write_beside, write_json
from sanakit.weights.settings import OFFERED, ModelSettings, dialect_of, instruction_of

Runtime = Literal["onnx", "openvino"]
DECODER = "vae_decoder"
# Bytes of a text encoder's graph from which the instruction's keys and values are worth a file.
KEEP_PREFIX_FROM = 200_000_000


def save_graphs(
    folder: str | os.PathLike[str],
    runtime: Runtime,
    *,
    transformer: Sana,
    autoencoder: DCAE,
    text_encoder: TextEncoder,
    settings: ModelSettings,
    dtype: torch.dtype | str = torch.float32,
) -> Path:
    """Write a model as a folder of graphs, whole or not at all; an older model's folder is replaced.

    The parts lie on the CPU and compute in float32. dtype: to store the large weights in, float32 or float16.
    Returns the folder. Raises MissingExtraError without the runtime's extra, OutputError when it cannot be
    written, PrecisionError for another dtype, SettingsError for another runtime, WeightsError for graphs.
    """
    if runtime not in RUNTIMES:
        raise SettingsError(f"There is no runtime {runtime!r}: use {' or '.join(RUNTIMES)}.")
    dtype = parse_dtype(dtype)
    if dtype == torch.bfloat16:
        raise PrecisionError(
            f"Graphs are stored in float32 or float16, not {dtype_name(dtype)}: use one of them."
        )
    for part in (transformer, text_encoder.model):
        if any(isinstance(module, Graph | Quantized) for module in part.modules()):
            raise WeightsError(
                "Graphs are made of a model's own layers, not of quantised ones or of other graphs: use the "
                "original model."
            )
    path = Path(folder).expanduser()
    check_replaced(path, INDEX, "model")
    own, known_things = asdict(settings), load_known_things(settings)
    del own["known_things"], own["notes"], own["control_models"]  # nothing steers graphs
    ours = {"format": 1, "name": own.pop("name"), "licence": own.pop("licence")}
    ours |= {key: told for key in OFFERED if (told := own.pop(key, None))}
    ours |= {"precision": own.pop("precision"), "defaults": own}
    ours |= {"instruction": text_encoder.instruction, "max_tokens": text_encoder.max_tokens}
    parts = {
        "transformer": (transformer_network(transformer), write_sana_config(transformer.config)),
        DECODER: (decoder_network(autoencoder), autoencoder.config.to_diffusers()),
        "text_encoder": (text_network(text_encoder.model), text_encoder.model.config.to_transformers()),
    }
    runs = RUNTIMES[runtime]
    with exported(path) as partial:
        index = {"_class_name": "SanaGraphs", "runtime": runtime}
        write_beside(partial, index, ours, known_things, text_encoder)
        for name, (network, config) in parts.items():
            write_json(partial / name / "config.json", config)
            runs.write(network, partial / name / runs.FILE, half=dtype == torch.float16)
    return path


def check_graphs(dtype: torch.dtype | str | None, plan: str | None = None) -> None:
    """Raise PrecisionError or SettingsError for what graphs cannot be loaded with."""
    if dtype not in (None, "auto") and parse_dtype(dtype) != torch.float32:
        raise PrecisionError(
            f"Graphs compute in float32, not {dtype}: leave dtype at auto. The dtype of their weights "
            "is chosen when a model is converted."
        )
    if plan is not None:
        raise SettingsError(f"Graphs are not quantised by plan {plan!r}: use the original model.")


def load_graph_transformer(source: ModelSource) -> Sana:
    """Return the transformer of a folder of graphs. Raises WeightsError."""
    return GraphTransformer(transformer_config(source), _graph(source, "transformer"))


def load_graph_autoencoder(source: ModelSource, part: str) -> DCAE:
    """Return the autoencoder of a folder of graphs; SettingsError if the encoder is requested, too."""
    if part != "decoder":
        raise SettingsError(
            f"{source.path} holds graphs, which draw but cannot encode images: use the model that they "
            "were made of."
        )
    return GraphAutoencoder(autoencoder_config(source), _graph(source, DECODER))


def load_graph_text_encoder(source: ModelSource) -> TextEncoder:
    """Return the text encoder of a folder of graphs, with its tokenizer. Raises WeightsError."""
    folder = source.part("text_encoder", "Gemma2")
    config = text_encoder_config(source)
    graph = _graph(source, "text_encoder")
    cache = None
    if graph.bytes >= KEEP_PREFIX_FROM:
        files = sorted(path.stat() for path in folder.glob("model.*"))
        told = repr([(file.st_size, file.st_mtime_ns) for file in files])
        cache = PrefixCache(default_places(folder), hashlib.sha256(told.encode()).hexdigest())
    tokenizer = load_tokenizer(source.path / "tokenizer")
    text = GraphText(config, graph)
    return TextEncoder(text, tokenizer, *instruction_of(source), cache, dialect=dialect_of(source))


def _graph(source: ModelSource, name: str) -> Graph:
    """Return the graph of one part, opened later. Raises WeightsError where it is missing or unknown."""
    if source.runtime not in RUNTIMES:
        raise WeightsError(
            f"{source.path} holds graphs for {source.runtime!r}, which this version does not support: it "
            "runs "
            f"{' and '.join(RUNTIMES)}."
        )
    graph = Graph(source.path / name, cast(Runtime, source.runtime))
    if not graph.path.is_file():
        raise WeightsError(f"{graph.path} is missing: convert the model again.")
    return graph
