from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.errors import DataError
from sanakit.pocket.evaluate.judge import SceneJudge, load_judge, save_judge


class Planted(SceneJudge):
    """Says what it is told to, whatever the image."""

    def plant(self, cells: dict[tuple[int, int], int], sizes: float = 0.0) -> None:
        self.logits = torch.zeros(1, len(self.concepts) + 1, 8, 8)
        self.logits[:, 0] = 10
        for (row, column), concept in cells.items():
            self.logits[0, concept, row, column] = 20
        self.sizes = torch.full((1, 8, 8), sizes)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits, self.sizes


def test_cells_that_touch_are_one_thing_in_their_middle_and_others_another():
    judge = Planted(["fox", "key"])
    judge.plant({(3, 1): 1, (3, 2): 1, (4, 1): 1, (4, 2): 1, (0, 7): 2}, sizes=0.5)
    found = sorted(judge.look(torch.zeros(1, 3, 256, 256))[0], key=lambda thing: thing.concept)
    assert [thing.concept for thing in found] == ["fox", "key"]
    assert (found[0].x, found[0].y) == (pytest.approx(64, abs=0.1), pytest.approx(128, abs=0.1))
    assert (found[1].x, found[1].y) == (pytest.approx(240, abs=0.1), pytest.approx(16, abs=0.1))
    assert found[0].side == pytest.approx(128 * 2**0.5)


def test_a_thing_is_what_most_of_its_cells_say():
    judge = Planted(["fox", "key"])
    judge.plant({(3, 3): 1, (3, 4): 1, (4, 3): 2, (4, 4): 1})
    assert [thing.concept for thing in judge.look(torch.zeros(1, 3, 256, 256))[0]] == ["fox"]
    judge.plant({})
    assert judge.look(torch.zeros(1, 3, 256, 256)) == [[]]


def test_a_judge_comes_back_from_its_file_with_its_notes(tmp_path):
    judge = SceneJudge(["fox", "key", "tent"])
    save_judge(tmp_path, judge, {"accuracy": {"all": 0.5}})
    again, notes = load_judge(tmp_path)
    assert notes == {"concepts": ["fox", "key", "tent"], "accuracy": {"all": 0.5}}
    picture = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    # the file holds half precision
    for new, old in zip(again(picture), judge(picture), strict=True):
        torch.testing.assert_close(new, old, atol=5e-3, rtol=0)


def test_a_damaged_judge_is_an_error_with_a_remedy(tmp_path):
    save_judge(tmp_path, SceneJudge(["fox"]), {})
    path = tmp_path / "judge.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="install sanakit again"):
        load_judge(tmp_path)
