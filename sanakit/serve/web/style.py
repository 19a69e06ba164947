"""The look of the page: a theme of system fonts, one style sheet, and keyboard shortcuts.

No font, script or image comes from another host.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, sizes
from gradio.themes.utils.fonts import Font

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """Return the page's theme: quiet greys, one accent, light and dark."""
    base = gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.stone,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        font=[Font(name) for name in SANS],
        font_mono=[Font(name) for name in MONO],
    )
    return base.set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_label_text_color="*neutral_500",
        block_label_text_color_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        block_title_text_weight="500",
        block_title_text_size="*text_sm",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_800",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        checkbox_label_background_fill="*neutral_100",
        checkbox_label_background_fill_hover="*neutral_200",
        checkbox_label_background_fill_selected="*primary_100",
        checkbox_label_text_color_selected="*primary_900",
        checkbox_label_background_fill_dark="*neutral_800",
        checkbox_label_background_fill_hover_dark="*neutral_700",
        checkbox_label_background_fill_selected_dark="*primary_900",
        checkbox_label_text_color_selected_dark="*primary_100",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )


CSS = Path(__file__).with_name("page.css")
ICON = str(Path(__file__).with_name("favicon.svg"))

# Ctrl+Enter (or Cmd) draws from anywhere, Escape cancels; the button with the half-moon switches the shade.
JS = """
() => {
  const press = (id) => {  // of the tab that is shown
    const named = document.querySelectorAll(`button#${id}, button#video-${id}`);
    [...named].find((button) => button.offsetParent && !button.disabled)?.click();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); press("draw"); }
    else if (event.key === "Escape") press("cancel");
  }, true);
  const tell = (id, what, value, tries = 300) => {  // what Gradio has no words for; a page has not every tab
    const found = document.getElementById(id);
    if (found) found.setAttribute(what, value);
    else if (tries) setTimeout(tell, 100, id, what, value, tries - 1);
  };
  for (const id of ["dice", "video-dice"]) tell(id, "aria-label", "Roll a new seed");
  tell("shade", "aria-label", "Light or dark");
  for (const id of ["status", "video-status"]) tell(id, "aria-live", "polite");
}
"""
SWITCH_SHADE = "() => { document.body.classList.toggle('dark'); }"
