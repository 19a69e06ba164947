"""Models are written whole or not at all, in the asked dtype."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from sanakit.errors import OutputError, PrecisionError, SettingsError, WeightsError
from sanakit.models.dc_ae import DCAE
from sanakit.weights import (
    convert,
    describe,
    load_transformer,
    save_diffusers,
    save_official,
    save_quantized,
)
from sanakit.weights import save as export
from sanakit.weights.find.resolve import resolve
from sanakit.whole import leftovers, replaced


def save(tiny, folder, **options):
    parts = {
        "autoencoder": tiny.autoencoder,
        "text_encoder": tiny.text_encoder,
        "transformer": tiny.transformer,
    }
    return save_diffusers(folder, **(parts | options))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_part_is_stored_in_the_asked_dtype(tiny, tmp_path, dtype):
    save(tiny, tmp_path / "out", dtype=dtype)
    files = list((tmp_path / "out").rglob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        assert {str(tensor.dtype) for tensor in load_file(file).values()} == {f"torch.{dtype}"}
    config = json.loads((tmp_path / "out/text_encoder/config.json").read_text())
    assert config["torch_dtype"] == dtype


def test_a_saved_model_replaces_an_older_one_and_nothing_else(tiny, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    save(tiny, target)  # an empty folder is fine
    (target / "left_over.txt").write_text("from before")
    save(tiny, target, name="second")
    assert not (target / "left_over.txt").exists()
    assert json.loads((target / "sanakit.json").read_text())["name"] == "second"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))] == ["out"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mum.png").write_text("precious")
    with pytest.raises(OutputError, match="is not a model folder"):
        save(tiny, tmp_path / "photos")
    assert (tmp_path / "photos" / "mum.png").read_text() == "precious"


def test_a_model_can_be_saved_over_the_files_it_is_mapped_from(tiny):
    loaded = load_transformer(tiny.folder)
    save(tiny, tiny.folder, transformer=loaded)
    again = load_transformer(tiny.folder)
    assert torch.equal(again.blocks[0].attn.qkv.weight, tiny.transformer.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize("code", [28, 13], ids=["disk-full", "permission"])
def test_a_failed_write_leaves_nothing_behind(tiny, tmp_path, monkeypatch, code):
    write = export.write_safetensors

    def fail_on_the_last(path, *rest):
        if "text_encoder" in str(path):
            raise OSError(code, os.strerror(code))
        write(path, *rest)

    monkeypatch.setattr(export, "write_safetensors", fail_on_the_last)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="cannot be written"):
        save(tiny, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_place_that_can_not_be_written_is_an_output_error(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        save(tiny, tmp_path / "file" / "out")
    with pytest.raises(OutputError):
        save_official(tmp_path / "file" / "out.pth", tiny.transformer)
    with pytest.raises(OutputError):
        save_official("/proc/none/out.pth", tiny.transformer)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("PytorchStreamWriter failed writing file: file write failed", "file write failed"),
        (
            "[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 0",
            "not all of it could be stored",
        ),
    ],
)
def test_a_full_disk_under_torch_save_is_an_output_error(tiny, tmp_path, monkeypatch, told, reason):
    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError(told)

    monkeypatch.setattr(torch, "save", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=rf"{reason}\): check the path"):
        save_official(tmp_path / "out.pth", tiny.transformer)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flow_shift": float("nan")}, "flow_shift is nan"),
        ({"defaults": {"stepz": 3}}, "named stepz: use steps"),
    ],
)
def test_a_shift_or_default_that_means_nothing_is_refused(tiny, tmp_path, options, said):
    with pytest.raises(SettingsError, match=said):
        save(tiny, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_half_an_autoencoder_or_a_wrong_dtype_is_refused(tiny, tmp_path):
    with pytest.raises(OutputError, match="part='both'"):
        save(tiny, tmp_path / "out", autoencoder=DCAE(tiny.autoencoder.config, "decoder"))
    with pytest.raises(PrecisionError, match="trained for float16"):
        save(tiny, tmp_path / "out", dtype="bfloat16", precision="float16")
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from sanakit.weights import convert, save_quantized

source, folder = sys.argv[1:]
fsync = os.fsync

def killed(write, when):  # when something is brought to the disk for the `when`-th time
    calls = []
    def die(handle):
        calls.append(handle)
        if len(calls) == when:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)
    if (process := os.fork()) == 0:
        os.fsync = die
        write()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL

killed(lambda: convert(source, f"{folder}/folder", "diffusers"), 5)
killed(lambda: convert(source, f"{folder}/model.pth", "official"), 1)
killed(lambda: save_quantized(source, f"{folder}/few", "int8"), 3)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_what_a_killed_conversion_leaves_is_told_is_no_model_and_goes_with_the_next_one(tiny, tmp_path):
    place = tmp_path / "written"
    place.mkdir()
    subprocess.run([sys.executable, "-c", KILLED, tiny.folder, place], check=True)
    for name in ("folder", "model.pth", "few"):
        (left,) = leftovers(place / name)
        assert not (place / name).exists()
        for path in (left, place / name):  # what is left, and what the user asked for
            for read in (describe, load_transformer, resolve):
                with pytest.raises(WeightsError, match=f"unfinished.*{place / name}.*was killed"):
                    read(path)
    convert(tiny.folder, place / "folder", "diffusers")
    convert(tiny.folder, place / "model.pth", "official")
    save_quantized(tiny.folder, place / "few", "int8")
    assert sorted(path.name for path in place.iterdir()) == ["few", "folder", "model.pth"]
    for name in ("few", "folder", "model.pth"):
        load_transformer(place / name)


def test_a_second_conversion_to_the_same_place_at_once_is_refused(tiny, tmp_path):
    pytest.importorskip("fcntl")
    with replaced(tmp_path / "out") as partial:  # another process converts
        partial.mkdir()
        with pytest.raises(OutputError, match=f"Another process is writing {tmp_path / 'out'}: wait"):
            convert(tiny.folder, tmp_path / "out", "diffusers")
        assert partial.exists()
