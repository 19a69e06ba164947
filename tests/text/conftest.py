"""A tokenizer that knows the published instruction and a cat."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.native import NATIVE_INSTRUCTION
from sanakit.text.tokenizer import save_tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    texts = ["a red cat on a table", "A Red CAT"] * 20
    save_tokenizer(train_tokenizer([*texts, COMPLEX_HUMAN_INSTRUCTION, NATIVE_INSTRUCTION], 600), path)
    return path
