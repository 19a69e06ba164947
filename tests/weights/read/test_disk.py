"""JSON and first bytes of any file: what cannot be read is a sentence, and nothing waits for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.weights import describe, fingerprint_weights, load_settings, load_text_encoder, load_transformer
from sanakit.weights.read.disk import first_bytes, read_json
from sanakit.weights.read.files import open_component, open_file

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A named pipe; whoever waits for its content gets none after some seconds, so no test hangs."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    waiting = threading.Timer(20, _end, [path])
    waiting.start()
    yield path
    waiting.cancel()


def _end(path: Path) -> None:
    with suppress(OSError):  # nobody waits
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.parametrize("read", [first_bytes, read_json, open_file], ids=lambda read: read.__name__)
def test_a_pipe_is_refused_and_not_waited_for(pipe, read):
    with pytest.raises(WeightsError, match="it is a pipe, a socket or a device, not a file"):
        read(pipe)


@pytest.mark.parametrize("read", [load_transformer, describe, load_settings, fingerprint_weights])
def test_a_pipe_is_not_a_model(pipe, read):
    with pytest.raises((WeightsError, ModelNotFoundError)):
        read(pipe)


@pytest.mark.parametrize(
    "name",
    ["transformer/diffusion_pytorch_model.safetensors", "transformer/config.json", "sanakit.json"],
)
def test_a_pipe_within_a_folder_is_refused(tiny, pipe, name):
    (tiny.folder / name).unlink()
    pipe.rename(tiny.folder / name)
    with pytest.raises(WeightsError, match="it is a pipe, a socket or a device, not a file"):
        load_transformer(tiny.folder) if name != "sanakit.json" else load_settings(tiny.folder)


def test_a_folder_and_a_device_are_refused_by_the_reader(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read \(Is a directory\)"):
        open_component(tmp_path)
    with pytest.raises(WeightsError, match="it is a pipe, a socket or a device, not a file"):
        first_bytes(Path(os.devnull))


@pytest.mark.parametrize(
    "content",
    [DEEP, '{"a": ' + DEEP + "}", '{"a": ' * 100_000 + "1" + "}" * 100_000],
    ids=["list", "in", "all"],
)
def test_deeply_nested_json_is_a_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"config\.json is JSON nested too deeply"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model_index.json", load_transformer),
        ("transformer/config.json", load_transformer),
        ("text_encoder/config.json", load_text_encoder),
        ("text_encoder/model.safetensors.index.json", load_text_encoder),
        ("sanakit.json", load_settings),
        ("scheduler/scheduler_config.json", load_settings),
    ],
)
def test_deeply_nested_json_of_a_model_is_a_sentence(tiny, name, read):
    (tiny.folder / name).write_text(DEEP)
    with pytest.raises(WeightsError, match="nested too deeply"):
        read(tiny.folder)
