"""Only needed files come down; every failure of the Hub is one sentence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.weights.find import hub
from sanakit.weights.find.resolve import resolve

NAMES = [
    "README.md",
    "asset/cover.png",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.bf16-00001-of-00002.safetensors",
    "text_encoder/model.bf16-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.bf16.json",
    "text_encoder/model.safetensors.index.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer.model",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.bf16.safetensors",
    "transformer/diffusion_pytorch_model.bin",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_one_variant_comes_down_and_neither_pickles_nor_pictures():
    chosen = hub.needed_files(NAMES, hub.PARTS, "bf16")
    assert "transformer/diffusion_pytorch_model.bf16.safetensors" in chosen
    assert "transformer/diffusion_pytorch_model.safetensors" not in chosen
    assert "text_encoder/model.bf16-00002-of-00002.safetensors" in chosen
    assert "text_encoder/model-00002-of-00002.safetensors" not in chosen
    assert "vae/diffusion_pytorch_model.safetensors" in chosen  # has no variant: better than nothing
    assert "tokenizer/tokenizer.json" in chosen
    assert not any(name.endswith((".bin", ".png", ".md")) for name in chosen)


def test_one_part_brings_only_itself_and_the_index():
    chosen = hub.needed_files(NAMES, ["vae"])
    assert chosen == ["model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]


def test_what_a_model_tells_of_itself_comes_with_any_part():
    ours = ["known_things.json", "sanakit.json"]
    assert set(hub.needed_files([*NAMES, *ours], ["vae"])) > set(ours)


@pytest.fixture
def repository(monkeypatch, tmp_path):
    """A Hub that holds what `names` says, or fails with `error`; `asked` records downloads."""
    import huggingface_hub

    state = SimpleNamespace(names=NAMES, error=None, asked=[], size=1000)

    def model_info(self, repo, timeout, files_metadata):
        if state.error:
            raise state.error
        files = [SimpleNamespace(rfilename=name, size=state.size) for name in state.names]
        return SimpleNamespace(siblings=files)

    def snapshot_download(repo, allow_patterns=None, local_files_only=False):
        if local_files_only:
            raise FileNotFoundError("nothing cached")
        state.asked.append((repo, allow_patterns))
        return str(tmp_path)

    def hf_hub_download(repo, name):
        state.asked.append((repo, name))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    hub._list_files.cache_clear()
    yield state
    hub._list_files.cache_clear()


def test_a_catalog_name_fetches_its_repository_and_variant(repository):
    source = resolve("sana-1.6b-1024-bf16", ("transformer",))
    assert source.entry.name == "sana-1.6b-1024-bf16"
    [(repo, patterns)] = repository.asked
    assert repo == "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"
    assert [name for name in patterns if name.endswith(".safetensors")] == [
        "transformer/diffusion_pytorch_model.bf16.safetensors"
    ]


def test_an_official_repository_gives_its_pth(repository):
    repository.names = ["README.md", "checkpoints/Sana_1600M_1024px.pth"]
    source = resolve("Efficient-Large-Model/Sana_1600M_1024px")
    assert source.path.name == "Sana_1600M_1024px.pth"
    assert source.entry.name == "sana-1.6b-1024"
    repository.names = ["a.pth", "b.pth"]
    hub._list_files.cache_clear()
    with pytest.raises(WeightsError, match="2 official"):
        resolve("someone/else")


def test_a_repository_of_one_part_gives_its_folder(repository):
    repository.names = [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors",
    ]
    hub.fetch("mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers", ["vae"])
    [(repo, patterns)] = repository.asked
    assert repo == "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers"
    assert patterns == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_a_repository_of_a_language_model_gives_its_tokenizer_too(repository):
    weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    repository.names = ["README.md", "config.json", "tokenizer.json", "tokenizer.model", *weights]
    hub.fetch("google/shieldgemma-2b", ["text_encoder", "tokenizer"])
    [(_, patterns)] = repository.asked
    assert patterns == ["config.json", "tokenizer.json", *weights]


def test_an_earlier_download_of_one_part_is_loaded_without_the_network(repository, monkeypatch, tiny):
    import huggingface_hub

    from sanakit.weights import load_autoencoder

    repository.error = ConnectionError("no route")
    part = str(tiny.folder / "vae")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, local_files_only: part)
    assert load_autoencoder("someone/autoencoder").config == tiny.autoencoder.config
    (tiny.folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="check the network"):
        load_autoencoder("someone/autoencoder")


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(repository, monkeypatch):
    """What an earlier download left counts as here."""
    import huggingface_hub

    repository.size = 10**9
    files = len(hub.needed_files(NAMES, hub.PARTS, "bf16"))
    usage = SimpleNamespace(free=int((files - 1.5) * 1e9))
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(WeightsError, match=rf"needs {files}\.0 GB more, and {files - 1.5} GB are free"):
        hub.fetch("someone/model", hub.PARTS, "bf16")
    assert repository.asked == []
    here = ("vae/config.json", "tokenizer/tokenizer.json")
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, name: name if name in here else None
    )
    hub.fetch("someone/model", hub.PARTS, "bf16")
    assert len(repository.asked) == 1
    with pytest.raises(WeightsError, match="GB are free"):
        hub.fetch_files("someone/model", ["*.safetensors", "*.json"])


def failures():
    from huggingface_hub import errors

    def of_hub(kind):
        error = kind.__new__(kind)
        OSError.__init__(error, "details that nobody wants to read\nin two lines")
        return error

    return [
        (of_hub(errors.GatedRepoError), WeightsError, "gated: accept its licence"),
        (of_hub(errors.RepositoryNotFoundError), ModelNotFoundError, "check the spelling"),
        (errors.OfflineModeIsEnabled("offline"), ModelNotFoundError, "check the network"),
        (ConnectionError("no route"), ModelNotFoundError, "check the network"),
        (errors.HTTPError("reset by peer"), ModelNotFoundError, "check the network"),
        (OSError(28, "No space left on device"), WeightsError, "disk is full"),
    ]


@pytest.mark.parametrize(
    "index", range(6), ids=["gated", "missing", "offline", "no-network", "reset", "disk-full"]
)
def test_a_failure_is_one_sentence_with_a_remedy(repository, index):
    repository.error, kind, text = failures()[index]
    with pytest.raises(kind, match=text) as caught:
        resolve("someone/model")
    assert "\n" not in str(caught.value)
    assert "someone/model" in str(caught.value)


def test_an_earlier_download_is_used_without_asking_the_network(repository, monkeypatch, tiny):
    import huggingface_hub

    repository.error = ConnectionError("no route")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, local_files_only: str(tiny.folder))
    assert hub.fetch("someone/model", ["transformer", "vae"]) == tiny.folder
    (tiny.folder / "transformer/diffusion_pytorch_model.safetensors").unlink()
    assert hub.fetch("someone/model", ["vae"]) == tiny.folder
    with pytest.raises(ModelNotFoundError, match="check the network"):
        hub.fetch("someone/model", ["transformer"])


def test_a_file_of_a_released_size_borrows_the_other_parts_of_its_release(repository, tmp_path):
    import torch

    from sanakit.models.sana import SANA_SPRINT_600M, Sana
    from sanakit.weights import load_autoencoder

    with torch.device("meta"):
        state = Sana(SANA_SPRINT_600M).state_dict()
    blank = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in state.items()}  # no memory
    torch.save(blank, tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match=r"config\.json"):  # the pretended download is empty
        load_autoencoder(tmp_path / "mine.pth")
    [(repo, patterns)] = repository.asked
    assert repo == "Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers"
    assert all(name.startswith(("vae/", "model_index")) for name in patterns)


def test_what_is_here_is_found_without_a_network(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot(place, **options):
        asked.append(options)
        if place == "some/judge":
            return str(tmp_path / "cached")
        raise FileNotFoundError(place)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert hub.found_here(str(tmp_path)) == tmp_path
    assert hub.found_here("some/judge") == tmp_path / "cached"
    assert hub.found_here("other/judge") is None
    assert hub.found_here("no place") is None
    assert asked == [{"local_files_only": True}] * 2


def test_the_folder_of_a_training_names_that_of_its_model(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"format": 1, "recipe": "finetune"}')
    (tmp_path / "run" / "model" / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')
    with pytest.raises(WeightsError, match=r"folder of a training.*run/model"):
        resolve(tmp_path / "run")
    assert resolve(tmp_path / "run" / "model").is_pipeline
