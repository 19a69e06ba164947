"""The tab of clips: the functions behind its events.

`panel.py` lays the components out, `studio.py` does the work. Each function returns the components that
change.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from sanakit.clips.reading import open_clip
from sanakit.errors import SanaError, SettingsError
from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.web.history import History, room_of
from sanakit.serve.web.messages import fields_of, tie
from sanakit.serve.web.settings import CUSTOM, chosen_seed, parse_whole
from sanakit.serve.web.studio import View, charged
from sanakit.serve.web.video.panel import (
    AS_IMAGE,
    ClipPanel,
    clip_restored_from,
    clips_offered_by,
    make_clip_panel,
    make_clip_stage,
    sides_of,
    sizes_offered,
)
from sanakit.serve.web.video.settings import (
    SAMPLING,
    ClipWish,
    clip_settings_of,
    command_line,
    frames_label,
    is_distilled,
)
from sanakit.serve.web.video.studio import ClipStudio
from sanakit.serve.web.video.view import strip_html
from sanakit.serve.web.view import preview_html, status_html

Updates = dict[Any, Any]  # component -> its new value, or gr.update
_ASKED = (
    *("model", "prompt", "image", "frames", "size", "width", "height", "rate", "motion"),
    *("seed", "keep_seed", "drawn_seed", "prompt_weights", *SAMPLING),
)


class VideoTab:
    """The functions behind the tab, one an event.

    private, charge: as for `Page`. turns: for decoding visitors' images.
    """

    def __init__(
        self,
        clips: ClipEngine,
        history: History,
        turns: DecodingTurns,
        *,
        private: bool = False,
        charge: Callable[[str, int], Callable[[], None]] | None = None,
    ) -> None:
        self.clips, self.history, self.private, self.charge = clips, history, private, charge
        self.turns = turns
        self.studio = ClipStudio(clips, history, turns)

    def lay_out(self) -> None:
        """Make the components inside the Blocks that are open, and tie them to the functions."""
        with gr.Row(elem_id="video"):
            self.panel = panel = make_clip_panel(self.clips.specs, self.turns)
            self.stage = stage = make_clip_stage()
        self.fields = fields_of(panel)
        chosen = self._settings()
        tie(panel.model.input, self.choose_model, [panel.model, panel.image], chosen)
        tie(panel.size.input, self.choose_size, [panel.model, panel.size], chosen)
        tie(panel.image.change, self.choose_image, [panel.model, panel.image], [panel.size, panel.sides])
        for part in (panel.frames, panel.rate):
            tie(part.change, self.choose_frames, [panel.model, panel.frames, panel.rate], [panel.frames])
        tie(panel.dice.click, self.roll, [], [panel.seed, panel.keep_seed])
        tie(panel.seed.input, self.typed_seed, [panel.seed], [panel.keep_seed])
        tie(panel.file.upload, self.restore_file, [panel.file, panel.model], chosen, at=panel.file)
        shown = [stage.view, stage.video, stage.animation, stage.strip, stage.status]
        shown += [stage.details, stage.download, stage.command, stage.data]
        tie(
            panel.draw.click,
            self.draw,
            [getattr(panel, name) for name in _ASKED],
            [panel.draw, panel.cancel, panel.seed, panel.drawn_seed, *shown],
            concurrency_limit=None,  # the engine has the queue, and says when it is full
        )
        tie(panel.cancel.click, self.cancel, [], [], concurrency_limit=None)

    # Drawing

    async def draw(self, visitor: gr.Request, *values: Any) -> AsyncIterator[Updates]:
        """Draw what the controls say, and show how it goes."""
        panel, stage = self.panel, self.stage
        end = {panel.draw: gr.update(interactive=True), panel.cancel: gr.update(interactive=False)}
        try:
            wish = self._wish(dict(zip(_ASKED, values, strict=True)))
        except SanaError as error:
            yield end | {stage.status: status_html(View.failed(error), self.fields)}
            return
        yield {
            panel.draw: gr.update(interactive=False),
            panel.cancel: gr.update(interactive=True),
            panel.seed: wish.seed,
            panel.drawn_seed: wish.seed,
        }
        room = room_of(visitor.username, visitor.session_hash, private=self.private)
        charge = None
        if self.charge is not None and visitor.username:
            charge = partial(self._charge, visitor.username, wish)
        drawing = self.studio.draw(visitor.session_hash or "", room, wish)
        async with aclosing(charged(drawing, charge)) as views:
            async for view in views:
                changes: Updates = {stage.status: status_html(view, self.fields)}
                if view.state in ("waiting", "drawing"):
                    changes[stage.view] = gr.update(value=preview_html(view), visible=True)
                elif view.state == "done":
                    changes |= end | self._finished(room, view, wish.model)
                elif view.state == "stopped":  # what was seen last stays
                    changes |= end
                else:  # the clip before it is there again
                    changes |= end | {stage.view: gr.update(visible=False)}
                yield changes

    def _charge(self, name: str, wish: ClipWish) -> Callable[[], None]:
        """Charge a clip as the API does: an image for each latent along time. Raises SanaError."""
        assert self.charge is not None
        return self.charge(name, self.clips.spec(wish.model).rule.latents(wish.frames))

    def cancel(self, visitor: gr.Request) -> None:
        """Stop what this browser tab draws; when it is closed, too."""
        self.studio.cancel(visitor.session_hash or "")

    def _wish(self, given: dict[str, Any]) -> ClipWish:
        """Return the controls' values. Raises SanaError."""
        spec = self.clips.spec(given["model"])
        image, size = given["image"], given["size"]
        if size == AS_IMAGE and image is None:
            sentence = "There is no image to take the shape of: choose a size, or an image."
            raise SettingsError(sentence, setting="size")
        sides: tuple[int | None, int | None] = (None, None)
        if size != AS_IMAGE:
            typed = parse_whole("width", given["width"]), parse_whole("height", given["height"])
            sides = sides_of(spec, size) or typed
        sampling = {} if is_distilled(spec) else {name: given[name] for name in SAMPLING}
        if sampling:
            sampling["steps"] = parse_whole("number of steps", sampling["steps"], "steps")
            sampling["negative_prompt"] = sampling["negative_prompt"] or ""
        return ClipWish(
            model=given["model"],
            prompt=given["prompt"] or "",
            image=image,
            frames=parse_whole("number of frames", given["frames"], "frames"),
            width=sides[0],
            height=sides[1],
            rate=given["rate"],
            motion=parse_whole("motion", given["motion"]),
            seed=chosen_seed(given["seed"], given["keep_seed"], given["drawn_seed"]),
            prompt_weights=bool(given["prompt_weights"]),
            **sampling,
        )

    def _finished(self, room: str, view: View, model: str) -> Updates:
        stage, (name,) = self.stage, view.names
        path = str(self.history.file(room, name))
        with open_clip(path) as file:
            facts = file.facts
        player = stage.video if name.endswith(".mp4") else stage.animation
        told = {**facts.settings, "fps": str(facts.rate)}
        return {
            stage.view: gr.update(visible=False),
            player: gr.update(value=path, visible=True),
            stage.strip: gr.update(value=strip_html(view), visible=True),
            stage.details: gr.update(visible=True),
            stage.download: gr.update(value=path),
            stage.command: command_line(facts.settings, str(facts.rate), self.clips.specs[model]),
            stage.data: json.dumps(told, indent=2, ensure_ascii=False),
        }

    # Choosing

    def choose_model(self, model: str, image: Image.Image | None) -> Updates:
        """Offer a model's own sizes and settings, and set its defaults."""
        return clips_offered_by(self.clips.spec(model), self.panel, image=image is not None)

    def choose_size(self, model: str, size: str) -> Updates:
        """Set width and height, or show where they are typed."""
        panel: ClipPanel = self.panel
        sides = sides_of(self.clips.spec(model), size)
        shown = {panel.sides: gr.update(visible=size == CUSTOM)}
        return shown | ({panel.width: sides[0], panel.height: sides[1]} if sides else {})

    def choose_image(self, model: str, image: Image.Image | None) -> Updates:
        """Offer the shape of an image that came; without one, the model's sizes."""
        return sizes_offered(self.clips.spec(model), self.panel, image=image is not None)

    def choose_frames(self, model: str, frames: int, rate: float | None) -> Updates:
        """Say how long so many frames last."""
        label = frames_label(self.clips.spec(model), parse_whole("number of frames", frames), rate)
        return {self.panel.frames: gr.update(label=label)}

    def roll(self) -> Updates:
        """Take a new seed, and keep it."""
        return {self.panel.seed: str(secrets.randbelow(2**32)), self.panel.keep_seed: True}

    def typed_seed(self, seed: str) -> Updates:
        """Set the seed to a typed one; an empty field means random seeds."""
        return {self.panel.keep_seed: bool(seed.strip())}

    def restore_file(self, path: str | None, model: str) -> Updates:
        """Set the controls to what an uploaded clip says."""
        if path is None:
            raise SettingsError("Choose a clip first.")
        metadata, chosen, notes = clip_settings_of(path, self.clips.specs, model)
        for note in notes:
            gr.Warning(escape(note))
        spec, panel = self.clips.specs[chosen], self.panel
        offered = {} if chosen == model else clips_offered_by(spec, panel, image=False)
        return {panel.model: chosen, **offered, **clip_restored_from(metadata, spec, panel)}

    def _settings(self) -> list:
        panel = self.panel
        words = [panel.model, panel.prompt, panel.frames, panel.size, panel.sides, panel.width, panel.height]
        words += [panel.motion, panel.rate, panel.prompt_weights, panel.seed, panel.keep_seed]
        return [*words, *(getattr(panel, name) for name in SAMPLING)]
