"""DC-AE against diffusers' AutoencoderDC on tiny random weights, and its own errors."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderDC
from torch import Tensor, nn

from sanakit.errors import SettingsError, SizeError
from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DC_AE_LITE, DC_AE_POCKET, DCAE, DCAEConfig, Stage
from sanakit.models.dc_ae.blocks import MultiScaleAttention

TOLERANCE = 2e-5  # largest error over largest value, float32

SANA_LIKE = DCAEConfig(  # conv down, interpolate up, 5x5 attention branch, stages of unlike halves
    encoder=(Stage(8, 1), Stage(8, 1), Stage(16, 1, (5,)), Stage(32, 1, (5,))),
    decoder=(Stage(8, 2), Stage(16, 1), Stage(16, 1, (5,)), Stage(32, 2, (3, 5))),
    latent_channels=8,
    head_dim=8,
    strided_down=True,
    interpolate_up=True,
    scaling_factor=0.41407,
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
MIX_LIKE = replace(  # as dc-ae-f32c32-mix-1.0: batch norm and ReLU in fine stages, attention without branches
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
CONFIGS = {"stem": STEM_LIKE, "sana": SANA_LIKE, "lite": LITE_LIKE, "pocket": POCKET_LIKE, "mix": MIX_LIKE}
SIZES = [(32, 40), (96, 64)]  # coarsest grids of 4x5 (linear here, head_dim 8) and 12x8 cells


def build_pair(config: DCAEConfig) -> tuple[DCAE, AutoencoderDC]:
    torch.manual_seed(0)
    theirs = AutoencoderDC(**arguments(config)).eval()
    for name, tensor in theirs.state_dict().items():  # norms start at 1 and 0, which hides a mistake
        if "norm" in name and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    ours = DCAE(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def arguments(config: DCAEConfig) -> dict:
    return {key: value for key, value in config.to_diffusers().items() if key != "_class_name"}


def relative_error(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CONFIGS)
def test_encode_and_decode_match_diffusers(name: str, size: tuple[int, int]):
    ours, theirs = build_pair(CONFIGS[name])
    images = torch.rand(2, 3, *size) * 2 - 1
    latents = torch.randn(2, 8, size[0] // 8, size[1] // 8)
    with torch.no_grad():
        assert relative_error(ours.encode(images), theirs.encode(images).latent) < TOLERANCE
        assert relative_error(ours.decode(latents), theirs.decode(latents).sample) < TOLERANCE


def test_attention_on_a_grid_no_larger_than_a_head_matches_diffusers():
    ours, theirs = build_pair(SANA_LIKE)
    latents = torch.randn(2, 8, 1, 3)  # 3 cells, then 12 cells, head_dim 8: quadratic first, then linear
    with torch.no_grad():
        assert relative_error(ours.decode(latents), theirs.decode(latents).sample) < TOLERANCE


@pytest.fixture
def float64_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention casts to float32 in both; here values of float64 are left as they are."""
    cast = Tensor.to

    def to(self: Tensor, *args, **kwargs) -> Tensor:
        down = torch.float32 in (*args, kwargs.get("dtype"))
        return self if down and self.dtype == torch.float64 else cast(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(Tensor, "float", lambda self: to(self, torch.float32))


@pytest.mark.usefixtures("float64_stays")
@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_match_diffusers(name: str, half: str):
    """In float64: in float32 the division by ReLU attention's sums alone puts gradients off by up to 1e-4."""
    ours, theirs = build_pair(CONFIGS[name])
    ours.double()
    theirs.double()
    torch.manual_seed(1)
    images = torch.rand(2, 3, 32, 48, dtype=torch.double) * 2 - 1
    with torch.no_grad():
        latents = ours.encode(images)
    given, shape = (images, latents.shape) if half == "encoder" else (latents, images.shape)
    weights = torch.randn(shape, dtype=torch.double)  # a loss whose gradient is not a constant

    def gradients(model: nn.Module, run) -> dict[str, Tensor]:
        leaf = given.clone().requires_grad_()
        (run(leaf) * weights).sum().backward()
        named = {name: p.grad for name, p in model.named_parameters() if name.startswith(half)}
        return {"input": leaf.grad} | named

    got = gradients(ours, ours.encode if half == "encoder" else ours.decode)
    wanted = gradients(
        theirs, lambda x: theirs.encode(x).latent if half == "encoder" else theirs.decode(x).sample
    )
    assert got.keys() == wanted.keys()
    errors = {key: relative_error(got[key], wanted[key]) for key in wanted}
    for key, error in errors.items():
        assert error < 1e-10, key


@pytest.mark.parametrize("config", [DC_AE_F32C32_SANA, DC_AE_LITE, DC_AE_POCKET, *CONFIGS.values()])
def test_state_dict_names_and_shapes_equal_diffusers(config: DCAEConfig):
    with torch.device("meta"):
        ours, theirs = DCAE(config), AutoencoderDC(**arguments(config))
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}


