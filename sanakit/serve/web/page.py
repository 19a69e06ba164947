"""The page of `sana ui`: the functions behind its events.

`panel.py` and `parts.py` lay the components out, `studio.py` does the work, `history.py` keeps the
images and `kept/` shows them, `settings.py` knows the settings' forms. Each function gives the components
that change.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from html import escape
from typing import Any

import gradio as gr

from sanakit.errors import SanaError, SettingsError
from sanakit.images.image import Metadata
from sanakit.pipelines.image_to_image import chosen_strength
from sanakit.pipelines.request import steps_done
from sanakit.serve.engine.decoding import header_size
from sanakit.serve.engine.engine import Engine
from sanakit.serve.web.adapters import make_adapters
from sanakit.serve.web.grid.panel import Grid, make_grid_panel, make_sheet_area
from sanakit.serve.web.history import History
from sanakit.serve.web.kept.actions import KeptActions
from sanakit.serve.web.kept.again import DrawnAgain
from sanakit.serve.web.kept.from_file import settings_in
from sanakit.serve.web.kept.gallery import KeptGallery
from sanakit.serve.web.kept.tiles import chosen_tile
from sanakit.serve.web.messages import fields_of, tie
from sanakit.serve.web.panel import make_panel, offered_by, restored_from
from sanakit.serve.web.parts import (
    CREATE,
    EDIT,
    GALLERY,
    chosen_name,
    make_editor,
    make_head,
    make_mode,
    make_stage,
    source_and_mask,
)
from sanakit.serve.web.settings import (
    CUSTOM,
    Wish,
    chosen_seed,
    drawn_by,
    parse_whole,
    sizes,
    split_style,
    styles,
)
from sanakit.serve.web.stage.drawings import VisitorDrawings
from sanakit.serve.web.stage.show import Showing
from sanakit.serve.web.steering import control_of, make_steering
from sanakit.serve.web.studio import BEYOND, WHOLE, Edit, Studio, View

Updates = dict[Any, Any]  # component -> its new value, or gr.update


class Page:
    """The functions behind the page, one an event.

    private: each tab has its own gallery. charge: called with who is logged in and a number of images,
    before they are drawn; raises SanaError if it is too many, and returns what takes it back. more_modes:
    that are laid out beside it, such as VIDEO.
    """

    def __init__(
        self,
        engine: Engine,
        history: History,
        *,
        private: bool = False,
        charge: Callable[[str, int], Callable[[], None]] | None = None,
        more_modes: Sequence[str] = (),
    ) -> None:
        self.engine, self.history = engine, history
        self.drawings = VisitorDrawings(Studio(engine, history), private=private, charge=charge)
        self.room = self.drawings.room
        self.gallery = KeptGallery(history, self.room)
        self.mode = make_mode([CREATE, EDIT, GALLERY, *more_modes])

    def lay_out(self) -> None:
        """Make the components inside the Blocks that are open, and tie them to the functions."""
        make_head(self.mode)
        with gr.Row(elem_id="body"):
            self.panel = make_panel(self.engine.specs)
            with self.panel.column:
                self.adapters = make_adapters(self.engine.residence.adapters)
                controls = self.engine.residence.controls
                self.steering = make_steering(controls, self.engine.decoding)
                axes = make_grid_panel(steered=any(controls.values()))
            with gr.Column(scale=8, min_width=320, elem_id="right"):
                strength = chosen_strength(next(iter(self.engine.specs.values())))
                self.editor = make_editor(self.engine.decoding, strength)
                self.stage = make_stage()
                with self.stage.column:
                    sheet = make_sheet_area()
                self.gallery.lay_out()
        self.kept = KeptActions(self.gallery, self.stage)
        fields = fields_of(self.panel, self.editor, axes, **self.steering.fields)
        self.showing = Showing(self.drawings, self.mode, self.panel, self.stage, self.kept.recent, fields)
        self.grid = Grid(self.showing, axes, sheet, self._wish)
        self._tie_panel()
        self._tie_images()

    def _tie_panel(self) -> None:
        panel, editor = self.panel, self.editor
        self._on(self.mode.change, self.choose_mode, [self.mode], self._whole())
        chosen = [*self._settings(), editor.strength]
        self._on(panel.model.input, self.choose_model, [panel.model, editor.what], chosen)
        example = [panel.prompt, panel.style, panel.chips]
        self._on(panel.chips.input, self.choose_example, [panel.model, panel.chips], example)
        self._on(panel.size.input, self.choose_size, [panel.model, panel.size], self._settings())
        self._on(panel.dice.click, self.roll, [], [panel.seed, panel.keep_seed])
        self._on(panel.seed.input, self.typed_seed, [panel.seed], [panel.keep_seed])
        self._on(
            panel.png.upload, self.restore_file, [panel.png, panel.model], self._settings(), at=panel.png
        )
        around = [editor.strength, editor.margins]
        self._on(editor.what.change, self.choose_what, [panel.model, editor.what], around)
        steps = [panel.model, panel.steps, editor.what, editor.strength]
        self._on(panel.steps.change, self.choose_steps, steps, [editor.strength])
        wish = [panel.model, panel.prompt, panel.style, panel.negative_prompt, panel.width, panel.height]
        wish += [panel.steps, panel.guidance, panel.guidance_kind, panel.solver, panel.seed, panel.num_images]
        edit = [editor.image, editor.what, editor.strength]
        edit += [editor.left, editor.top, editor.right, editor.bottom]
        asked = [self.mode, panel.keep_seed, panel.drawn_seed, *wish, panel.prompt_weights, *edit]
        asked += [*self.steering.inputs, *self.adapters.inputs]
        own = {"concurrency_limit": None}  # the engine has the queue, and says when it is full
        self._on(panel.draw.click, self.draw, asked, self.showing.changed, **own)
        self.grid.tie(asked)
        self._on(panel.cancel.click, self.cancel, [], [], concurrency_limit=None)

    def _tie_images(self) -> None:
        stage, settings = self.stage, self._settings()
        again = DrawnAgain(self.engine, self.showing, self.adapters)
        self._on(stage.images.select, self.choose_drawn, [stage.names], stage.details.changed)
        shown = [stage.view, stage.images, stage.names, *stage.details.changed]
        self._on(stage.recent.select, self.choose_recent, [], shown)
        for details in (stage.details, self.gallery.parts.details):
            shown = [details.shown]
            self._on(details.restore.click, self.restore_shown, [*shown, self.panel.model], settings)
            self._on(details.edit.click, self.edit_shown, shown, [self.mode, self.editor.image])
            again.tie(details)
        self.kept.tie(self.mode)

    _on = staticmethod(tie)

    # Drawing

    async def draw(
        self, visitor: gr.Request, mode: str, keep_seed: bool, drawn_seed: str, *values: Any
    ) -> AsyncIterator[Updates]:
        """Draw what the controls say, and show how it goes."""
        try:
            wish, edit = self._wish(mode, keep_seed, drawn_seed, values)
        except SanaError as error:
            yield self.showing.fail(error)
            return
        drawn = {self.panel.seed: wish.seed, self.panel.drawn_seed: wish.seed}
        yield drawn | {self.panel.cancel: gr.update(interactive=True)}
        async with aclosing(self.showing.show(visitor, mode, self.follow(visitor, wish, edit))) as updates:
            async for update in updates:
                yield update

    def follow(self, visitor: gr.Request, wish: Wish, edit: Edit | None = None) -> AsyncGenerator[View, None]:
        """Draw as `Studio.draw` does, in the visitor's room, charged to the login if there is one."""
        return self.drawings.follow(visitor, wish, edit)

    def cancel(self, visitor: gr.Request) -> None:
        """Stop what this browser tab draws; when it is closed, too."""
        self.drawings.cancel(visitor)

    def _wish(self, mode: str, keep_seed: bool, drawn_seed: str, values: tuple) -> tuple[Wish, Edit | None]:
        """Return the controls' values, in the order of `_tie_panel`. Raises SanaError."""
        model, prompt, style, negative, width, height, steps, scale, kind, solver, seed, count, *rest = values
        images = 8 + len(self.steering.inputs)  # behind the switch of weights and the seven of the editor
        wish = Wish(
            model=model,
            prompt=prompt or "",
            style=style or "",
            negative_prompt=negative or "",
            width=parse_whole("width", width),
            height=parse_whole("height", height),
            steps=parse_whole("number of steps", steps, "steps"),
            guidance=scale,
            guidance_kind=kind or "",
            solver=solver,
            seed=chosen_seed(seed, keep_seed, drawn_seed),
            num_images=parse_whole("number of images", count, "num_images"),
            prompt_weights=bool(rest[0]),
            control=control_of(rest[8:images]),
            adapters=self.adapters.weights(model, rest[images:]),
        )
        if mode != EDIT:
            return wish, None
        edited, what, strength, *margins = rest[1:8]
        image, mask = source_and_mask(edited)
        names = ("left", "top", "right", "bottom")
        left, top, right, bottom = (
            parse_whole("margin", margin or 0, name) for name, margin in zip(names, margins, strict=True)
        )
        sides = left, top, right, bottom
        return wish, Edit(image=image, mask=mask, what=what, strength=strength, margins=sides)

    # Choosing

    def choose_mode(self, mode: str) -> Updates:
        """Show what a mode needs."""
        return {
            self.panel.column: gr.update(visible=mode != GALLERY),
            self.stage.column: gr.update(visible=mode != GALLERY),
            self.gallery.parts.group: gr.update(visible=mode == GALLERY),
            self.panel.size: gr.update(visible=mode != EDIT),  # an edit has its image's size
            self.panel.sides: gr.update(visible=False),
        }

    def choose_model(self, model: str, what: str = WHOLE) -> Updates:
        """Offer a model's own styles and sizes, and set its defaults."""
        strength = chosen_strength(self.engine.specs[model]) if what == WHOLE else 1.0
        shown = offered_by(self.engine.specs[model], self.panel) | self.adapters.offered_by(model)
        return {**shown, **self.steering.offered_by(model), self.editor.strength: strength}

    def choose_example(self, model: str, prompt: str) -> Updates:
        """Write an example into the prompt; the style that it ends with is chosen instead of written."""
        words, style = split_style(prompt, styles(self.engine.specs[model]))
        return {self.panel.prompt: words, self.panel.style: style, self.panel.chips: None}

    def choose_size(self, model: str, size: str) -> Updates:
        """Set width and height, or show where they are typed."""
        panel = self.panel
        if size == CUSTOM:
            return {panel.sides: gr.update(visible=True)}
        width, height = sizes(self.engine.specs[model])[size]
        return {panel.sides: gr.update(visible=False), panel.width: width, panel.height: height}

    def choose_what(self, model: str, what: str) -> Updates:
        """Ask for margins where the image is to grow, for the strength where it is to change."""
        strength = chosen_strength(self.engine.specs[model]) if what == WHOLE else 1.0
        return {
            self.editor.strength: gr.update(visible=what != BEYOND, value=strength),
            self.editor.margins: gr.update(visible=what == BEYOND),
        }

    def choose_steps(self, model: str, steps: int, what: str, strength: float) -> Updates:
        """Lower a strength that would be all of so few steps of a SANA-Sprint model, which refuses it."""
        spec, steps = self.engine.specs[model], parse_whole("number of steps", steps)
        refused = spec.guidance_embed and strength < 1 and steps_done(steps, strength) == steps
        lower = refused and what == WHOLE
        return {self.editor.strength: chosen_strength(spec, steps=steps) if lower else gr.skip()}

    def roll(self) -> Updates:
        """Take a new seed, and keep it."""
        return {self.panel.seed: str(secrets.randbelow(2**32)), self.panel.keep_seed: True}

    def typed_seed(self, seed: str) -> Updates:
        """Set the seed to a typed one; an empty field means random seeds."""
        return {self.panel.keep_seed: bool(seed.strip())}

    # Images that are there

    def choose_drawn(self, visitor: gr.Request, names: list[str], chosen: gr.SelectData) -> Updates:
        """Show the settings of one of the images on the stage."""
        name = chosen_name(names, chosen)
        return self.stage.details.show(self.history, self.room(visitor), name)

    def choose_recent(self, visitor: gr.Request, event: gr.EventData) -> Updates:
        """Put one of the newest images on the stage."""
        shown = self.showing.finished(self.room(visitor), [chosen_tile(event)])
        return {part: value for part, value in shown.items() if part is not self.stage.recent}

    def restore_shown(self, visitor: gr.Request, name: str, model: str) -> Updates:
        """Set the controls to what an image was drawn with."""
        return self._restore(self.history.metadata(self.room(visitor), name), model)

    def restore_file(self, path: str | None, model: str) -> Updates:
        """Set the controls to what an uploaded image says."""
        if path is None:
            raise SettingsError("Choose an image file first.")
        width, height = header_size(path)
        with self.engine.decoding.turn(width * height):
            metadata, notes = settings_in(path, self.engine.specs, model)
        return self._restore(metadata, model, notes)

    def edit_shown(self, visitor: gr.Request, name: str) -> Updates:
        """Take an image to the editor."""
        path = str(self.history.file(self.room(visitor), name))
        return {
            self.mode: EDIT,
            self.editor.image: {"background": path, "layers": [], "composite": None},
        }

    def _restore(self, metadata: Metadata, model: str, told_first: Sequence[str] = ()) -> Updates:
        chosen, (model, notes) = model, drawn_by(metadata, self.engine.specs, model)
        weights, told = self.adapters.restored_from(metadata, model)
        for note in (*told_first, *notes, *told):
            gr.Warning(escape(note))
        mode = EDIT if "strength" in metadata else CREATE
        shown = restored_from(metadata, self.engine.specs[model], self.panel) | weights
        shown |= {} if model == chosen else self.steering.offered_by(model)
        return {self.mode: mode, self.panel.model: model, **shown}

    # Which components an event changes

    def _whole(self) -> list:
        panel = self.panel
        return [panel.column, self.stage.column, self.gallery.parts.group, panel.size, panel.sides]

    def _settings(self) -> list:
        panel = self.panel
        words = [self.mode, panel.model, panel.prompt, panel.style, panel.chips, panel.negative_prompt]
        sizes = [panel.size, panel.sides, panel.width, panel.height]
        sampling = [panel.steps, panel.guidance, panel.guidance_kind, panel.solver]
        switches = [panel.prompt_weights, panel.keep_seed]
        offered = [*self.adapters.changed, *self.steering.changed]
        return [*words, *sizes, *sampling, *switches, panel.seed, panel.num_images, *offered]
