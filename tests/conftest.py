"""What every test gets: no network, one thread, a fixed seed per test, and the repository's root.

How tests are shared out among workers (`make test`) and which are left out (`make test-fast`), too.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sanakit.pocket.data.dataset import PocketImages

# Before torch is imported anywhere: tiny tensors run faster on one thread than on a pool.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# Folders whose tests share a fixture that takes long to make: one worker runs all of a folder.
TOGETHER = ("tests/graphs/",)
# Files that take longest, begun first, so that no worker is left with one of them at the end.
FIRST = ("tests/pocket/recipes/", *TOGETHER, "tests/serve/", "tests/train/distributed/", "tests/weights/")
# Others' packages that results are compared with, and clients and runtimes that take seconds to be imported.
ORACLES = {
    *("accelerate", "bitsandbytes", "diffusers", "nncf", "onnxruntime", "openvino", "peft", "ray"),
    *("schemathesis", "selenium", "skimage", "torchao", "transformers"),
}


class SkipOracles(MetaPathFinder, Loader):
    """Skips the test, or the file of tests, that imports an oracle; looking for one is free."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find oracles; a name that is none is left to the finders behind this one."""
        return spec_from_loader(fullname, self) if fullname in ORACLES else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Load nothing."""
        pytest.skip(f"{spec.name} is left out by --fast", allow_module_level=True)

    def exec_module(self, module: object) -> None:
        """Run nothing: no module comes this far."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out tests with oracles and thorough ones")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        sys.meta_path.insert(0, SkipOracles())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((i for i, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST))

    items.sort(key=place)
    if config.getoption("--fast"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file, or folder of TOGETHER, to one worker: what a module's fixtures make is made once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((name for name in TOGETHER if nodeid.startswith(name)), nodeid.split("::")[0])

    config.option.loadscopereorder = False  # the order is that of FIRST
    return ByFile(config, log)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A pipe that nobody writes to. Who waits for it all the same is let go after some seconds."""
    path = tmp_path / "fifo.txt"
    os.mkfifo(path)

    def let_go() -> None:
        with suppress(OSError):  # nobody waits
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    timer = threading.Timer(3, let_go)
    timer.start()
    yield path
    timer.cancel()


@pytest.fixture(scope="session")
def discs() -> Callable[..., PocketImages]:
    """Make a data set in memory: a disc of its own colour for each thing, in all styles."""
    import numpy as np

    from sanakit.pocket.data.dataset import PocketImages, PocketRow
    from sanakit.pocket.words.captions import STYLES

    def make(things: dict[str, tuple[int, int, int]], radius: int) -> PocketImages:
        y, x = np.mgrid[:256, :256] - 127.5
        disc = (x**2 + y**2 < radius**2).astype(np.uint8) * 255
        images, rows = [], []
        for style in STYLES:
            for concept, colour in things.items():
                images.append(np.where(disc[..., None] > 0, np.uint8(colour), np.uint8(255)))
                texts = dict.fromkeys(
                    ("name", "hex", "style_tag", "group", "subgroup", "licence", "source"), ""
                )
                rows.append(PocketRow(concept=concept, style=style.name, captions=[], split="train", **texts))
        return PocketImages(np.stack(images), np.stack([disc] * len(rows)), rows, {})

    return make


@pytest.fixture
def own_objects() -> Iterator[None]:
    """Python's collector knows of this test's objects alone: others' may be sparse, or go meanwhile."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for another machine fails, with the address it reached for."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"this test tried to connect to {address}")
        return connect(self, address)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Tests that draw from torch's global generator draw the same numbers in any order of tests."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def no_handler_left_behind() -> Iterator[None]:
    """A test after which our loggers print to somewhere fails: that place is closed in the next test."""
    yield
    ours = [name for name in logging.Logger.manager.loggerDict if name.split(".")[0] == "sanakit"]
    left = [name for name in ours if logging.getLogger(name).handlers]
    assert left == [], f"handlers of {left} outlive the test"
