"""Our folders open in diffusers and theirs open here, with the same outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sanakit.errors import WeightsError
from sanakit.models.sana import SANA_1600M_4K, SANA_SPRINT_1600M, Sana
from sanakit.weights import load_autoencoder, load_transformer
from sanakit.weights.layouts.diffusers import diffusers_names, read_sana_config, renames, write_sana_config
from sanakit.weights.read.header import write_safetensors

TOLERANCE = 2e-5


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    scale = theirs.abs().max().item()
    assert scale > 0.01, "an output of zeros would prove nothing"
    assert (ours - theirs).abs().max().item() <= TOLERANCE * scale


def velocity_of_diffusers(model, latents, t, text, mask, guidance):
    scale = 1.0 if guidance is not None else 1000.0
    factor = model.config.guidance_embeds_scale
    return model(
        latents,
        encoder_hidden_states=text,
        timestep=t * scale,
        encoder_attention_mask=mask.long(),
        guidance=None if guidance is None else guidance * factor,
        return_dict=False,
    )[0]


def inputs(config):
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    guidance = torch.tensor([4.5, 3.0]) if config.guidance_embed else None
    latents, text = torch.randn(2, config.latent_channels, 3, 2), torch.randn(2, 5, config.text_width)
    return latents, torch.tensor([0.9, 0.3]), text, mask, guidance


@torch.no_grad()
def test_a_transformer_saved_by_diffusers_gives_equal_outputs_here(variant: Sana, tmp_path):
    from diffusers import SanaTransformer2DModel

    theirs = SanaTransformer2DModel.from_config(write_sana_config(variant.config)).eval()
    for parameter in theirs.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ours = load_transformer(tmp_path)
    given = inputs(variant.config)
    assert ours.config == variant.config
    close(ours(*given), velocity_of_diffusers(theirs, *given))


@torch.no_grad()
def test_a_transformer_saved_here_gives_equal_outputs_in_diffusers(variant: Sana, tmp_path):
    import json

    from diffusers import SanaTransformer2DModel

    from sanakit.weights.save import diffusers_state

    (tmp_path / "config.json").write_text(json.dumps(write_sana_config(variant.config)))
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    write_safetensors(file, diffusers_state(variant), torch.float32)
    theirs, report = SanaTransformer2DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    given = inputs(variant.config)
    close(variant(*given), velocity_of_diffusers(theirs, *given))


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_folder_saved_here_opens_as_diffusers_own_pipeline(tiny):
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(tiny.folder)
    assert pipe.scheduler.config.flow_shift == 2.5
    assert type(pipe.text_encoder).__name__ == "Gemma2Model"
    image = torch.randn(1, 3, 8, 8)
    latents = pipe.vae.encode(image).latent
    close(tiny.autoencoder.encode(image), latents)
    close(tiny.autoencoder.decode(latents), pipe.vae.decode(latents).sample)
    ids = pipe.tokenizer("a red apple", return_tensors="pt").input_ids
    assert ids[0].tolist() == tiny.text_encoder.tokenizer.encode("a red apple").ids
    close(tiny.text_encoder.model(ids), pipe.text_encoder(ids)[0])
    given = inputs(tiny.transformer.config)
    close(tiny.transformer(*given), velocity_of_diffusers(pipe.transformer, *given))


@torch.no_grad()
def test_an_autoencoder_saved_by_diffusers_gives_equal_outputs_here(tiny, tmp_path):
    from diffusers import AutoencoderDC

    theirs = AutoencoderDC.from_config(tiny.autoencoder.config.to_diffusers()).eval()
    for parameter in theirs.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path / "vae")
    images, latents = torch.randn(1, 3, 16, 8), torch.randn(1, 8, 2, 2)
    close(load_autoencoder(tmp_path / "vae").encode(images), theirs.encode(images).latent)
    decoder = load_autoencoder(tmp_path / "vae", part="decoder")
    assert decoder.encoder is None
    close(decoder.decode(latents), theirs.decode(latents).sample)


def test_every_parameter_has_a_name_of_its_own_in_diffusers(variant: Sana):
    from diffusers import SanaTransformer2DModel

    with torch.device("meta"):
        theirs = SanaTransformer2DModel.from_config(write_sana_config(variant.config)).state_dict()
    names = [
        name
        for _, split in renames(variant.state_dict(), guidance_embed=variant.config.guidance_embed)
        for name in split
    ]
    assert len(names) == len(set(names))
    assert set(names) == set(theirs)


def test_an_unknown_name_is_not_translated():
    with pytest.raises(KeyError):
        diffusers_names("blocks.0.attn.rotary.weight", guidance_embed=False)


@pytest.mark.parametrize("config", [SANA_1600M_4K, SANA_SPRINT_1600M], ids=["4k", "sprint"])
def test_config_survives_config_json(config):
    assert read_sana_config(write_sana_config(config)) == config


def test_the_published_config_json_gives_the_published_size():
    published = {  # Sana_1600M_4Kpx_BF16_diffusers/transformer, fields that differ from the class's defaults
        "_class_name": "SanaTransformer2DModel",
        "attention_bias": False,
        "interpolation_scale": 2.0,
        "sample_size": 128,
        "norm_elementwise_affine": False,
    }
    assert read_sana_config(published) == SANA_1600M_4K


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patch_size", 2),
        ("attention_bias", True),
        ("qk_norm", "layer_norm"),
        ("cross_attention_dim", 96),
        ("out_channels", 64),
        ("num_attention_heads", 0),
    ],
)
def test_a_config_of_another_architecture_is_refused_by_field(field, value):
    config = write_sana_config(replace(SANA_1600M_4K, width=64, cross_heads=4)) | {field: value}
    with pytest.raises(WeightsError, match=r"config\.json"):
        read_sana_config(config)
