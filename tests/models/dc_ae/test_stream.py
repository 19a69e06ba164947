"""Decoding and encoding in bands: equal to the whole map for every band, size and architecture; smaller."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sanakit.errors import SettingsError, SizeError
from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DC_AE_LITE, DC_AE_POCKET, DCAE, DCAEConfig, Stage
from sanakit.models.dc_ae import stream as dc_ae_stream
from sanakit.models.dc_ae.stream import decode_bytes, decode_rows, default_band

TOLERANCE = 3e-5  # largest error over largest value, float32; seen: 2e-6

SANA_LIKE = DCAEConfig(  # conv down, interpolate up, attention with windows of unlike reach
    encoder=(Stage(8, 1), Stage(8, 1), Stage(16, 1, (5,)), Stage(32, 1, (5,))),
    decoder=(Stage(8, 2), Stage(16, 1), Stage(16, 1, (5,)), Stage(32, 2, (3, 5))),
    latent_channels=8,
    head_dim=8,
    strided_down=True,
    interpolate_up=True,
)
LITE_LIKE = replace(
    SANA_LIKE,
    decoder=(Stage(4, 0), Stage(8, 2), Stage(16, 1), Stage(32, 2)),
    interpolate_up=False,
    out_act="silu",
)
POCKET_LIKE = replace(
    DC_AE_POCKET,
    encoder=(Stage(4, 0), Stage(8, 1), Stage(16, 1), Stage(32, 1)),
    decoder=(Stage(4, 0), Stage(8, 1), Stage(16, 1), Stage(32, 2)),
    latent_channels=8,
)
MIX_LIKE = replace(  # batch norm and ReLU, attention without windows, no shortcuts at the latents
    POCKET_LIKE,
    decoder=(
        Stage(4, 0),
        Stage(8, 1, norm="batch_norm", act="relu"),
        Stage(16, 1, ()),
        Stage(32, 1, (), norm="batch_norm"),
    ),
    head_dim=16,
    encoder_out_shortcut=False,
    decoder_in_shortcut=False,
)
STEM_LIKE = replace(  # both ends change the size themselves, by strided conv and by interpolation
    SANA_LIKE,
    encoder=(Stage(4, 0), Stage(8, 1), Stage(16, 1), Stage(32, 1)),
    decoder=(Stage(4, 0), Stage(8, 1), Stage(32, 1), Stage(32, 1)),
)
FINE_LIKE = replace(  # attention at the image's own resolution, which conv_out follows at once
    SANA_LIKE,
    encoder=(Stage(8, 1, (3,)), Stage(16, 1), Stage(16, 0)),
    decoder=(Stage(8, 1, (3,)), Stage(16, 1), Stage(16, 1)),
)
CONFIGS = {
    "sana": SANA_LIKE,
    "lite": LITE_LIKE,
    "pocket": POCKET_LIKE,
    "mix": MIX_LIKE,
    "stem": STEM_LIKE,
    "fine": FINE_LIKE,
}
SHAPES = [(1, 1, 1), (2, 3, 5), (1, 5, 2), (2, 7, 3)]  # B H W of the latents; 1x1 is smaller than a head


def build(config: DCAEConfig, **kwargs) -> DCAE:
    torch.manual_seed(0)
    model = DCAE(config, **kwargs).eval()
    for module in model.modules():  # norms start at 1 and 0, which hides a mistake
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.ndim == 1 and tensor.is_floating_point() and not isinstance(module, nn.Conv2d):
                tensor.data.uniform_(0.5, 1.5) if "bias" not in name else tensor.data.uniform_(-0.5, 0.5)
    return model


def relative_error(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_band_equals_the_whole_map(name: str, shape: tuple[int, int, int]):
    model = build(CONFIGS[name])
    batch, height, width = shape
    factor = model.config.compression
    latents = torch.randn(batch, 8, height, width)
    images = torch.rand(batch, 3, factor * height, factor * width) * 2 - 1
    with torch.no_grad():
        pictures, codes = model.decoder(latents), model.encoder(images)
        for band in range(1, height + 1):
            assert relative_error(model.decode(latents, band), pictures) < TOLERANCE
            assert relative_error(model.encode(images, band), codes) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_bands_of_one_row_in_every_stage_equal_the_whole_map(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dc_ae_stream, "_limit", lambda *_: 1)
    model = build(CONFIGS[name])
    factor = model.config.compression
    latents, images = torch.randn(2, 8, 4, 3), torch.rand(2, 3, 4 * factor, 3 * factor)
    with torch.no_grad():
        assert relative_error(dc_ae_stream.decode(model, latents), model.decoder(latents)) < TOLERANCE
        assert relative_error(dc_ae_stream.encode(model, images), model.encoder(images)) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_come_in_order_and_a_band_at_a_time(name: str):
    model = build(CONFIGS[name], part="decoder")
    factor = model.config.compression
    latents = torch.randn(1, 8, 9, 3)
    pieces = list(decode_rows(model, latents, 2))
    assert max(piece.shape[2] for piece in pieces) <= 3 * factor  # never the whole image
    assert relative_error(torch.cat(pieces, dim=2), model.decoder(latents)) < TOLERANCE


class LargestTensor(TorchDispatchMode):
    """Notes the most bytes that any tensor's memory has while it is active."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("half", ["decode", "encode"])
