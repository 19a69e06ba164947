"""Made-up animated emoji, as files."""

from __future__ import annotations

import io

from PIL import Image

FOX, HAND, DARK_HAND = "1f98a", "1f449", "1f449-1f3ff"
COMPUTER, COUPLE, STILL = "1f9d1-200d-1f4bb", "1f46b", "1f34e"
COLOURS = {FOX: "#ff8000", HAND: "#ffff00", DARK_HAND: "#804000", COMPUTER: "#0000ff", COUPLE: "#00ff00"}


def animation(colour: str, durations: tuple[int, ...] = (42, 84, 42)) -> bytes:
    """A square of 64 px that jumps to the right by 64 px each time; a transparent ground."""
    frames = []
    for number in range(len(durations)):
        frame = Image.new("RGBA", (256, 256))
        frame.paste(colour, (64 * number, 64, 64 * number + 64, 128))
        frame.putpixel((255, 255), (0, 0, 0, 1))  # the encoder drops transparency that has two levels only
        frames.append(frame)
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=list(durations),
        loop=0,
        lossless=True,
    )
    return buffer.getvalue()
