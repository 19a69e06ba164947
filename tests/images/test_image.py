"""Bins against the published tables, pixels, and files that carry their settings."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.image_processor import PixArtImageProcessor
from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha, pipeline_pixart_sigma
from diffusers.pipelines.sana import pipeline_sana
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from strict_png import faults_of

from sanakit.errors import OutputError, SettingsError, SizeError
from sanakit.images import image

TABLES = {
    512: pipeline_pixart_alpha.ASPECT_RATIO_512_BIN,
    1024: pipeline_pixart_alpha.ASPECT_RATIO_1024_BIN,
    2048: pipeline_pixart_sigma.ASPECT_RATIO_2048_BIN,
    4096: pipeline_sana.ASPECT_RATIO_4096_BIN,
}
SETTINGS: image.Metadata = {
    "prompt": "naïve fox 狐狸 🦊\nin two lines",
    "negative_prompt": "snow",
    "width": 48,
    "height": 32,
    "steps": 3,
    "guidance": 4.5,
    "solver": "dpm",
    "seed": 2**63,
    "model": "tiny",
    "version": "0.1.0",
}


@pytest.mark.parametrize("side", TABLES)
def test_bins_are_the_published_tables(side) -> None:
    published = {ratio: (int(h), int(w)) for ratio, (h, w) in TABLES[side].items()}
    ours = image.aspect_bins(side)
    assert ours == list(published.values())
    assert [round(h / w, 2) for h, w in ours] == [float(ratio) for ratio in published]


def test_native_bins_are_33_at_2048_px_and_the_same_at_other_sides() -> None:
    """The scripts' table at 2048 px, in units of 128 px."""
    flat = "8:32 8:31 9:28 9:27 9:26 10:25 10:24 11:23 11:22 11:21 12:21 12:20 13:19 13:18 14:18 14:17"
    tall = (
        "15:17 15:16 16:16 16:15 17:15 17:14 18:14 18:13 19:13 20:12 21:12 22:11 23:11 24:10 25:10 27:9 32:8"
    )
    scripts = [tuple(128 * int(side) for side in bin.split(":")) for bin in f"{flat} {tall}".split()]
    assert len(scripts) == 33
    assert image.aspect_bins(2048, "native") == scripts
    for side in (512, 1024, 4096):
        assert image.aspect_bins(side, "native") == image.aspect_bins(side)
    assert image.nearest_bin(1024, 3700, 2048, "native") == (1024, 3968)


@pytest.mark.parametrize("side", TABLES)
def test_the_nearest_bin_is_the_published_choice(side) -> None:
    sizes = range(64, 4097, 96)
    for height in sizes:
        for width in sizes:
            published = PixArtImageProcessor.classify_height_width_bin(height, width, TABLES[side])
            assert image.nearest_bin(height, width, side) == published


@pytest.mark.parametrize(
    ("text", "size"), [("256x192", (256, 192)), ("1024", (1024, 1024)), (" 64X32 ", (64, 32))]
)
def test_a_size_is_read(text: str, size: tuple[int, int]) -> None:
    assert image.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1x", "1e9", "-1x1", "256 x 256", "1.5x2", "٣x٣x٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SizeError):
        image.parse_size(text)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (20, 20), (9, 31), (40, 64), (33, 21)])
def test_resizing_and_cropping_are_the_published_ones(height, width) -> None:
    pixels = torch.rand(2, 3, 16, 24)
    published = PixArtImageProcessor.resize_and_crop_tensor(pixels, width, height)
    assert torch.equal(image.resize_and_crop(pixels, height, width), published)


def test_resizing_never_falls_a_pixel_short() -> None:
    for height in range(64, 400, 7):
        pixels = torch.zeros(1, 1, 29, 8)
        assert image.resize_and_crop(pixels, height, 64).shape[-2:] == (height, 64)


def test_tensors_become_rounded_and_clamped_pixels() -> None:
    tensor = torch.tensor([-9.0, -1.0, -0.999, 0.0, 0.2, 1.0, 9.0]).view(1, 1, 1, 7).expand(2, 3, 1, 7)
    pictures = image.to_pil(tensor)
    assert [picture.size for picture in pictures] == [(7, 1)] * 2
    assert np.asarray(pictures[1])[0, :, 0].tolist() == [0, 0, 0, 128, 153, 255, 255]