def test_weights_load_strictly_into_diffusers():
    ours, theirs = DCAE(SANA_LIKE), AutoencoderDC(**arguments(SANA_LIKE))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        model = DCAE(DC_AE_F32C32_SANA)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(model) == 312_250_275
    assert round(count(model.encoder) / 1e6, 1) == 153.0
    assert round(count(model.decoder) / 1e6, 1) == 159.2


def test_training_mode_updates_batch_norm_like_diffusers():
    ours, theirs = build_pair(MIX_LIKE)
    latents = torch.randn(2, 8, 4, 5)
    assert relative_error(ours.train().decode(latents), theirs.train().decode(latents).sample) < TOLERANCE
    for name, tensor in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), tensor)


@pytest.mark.parametrize("scale", [1, 3e-8], ids=["of one", "of the constant"])
@pytest.mark.parametrize("grid", [(2, 4), (3, 3)], ids=["quadratic", "linear"])
def test_the_constant_in_the_denominator_is_diffusers(grid: tuple[int, int], scale: float):
    """1e-15: it matters where queries and keys are nearly zero, and keeps what attends to nothing finite."""
    qkv = torch.randn(1, *grid, 3 * 8) * torch.tensor([scale] * 16 + [1.0] * 8)
    qkv[0, 0, 0, :8] = -1
    query, key, value = qkv.double().flatten(1, 2).chunk(3, dim=-1)
    scores = query.relu() @ key.relu().transpose(-1, -2)
    expected = (scores / (scores.sum(-1, keepdim=True) + 1e-15)) @ value
    out = MultiScaleAttention(8, (), 8, nn.Identity())._attend(qkv)
    torch.testing.assert_close(out.flatten(1, 2), expected.float(), atol=1e-5, rtol=1e-5)
    assert not out[0, 0, 0].any()


@pytest.mark.parametrize(("cells", "linear"), [(7, False), (8, False), (9, True)])
def test_attention_is_quadratic_up_to_as_many_cells_as_a_head_is_wide(cells: int, linear: bool):
    """In half precision the two forms round differently; which one was used shows bit for bit."""
    qkv = torch.randn(1, 1, cells, 3 * 8).half()
    out = MultiScaleAttention(8, (), 8, nn.Identity())._attend(qkv)
    query, key, value = (part.relu() for part in qkv.flatten(1, 2).chunk(3, dim=-1))
    value = qkv.flatten(1, 2)[..., 16:]
    scores = (query @ key.transpose(-1, -2)).float()
    quadratic = (scores / (scores.sum(-1, keepdim=True) + 1e-15)).half() @ value
    assert torch.equal(out.flatten(1, 2), quadratic) is not linear


def test_half_precision_attention_survives_sums_that_leave_float16():
    torch.manual_seed(0)
    model = DCAE(SANA_LIKE, part="decoder").half()
    block = model.get_submodule("decoder.up_blocks.2.1.attn")
    with torch.no_grad():
        out = block(torch.full((1, 16, 48, 48), 30.0, dtype=torch.float16))
    assert torch.isfinite(out).all()


