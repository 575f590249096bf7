"""The page's look: one theme, one accent, four stem colours. Their contrast is tested."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

STATIC = Path(__file__).parent / "static"

LIGHT = {
    "page": "#f6f5f1",
    "surface": "#ffffff",
    "ink": "#1d1c1a",
    "muted": "#67635b",
    "line": "#dedad1",
    "wash": "#efede7",
    "accent": "#0b6b63",
    "on-accent": "#ffffff",
    "vocals": "#c2410c",
    "drums": "#1d64b4",
    "bass": "#7c3aed",
    "other": "#4d7c0f",
}
DARK = {
    "page": "#131312",
    "surface": "#1c1c1a",
    "ink": "#f2f0ea",
    "muted": "#a5a198",
    "line": "#383733",
    "wash": "#262623",
    "accent": "#4fd1c0",
    "on-accent": "#08211e",
    "vocals": "#fb8f5f",
    "drums": "#6cb4f5",
    "bass": "#b79cfb",
    "other": "#a9d65f",
}


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21.

    >>> round(contrast("#000000", "#ffffff"))
    21
    """
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def theme() -> gr.themes.Base:
    """Gradio's base theme in our colours; system fonts, so that no other host is asked."""
    made = gr.themes.Base(
        font=["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
    )
    pairs = {
        "body_background_fill": "page",
        "body_text_color": "ink",
        "body_text_color_subdued": "muted",
        "background_fill_primary": "surface",
        "background_fill_secondary": "wash",
        "border_color_primary": "line",
        "border_color_accent": "accent",
        "color_accent_soft": "wash",
        "link_text_color": "accent",
        "link_text_color_hover": "ink",
        "link_text_color_visited": "accent",
        "link_text_color_active": "accent",
        "block_background_fill": "surface",
        "block_border_color": "line",
        "block_label_background_fill": "surface",
        "block_label_text_color": "muted",
        "block_title_text_color": "ink",
        "block_info_text_color": "muted",
        "panel_background_fill": "surface",
        "panel_border_color": "line",
        "input_background_fill": "surface",
        "input_border_color": "line",
        "input_border_color_focus": "accent",
        "input_placeholder_color": "muted",
        "button_primary_background_fill": "accent",
        "button_primary_background_fill_hover": "accent",
        "button_primary_border_color": "accent",
        "button_primary_border_color_hover": "accent",
        "button_primary_text_color": "on-accent",
        "button_primary_text_color_hover": "on-accent",
        "button_secondary_background_fill": "surface",
        "button_secondary_background_fill_hover": "wash",
        "button_secondary_border_color": "line",
        "button_secondary_text_color": "ink",
        "button_secondary_text_color_hover": "ink",
        "checkbox_background_color": "surface",
        "checkbox_background_color_selected": "accent",
        "checkbox_border_color": "muted",
        "checkbox_border_color_selected": "accent",
        "checkbox_label_background_fill": "surface",
        "checkbox_label_background_fill_hover": "wash",
        "checkbox_label_background_fill_selected": "wash",
        "checkbox_label_text_color": "ink",
        "checkbox_label_text_color_selected": "ink",
        "slider_color": "accent",
        "table_border_color": "line",
        "table_even_background_fill": "surface",
        "table_odd_background_fill": "wash",
        "stat_background_fill": "accent",
    }
    values = {}
    for name, colour in pairs.items():
        values[name] = LIGHT[colour]
        values[f"{name}_dark"] = DARK[colour]
    plain = dict.fromkeys(("block_shadow", "block_label_shadow", "input_shadow"), "none")
    return made.set(
        **values,
        **plain,
        color_accent=LIGHT["accent"],  # the style sheet turns it for the dark page
        button_border_width="1px",
        button_large_text_weight="500",
        button_large_text_size="15px",
        button_small_text_size="14px",
        input_border_width="1px",
        block_radius="12px",
        container_radius="12px",
    )


def css() -> str:
    """The colours as variables, then the style sheet."""

    def variables(colours: dict[str, str]) -> str:
        return "".join(f"--ml-{name}:{colour};" for name, colour in colours.items())

    sheet = (STATIC / "studio.css").read_text(encoding="utf-8")
    dark = variables(DARK) + f"--color-accent:{DARK['accent']};"
    return f"body{{{variables(LIGHT)}}}body.dark{{{dark}}}\n{sheet}"
