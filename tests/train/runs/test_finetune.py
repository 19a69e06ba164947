"""A transformer at another resolution: positions stay where they were, or become the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sanakit.errors import DataError, SettingsError
from sanakit.models.layers import grid_positions
from sanakit.models.sana import SANA_1600M, SANA_1600M_2K, SANA_1600M_4K, Sana, SanaConfig
from sanakit.train.runs.finetune import Aim, at_resolution
from sanakit.train.runs.image_report import REPORT, read_report

TINY = SanaConfig(depth=1, width=32, cross_heads=2, text_width=8, latent_channels=4, sample_size=2)


def positions(config: SanaConfig, height: int, width: int) -> torch.Tensor:
    """The model's own formula, height width D."""
    assert config.position_interpolation is not None
    flat = grid_positions(
        height,
        width,
        config.width,
        base_size=config.sample_size,
        interpolation=config.position_interpolation,
    )
    return flat.unflatten(0, (height, width))


def test_the_published_2k_and_4k_models_follow_from_the_1024_model() -> None:
    assert at_resolution(SANA_1600M, 64, positions=True) == SANA_1600M_2K
    assert at_resolution(SANA_1600M_2K, 128) == SANA_1600M_4K
    assert at_resolution(SANA_1600M, 64).position_interpolation is None


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 8), (6, 3)])
def test_at_twice_the_side_every_second_position_is_an_old_one(height: int, width: int) -> None:
    old = at_resolution(TINY, 4, positions=True)
    new = at_resolution(old, 8)
    fine = positions(new, 2 * height, 2 * width)
    assert torch.equal(fine[::2, ::2], positions(old, height, width))
    assert not torch.equal(fine[1::2, 1::2], positions(old, height, width))


def test_a_picture_of_the_old_size_keeps_its_positions_up_to_their_scale() -> None:
    """Going up and down again is where one came from."""
    old = at_resolution(TINY, 4, positions=True)
    assert at_resolution(at_resolution(old, 6), 4) == old


def test_a_transformer_computes_with_the_positions_of_its_new_config() -> None:
    torch.manual_seed(0)
    sana = Sana(TINY)
    torch.nn.init.normal_(sana.final_layer.linear.weight)
    latents, t, text = torch.randn(1, 4, 4, 4), torch.tensor([0.5]), torch.randn(1, 2, 8)
    plain = sana(latents, t, text)
    sana.config = at_resolution(TINY, 4, positions=True)
    other = Sana(sana.config)
    other.load_state_dict(sana.state_dict())
    assert torch.equal(sana(latents, t, text), other(latents, t, text))
    assert not torch.allclose(sana(latents, t, text), plain)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan"), float("inf")])
def test_a_shift_that_no_model_can_have_is_refused_before_anything_is_trained(shift: float) -> None:
    with pytest.raises(SettingsError, match="flow_shift"):
        Aim(flow_shift=shift)


@pytest.mark.parametrize("text", ["[]", "{", "3", '{"failed": []}', "[" * 100_000], ids=lambda text: text[:9])
def test_a_damaged_report_is_told_with_a_remedy(tmp_path: Path, text: str) -> None:
    assert read_report(tmp_path) is None
    (tmp_path / REPORT).write_text(text)
    with pytest.raises(DataError, match="delete it"):
        read_report(tmp_path)