def test_batch_and_memory_layout_change_nothing():
    ours, _ = build_pair(SANA_LIKE)
    images = torch.rand(2, 3, 32, 40) * 2 - 1
    with torch.no_grad():
        together = ours.encode(images)
        apart = torch.cat(
            [ours.encode(image[None]) for image in images.to(memory_format=torch.channels_last)]
        )
    assert relative_error(apart, together) < TOLERANCE


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_one_half_alone_equals_the_half_of_the_whole(part: str):
    whole, _ = build_pair(LITE_LIKE)
    half = DCAE(LITE_LIKE, part=part).eval()
    half.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith(part)}, strict=True)
    images, latents = torch.rand(1, 3, 32, 32), torch.randn(1, 8, 4, 4)
    if part == "encoder":
        assert half.decoder is None
        assert torch.equal(half.encode(images), whole.encode(images))
        with pytest.raises(SettingsError, match="only its encoder"):
            half.decode(latents)
    else:
        assert half.encoder is None
        assert torch.equal(half.decode(latents), whole.decode(latents))
        with pytest.raises(SettingsError, match="only its decoder"):
            half.encode(images)


@pytest.mark.parametrize("config", [DC_AE_F32C32_SANA, DC_AE_LITE, DC_AE_POCKET, *CONFIGS.values()])
def test_config_survives_the_way_through_config_json(config: DCAEConfig):
    assert DCAEConfig.from_diffusers(json.loads(json.dumps(config.to_diffusers()))) == config


def test_the_published_sana_config_json_is_read():
    published = {
        "_class_name": "AutoencoderDC",
        "_diffusers_version": "0.32.0.dev0",
        "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
        "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
        "decoder_act_fns": "silu",
        "decoder_norm_types": "rms_norm",
        "downsample_block_type": "Conv",
        "upsample_block_type": "interpolate",
        "scaling_factor": 0.41407,
    }
    assert DCAEConfig.from_diffusers(published) == DC_AE_F32C32_SANA


def test_an_empty_diffusers_config_means_what_it_means_to_diffusers():
    with torch.device("meta"):
        ours, theirs = DCAE(DCAEConfig.from_diffusers({})), AutoencoderDC()
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("size", [(33, 32), (32, 60), (0, 32)])
def test_encode_refuses_sizes_off_the_grid(size: tuple[int, int]):
    with pytest.raises(SizeError, match="multiples of 8"):
        DCAE(POCKET_LIKE, part="encoder").encode(torch.zeros(1, 3, *size))


def test_wrong_channels_are_refused():
    model = DCAE(POCKET_LIKE)
    with pytest.raises(SizeError, match="B 3 H W"):
        model.encode(torch.zeros(1, 4, 32, 32))
    with pytest.raises(SizeError, match="B 8 H W"):
        model.decode(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": (Stage(8, 1),)}, "same number"),
        ({"encoder": (Stage(8, 1), Stage(16, 0), Stage(16, 1), Stage(32, 1))}, "depth 0"),
        ({"encoder": (Stage(8, 1), Stage(24, 1), Stage(32, 1), Stage(32, 1))}, "widths"),
        (
            {"encoder": (Stage(8, 1), Stage(8, 1), Stage(16, 1), Stage(32, 1, norm="batch_norm"))},
            "encoder stages",
        ),
        ({"decoder": (Stage(8, 1), Stage(8, 1), Stage(16, 1), Stage(32, 1, act="mish"))}, "mish"),
        ({"decoder": (Stage(8, 1), Stage(8, 1), Stage(16, 1), Stage(32, 1, norm="layer_norm"))}, "layer"),
        ({"head_dim": 24}, "multiple of 24"),
        ({"latent_channels": 12}, "latent"),
        ({"out_act": "gelu"}, "gelu"),
    ],
)
def test_configs_that_do_not_fit_together_are_refused(change: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        replace(SANA_LIKE, **change)


def test_an_unknown_part_or_block_is_refused():
    with pytest.raises(SettingsError, match="part 'middle'"):
        DCAE(POCKET_LIKE, part="middle")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="Swin"):
        DCAEConfig.from_diffusers({"encoder_block_types": "Swin"})
