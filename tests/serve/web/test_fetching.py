"""The page asks no other host for a file, whatever a visitor's events name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.storage import ImageStore

gradio = pytest.importorskip("gradio")

from sanakit.serve.web.mount import build_page  # noqa: E402


def test_no_file_of_another_host_is_fetched_for_a_visitor(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def fetch(url: str) -> None:
        asked.append(url)
        raise OSError

    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_get", fetch)
    file = {"path": "https://example.com/x.png", "meta": {"_type": "gradio.FileData"}}
    blocks = build_page(engine, ImageStore(tmp_path / "pictures"))
    tried = 0
    for function in blocks.fns.values():
        kinds = [component.get_block_name() for component in function.inputs]
        for place, kind in enumerate(kinds):
            whole = {"imageeditor": {"background": file, "layers": [], "composite": None}, "file": file}
            if kind in whole:
                inputs: list[Any] = [None] * len(kinds)
                inputs[place] = whole[kind]
                with pytest.raises(gradio.Error, match="upload the file"):
                    asyncio.run(blocks.preprocess_data(function, inputs, None))
                tried += 1
    assert tried >= 2
    assert asked == []
