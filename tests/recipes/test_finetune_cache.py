"""Training from a cache is the training from its images, less the encoding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.data.cache.build import build_cache, plan_cache
from sanakit.errors import DataError
from sanakit.models.dc_ae import DCAE
from sanakit.recipes import RECIPES, finetune
from sanakit.train.run import run_recipe


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """The recipe as it is, but read by this process, and with a look at every step."""
    every = {"log_every": 1, "checkpoint_every": 100, "evaluate_every": 2, "sheet_every": 2}
    monkeypatch.setattr(finetune, "WORKERS", 0)
    monkeypatch.setattr(finetune, "SMALL", replace(finetune.SMALL, **every))


@pytest.fixture
def pictures(write_pictures: Callable[..., Path], tmp_path: Path) -> Path:
    folder = write_pictures(tmp_path / "pictures")
    (folder / "08.png").write_bytes((folder / "08.png").read_bytes()[:60])  # its header is sound
    return folder


def cached(pictures: Path, tiny: Path, folder: Path, *, text: bool) -> Path:
    return build_cache(plan_cache(pictures, folder, tiny, text=text)).folder


def trained(data: Path, tiny: Path, output: Path) -> tuple[list[float], dict]:
    list(run_recipe("finetune", RECIPES, data=data, output=output, source=tiny, steps=6, batch_size=4))
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    numbers = [row["loss"] for row in rows]
    numbers += [value for row in rows for value in (row.get("metrics") or {}).values()]
    return numbers, json.loads((output / "report.json").read_text())


@pytest.mark.parametrize("text", [False, True])
def test_the_losses_are_those_of_training_on_the_pictures(
    pictures: Path, tiny: Path, tmp_path: Path, text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cached(pictures, tiny, tmp_path / "cache", text=text)
    plain, before = trained(pictures, tiny, tmp_path / "plain")
    encoded = []
    encode = DCAE.encode
    monkeypatch.setattr(DCAE, "encode", lambda self, x: encoded.append(x) or encode(self, x))
    losses, after = trained(folder, tiny, tmp_path / "cached")
    assert encoded == []
    assert len(losses) >= 6
    assert losses == pytest.approx(plain, rel=2e-3)
    assert before["captions_per_picture"] == {"2": 9}
    assert after["captions_per_picture"] == {"0": 1, "2": 8}  # what is broken is kept as its name and reason
    for found in (before, after):
        found["summary"] = found["captions_per_picture"] = ""
    assert list(after["failed"]) == list(before["failed"]) == ["08.png"]
    assert after == before


def test_a_cache_of_another_model_is_refused_by_both_names(
    pictures: Path, tiny: Path, tmp_path: Path
) -> None:
    folder = cached(pictures, tiny, tmp_path / "cache", text=False)
    with pytest.raises(DataError, match=r"was made with .*tiny, and pocket differs from it in the autoenc"):
        list(run_recipe("finetune", RECIPES, data=folder, output=tmp_path / "run", source="pocket", steps=1))
    with pytest.raises(DataError, match="has 64 px, the training 128 px"):
        list(
            run_recipe(
                "finetune",
                RECIPES,
                data=folder,
                output=tmp_path / "run",
                source=tiny,
                steps=1,
                resolution=128,
            )
        )


def test_a_cache_without_captions_is_refused(pictures: Path, tiny: Path, tmp_path: Path) -> None:
    for path in pictures.glob("*.txt"):
        path.unlink()
    folder = cached(pictures, tiny, tmp_path / "cache", text=True)
    with pytest.raises(DataError, match="None of the 9 images has a caption"):
        list(run_recipe("finetune", RECIPES, data=folder, output=tmp_path / "run", source=tiny, steps=1))
