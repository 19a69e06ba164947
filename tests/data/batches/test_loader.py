"""Batches: right pixels, right captions, each image once, whatever reads them and whatever is broken."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from sanakit.data.batches.loader import LoadedBatch, Loader, LoaderReport
from sanakit.data.medium import IMAGES
from sanakit.data.read.captions import Caption
from sanakit.data.read.decode import decode
from sanakit.data.read.index import scan
from sanakit.data.read.open import open_source
from sanakit.data.read.source import Source
from sanakit.errors import DataError, SettingsError
from sanakit.seeds import uniform


@dataclass(frozen=True)
class Part:
    start: int
    stop: int
    total: int


def loader_of(folder: Path, **settings) -> Loader:
    source = open_source(folder)
    defaults = {"resolution": 256, "batch_size": 4, "seed": 3}
    return Loader(source, scan(source), **(defaults | settings))


def read(loader: Loader, steps: range, parts: list[Part]) -> Iterator[tuple[int, LoadedBatch]]:
    loader.begin(steps.start, parts)
    for step in steps:
        for part in parts:
            yield step, loader.batch(step, part)


def same(one: LoadedBatch, two: LoadedBatch) -> bool:
    return (
        torch.equal(one.images, two.images)
        and torch.equal(one.weights, two.weights)
        and (one.captions, one.keys) == (two.captions, two.keys)
    )


WHOLE = Part(0, 4, 4)
# of DataLoader, on a machine with few cores
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def test_a_mixed_folder_gives_every_sound_picture_once_an_epoch_and_names_the_broken(folder: Path) -> None:
    with loader_of(folder) as loader:
        length = loader.order.batches_per_epoch
        for epoch in range(3):
            steps = range(epoch * length, (epoch + 1) * length)
            batches = [batch for _, batch in read(loader, steps, [WHOLE])]
            seen = [key for batch in batches for key, w in zip(batch.keys, batch.weights, strict=True) if w]
            sound = [f"{('', 'deep/', 'deep/er/')[n % 3]}{n:02}.jpg" for n in range(11)]
            assert sorted(seen) == sorted(sound)
        report = loader.report()
    assert report.broken == {
        "empty.jpg": "is empty",
        "foreign.png": "is not a JPEG, PNG, WEBP, BMP or TIFF image",
    }
    assert list(report.failed) == ["truncated.jpg"]
    assert report.failed["truncated.jpg"].startswith("is damaged (")
    assert report.ignored == {"notes.doc": "is not an image (.doc)"}
    assert (report.pictures, report.used, report.uncaptioned) == (14, 12, 0)
    for name in ("empty.jpg", "foreign.png", "truncated.jpg", "notes.doc", "12 of 14 images"):
        assert name in str(report)


def test_a_sample_is_its_picture_with_one_of_its_captions_and_an_empty_place_is_grey(folder: Path) -> None:
    shapes = Counter()
    places = 0
    with loader_of(folder) as loader:
        for _, batch in read(loader, range(loader.order.batches_per_epoch), [WHOLE]):
            height, width = batch.images.shape[2:]
            shapes[height, width] += int(batch.weights.sum())
            assert batch.images.dtype == torch.float32
            for place, key in enumerate(batch.keys):
                if not batch.weights[place]:
                    places += 1
                    assert (batch.captions[place], key) in {("", ""), ("", "truncated.jpg")}
                    assert batch.images[place].abs().max() < 0.01
                    continue
                number = int(key[-6:-4])
                assert batch.captions[place] in {f"picture {number}", f"another {number}"}
                pixels = decode((folder / key).read_bytes(), height, width)
                assert torch.allclose(batch.images[place], pixels / 127.5 - 1, atol=1e-6)
                assert -1 <= batch.images[place].min() <= batch.images[place].max() <= 1
    assert shapes[256, 256] == 5
    assert len(shapes) > 3
    assert places > 0


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_parts_of_all_ranks_are_the_global_batch(folder: Path, world: int) -> None:
    with loader_of(folder) as whole:
        for rank in range(world):
            span = 4 // world
            part = Part(rank * span, (rank + 1) * span, 4)
            with loader_of(folder) as loader:
                for step, batch in read(loader, range(5), [part]):
                    expected = whole.batch(step, WHOLE)
                    cut = slice(part.start, part.stop)
                    assert torch.equal(batch.images, expected.images[cut])
                    assert batch.captions == expected.captions[cut]
                    assert torch.equal(batch.weights, expected.weights[cut])


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing_nor_do_resumes_and_jumps(folder: Path, workers: int) -> None:
    parts = [Part(0, 2, 4), Part(2, 4, 4)]
    with loader_of(folder) as plain, loader_of(folder, workers=workers) as loader:
        before = torch.random.get_rng_state()
        steps = range(5, 15)
        for (step, expected), (_, batch) in zip(
            read(plain, steps, parts), read(loader, steps, parts), strict=True
        ):
            assert same(batch, expected), step
        jumps = [(2, parts[1]), (3, parts[0]), (0, WHOLE), (1, WHOLE)] if workers > 1 else []
        for step, part in [(15, parts[0]), *jumps]:
            assert same(loader.batch(step, part), plain.batch(step, part)), step
        assert loader.report() == plain.report()
        assert torch.equal(before, torch.random.get_rng_state())
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_a_killed_worker_is_an_error_that_says_so_and_reading_can_go_on(folder: Path) -> None:
    with loader_of(folder, workers=2) as loader, loader_of(folder) as plain:
        loader.begin(0, [WHOLE])
        loader.batch(0, WHOLE)
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
        # what the workers had read ahead may still come
        with pytest.raises(DataError, match=r"A reading process died .*Lower WORKERS in the recipe"):
            list(loader.batch(step, WHOLE) for step in range(1, 20))
        assert same(loader.batch(7, WHOLE), plain.batch(7, WHOLE))


KILLED = """
import os, signal, sys, warnings
from pathlib import Path
from sanakit.data.read.index import scan
from sanakit.data.batches.loader import Loader
from sanakit.data.read.open import open_source
from sanakit.train.parts import Part

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    source = open_source(Path(sys.argv[1]))
    loader = Loader(source, scan(source), resolution=256, batch_size=4, workers=1)
    loader.batch(0, Part(0, 4, 4))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_when_the_training_is_killed(folder: Path, tmp_path: Path) -> None:
    """They hold its output open as long as they live; torch's own watch would leave them there for ever."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    training = subprocess.Popen(
        [sys.executable, script, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = training.communicate(timeout=40)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(training.pid, signal.SIGKILL)
    assert training.returncode == -signal.SIGKILL, output.decode()


def test_captions_are_drawn_anew_each_epoch_by_their_scores(folder: Path) -> None:
    for path in folder.rglob("*.txt"):
        path.unlink()
    for path in folder.rglob("*.jpg"):
        path.with_suffix(".json").write_text('{"caption": ["a", "b", "c"], "score": [30, 30, 20]}')
    with loader_of(folder) as loader:
        steps = range(20 * loader.order.batches_per_epoch)
        drawn = Counter(c for _, batch in read(loader, steps, [WHOLE]) for c in batch.captions if c)
    assert set(drawn) == {"a", "b"}
    assert abs(drawn["a"] - drawn["b"]) < 4 * drawn.total() ** 0.5


def test_pictures_without_captions_get_an_empty_one_and_are_counted(folder: Path) -> None:
    for path in folder.rglob("*.txt"):
        path.unlink()
    (folder / "00.txt").write_bytes(b"\xff\xfe")
    with loader_of(folder) as loader:
        batches = [b for _, b in read(loader, range(loader.order.batches_per_epoch), [WHOLE])]
        report = loader.report()
    assert {caption for batch in batches for caption in batch.captions} == {""}
    assert report.uncaptioned == 10
    assert "00.txt is not UTF-8" in report.failed["00.jpg"]


class Hostile:
    """A source whose images bring up something unforeseen."""

    ignored: dict[str, str] = {}
    medium = IMAGES

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        return self.source.key(index)

    def open(self, index: int):
        return self.source.open(index)

    def clip(self, index: int):
        return self.source.clip(index)

    def read(self, index: int) -> bytes:
        raise RuntimeError("unforeseen")

    def captions(self, index: int) -> tuple[Caption, ...]:
        return ()

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def captions_fingerprint(self) -> str:
        return self.source.captions_fingerprint()


def test_our_own_mistake_in_a_worker_is_not_called_a_dead_worker(folder: Path) -> None:
    source = Hostile(open_source(folder))
    with (
        Loader(source, scan(source), resolution=256, batch_size=4, workers=1) as loader,
        pytest.raises(RuntimeError, match="unforeseen"),
    ):
        loader.batch(0, WHOLE)


def test_wrong_settings_are_refused_before_anything_is_read(folder: Path, tmp_path: Path, picture) -> None:
    source = open_source(folder)
    index = scan(source)
    good = {"resolution": 256, "batch_size": 4}
    wrong = {
        "workers": -1,
        "batch_size": 0,
        "resolution": 100,
        "temperature": 0.0,
        "seed": -1,
        "enlarge": 0.5,
    }
    for name, value in wrong.items():
        with pytest.raises(SettingsError):
            Loader(source, index, **(good | {name: value}))
    loader = Loader(source, index, **good)
    for part in (Part(0, 8, 8), Part(2, 2, 4), Part(-1, 2, 4), Part(0, 5, 4)):
        with pytest.raises(SettingsError, match="the global batch has 4"):
            loader.batch(0, part)
    with pytest.raises(
        DataError, match=r"(?s)No image can be trained on at 2048 px.*of 14 images.*too small"
    ):
        Loader(source, index, resolution=2048, batch_size=4)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").write_bytes(picture(8, 8))
    with pytest.raises(DataError, match="scan it again"):
        Loader(open_source(tmp_path / "other"), index, resolution=256, batch_size=4)


def test_uniform_numbers_fill_the_interval_evenly_and_neighbours_do_not_agree() -> None:
    numbers = [uniform(1, step, index) for step in range(100) for index in range(100)]
    assert all(0 <= number < 1 for number in numbers)
    counts = torch.histc(torch.tensor(numbers), 10, 0, 1)
    assert counts.min() > 880
    assert counts.max() < 1120
    pairs = torch.tensor(numbers).reshape(100, 100)
    assert abs(torch.corrcoef(torch.stack([pairs[:, :-1].flatten(), pairs[:, 1:].flatten()]))[0, 1]) < 0.04
    assert uniform(0, 1, 2) == 0.9568397605576134  # a resumed run counts on these numbers


def test_the_advice_of_a_report_names_an_option() -> None:
    report = LoaderReport(9, 9, {}, {}, {}, {}, 0, empty_share=0.5)
    assert "50% of the places in batches stay empty: use smaller batches (--batch-size)." in str(report)
    assert "batches" not in str(replace(report, empty_share=0.05))
