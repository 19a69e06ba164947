"""What nodes keep between bands and between chunks of a clip: nothing of a chunk that is the last."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn

from sanakit.models.dc_ae.rows import Node, Scratch
from sanakit.models.video.wan_blocks import CausalConv, CausalResBlock, ClipDown, ClipUp
from sanakit.models.video.wan_rows import Chunk, FrameHistory, wan_node
from tests.models.video.wan_pair import EXACT, randomise_norms, relative_error

MODULES = {
    "convolution": lambda: CausalConv(4, 6),
    "residual": lambda: CausalResBlock(4, 4),
    "residual of other width": lambda: CausalResBlock(4, 6),
    "down": lambda: ClipDown(4, time=True),
    "up": lambda: ClipUp(4, time=True),
}


def cuts_of(rows: int) -> list[tuple[int, ...]]:
    """Return all ways to cut rows into bands."""
    ways = []
    for cuts in product((False, True), repeat=rows - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), rows]
        ways.append(tuple(end - start for start, end in pairwise(edges)))
    return ways


def in_bands(node: Node, chunk: Tensor, bands: tuple[int, ...], scratch: Scratch) -> Tensor:
    """Return the result of a node on a chunk B C T H W that is cut into bands."""
    pieces = chunk.permute(0, 2, 3, 4, 1).flatten(0, 1).split(bands, dim=1)
    got = [node(piece, i == len(bands) - 1, scratch) for i, piece in enumerate(pieces)]
    rows = torch.cat([rows for rows in got if rows is not None], dim=1)
    return rows.unflatten(0, (len(chunk), -1)).permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_bands_may_differ_from_chunk_to_chunk_in_every_way(name: str):
    module = MODULES[name]().double()
    randomise_norms(module)
    x = torch.randn(2, 4, 7, 6, 3, dtype=torch.float64)
    wanted, ways = module(x), cuts_of(6)
    for first, later, final in zip(ways, ways[::-1], ways[5:] + ways[:5], strict=True):
        chunk, scratch, got = Chunk(2), Scratch(), []
        node = wan_node(module, chunk)
        for part, bands in zip(x.split((1, 4, 2), dim=2), (first, later, final), strict=True):
            chunk.first, chunk.final = not got, len(got) == 2
            got.append(in_bands(node, part, bands, scratch))
        assert relative_error(torch.cat(got, dim=2), wanted) < EXACT, (first, later, final)


def test_history_gives_the_last_frames_of_each_row_and_zeros_at_first():
    chunk = Chunk(1)
    history = FrameHistory(2, chunk)
    first, second = torch.arange(1.0, 13).view(3, 4, 1, 1), torch.arange(13.0, 17).view(1, 4, 1, 1)
    for top in (0, 2):
        rows = history.before(first[:, top : top + 2], last=top == 2)
        assert torch.equal(rows[0, :2], torch.zeros(2, 2, 1, 1))
    chunk.first, chunk.final = False, True
    for top in (0, 2):
        rows = history.before(second[:, top : top + 2], last=top == 2)
        assert torch.equal(rows[0, :2], first[1:, top : top + 2])


def test_history_of_a_chunk_of_one_frame_keeps_the_one_before_too():
    history = FrameHistory(2, Chunk(1))
    for value in (1.0, 2.0, 3.0):
        rows = history.before(torch.full((1, 2, 1, 1), value), last=True)
    assert rows[0, :, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_final_chunk_keeps_no_frames():
    chunk = Chunk(2, final=True)
    history = FrameHistory(2, chunk)
    history.before(torch.ones(6, 4, 3, 2), last=True)
    assert history.kept is None
    assert history.pieces == []


def test_a_module_without_a_version_for_rows_is_refused():
    with pytest.raises(TypeError, match="Linear has no version for rows"):
        wan_node(nn.Linear(2, 2), Chunk(1))
    assert wan_node(CausalConv(3, 5), Chunk(1)).width == 5
