"""A mistake in what was asked for: exit code 2, one sentence with a remedy, no traceback, nothing written."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

# What a remedy looks like: an instruction, or the values that are allowed.
REMEDIES = (
    *(
        "--help` shows",
        "use ",
        "choose ",
        "give ",
        "create ",
        "write ",
        "Download ",
        "put the model's",
        "check ",
        "name ",
        "Nearest",
    ),
    *(
        "must be",
        "Ask its author",
        "build it",
        "Draw fewer",
        "delete ",
        "Put it in",
        "Take ",
        "take ",
        "install ",
    ),
)
PICTURE = ("generate", "a red apple", "--seed", "7", "--output", "apple.png")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(sana, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must be refused, and return the sentence."""

    def run(*words: object, naming: str = "") -> str:
        before = snapshot(tmp_path)
        outcome = sana(*words)
        assert outcome.code == 2, outcome
        assert outcome.out == ""
        assert outcome.err.startswith("Error: ")
        assert outcome.err.count("\n") == 1, outcome.err
        assert "Traceback" not in outcome.err
        assert len(outcome.err) < 600
        assert any(remedy.lower() in outcome.err.lower() for remedy in REMEDIES), outcome.err
        assert naming in outcome.err
        assert snapshot(tmp_path) == before
        return outcome.err

    return run


@pytest.mark.parametrize(
    ("option", "value", "naming"),
    [
        ("--size", "0x0", "64x64"),
        ("--size", "100x100", "96x96"),
        ("--size", "256x250", "256x256"),
        ("--size", "99999x32", "99999"),
        ("--size", "-256x256", "-256x256"),
        ("--size", "abc", "abc"),
        ("--size", "1e9", "1e9"),
        ("--size", "256x256x3", "256x256x3"),
        ("--size", "", "such as 256x192"),
        ("--size", "31968x31968", "31968"),
        ("--steps", "0", "--steps"),
        ("--steps", "-1", "--steps"),
        ("--steps", "100000", "--steps"),
        ("--steps", "abc", "--steps"),
        ("--steps", "2.5", "--steps"),
        ("--guidance", "nan", "guidance"),
        ("--guidance", "inf", "guidance"),
        ("--guidance", "-1", "guidance"),
        ("--guidance", "much", "--guidance"),
        ("--seed", "-1", "--seed"),
        ("--seed", str(2**70), "seed"),
        ("--seed", "abc", "--seed"),
        ("--num-images", "0", "--num-images"),
        ("--num-images", str(10**6), "--num-images"),
        ("--solver", "magic", "'dpm', 'euler', 'scm'"),
        ("--device", "toaster", "toaster"),
        ("--device", "cuda:99", "cuda:99"),
        ("--dtype", "int8", "int8"),
        ("--dtype", "float99", "float99"),
        ("--colour", "red", "--colour"),
    ],
)
def test_a_wrong_setting_is_refused(refused, tiny: Path, option: str, value: str, naming: str) -> None:
    words = [word for word in PICTURE if option != "--seed" or word not in ("--seed", "7")]
    refused(*words, "--model", tiny, f"{option}={value}", naming=naming)


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (["generate"], "PROMPT"),
        (["generate", "a red apple", "a second prompt"], "a second prompt"),
        (["generat", "a red apple"], "generate"),
        (["--nonsense"], "--nonsense"),
        (["data"], "command"),
        (["inspect"], "PATH"),
        (["inspect", "missing-file.pth"], "missing-file.pth"),
        (["train"], "RECIPE"),
        (["train", "pockets"], "did you mean pocket?"),
        (["train", "pocket-autoencoder", "--data", "missing", "--steps", "1"], "missing"),
        (["train", "pocket-autoencoder", "--steps", "0"], "--steps"),
        (["evaluate"], "MODEL"),
        (["evaluate", "missing-folder"], "missing-folder"),
        ([*PICTURE, "--model", "pokcet"], "pocket"),
        ([*PICTURE, "--model", "sana-1.6b-1025"], "sana-1.6b-1024"),
        ([*PICTURE, "--model", ""], "sana models"),
        ([*PICTURE, "--model", "./missing"], "./missing"),
        ([*PICTURE, "--model", "missing.safetensors"], "missing.safetensors"),
        ([*PICTURE, "--model", "sana-1.6b-controlnet-hed"], "ControlNet"),
    ],
)
def test_a_wrong_command_or_name_is_refused(refused, words: list[str], naming: str) -> None:
    refused(*words, naming=naming)


