"""The names that other people's code and scripts use: they may grow, they are never renamed."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sanakit

# Importing any of these for a help text means that work is done before anybody asked for it.
HEAVY = {"torch", "numpy", "PIL", "tokenizers", "safetensors", "huggingface_hub"}


def run(code: str) -> str:
    """Standard output of the code in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def modules_after(code: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter once the code has run."""
    report = "\nimport sys; print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    return set(run(code + report).splitlines()[-1].split())


def help_of(*command: str) -> str:
    code = f"import sys; sys.argv = ['sana', *{command!r}, '--help']; from sanakit.cli import main; main()"
    return run(code)


def test_importing_sanakit_loads_nothing_heavy() -> None:
    assert modules_after("import sanakit; sanakit.__version__; dir(sanakit)") & HEAVY == set()


@pytest.mark.parametrize("arguments", ["--help", "generate --help", "models --help"])
def test_help_loads_nothing_heavy(arguments: str) -> None:
    code = (
        f"import sys; sys.argv = ['sana', *{arguments.split()!r}]\n"
        "from sanakit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
    )
    assert modules_after(code) & HEAVY == set()


def test_the_root_offers_exactly_these_names() -> None:
    names = ["BestOf", "ControlImage", "TextToImage", "TextToVideo", "World", "__version__", "list_models"]
    assert sorted(sanakit.__all__) == names
    assert dir(sanakit) == sorted(sanakit.__all__)


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="TextToImage"):
        _ = sanakit.ImageToText  # pyright: ignore[reportAttributeAccessIssue]


def test_the_version_is_the_one_of_the_changelog(repository) -> None:
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", changelog, flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == sanakit.__version__


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(sanakit.__file__).with_name("py.typed").is_file()


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_text_to_image_takes_these_arguments() -> None:
    from sanakit import TextToImage
    from sanakit.pipelines.request import DrawSettings

    image = {"negative_prompt", "width", "height", "seed", "num_images", "latents"}
    sampling = {"steps", "guidance", "solver", "dialect"}
    assert image | sampling | {"output"} <= set(parameters(TextToImage.__call__))
    assert parameters(TextToImage.stream)[-1] == "settings"  # by name, the keys of DrawSettings
    assert image | sampling <= {*parameters(TextToImage.stream), *DrawSettings.__annotations__}
    assert DrawSettings.__annotations__.keys() <= set(parameters(TextToImage.__call__))
    loading = {"path", "device", "dtype", "memory", "encoder", "plan", "compile", "adapters"}
    loading |= {"control_model", "unknown"}  # unknown: refused with ours
    assert loading == set(parameters(TextToImage.from_pretrained))


def test_text_to_video_takes_these_arguments() -> None:
    from sanakit import TextToVideo
    from sanakit.pipelines.video.request import ClipDrawSettings, check_clip_request

    call = set(parameters(TextToVideo.__call__))
    assert {"prompt", "frames", "seconds", "image", "clip", "seed", "latents", "output"} <= call
    beside = {"self", "prompt", "negative_prompt", "others"}  # others: refused with ours
    assert ClipDrawSettings.__annotations__.keys() == call - beside
    assert set(parameters(check_clip_request)) - {"spec"} == call - {"self"}
    assert {"path", "device", "dtype", "encoder"} <= set(parameters(TextToVideo.from_pretrained))


def test_a_pipeline_takes_adapters() -> None:
    from sanakit import TextToImage

    assert parameters(TextToImage.load_adapter) == ["self", "file", "weight", "name"]
    assert parameters(TextToImage.set_adapters) == ["self", "weights"]
    assert parameters(TextToImage.unload_adapters) == ["self", "names"]
    assert parameters(TextToImage.merge_adapters) == ["self"]
    assert isinstance(TextToImage.adapters, property)


def test_weights_offers_these_functions() -> None:
    from sanakit.weights import load_autoencoder, load_text_encoder, load_transformer, save_diffusers

    for load in (load_transformer, load_autoencoder, load_text_encoder):
        assert {"device", "dtype"} <= set(parameters(load)), load.__name__
    assert "part" in parameters(load_autoencoder)
    assert {"transformer", "autoencoder", "text_encoder"} <= set(parameters(save_diffusers))


def test_models_take_these_arguments() -> None:
    from sanakit.models.dc_ae import DCAE
    from sanakit.models.sana import Sana

    assert parameters(Sana.forward)[:5] == ["self", "latents", "t", "text", "mask"]
    assert parameters(DCAE.encode) == ["self", "images", "band"]
    assert parameters(DCAE.decode) == ["self", "latents", "band"]


COMMANDS = "generate edit best-of video models inspect data train evaluate bench serve ui keys"


@pytest.mark.parametrize("command", COMMANDS.split())
def test_the_command_exists(command: str) -> None:
    assert "Usage" in help_of(command)


def test_generate_takes_these_options() -> None:
    options = set(re.findall(r"--([a-z-]+)", help_of("generate")))
    images = "model negative size steps guidance solver dialect seed num-images output preview"
    control = "control control-kind control-scale control-range control-model"
    machine = "device dtype memory json"
    assert set(f"{images} {control} {machine}".split()) - options == set()
