"""Folders of graphs are written whole, refuse what they cannot do, and go through the command."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
import torch

from sanakit.cli import main
from sanakit.errors import (
    MissingExtraError,
    OutputError,
    PrecisionError,
    SettingsError,
    WeightsError,
)
from sanakit.graphs import onnx
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights import (
    convert,
    describe,
    load_autoencoder,
    load_configs,
    load_settings,
    load_transformer,
)
from sanakit.weights.settings import OFFERED, ModelSettings

pytestmark = pytest.mark.thorough


@pytest.fixture
def folder(graphs, tmp_path):
    """A copy of the ONNX folder that a test may damage."""
    return shutil.copytree(graphs("onnx"), tmp_path / "graphs")


def test_the_folder_tells_what_the_model_told(model, graphs):
    assert load_settings(graphs("onnx")) == load_settings(model)
    assert load_configs(graphs("onnx")) == load_configs(model)
    ours, theirs = describe(model), describe(graphs("openvino"))
    assert [part.kind for part in theirs.parts] == [part.kind for part in ours.parts]
    assert theirs.parts[0].parameters == ours.parts[0].parameters
    assert {part.layout for part in theirs.parts} == {"openvino"}
    assert theirs.resolution == ours.resolution


def test_the_command_writes_each_form(model, tmp_path, monkeypatch, capsys):
    """The way of a user; what is in the graphs is tested in test_parts.py."""
    monkeypatch.setattr(onnx, "write", lambda network, path, half: path.write_bytes(b"graph"))
    for form, name in (("onnx", "graphs"), ("diffusers", "folder"), ("official", "model.pth")):
        with pytest.raises(SystemExit) as end:
            main(["convert", str(model), str(tmp_path / name), "--to", form, "--json"])
        out, err = capsys.readouterr()
        assert not end.value.code, err
        assert json.loads(out)["form"] == form
        assert json.loads(out)["bytes"] > 0
    assert load_settings(tmp_path / "graphs") == load_settings(tmp_path / "folder") == load_settings(model)
    for name in ("folder", "model.pth"):
        written, own = load_transformer(tmp_path / name).state_dict(), load_transformer(model).state_dict()
        assert all(torch.equal(written[key], own[key]) for key in own)


def test_the_command_draws_from_graphs(graphs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(
            ["generate", "a red apple", "--model", str(graphs("openvino")), "--seed", "1", "-o", "apple.png"]
        )
    assert not end.value.code, capsys.readouterr().err
    assert (tmp_path / "apple.png").is_file()


@pytest.mark.parametrize("code", [28, 13], ids=["disk-full", "permission"])
def test_a_failed_write_leaves_nothing_behind(model, tmp_path, monkeypatch, code):
    def fail(network, path, half):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(onnx, "write", fail)
    with pytest.raises(OutputError, match="cannot be written"):
        convert(model, tmp_path / "out", "onnx")
    assert os.listdir(tmp_path) == []


def test_a_foreign_folder_is_not_replaced(model, tmp_path):
    (tmp_path / "mum.png").write_text("precious")
    with pytest.raises(OutputError, match="is not a model folder"):
        convert(model, tmp_path, "onnx")
    assert os.listdir(tmp_path) == ["mum.png"]


def test_what_graphs_are_not_made_of_or_stored_in_is_refused(model, graphs, tmp_path):
    with pytest.raises(WeightsError, match="holds graphs for onnx"):
        convert(graphs("onnx"), tmp_path / "out", "openvino")
    with pytest.raises(PrecisionError, match="bfloat16"):
        convert(model, tmp_path / "out", "onnx", dtype="bfloat16")
    with pytest.raises(SettingsError, match="tensorrt"):
        convert(model, tmp_path / "out", "tensorrt")  # pyright: ignore[reportArgumentType]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("package", "extra"), [("onnxscript", "onnx"), ("openvino", "openvino")])
def test_a_missing_extra_is_named(model, tmp_path, monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"sanakit\[{extra}\]"):
        convert(model, tmp_path / "out", extra)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("package", "runtime"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_runtime_is_named_when_it_is_needed(graphs, monkeypatch, package, runtime):
    pipe = TextToImage.from_pretrained(graphs(runtime), device="cpu")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"sanakit\[{runtime}\]"):
        pipe("a red apple")


def test_a_damaged_or_missing_graph_is_a_sentence(graphs, folder, tmp_path):
    (folder / "transformer" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(WeightsError, match="cannot be opened"):
        TextToImage.from_pretrained(folder, device="cpu")("a red apple")
    (folder / "transformer" / "model.onnx").unlink()
    with pytest.raises(WeightsError, match="missing"):
        load_transformer(folder)
    other = shutil.copytree(graphs("openvino"), tmp_path / "other")
    (other / "transformer" / "model.xml").write_text("<net/>")
    with pytest.raises(WeightsError, match="cannot be opened"):
        TextToImage.from_pretrained(other, device="cpu")("a red apple")


def test_a_runtime_of_another_version_is_named(folder):
    (folder / "model_index.json").write_text('{"_class_name": "SanaGraphs", "runtime": "tensorrt"}')
    with pytest.raises(WeightsError, match="tensorrt"):
        load_transformer(folder)


def test_what_a_folder_of_graphs_can_not_do_is_said(folder):
    with pytest.raises(SettingsError, match="cannot encode images"):
        load_autoencoder(folder)
    with pytest.raises(PrecisionError, match="float32"):
        TextToImage.from_pretrained(folder, device="cpu", dtype="bfloat16")
    with pytest.raises(SettingsError, match="memory"):
        TextToImage.from_pretrained(folder, device="cpu", memory="4GB")
    with pytest.raises(SettingsError, match="plan"):
        load_transformer(folder, plan="int8")


def test_settings_are_all_written(folder):
    """What a later version adds to ModelSettings reaches the folder, too."""
    written = json.loads((folder / "sanakit.json").read_text())
    told = {*written["defaults"], "name", "licence", "precision"}
    none = {*OFFERED, "known_things", "notes"}  # of these the model has none
    assert told == set(ModelSettings.__slots__) - none