@pytest.mark.parametrize(
    ("output", "naming"),
    [
        ("nowhere/apple.png", "nowhere"),
        ("file/apple.png", "file"),
        ("apple.tiff", ".png"),
        ("apple", ".png"),
        ("a" * 300 + ".png", "written"),
        ("a" * 300 + "/apple.png", "does not exist"),
    ],
)
def test_an_output_that_can_not_be_written_is_refused(refused, tiny: Path, output: str, naming: str) -> None:
    Path("file").write_text("regular")
    refused("generate", "a red apple", "--model", tiny, "--output", output, naming=naming)


def test_an_output_is_refused_before_the_model_is_looked_at(refused) -> None:
    refused("generate", "a red apple", "--model", "no/such", "--output", "nowhere/a.png", naming="nowhere")


def test_a_data_set_is_not_built_below_a_file(refused) -> None:
    Path("file").write_text("regular")
    refused("data", "pocket", "file/data", naming="file/data")


def test_a_data_set_is_not_built_in_a_folder_in_use(refused) -> None:
    Path("used").mkdir()
    Path("used", "letter.txt").write_text("dear")
    refused("data", "pocket", "used", naming="used")
    refused("data", "pocket", "/", naming="in use")


def test_a_run_is_not_overwritten_without_being_told(refused) -> None:
    Path("runs").mkdir()
    Path("runs", "checkpoint.pt").write_bytes(b"hours of work")
    refused("train", "pocket", "--output", "runs", naming="resume")


# Weight files


class Malicious:
    """Unpickling this writes a file."""

    def __reduce__(self):
        return Path.touch, (Path("written-by-a-pickle"),)


def truncated(path: Path, write: Callable[[Path], None]) -> None:
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def resnet() -> dict[str, torch.Tensor]:
    return {
        "conv1.weight": torch.zeros(8, 3, 7, 7),
        "layer1.0.bn1.running_mean": torch.zeros(8),
        "fc.bias": torch.ones(9),
    }


def giant_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + b'{"a":1}')


def overlong_data(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


BAD_FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "empty-safetensors": ("x.safetensors", lambda path: path.touch()),
    "empty-pth": ("x.pth", lambda path: path.touch()),
    "junk-safetensors": ("x.safetensors", lambda path: path.write_bytes(bytes(range(256)) * 9)),
    "junk-pth": ("x.pth", lambda path: path.write_bytes(bytes(range(255, 0, -1)) * 9)),
    "truncated-safetensors": (
        "x.safetensors",
        lambda path: truncated(path, lambda to: save_file(resnet(), to)),
    ),
    "truncated-pth": ("x.pth", lambda path: truncated(path, lambda to: torch.save(resnet(), to))),
    "header-of-exabytes": ("x.safetensors", giant_header),
    "data-beyond-the-end": ("x.safetensors", overlong_data),
    "malicious-pth": ("x.pth", lambda path: torch.save({"state_dict": Malicious()}, path)),
    "malicious-bare-pickle": ("x.pth", lambda path: path.write_bytes(pickle.dumps(Malicious(), protocol=2))),
    "malicious-as-safetensors": (
        "x.safetensors",
        lambda path: path.write_bytes(pickle.dumps(Malicious(), 2)),
    ),
    "web-page-as-pth": ("x.pth", lambda path: path.write_text("<!DOCTYPE html><html>Please log in</html>")),
    "git-lfs-pointer": (
        "x.safetensors",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    ),
    "foreign-safetensors": ("x.safetensors", lambda path: save_file(resnet(), path)),
    "foreign-pth": ("x.pth", lambda path: torch.save(resnet(), path)),
    "no-tensors-pth": ("x.pth", lambda path: torch.save({"epoch": 3, "name": "mine"}, path)),
    "a-list-pth": ("x.pth", lambda path: torch.save([torch.zeros(2)], path)),
    "a-picture": ("x.pth", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))),
    "a-text": ("x.txt", lambda path: path.write_text("a red apple")),
}


