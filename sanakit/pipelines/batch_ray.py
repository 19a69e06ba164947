"""A file of prompts drawn by several processes, on this machine or a cluster, with Ray Data.

Each process has the model and draws whole groups; this one, which asked for them, reads, checks and saves. So
names, groups and pixels equal those of `pipelines/batch.py`, and the machines need no shared folder. A model
that is not downloaded by name must be at the same path on each. Settings travel as JSON and images as PNG,
which Arrow's tables hold without guessing.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from sanakit.errors import MissingExtraError, SanaError, SettingsError
from sanakit.pipelines.batch import Drawn, draw_group
from sanakit.pipelines.memory import choose_device
from sanakit.pipelines.prompt_file import PromptImage, StoredControl
from sanakit.pipelines.text_to_image import TextToImage

OBJECT_STORE = 256 * 2**20  # bytes of shared memory that our own Ray takes: it only ever holds a few images


def draw_on_cluster(
    model: str | os.PathLike[str],
    groups: Sequence[Sequence[PromptImage]],
    done: Collection[str] = (),
    *,
    workers: int,
    device: str = "auto",
    **loading: Any,
) -> Iterator[Drawn]:
    """Draw groups of images on several processes, giving each image when it comes, in any order.

    workers: processes, each with the model, and with one GPU, or its share of the CPU cores. device and
    loading: as for `TextToImage.from_pretrained`. done: names of images that are not wanted again.
    Ray is used as it was started, found by the variable RAY_ADDRESS, or begun here and ended afterwards.
    Raises MissingExtraError without the extra [cluster], SettingsError for more workers than GPUs or cores.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("ray", "cluster") from None
    if not groups:
        return
    with workers_on(device, workers) as needs:
        rows = [
            {"group": json.dumps([asdict(one) for one in group]), "control": _steering(group)}
            for group in groups
        ]
        table = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=(os.fspath(model), {"device": device, **loading}, frozenset(done)),
            compute=ray.data.ActorPoolStrategy(size=workers),
            batch_size=1,
            **needs,
        )
        for row in table.iter_rows():
            if row["error"]:
                raise SanaError(row["error"])
            with Image.open(io.BytesIO(row["png"])) as image:
                entry = _entry(json.loads(row["picture"]))
                yield Drawn(entry=entry, image=image.convert("RGB"), warnings=json.loads(row["warnings"]))


class _Worker:
    """One process's model, which it loads for its first group and keeps; Ray calls it for each group."""

    def __init__(self, model: str, loading: dict[str, Any], done: Collection[str]) -> None:
        self.model, self.loading, self.done = model, loading, done

    @cached_property
    def pipe(self) -> TextToImage:
        return TextToImage.from_pretrained(self.model, **self.loading)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list]:
        """Draw the groups of some rows; a mistake of the user's comes back as a sentence."""
        drawn: dict[str, list] = {"picture": [], "png": [], "warnings": [], "error": []}
        for text, shown in zip(rows["group"], rows["control"], strict=True):
            group = [_entry(one) for one in json.loads(str(text))]
            file = io.BytesIO(shown) if shown else None
            try:
                for one in draw_group(self.pipe, group, self.done, file):
                    content = io.BytesIO()
                    one.image.save(content, format="PNG", compress_level=1)
                    new = (json.dumps(asdict(one.entry)), content.getvalue(), json.dumps(one.warnings), "")
                    for column, value in zip(drawn.values(), new, strict=True):
                        column.append(value)
            except SanaError as error:
                for column, value in zip(drawn.values(), ("", b"", "[]", str(error)), strict=True):
                    column.append(value)
        return drawn


def _entry(row: dict[str, Any]) -> PromptImage:
    """Return an image to draw from what `asdict` made of it."""
    control = row["control"] and StoredControl(**row["control"])
    return PromptImage(**{**row, "control": control})


def _steering(group: Sequence[PromptImage]) -> bytes:
    """Return the file of the image that steers a group, which workers elsewhere do not have; b"": none.

    Raises SettingsError.
    """
    control = group[0].control
    if control is None:
        return b""
    try:
        return Path(control.path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{control.path} cannot be read ({error.strerror}): check it.") from None


@contextmanager
def workers_on(device: str, workers: int) -> Iterator[dict[str, Any]]:
    """Run Ray within a `with` statement; yields the resources of each worker.

    device: as choose_device takes it: a GPU each, or an equal part of the CPU cores.
    Raises SettingsError for more workers than there are GPUs or cores, and where Ray does not answer.
    """
    import ray
    import ray.data

    on_gpu = choose_device(device).type == "cuda"
    with running():
        there = int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 0))
        if workers > there:
            what = "GPUs" if on_gpu else "CPU cores"
            raise SettingsError(f"There are {there} {what} for {workers} workers: use at most {there}.")
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield {"num_gpus": 1} if on_gpu else {"num_cpus": there // workers}


@contextmanager
def running() -> Iterator[None]:
    """Run Ray within a `with` statement; shut it down if it was started here.

    Raises SettingsError where RAY_ADDRESS names a cluster that does not answer.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" not in os.environ:  # a cluster that is there already would refuse these
        settings |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        ray.init(**settings)
    except ConnectionError:
        place = os.environ.get("RAY_ADDRESS", "this machine")
        raise SettingsError(f"Ray does not answer at {place}: check RAY_ADDRESS, or unset it.") from None
    try:
        yield
    finally:
        ray.shutdown()