def test_a_preview_of_a_linear_decoder_is_exact() -> None:
    weights = torch.randn(5, 3 * 8 * 8) * 0.1

    def decode(latents: torch.Tensor) -> torch.Tensor:  # 8 px a latent, then each pixel four times
        patches = torch.einsum(
            "bchw,cd->bdhw", torch.cat([latents, torch.ones_like(latents[:, :1])], 1), weights
        )
        return torch.nn.functional.interpolate(torch.pixel_shuffle(patches, 8), scale_factor=4)

    fitted = image.fit_preview(decode, channels=4, compression=32)
    latents = 0.5 * torch.randn(4, 3, 2)
    drawn = np.asarray(image.draw_preview(fitted, latents), dtype=int)
    exact = np.asarray(image.to_pil(decode(latents[None])[:, :, ::4, ::4])[0], dtype=int)
    assert drawn.shape == (24, 16, 3)
    assert np.abs(drawn - exact).max() <= 3


# Files


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


def test_a_png_keeps_every_rule_of_its_specification(picture) -> None:
    for prompt in ("", "a fox", "café, 狐 🦊\n\x07"):
        metadata = SETTINGS | {"prompt": prompt, "negative_prompt": prompt, "model": prompt, "score": 78.6}
        assert faults_of(image.encode(picture, "PNG", metadata)) == []
    assert faults_of(image.encode(picture, "PNG")) == []


def test_a_fault_of_a_png_is_found(picture) -> None:
    whole = image.encode(picture, "PNG", SETTINGS)
    text = whole.index(b"tEXt") + 4
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))

    def with_chunk(name: bytes, content: bytes, place: int = 33) -> bytes:
        chunk = struct.pack(">I", len(content)) + name + content
        return whole[:place] + chunk + struct.pack(">I", zlib.crc32(name + content)) + whole[place:]

    for odd, told in {
        whole[1:]: "signature",
        whole[:text] + b"S" + whole[text + 1 :]: "checksum",
        whole[:-4]: "not a chunk",
        whole[:-12]: "IEND is not the end",
        whole + end: "IEND is not the end",
        with_chunk(b"tEXt", b"model\0a\0b"): "tEXt: NUL",
        with_chunk(b"tEXt", b" model\0a"): "keyword",
        with_chunk(b"tEXt", b"m" * 80 + b"\0a"): "keyword",
        with_chunk(b"iTXt", b"prompt\0\0\0\0\0\xff"): "not UTF-8",
        with_chunk(b"iTXt", b"prompt\0\0\0"): "not parted",
        with_chunk(b"iTXt", b"prompt\0\1\0\0\0abcd"): "not compressed",
        with_chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"press")): "ICC profile",
        with_chunk(b"eXIf", b"Exif\0\0II*\0"): "TIFF",
        with_chunk(b"IDAT", zlib.compress(b"")): "parted",
        with_chunk(b"IEND", b""): "IEND is not the end",
        with_chunk(b"ABCD", b""): "unknown",
        with_chunk(b"gAMA", b"\0\0\0\1", len(whole) - 12): "too late",
    }.items():
        assert told in " ".join(faults_of(odd)), told


def test_a_png_gives_its_settings_and_pixels_back(picture, tmp_path) -> None:
    path = image.save(picture, tmp_path / "fox.png", SETTINGS)
    assert image.read_metadata(path) == SETTINGS
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))
    with Image.open(path) as opened:
        opened.load()
        assert opened.text["size"] == "48x32"
        assert opened.text["seed"] == str(2**63)
    assert os.listdir(tmp_path) == ["fox.png"]


def test_prompts_of_a_hundred_thousand_characters_survive(picture, tmp_path) -> None:
    prompt = "狐狸 and an apple, " * 6000
    path = image.save(picture, tmp_path / "fox.png", SETTINGS | {"prompt": prompt})
    assert image.read_metadata(path)["prompt"] == prompt


def test_settings_of_given_noise_have_no_seed(picture, tmp_path) -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "seed"}
    assert image.read_metadata(image.save(picture, tmp_path / "a.png", settings)) == settings


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
def test_other_formats_follow_the_suffix(tmp_path, suffix) -> None:
    flat = Image.new("RGB", (32, 32), (200, 30, 60))
    path = image.save(flat, tmp_path / f"flat{suffix}", SETTINGS)
    with Image.open(path) as opened:
        assert opened.format == ("WEBP" if suffix == ".webp" else "JPEG")
        assert np.abs(np.asarray(opened.convert("RGB"), dtype=int) - np.asarray(flat)).max() < 6