@pytest.fixture(params=BAD_FILES.values(), ids=BAD_FILES)
def bad_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, write = request.param
    write(tmp_path / name)
    return tmp_path / name


def test_a_bad_weight_file_is_refused_and_nothing_in_it_is_run(refused, bad_file: Path) -> None:
    refused(*PICTURE, "--model", bad_file, naming=bad_file.name)
    assert not Path("written-by-a-pickle").exists()


def test_inspect_refuses_or_describes_a_bad_file_and_runs_nothing_in_it(sana, bad_file: Path) -> None:
    outcome = sana("inspect", bad_file)
    assert outcome.code == 2 or "foreign" in outcome.out, outcome
    assert "Traceback" not in outcome.err
    assert not Path("written-by-a-pickle").exists()


def test_unpickling_the_malicious_file_would_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malicious()))
    assert Path("written-by-a-pickle").exists()


def damage_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def remove(path: Path) -> None:
    for file in sorted(path.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    path.rmdir()


def drop_tensor(path: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path)


TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty-folder": lambda folder: [
        remove(path) if path.is_dir() else path.unlink() for path in list(folder.iterdir())
    ],
    "index-is-no-json": lambda folder: (folder / "model_index.json").write_text("{"),
    "index-of-another-pipeline": lambda folder: damage_json(
        folder / "model_index.json", _class_name="FluxPipeline"
    ),
    "vae-missing": lambda folder: remove(folder / "vae"),
    "tokenizer-missing": lambda folder: remove(folder / "tokenizer"),
    "text-encoder-missing": lambda folder: remove(folder / "text_encoder"),
    "config-is-no-json": lambda folder: (folder / "transformer/config.json").write_text("{not json"),
    "config-is-a-list": lambda folder: (folder / "vae/config.json").write_text("[]"),
    "config-of-another-width": lambda folder: damage_json(
        folder / "transformer/config.json", attention_head_dim=64
    ),
    "config-of-another-depth": lambda folder: damage_json(folder / "transformer/config.json", num_layers=3),
    "config-of-another-class": lambda folder: damage_json(
        folder / "vae/config.json", _class_name="AutoencoderKL"
    ),
    "config-of-text": lambda folder: damage_json(folder / "transformer/config.json", num_layers="many"),
    "config-of-negative-ratio": lambda folder: damage_json(folder / "transformer/config.json", mlp_ratio=-1),
    "config-of-a-million-layers": lambda folder: damage_json(
        folder / "transformer/config.json", num_layers=10**6
    ),
    "config-without-a-size": lambda folder: damage_json(folder / "transformer/config.json", sample_size=None),
    "config-of-text-for-time": lambda folder: damage_json(
        folder / "transformer/config.json", timestep_scale="x"
    ),
    "autoencoder-without-channels": lambda folder: damage_json(folder / "vae/config.json", latent_channels=0),
    "autoencoder-of-scale-0": lambda folder: damage_json(folder / "vae/config.json", scaling_factor=0),
    "text-encoder-of-scale-0": lambda folder: damage_json(
        folder / "text_encoder/config.json", query_pre_attn_scalar=0
    ),
    "text-encoder-of-text": lambda folder: damage_json(folder / "text_encoder/config.json", rms_norm_eps="a"),
    "tensor-missing": lambda folder: drop_tensor(folder / TRANSFORMER),
    "weights-missing": lambda folder: (folder / TRANSFORMER).unlink(),
    "weights-empty": lambda folder: (folder / TRANSFORMER).write_bytes(b""),
    "weights-foreign": lambda folder: save_file(resnet(), folder / TRANSFORMER),
    "defaults-of-text": lambda folder: damage_json(folder / "sanakit.json", defaults={"steps": "many"}),
    "tokenizer-is-no-json": lambda folder: (folder / "tokenizer/tokenizer.json").write_text("tokens"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_refused(refused, tiny: Path, damage: Callable[[Path], object]) -> None:
    damage(tiny)
    refused(*PICTURE, "--model", tiny, naming=str(tiny))


def test_weights_that_give_nan_are_refused(refused, tiny: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(tiny / TRANSFORMER)
    save_file(
        {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}, tiny / TRANSFORMER
    )
    refused(*PICTURE, "--model", tiny, naming="NaN")
