"""What a runtime computes equals what our modules compute, at sizes other than those of the export.

Tolerance: 1e-4 of the largest value. Both sides compute in float32, in another order: measured 1e-5.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.graphs import networks, onnx
from sanakit.graphs.parts import Graph, GraphText, GraphTransformer
from sanakit.images.image import to_levels
from sanakit.models.gemma2 import GEMMA2_2B, KVCache
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pipelines.denoise import Batch
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights import load_autoencoder, load_text_encoder, load_transformer

from .conftest import SPRINT, randomised

pytestmark = pytest.mark.thorough

RUNTIMES = ("onnx", "openvino")
both = pytest.mark.parametrize("runtime", RUNTIMES)
grids = pytest.mark.parametrize(
    ("height", "width", "lengths"), [(2, 2, [1]), (3, 5, [4, 1]), (12, 8, [9, 2, 20])]
)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.shape == ours.shape
    assert theirs.dtype == torch.float32
    assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max()


@both
@grids
def test_the_transformer_equals_ours_for_every_grid_batch_and_text(
    model, graphs, runtime, height, width, lengths
):
    ours, theirs = load_transformer(model), load_transformer(graphs(runtime))
    latents = torch.randn(len(lengths), 8, height, width)
    texts = [torch.randn(length, 48) for length in lengths]
    times = torch.rand(len(lengths))
    for t in (0.7, times):
        velocity = ours.velocity(latents, t, ours.prepare(texts))
        assert_close(velocity, theirs.velocity(latents, t, theirs.prepare(texts)))


@both
def test_prompts_that_share_latents_are_computed_as_guidance_needs_them(model, graphs, runtime):
    ours, theirs = load_transformer(model), load_transformer(graphs(runtime))
    latents, texts = torch.randn(2, 8, 3, 4), [torch.randn(1, 48), torch.randn(5, 48)]
    both_halves = ours.velocity(latents, 0.4, ours.prepare(texts, [2, 2]))
    assert_close(both_halves, theirs.velocity(latents, 0.4, theirs.prepare(texts, [2, 2])))


@both
@grids
def test_the_decoder_equals_ours(model, graphs, runtime, height, width, lengths):
    latents = torch.randn(len(lengths), 8, height, width)
    ours, theirs = (load_autoencoder(path, part="decoder") for path in (model, graphs(runtime)))
    with torch.no_grad():
        assert_close(ours.decode(latents), theirs.decode(latents))


@both
def test_the_decoder_gives_nothing_for_latents_that_attend_to_nothing(graphs, runtime):
    """0 / (0 + 1e-15): an optimiser that takes the small number for a zero gives NaN."""
    theirs = load_autoencoder(graphs(runtime), part="decoder")
    with torch.no_grad():
        assert torch.isfinite(theirs.decode(torch.zeros(1, 8, 4, 5))).all()


@both
def test_the_text_encoder_equals_ours_with_and_without_the_instruction(model, graphs, runtime):
    ours, theirs = load_text_encoder(model), load_text_encoder(graphs(runtime))
    prompts = ["a red apple", "two green foxes in the snow on a table", ""]
    assert len(ours.instructed.prefix) > ours.model.config.sliding_window
    pairs = zip(ours.encode(prompts), theirs.encode(prompts), strict=True)
    negative = zip(ours.encode_negative(["", "snow"]), theirs.encode_negative(["", "snow"]), strict=True)
    for mine, other in (*pairs, *negative):
        assert_close(mine, other)


@both
def test_tokens_after_a_cache_equal_ours(model, graphs, runtime):
    ours, theirs = load_text_encoder(model).model, load_text_encoder(graphs(runtime)).model
    caches = KVCache(), KVCache()
    with torch.no_grad():
        for tokens in (
            torch.randint(0, 500, (1, 9)),
            torch.randint(0, 500, (1, 1)),
            torch.randint(0, 500, (1, 7)),
        ):
            assert_close(ours(tokens, caches[0]), theirs(tokens, caches[1]))


def test_sprint_takes_its_guidance_and_2k_models_their_positions(tmp_path):
    sprint = randomised(Sana(SPRINT))
    onnx.write(networks.transformer_network(sprint), tmp_path / "model.onnx")
    theirs = GraphTransformer(SPRINT, Graph(tmp_path, "onnx"))
    for height, width in ((3, 5), (8, 12)):
        latents, texts = torch.randn(2, 8, height, width), [torch.randn(length, 48) for length in (4, 2)]
        ours = [sprint.velocity(latents, 0.9, sprint.prepare(texts), scale) for scale in (1.0, 4.5)]
        other = [theirs.velocity(latents, 0.9, theirs.prepare(texts), scale) for scale in (1.0, 4.5)]
        for mine, its in zip(ours, other, strict=True):
            assert_close(mine, its)
        assert not torch.equal(other[0], other[1])


def psnr(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Of 8-bit images, as they are saved."""
    difference = to_levels(ours).double() - to_levels(theirs).double()
    return float(10 * torch.log10(255**2 / difference.square().mean().clamp_min(1e-12)))