def test_saving_replaces_a_picture(picture, tmp_path) -> None:
    path = tmp_path / "fox.png"
    path.write_bytes(b"old")
    image.save(picture, path)
    assert Image.open(path).size == (48, 32)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fox", "end the name"),
        ("fox.gif", "end the name"),
        ("missing/fox.png", "does not exist"),
        ("folder.png", "is a folder"),
        ("file.png/fox.png", "does not exist"),
        ("x" * 300 + ".png", "cannot be written"),
        ("nul\0.png", "cannot be written"),
    ],
)
def test_a_picture_that_can_not_be_written_is_an_output_error_and_leaves_nothing(
    picture, tmp_path, name, says
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(OutputError, match=says):
        image.save(picture, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file.png", "folder.png"]


def test_a_full_disk_leaves_the_old_picture(picture, tmp_path, monkeypatch) -> None:
    path = tmp_path / "fox.png"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        image.save(picture, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["fox.png"]


def test_files_without_our_settings_are_refused(picture, tmp_path) -> None:
    plain, junk, cut = (tmp_path / name for name in ("plain.png", "junk.png", "cut.png"))
    picture.save(plain)
    junk.write_bytes(b"junk")
    whole = image.save(picture, tmp_path / "whole.png", SETTINGS).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for path in (plain, junk, cut, tmp_path, Path("missing.png")):
        with pytest.raises(SettingsError, match="carries no settings"):
            image.read_metadata(path)


def test_what_other_programs_wrote_into_a_png_is_left_alone(picture, tmp_path) -> None:
    """exiftool writes the first two, a picture manager the third, and some add an empty text."""
    path = image.save(picture, tmp_path / "fox.png", SETTINGS)
    with Image.open(path) as opened:
        opened.load()
        chunks = PngInfo()
        for key, text in opened.text.items():
            (chunks.add_itxt if "prompt" in key else chunks.add_text)(key, text)
        for key, text in {"Artist": "me", "Comment": "7", "parameters": "a fox\nSteps: 20", "": ""}.items():
            chunks.add_text(key or "Label", text)
        chunks.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmp:Rating='5'/>", zip=True)
        opened.save(path, pnginfo=chunks)
    assert image.read_metadata(path) == SETTINGS
    with Image.open(path) as opened:
        opened.load()
        assert opened.text["Artist"] == "me"


def test_every_setting_of_every_task_is_read_back(picture, tmp_path) -> None:
    settings = SETTINGS | {"strength": 0.5, "best_of": 16, "score": 31.25}
    assert image.read_metadata(image.save(picture, tmp_path / "a.png", settings)) == settings


def test_a_pipe_is_refused_at_once(fifo: Path) -> None:
    with pytest.raises(SettingsError, match="carries no settings"):
        image.read_metadata(fifo)


def test_no_program_is_started_to_read_settings(tmp_path, monkeypatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments: started.append(arguments))
    path = tmp_path / "fox.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(SettingsError, match="carries no settings"):
        image.read_metadata(path)
    assert started == []


# Bytes


def test_the_bytes_of_a_png_are_the_file_that_save_writes(picture, tmp_path) -> None:
    data = image.encode(picture, "PNG", SETTINGS)
    assert data == image.save(picture, tmp_path / "fox.png", SETTINGS).read_bytes()
    assert image.read_metadata(tmp_path / "fox.png") == SETTINGS
    with Image.open(io.BytesIO(image.encode(picture, "PNG"))) as plain:
        plain.load()
        assert plain.text == {}


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_quality_decides_how_many_bytes(picture, tmp_path, file_format) -> None:
    sizes = [len(image.encode(picture, file_format, SETTINGS, quality)) for quality in (10, 50, 95)]
    assert sizes == sorted(set(sizes))
    suffix = ".jpg" if file_format == "JPEG" else ".webp"
    saved = image.save(picture, tmp_path / f"fox{suffix}").read_bytes()
    assert saved == image.encode(picture, file_format)
    with Image.open(io.BytesIO(saved)) as opened:
        assert opened.format == file_format


def test_a_strength_is_read_back_as_a_number(picture, tmp_path) -> None:
    settings = SETTINGS | {"strength": 0.6}
    assert image.read_metadata(image.save(picture, tmp_path / "fox.png", settings)) == settings
