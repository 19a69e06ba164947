"""Images go to the file or folder that was named, and nothing is replaced in silence."""

from __future__ import annotations

from pathlib import Path


def test_a_folder_gets_new_names_and_a_file_that_is_replaced_is_told(sana, tiny: Path) -> None:
    Path("out").mkdir()
    for name in ("sana-3.png", "sana-3_2.png"):
        out = sana("generate", "a", "--model", tiny, "--steps", 1, "-s", 3, "-o", "out/").out
        assert out == f"out/{name}  seed 3\n"
    outcome = sana("generate", "a", "--model", tiny, "--steps", 1, "-o", "out/sana-3.png")
    assert outcome.err == "out/sana-3.png is replaced.\n"
    assert sana("generate", "a", "--model", tiny, "--steps", 1, "-o", "out/new.png").err == ""
    assert "does not exist" in sana("generate", "a", "--model", tiny, "-o", "nowhere/a.png").err
    Path("fox-2.png").mkdir()
    assert "is a folder" in sana("generate", "a", "--model", tiny, "-n", 2, "-o", "fox.png").err


def test_an_empty_name_is_not_the_current_folder(sana, tiny: Path) -> None:
    refused = sana("generate", "a", "--model", tiny, "--steps", 1, "-o", "")
    assert (refused.code, list(Path().iterdir())) == (2, [])
    assert "The output's name is empty: name a file or a folder." in refused.err


def test_a_folder_that_is_not_there_is_made_if_a_slash_says_so(sana, tiny: Path) -> None:
    words = ("generate", "a", "--model", tiny, "--steps", 1, "-s", 3, "-o")
    assert sana(*words, "new/").out == "new/sana-3.png  seed 3\n"
    refused = sana(*words, "other")
    assert (refused.code, Path("other").exists()) == (2, False)
    assert "or in / for a folder" in refused.err
    assert "far does not exist" in sana(*words, "far/off/").err
    Path("file").write_text("mine")
    assert sana(*words, "file/").code == 2
    assert Path("file").read_text() == "mine"
