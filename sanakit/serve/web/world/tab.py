"""The tab of worlds: entering one from the controls. The walk goes over `routes.py`, without Gradio."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr
from PIL import Image

from sanakit.errors import SanaError, SettingsError
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.engine.walk import Walk
from sanakit.serve.engine.world_engine import WalkRequest, WorldEngine
from sanakit.serve.http.worlds.schema import WalkReply
from sanakit.serve.http.worlds.worlds_api import entered
from sanakit.serve.web.messages import fields_of, tie
from sanakit.serve.web.settings import chosen_seed, parse_seed, parse_whole
from sanakit.serve.web.studio import View
from sanakit.serve.web.video.settings import is_distilled, video_sizes
from sanakit.serve.web.view import status_html
from sanakit.serve.web.world.panel import DIALECTS, make_world
from sanakit.serve.web.world.routes import OWNER, PREFIX

Updates = dict[Any, Any]  # component -> its new value, or gr.update
_ASKED = (
    *("image", "prompt", "fov", "size", "keys", "seed", "keep_seed", "drawn_seed"),
    *("negative_prompt", "prompt_weights", "steps", "guidance"),
)
_SCRIPT = f"{PREFIX[1:]}/world.js"
_BEGIN = f"""() => import(new URL("{_SCRIPT}", document.baseURI).href).then((file) => file.begin())"""
_WALK = """(text) => { if (text) globalThis.sanaWorld?.enter(JSON.parse(text)); }"""


class WorldTab:
    """The functions behind the tab.

    charge: as for `Page`. turns: for decoding visitors' images.
    """

    def __init__(
        self,
        worlds: WorldEngine,
        turns: DecodingTurns,
        *,
        charge: Callable[[str, int], Callable[[], None]] | None = None,
    ) -> None:
        self.worlds, self.turns, self.charge = worlds, turns, charge
        self._walks: dict[str, Walk] = {}  # by the browser tab's session

    def lay_out(self, blocks: gr.Blocks) -> None:
        """Make the components inside the Blocks that are open, and tie them to the functions."""
        with gr.Row(elem_id="world"):
            self.panel = panel = make_world(self.worlds.spec, self.turns)
        self.fields = fields_of(panel)
        blocks.load(None, None, None, js=_BEGIN)
        tie(panel.dice.click, self.roll, [], [panel.seed, panel.keep_seed])
        tie(panel.seed.input, self.typed_seed, [panel.seed], [panel.keep_seed])
        asked = [getattr(panel, name) for name in _ASKED]
        changed = [panel.enter, panel.status, panel.seed, panel.drawn_seed, panel.walk]
        event = tie(panel.enter.click, self.enter, asked, changed, concurrency_limit=None)
        event.then(None, [panel.walk], None, js=_WALK, api_visibility="private")

    async def enter(self, visitor: gr.Request, *values: Any) -> AsyncIterator[Updates]:
        """Enter a world as the controls say, in place of this browser tab's last one."""
        panel, session = self.panel, visitor.session_hash or ""
        told = View(state="waiting", message="Entering the world …")
        yield {panel.enter: gr.update(interactive=False), panel.status: status_html(told), panel.walk: ""}
        end: Updates = {panel.enter: gr.update(interactive=True)}
        take_back = None
        try:
            request = await asyncio.to_thread(self._request, dict(zip(_ASKED, values, strict=True)))
            self.cancel(visitor)
            if self.charge is not None and visitor.username:
                take_back = await asyncio.to_thread(self.charge, visitor.username, 1)
            walk = await entered(self.worlds, request, OWNER)
        except SanaError as error:
            if take_back is not None:
                await asyncio.to_thread(take_back)
            yield end | {panel.status: status_html(View.failed(error), self.fields)}
            return
        walk.payer = visitor.username
        self._walks[session] = walk
        seed = str(request.settings.get("seed"))
        done = View(state="done", message="", warnings=walk.warnings)
        yield end | {
            panel.status: status_html(done),
            panel.seed: seed,
            panel.drawn_seed: seed,
            panel.walk: WalkReply.of(walk).model_dump_json(),
        }

    def cancel(self, visitor: gr.Request) -> None:
        """End the walk of this browser tab; when it is closed, too."""
        walk = self._walks.pop(visitor.session_hash or "", None)
        if walk is not None:
            self.worlds.end(walk)

    def roll(self) -> Updates:
        """Take a new seed, and keep it."""
        return {self.panel.seed: str(secrets.randbelow(2**32)), self.panel.keep_seed: True}

    def typed_seed(self, seed: str) -> Updates:
        """Set the seed to a typed one; an empty field means random seeds."""
        return {self.panel.keep_seed: bool(seed.strip())}

    def _request(self, given: dict[str, Any]) -> WalkRequest:
        """Return the controls' values, checked. Raises SanaError."""
        image: Image.Image | None = given["image"]
        if image is None:
            sentence = "Choose an image to walk into: drop it on the field, or press its button."
            raise SettingsError(sentence, setting="image")
        spec = self.worlds.spec
        sides = video_sizes(spec).get(given["size"])
        if sides is None:
            raise SettingsError("This size is not offered any more: reload the page.", setting="size")
        if given["keys"] not in DIALECTS:
            raise SettingsError("These keys are not offered any more: reload the page.", setting="keys")
        sampling: Any = {}
        if not is_distilled(spec):
            sampling = {
                "steps": parse_whole("number of steps", given["steps"], "steps"),
                "guidance": given["guidance"],
            }
        with self.turns.turn(image.width * image.height):
            return self.worlds.check(
                image,
                given["prompt"] or "",
                (given["negative_prompt"] or None) if sampling else None,
                fov=given["fov"],
                keys=DIALECTS[given["keys"]],
                width=sides[0],
                height=sides[1],
                seed=parse_seed(chosen_seed(given["seed"], given["keep_seed"], given["drawn_seed"])),
                prompt_weights=bool(given["prompt_weights"]),
                **sampling,
            )