def test_no_activation_is_held_whole_where_nothing_attends(half: str):
    stages = (Stage(16, 1), Stage(16, 1), Stage(16, 1), Stage(32, 1))
    model = build(replace(SANA_LIKE, encoder=stages, decoder=stages))
    given = torch.randn(1, 8, 64, 4) if half == "decode" else torch.rand(1, 3, 512, 32)
    with LargestTensor() as whole, torch.no_grad():
        getattr(model, f"{half}r")(given)
    with LargestTensor() as bands:
        getattr(dc_ae_stream, half)(model, given, 4)
    assert bands.largest < whole.largest / 5  # 1/16 of the rows is a band, and the image itself is 3/16


def test_the_latents_and_the_images_stay_as_they_were():
    model = build(SANA_LIKE)
    latents, images = torch.randn(1, 8, 3, 3), torch.rand(1, 3, 24, 24)
    before = latents.clone(), images.clone()
    model.decode(latents, 1), model.encode(images, 1)
    assert torch.equal(latents, before[0])
    assert torch.equal(images, before[1])


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_compute_as_their_float32_copy(stored: torch.dtype):
    small = build(SANA_LIKE).to(stored)
    wide = build(SANA_LIKE)
    wide.load_state_dict(small.state_dict())
    latents, images = torch.randn(1, 8, 5, 3), torch.rand(1, 3, 40, 24)
    with torch.no_grad():
        assert relative_error(small.decode(latents), wide.decode(latents)) < TOLERANCE
        assert relative_error(small.encode(images), wide.encode(images)) < TOLERANCE


def test_bfloat16_activations_stay_bfloat16_and_close():
    model = build(SANA_LIKE).bfloat16()
    latents = torch.randn(1, 8, 5, 3, dtype=torch.bfloat16)
    with torch.no_grad():
        wanted = model.decoder(latents)
        assert relative_error(model.decode(latents, 2), wanted) < 0.1  # two orders of rounding


def test_no_band_keeps_the_whole_differentiable_path_where_gradients_are_asked():
    model, latents = build(SANA_LIKE), torch.randn(1, 8, 3, 3, requires_grad=True)
    model.decode(latents).sum().backward()
    assert latents.grad is not None
    assert not model.decode(latents, 1).requires_grad
    with torch.no_grad():
        assert not torch.equal(model.decode(latents), model.decoder(latents))  # bands: another order of sums
        assert torch.equal(model.train().decode(latents), model.decoder(latents))  # batch norm needs it all


def test_batch_norm_that_learns_is_refused_in_bands():
    with pytest.raises(SettingsError, match="eval"):
        build(MIX_LIKE).train().decode(torch.randn(1, 8, 4, 4), 1)


@pytest.mark.parametrize("band", [0, 3.5, -1, float("nan")])
def test_bands_off_the_map_are_refused(band: float):
    model = build(POCKET_LIKE)
    with pytest.raises(SettingsError, match="at most 3"):
        model.decode(torch.zeros(1, 8, 3, 5), band)
    with pytest.raises(SettingsError, match="at most 3"):
        model.encode(torch.zeros(1, 3, 24, 40), band)


def test_wrong_shapes_and_missing_halves_are_refused_in_bands_too():
    model = build(POCKET_LIKE, part="decoder")
    with pytest.raises(SizeError, match="B 8 H W"):
        next(decode_rows(model, torch.zeros(1, 4, 3, 3), 1))
    with pytest.raises(SettingsError, match="only its decoder"):
        model.encode(torch.zeros(1, 3, 8, 8), 1)


def test_the_automatic_band_shrinks_with_size_and_batch_and_never_leaves_the_map():
    sana = [default_band(DC_AE_F32C32_SANA, side, side) for side in (512, 1024, 2048, 4096)]
    assert sana == [1, 0.5, 0.25, 0.25]
    assert default_band(DC_AE_F32C32_SANA, 512, 512, batch=2) == 0.5
    assert default_band(DC_AE_POCKET, 256, 256) == 8
    assert default_band(DC_AE_LITE, 32, 32) == 1


def test_the_estimate_of_memory_keeps_to_what_was_measured():
    # MB of resident memory above the weights: AMD Zen 5, one thread, compiled kernels
    measured = [
        (512, 512, 0.25, 73),
        (512, 512, 1, 175),
        (1024, 1024, 0.5, 252),
        (1024, 1024, 1, 398),
        (256, 4096, 0.25, 343),
        (256, 4096, 1, 620),
    ]
    for height, width, band, wanted in measured:
        estimate = decode_bytes(DC_AE_F32C32_SANA, height, width, band) / 2**20
        assert estimate == pytest.approx(wanted, rel=1 / 3), (height, width, band)
    assert decode_bytes(DC_AE_F32C32_SANA, 4096, 4096, 0.25) < 1e9


@pytest.mark.slow
def test_the_published_size_decodes_and_encodes_in_bands_as_it_does_whole():
    for half, shape in (("decoder", (1, 32, 8, 8)), ("encoder", (1, 3, 256, 256))):
        torch.manual_seed(0)
        model = DCAE(DC_AE_F32C32_SANA, part=half).eval()  # pyright: ignore[reportArgumentType]
        run = dc_ae_stream.decode if half == "decoder" else dc_ae_stream.encode
        x = torch.randn(shape)
        with torch.no_grad():
            wanted = getattr(model, half)(x)
            for band in (0.25, 1, 3, 8, None):
                assert relative_error(run(model, x, band), wanted) < TOLERANCE
