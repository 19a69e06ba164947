"""Images with captions, and a tiny model whose latents and features are cached."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Makes the file of an image: its left half one colour, its right half another."""
    return _picture


def _picture(
    width: int, height: int, left: str = "red", right: str = "blue", file_format: str = "JPEG", **options
) -> bytes:
    image = Image.new("RGB", (width, height), left)
    image.paste(Image.new("RGB", (width - width // 2, height), right), (width // 2, 0))
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture
def tar() -> Callable[..., Path]:
    """Writes an archive of members, in order: a file as (name, content), a link as (name, (type, target))."""
    return _tar


def _tar(
    path: Path,
    members: Iterable[tuple[str, bytes | tuple[bytes, str]]],
    file_format: int = tarfile.PAX_FORMAT,
) -> Path:
    with tarfile.open(path, "w", format=file_format) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven sound images of five ratios with two captions each, three broken ones, a foreign file."""
    place = tmp_path / "pictures"
    (place / "deep" / "er").mkdir(parents=True)
    sizes = [(256, 256)] * 4 + [(512, 256)] * 3 + [(300, 400), (1024, 256), (256, 512), (260, 250)]
    for number, (width, height) in enumerate(sizes):
        name = ("", "deep/", "deep/er/")[number % 3] + f"{number:02}"
        (place / f"{name}.jpg").write_bytes(_picture(width, height))
        (place / f"{name}.txt").write_text(f"picture {number}\nanother {number}\n", encoding="utf-8")
    whole = _picture(256, 256)
    (place / "empty.jpg").write_bytes(b"")
    (place / "foreign.png").write_bytes(b"this is no picture" * 20)
    (place / "truncated.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (place / "notes.doc").write_bytes(b"words")
    return place


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of random numbers, 32 pixels to a latent, made for 128 px."""
    from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
    from sanakit.models.gemma2 import Gemma2, Gemma2Config
    from sanakit.models.sana import Sana, SanaConfig
    from sanakit.text.encoder import TextEncoder
    from sanakit.text.tokenizer import train_tokenizer
    from sanakit.weights import save_diffusers

    stages = (Stage(8, 0), *(Stage(8, 1),) * 5)
    sizes = DCAEConfig(encoder=stages, decoder=stages, latent_channels=8, head_dim=8, scaling_factor=0.5)
    transformer = SanaConfig(
        depth=1, width=32, cross_heads=2, text_width=24, latent_channels=8, sample_size=4
    )
    text = Gemma2Config(
        vocab_size=600, width=24, depth=1, heads=2, kv_heads=1, head_dim=12, mlp_width=48, query_scalar=12
    )
    tokenizer = train_tokenizer(["picture 1, another 2", "two green foxes"] * 20, 520)
    return save_diffusers(
        tmp_path_factory.mktemp("models") / "tiny",
        transformer=Sana(transformer).eval(),
        autoencoder=DCAE(sizes).eval(),
        text_encoder=TextEncoder(Gemma2(text).eval(), tokenizer, "Draw this: ", 20),
        name="tiny",
    )


@pytest.fixture(scope="session")
def video_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a video model of random numbers: 4 frames a latent, 16 px a token; 9 frames of 96x64."""
    from tests.pipelines.video.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("video") / "model")
