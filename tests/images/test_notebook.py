"""Images in a notebook: HTML and PNG that hold the pixels, and texts that cannot break the page."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sanakit.images.notebook import MOST_SHOWN, MOST_SIDE, html_of, png_of

RED, BLUE = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (40, 20), "blue")


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_html_holds_every_image_and_its_caption() -> None:
    page = html_of([RED, BLUE], [{"prompt": 'a <b>"fox"', "seed": 7}, {"prompt": "an owl"}])
    images = [opened(base64.b64decode(one)) for one in re.findall(r"base64,([^\"]+)\"", page)]
    assert [np.asarray(one)[0, 0].tolist() for one in images] == [[255, 0, 0], [0, 0, 255]]
    assert "<figcaption" in page
    assert ">a &lt;b&gt;&quot;fox&quot;, seed 7<" in page
    assert ">an owl<" in page


def test_a_png_of_one_is_the_image_and_of_several_a_sheet() -> None:
    assert np.array_equal(np.asarray(opened(png_of([RED]))), np.asarray(RED))
    sheet = np.asarray(opened(png_of([RED, BLUE, RED])))
    assert sheet.shape == (40, 80, 3)
    assert [sheet[y, x].tolist() for y, x in ((0, 0), (0, 40), (20, 0), (20, 40))] == [
        *([255, 0, 0], [0, 0, 255], [255, 0, 0]),
        [255, 255, 255],
    ]


def test_large_images_and_many_are_cut_down() -> None:
    wide = Image.new("RGB", (2000, 500))
    assert opened(png_of([wide])).size == (MOST_SIDE, 128)
    page = html_of([RED] * (MOST_SHOWN + 2), [{}] * (MOST_SHOWN + 2))
    assert page.count("<img") == MOST_SHOWN
    assert page.endswith("<p>and 2 more</p>")


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_a_line_stays_an_image(size: tuple[int, int]) -> None:
    assert min(opened(png_of([Image.new("RGB", size)])).size) == 1
