"""A clip that several processes decode is that of one process, to 1e-10 in float64, chunk after chunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError, SizeError
from sanakit.models.video.split.decoder import SplitDecoder, _reaches
from sanakit.models.video.wan_vae import WAN_VAE, WanVAE, WanVAEConfig
from tests.models.video.split.threads import ThreadExchange, Threads

CONFIG = WanVAEConfig(width=4, depth=1, latent_channels=4, latents_mean=(0.5,) * 4, latents_std=(2.0,) * 4)


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    made = WanVAE(CONFIG)
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("gamma" in name), std=0.2)
    return made.double().requires_grad_(False)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_equal(found: list[Tensor], wanted: Tensor) -> None:
    for one in found:
        torch.testing.assert_close(one, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("world", "height", "chunk"), [(2, 7, None), (3, 10, 1), (2, 16, 2)])
def test_decoded_clips_are_those_of_one_process(
    vae: WanVAE, world: int, height: int, chunk: int | None
) -> None:
    """With parts of other sizes, and a halo that reaches over several of them."""
    latents = normal(1, 4, 3, height, 3)
    threads, wanted = Threads(world), vae.decode(latents, chunk)
    assert_equal(threads.run(lambda own: SplitDecoder(vae, own).decode(latents, chunk)), wanted)
    assert threads.values["swapped"] > 0


def test_streams_are_those_of_one_process(vae: WanVAE) -> None:
    pieces = normal(2, 4, 4, 8, 3).split([1, 2, 1], dim=2)
    wanted = torch.cat([*vae.decode_stream(pieces)], dim=2)

    def drawn(own: ThreadExchange) -> Tensor:
        return torch.cat([*SplitDecoder(vae, own).decode_stream(iter(pieces))], dim=2)

    assert_equal(Threads(2).run(drawn), wanted)


@pytest.mark.parametrize(("given", "world"), [(iter, 3), (list, 3), (list, 2)])
def test_clips_of_few_rows_are_decoded_whole(vae: WanVAE, given: type, world: int) -> None:
    """For two processes five rows are too few: of the next resolution, four are there and five reached."""
    pieces = normal(1, 4, 3, 5, 3).split([1, 2], dim=2)
    threads, wanted = Threads(world), torch.cat([*vae.decode_stream(pieces)], dim=2)

    def drawn(own: ThreadExchange) -> Tensor:
        return torch.cat([*SplitDecoder(vae, own).decode_stream(given(pieces))], dim=2)

    assert_equal(threads.run(drawn), wanted)
    assert not any(threads.values.values())


def test_layers_reach_as_far_as_is_counted(vae: WanVAE) -> None:
    """Of the published size: 9 rows of latents at first, then 7, 7 and 7 of each finer resolution."""
    with torch.device("meta"):
        assert _reaches(WanVAE(WAN_VAE, "decoder")) == [9, 7, 7, 7]
    assert _reaches(vae) == [7, 5, 5, 5]


def test_what_one_process_refuses_is_refused(vae: WanVAE) -> None:
    with pytest.raises(SizeError, match="8"):
        Threads(1).run(lambda own: SplitDecoder(vae, own).decode(normal(1, 8, 1, 8, 8)))
    with pytest.raises(SettingsError, match="chunk is 0"):
        Threads(1).run(lambda own: SplitDecoder(vae, own).decode(normal(1, 4, 1, 8, 8), 0))