@both
def test_a_pipeline_draws_the_same_picture(model, graphs, runtime):
    words = ("a red apple", "two foxes"), "snow"
    ours = TextToImage.from_pretrained(model, device="cpu")(*words, seed=3, output="pt")
    theirs = TextToImage.from_pretrained(graphs(runtime), device="cpu")(*words, seed=3, output="pt")
    known = [[one | {"fingerprint": ""} for one in drawn.metadata] for drawn in (ours, theirs)]
    assert (ours.seeds, known[0]) == (theirs.seeds, known[1])
    assert psnr(ours.images, theirs.images) > 50  # pyright: ignore[reportArgumentType]


@both
def test_a_closed_graph_opens_again(graphs, runtime):
    from sanakit.weights import mapped_bytes, release

    transformer = load_transformer(graphs(runtime))
    latents, context = torch.randn(1, 8, 2, 2), transformer.prepare([torch.randn(3, 48)])
    before = transformer.velocity(latents, 0.5, context)
    assert mapped_bytes(transformer) > 4 * 64 * 64
    release(transformer)
    assert torch.equal(transformer.velocity(latents, 0.5, context), before)


def test_a_servers_crowd_is_drawn_by_graphs(model, graphs):
    """Samples of different calls, each at its own time, share the passes as they do with our transformer."""
    from sanakit.pipelines.denoise import begin
    from sanakit.pipelines.request import check_request

    stands = []
    for path in (model, graphs("onnx")):
        pipe = TextToImage.from_pretrained(path, device="cpu")
        samples = []
        for seed, steps in ((1, 3), (2, 4)):
            request = check_request(pipe.spec, "a red apple", seed=seed, steps=steps)
            features, _ = pipe.encode(request.prompts, [""], pipe.plan(request))
            samples += begin(pipe.transformer, request, features, None)
        batch = Batch(pipe.transformer, samples)
        for _ in range(3):
            batch.step()
        stands.append(batch.latents)
    assert_close(*stands)


@pytest.mark.slow
@both
def test_pocket_draws_the_same_picture(tmp_path, runtime):
    """Minutes: its transformer has twelve blocks, which torch's exporter takes a minute for."""
    from sanakit.weights import convert

    folder = convert("pocket", tmp_path / "pocket", runtime)
    ours = TextToImage.from_pretrained("pocket", device="cpu")("a red apple", seed=7, output="pt")
    theirs = TextToImage.from_pretrained(folder, device="cpu")("a red apple", seed=7, output="pt")
    assert psnr(ours.images, theirs.images) > 50  # pyright: ignore[reportArgumentType]


def test_the_other_dialect_is_refused_before_anything_is_computed(tmp_path):
    graph = Graph(tmp_path, "onnx")
    config = SanaConfig(depth=1, width=32, cross_heads=2, qk_norm=True)
    features = [torch.zeros(2, config.text_width)]
    assert GraphTransformer(config, graph).prepare(features).batch == 1
    with pytest.raises(SettingsError, match="Graphs do not draw in the dialect"):
        GraphTransformer(config, graph).prepare(features, eps=1e-6)
    assert GraphTransformer(replace(config, qk_norm=False), graph).prepare(features, eps=1e-6).batch == 1
    with pytest.raises(SettingsError, match="use the model that they were made of"):
        GraphText(GEMMA2_2B, graph)(torch.zeros(1, 1, dtype=torch.long), KVCache(), padding=True)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_host_programs_default_dtype_changes_no_pixel(graphs, runtime, dtype):
    folder = graphs(runtime)

    def draw() -> torch.Tensor:
        pipe = TextToImage.from_pretrained(folder, device="cpu")
        drawn = pipe(["a red apple", "two foxes"], seed=3, steps=2, guidance=4.3, output="pt").images
        assert isinstance(drawn, torch.Tensor)
        assert drawn.dtype == torch.float32
        return drawn

    before, usual = draw(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        after = draw()
    finally:
        torch.set_default_dtype(usual)
    assert torch.equal(after, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_host_programs_default_dtype_changes_no_example_of_an_export(model, dtype):
    def written() -> list[networks.Network]:
        decoder, text = load_autoencoder(model), load_text_encoder(model).model
        return [
            networks.transformer_network(load_transformer(model)),
            networks.decoder_network(decoder),
            networks.text_network(text),  # pyright: ignore[reportArgumentType]
        ]

    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        made = written()
    finally:
        torch.set_default_dtype(usual)
    for network in made:
        kinds = {value.dtype for value in (*network.inputs.values(), *network.module.parameters())}
        assert kinds <= {torch.float32, torch.int64, torch.bool}
