"""The page: what is where, and what calls what."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import gradio as gr
from gradio import processing_utils

from moises_light.config import DEFAULT_PRESET, SOURCES
from moises_light.ui import export, jobs, plots, words
from moises_light.ui.engine import Engine
from moises_light.ui.handlers import (
    EXAMPLES,
    GONE,
    KEEP_SECONDS,
    PREVIEW,
    PREVIEW_SECONDS,
    WHOLE,
    Studio,
    explain,
)
from moises_light.ui.player import address, payload, stem_player
from moises_light.ui.theme import css, theme

STATIC = Path(__file__).parent / "static"
FORMATS = [
    ("WAV 16-bit", "wav16"),
    ("WAV 24-bit", "wav24"),
    ("WAV 32-bit float", "wav32f"),
    ("FLAC", "flac"),
    ("MP3", "mp3"),
]
DEFAULT, DEFAULT_B = DEFAULT_PRESET, "paper_small"
"""Presets that the page begins with, where they have weights: nearly the best, and the lightest."""

EXAMPLE = EXAMPLES / "francium.mp3"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
FETCHING = "() => window.studio.fetching('{what}')"
FETCHED = "() => { window.studio.fetched('{what}'); return ''; }"
DOWNLOAD = """(file) => {
  window.studio.fetched('{what}');
  if (!file || !file.url) return;
  const link = document.createElement('a');
  link.href = ((window.gradio_config && window.gradio_config.root) || '') + file.url;
  link.download = file.name;
  document.body.append(link); link.click(); link.remove();
}"""
KEPT = """() => {
  try { return [sessionStorage.getItem('studio-song') || '']; } catch { return ['']; }
}"""
KEEP_LINKS = """(made, before) => {
  const links = made ? [...before, made] : before;
  try { sessionStorage.setItem('studio-links', JSON.stringify(links)); } catch { /* private */ }
}"""
KEPT_LINKS = """() => {
  try { return [JSON.parse(sessionStorage.getItem('studio-links')) || []]; } catch { return [[]]; }
}"""
ON_ITS_WAY = "Fetching your song …"
STILL_RUNS = (
    "This song is still being separated, by this page before it was loaded anew or in another tab."
)
WHOLE_ADDRESS = """(query) =>
  query && query.startsWith('?') ? location.origin + location.pathname + query : query"""


def build_demo(checkpoints: str | Path | None = None, *, studio: Studio | None = None) -> gr.Blocks:
    """The page, to be launched with `launch_options()`.

    Args:
        checkpoints: folder of the weights; `None` leaves it to `moises_light.weights`.
        studio: what works behind the page; made from `checkpoints` by default.
    """
    processing_utils.async_ssrf_protected_download = _fetch_nothing
    studio = studio or Studio(Engine(checkpoints))
    with gr.Blocks(
        title="Moises-Light Studio",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(600, 7200),
    ) as demo:
        # in the page and not in its session, which Gradio forgets an hour after a lost connection
        token = gr.Textbox(visible="hidden", label="Song of this page")
        gr.HTML((STATIC / "header.html").read_text(encoding="utf-8"), apply_default_css=False)
        lacks = None if EXAMPLE.is_file() else "ml-no-example"
        with gr.Row(elem_id="ml-studio", elem_classes=lacks, equal_height=False):
            with gr.Column(scale=0, min_width=320, elem_id="desk"):
                desk = _desk(studio)
            with gr.Column(scale=1, min_width=300, elem_id="stage"):
                player = stem_player(elem_id="player")
                with gr.Tabs(elem_id="tabs") as tabs:
                    away = _take_away_tab(studio, token)
                    views = _views_tab(studio, token)
                    compare = _compare_tab(studio)
                    share = _share_tab(studio, demo, token, desk, compare, views)
                    with gr.Tab("About", id="about"):
                        presets = studio.engine.presets()
                        gr.Markdown(
                            (STATIC / "about.md")
                            .read_text(encoding="utf-8")
                            .replace("{table}", words.table(presets))
                            .replace("{scores}", words.scores(presets)),
                            elem_classes="ml-prose",
                        )
        arrival = _wire_links(studio, demo, token, player, desk, compare, views, tabs)
        _wire_song(studio, demo, token, player, desk, views, arrival)
        _wire_runs(studio, token, player, desk, compare, views, away, share)
        _programs(studio)
    demo.queue(max_size=16, default_concurrency_limit=4)
    return demo


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    """Gradio would load a whole file, however large, from an address given instead of one."""
    raise gr.Error("This is an address, and only files are taken. Send the file itself.")


def launch_options() -> dict[str, Any]:
    """What `Blocks.launch` needs for this page: its look, and nothing that phones home."""
    return {
        "theme": theme(),
        "css": css(),
        "max_file_size": "120mb",
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "footer_links": ["api"],
        "mcp_server": os.environ.get("MOISES_LIGHT_MCP") == "1",
    }


# ------------------------------------------------------------------------- what is where

Parts = dict[str, Any]
Shown = Iterator[dict[Any, Any]]
"""What an event shows by and by: values by component."""


class Made(NamedTuple):
    """A link that a visitor made. Their page keeps it, so it comes back as a list.

    Args:
        token, key: open and delete it.
        name: of the song.
        expires: when it ends, in seconds since 1970.
        shows: what it shows, see `_shown`.
    """

    token: str
    key: str
    name: str
    expires: float
    shows: str


def _shown(song: jobs.Song) -> str:
    """The song and its takes as they are now; another result is another text."""
    takes = [f"{take.serial}-{take.ready}" for take in jobs.load_takes(song)]
    return " ".join([song.token, *takes])


def _choose(names: list[str], wanted: str) -> str | None:
    """The wanted name if it is there, else the first."""
    return wanted if wanted in names else next(iter(names), None)


def _desk(studio: Studio) -> Parts:
    """What comes in, and how it shall be worked on."""
    presets = studio.engine.presets()
    runnable = [name for name, preset in presets.items() if preset.available]
    first = presets[_choose(runnable, DEFAULT) or next(iter(presets))]
    devices = [(device.label, device.name) for device in studio.engine.devices]
    desk: Parts = {}
    desk["upload"] = gr.File(label="Song", elem_id="song", height=128, type="filepath")
    with gr.Row(elem_classes="ml-either"):
        desk["example"] = gr.Button(
            "Try the example",
            elem_id="example",
            size="sm",
            min_width=100,
            visible=EXAMPLE.is_file(),
        )
        desk["recorder"] = gr.Button("Record", elem_id="recorder", size="sm", min_width=100)
    # shown and put away by `window.studio.recorder`, see studio.css
    desk["record"] = gr.Audio(
        sources=["microphone"],
        type="filepath",
        label="Recording",
        editable=False,
        buttons=[],
        elem_id="record",
    )
    with gr.Group(elem_id="settings"):
        desk["preset"] = gr.Dropdown(
            [(words.choice(preset), name) for name, preset in presets.items()],
            value=first.name,
            label="Preset",
            elem_id="preset",
            filterable=False,
        )
        desk["device"] = gr.Radio(devices, value=devices[0][1], label="Runs on", elem_id="device")
        desk["extent"] = gr.Radio([WHOLE, PREVIEW], value=WHOLE, label="How much", elem_id="extent")
        desk["place"] = gr.Slider(
            0, 600, 0, step=1, label="Preview from (s)", elem_id="place", visible="hidden"
        )
        desk["residual"] = gr.Checkbox(
            False,
            label="Put what no stem claims into “other”",
            info="Then the four stems add up to the song exactly.",
            elem_id="residual",
        )
    desk["price"] = gr.Markdown(
        words.cost(studio.engine, presets, first.name, devices[0][1], None), elem_id="price"
    )
    desk["go"] = gr.Button(
        "Separate", variant="primary", elem_id="go", size="lg", interactive=False
    )
    desk["stop"] = gr.Button("Stop", elem_id="stop", elem_classes="ml-hidden")
    desk["go_on"] = gr.Button("Go on", elem_id="go-on", elem_classes="ml-hidden")
    return desk


def _invitation(text: str, until: str = "result") -> None:
    """What an empty tab says, until there is a song or a result."""
    gr.HTML(
        f'<p class="ml-invitation">{text}</p>',
        apply_default_css=False,
        elem_classes=f"ml-invites-{until}",
    )


TAKE_AWAY = (
    "*Your mix* follows the faders above. *Karaoke* is the song without its vocals, "
    "*drumless* without its drums."
)


AS_HEARD = "Mix, karaoke and drumless at this speed and in this key"


def _take_away_tab(studio: Studio, token: gr.Textbox) -> Parts:
    buttons: list[tuple[gr.Button, str]] = []
    with gr.Tab("Take away", id="away"):
        _invitation("Separate a song, and its stems wait here: single, zipped, or as your own mix.")
        with gr.Column(elem_classes="ml-result"):
            with gr.Row(elem_classes="ml-line"):
                format = gr.Dropdown(
                    FORMATS, value="wav16", label="Format", elem_id="format", filterable=False
                )
                slot = gr.Radio(
                    [("A", "a"), ("B", "b")],
                    value="a",
                    label="From",
                    elem_id="slot",
                    visible="hidden",
                )
            # shown while the player loops, or plays otherwise than the song is, see studio.css
            gr.Checkbox(False, label="Only the loop", elem_id="only-loop", container=False)
            gr.Checkbox(False, label=AS_HEARD, elem_id="as-heard", container=False)
            with gr.Row(elem_classes="ml-grid"):
                for name in SOURCES:
                    label = f"{name.capitalize()}"
                    buttons.append((gr.Button(label, elem_id=f"take-{name}", min_width=110), name))
            with gr.Row(elem_classes="ml-grid"):
                for label, what, hint in (
                    ("All stems (zip)", "all", "take-all"),
                    ("Your mix", "mix", "take-mix"),
                    ("Karaoke", "karaoke", "take-karaoke"),
                    ("Drumless", "drumless", "take-drumless"),
                ):
                    buttons.append((gr.Button(label, elem_id=hint, min_width=110), what))
            note = gr.Markdown("", elem_id="take-note", elem_classes="ml-small")
            gr.Markdown(TAKE_AWAY, elem_classes="ml-small")
            wanted = gr.JSON(visible="hidden", label="What of it")
            file = gr.JSON(visible="hidden", label="File")

    def take_away(what: str) -> Callable[..., tuple[dict[str, str], str]]:
        def write(song: str, slot: str, format: str, wanted: Any) -> tuple[dict[str, str], str]:
            wanted = wanted if isinstance(wanted, dict) else {}
            faders = wanted.get("faders") if what == "mix" else None
            loop, pace = wanted.get("loop"), wanted.get("pace")
            export = studio.export(song, slot, what, format, faders, loop, pace)
            name = export.path.name
            return (
                {"url": address(export.path), "name": name},
                f"{name} is ready. {words.turned_down(export.gain)}",
            )

        return write

    for button, what in buttons:
        button.click(None, None, note, js=FETCHING.replace("{what}", what))
        written = button.click(
            take_away(what),
            [token, slot, format, wanted],
            [file, note],
            js="(token, slot, format) => [token, slot, format, window.studio.wanted()]",
            concurrency_limit=2,
            concurrency_id="export",
            **QUIET,
        )
        written.success(None, file, None, js=DOWNLOAD.replace("{what}", what))
        written.failure(None, None, note, js=FETCHED.replace("{what}", what))
    token.change(lambda: "", None, note, queue=False, **QUIET)
    return {"slot": slot}


def _views_tab(studio: Studio, token: gr.Textbox) -> Parts:
    with gr.Tab("Views", id="views") as tab:
        _invitation("Drop a song to see its spectrogram, and what the network makes of it.", "song")
        with gr.Column(elem_classes="ml-song-needed"):
            view = gr.Radio(
                # what may be chosen in a session that Gradio has forgotten; arrivals narrow it
                [(label, name) for name, label in plots.VIEWS.items()],
                value="song",
                show_label=False,
                label="Picture",
                elem_id="views",
            )
            plot = gr.Plot(show_label=False, label="Picture", elem_id="view")
            gr.Markdown(
                "Frequency is logarithmic, the line is the playhead, a click seeks. A *mask* is "
                "the share of each moment and frequency that the network gave to a stem: dark is "
                "nothing, bright is all of it.",
                elem_classes="ml-small",
            )
        seen = gr.Checkbox(False, visible="hidden", label="Seen")
        # what the page's address asks for, until it can be drawn
        asked = gr.Textbox(visible="hidden", label="Picture that is asked for")
    return {"tab": tab, "view": view, "plot": plot, "seen": seen, "asked": asked}


def _compare_tab(studio: Studio) -> Parts:
    presets = studio.engine.presets()
    runnable = [(words.choice(p), p.name) for p in presets.values() if p.available]
    first = _choose([name for _, name in runnable], DEFAULT)
    with gr.Tab("Compare", id="compare"):
        if len(runnable) < 2:
            only = (
                f"Only {runnable[0][0]} has weights here" if runnable else "No preset has weights"
            )
            _invitation(f"{only}, so there is nothing to compare with yet.")
        else:
            _invitation("Separate a song first; then hear a second preset at the same playhead.")
        with gr.Column(
            elem_classes="ml-result" if len(runnable) > 1 else "ml-hidden", elem_id="compare"
        ):
            gr.Markdown(
                "Separate the same part of the song with a second preset. Then switch between A "
                "and B while it plays, listen blind, or hear only what differs."
            )
            with gr.Row(elem_classes="ml-line"):
                preset = gr.Dropdown(
                    runnable,
                    value=_choose([n for _, n in runnable if n != first], DEFAULT_B),
                    label="Preset B",
                    elem_id="preset-b",
                    filterable=False,
                )
                go = gr.Button("Separate with B", elem_id="go-b", variant="primary", min_width=160)
            price = gr.Markdown("", elem_id="price-b", elem_classes="ml-small")
    return {"preset": preset, "go": go, "price": price}


def _share_tab(
    studio: Studio,
    demo: gr.Blocks,
    token: gr.Textbox,
    desk: Parts,
    compare: Parts,
    views: Parts,
) -> Parts:
    days = f"{studio.shares.days:g} {'day' if studio.shares.days == 1 else 'days'}"
    with gr.Tab("Share", id="share") as tab:
        with gr.Column(elem_classes="ml-result"):
            gr.Markdown(
                f"**This result.** Whoever has the link can listen to the whole song and its "
                f"stems, download them, and see its name, for {days}. Nobody finds it without the "
                f"link. It is stored as 16-bit FLAC. Share only what you may share."
            )
            make = gr.Button("Create a link to this result", elem_id="share-make")
            link = gr.Textbox(
                label="Link",
                elem_id="share-link",
                buttons=["copy"],
                interactive=False,
                visible="hidden",
            )
            until = gr.Markdown("", elem_id="share-until", elem_classes="ml-small")
            delete_link = gr.Textbox(
                label="Your link to delete it (keep it to yourself)",
                elem_id="share-delete-link",
                buttons=["copy"],
                interactive=False,
                visible="hidden",
            )
            delete = gr.Button("Delete it now", elem_id="share-delete", visible="hidden", size="sm")
        earlier = gr.Markdown("", elem_id="share-earlier", elem_classes="ml-small")
        gr.Markdown(
            "**Only the settings.** This link opens the page with these presets; no song is in it. "
            "You can write it by hand: `?preset=…&preset_b=…&view=…&example=francium`."
        )
        settings = gr.Textbox(
            label="Link to the settings",
            elem_id="settings-link",
            buttons=["copy"],
            interactive=False,
        )
        # in the page, as its song is: the key that deletes a link is nowhere else
        made = gr.JSON(None, visible="hidden", label="Link of this result")
        before = gr.JSON([], visible="hidden", label="Links before")
    hidden = gr.update(visible="hidden")

    def create(song_token: str, made: list[Any] | None, before: list[list[Any]]) -> tuple[Any, ...]:
        song = studio.song(song_token)
        studio.take(song, "a")  # says why where there is none
        try:
            link = studio.shares.create(song, jobs.load_takes(song))
        except Exception as error:
            raise explain(error) from error
        before = [*before, made] if made else before
        query = f"?r={link.token}"
        return (
            gr.update(value=query, visible=True),
            f"It works until {words.until(link.expires)}.",
            gr.update(value=f"{query}&delete={link.key}", visible=True),
            gr.update(visible=True),
            list(Made(link.token, link.key, song.name, link.expires, _shown(song))),
            words.earlier_links(before),
            before,
        )

    def remove(made: list[Any] | None, before: list[list[Any]]) -> tuple[Any, ...]:
        if made and studio.unshare(*made[:2]):
            said = "The link is deleted; nobody can open it any more."
        else:  # by its other address
            said = "This link was deleted already; nobody can open it."
        return hidden, said, hidden, hidden, None, gr.skip(), before

    def put_away(made: list[Any] | None, before: list[list[Any]]) -> tuple[Any, ...]:
        """List the link with the earlier ones."""
        if not made:
            return gr.skip(), "", *[gr.skip()] * 5
        before = [*before, made]
        return hidden, "", hidden, hidden, None, words.earlier_links(before), before

    def settle(song_token: str, made: list[Any] | None, before: list[list[Any]]) -> Any:
        """Put a link away that another result has overtaken; the next has none yet."""
        song = jobs.load_song(studio.root, song_token)
        if not made or (song and made[-1] == _shown(song)):
            return gr.skip()
        return put_away(made, before)

    def recall(kept: list[list[Any]]) -> tuple[Any, ...]:
        """The links that this tab had made before it was loaded anew, if they are still there."""
        kept = [link for link in kept if studio.shares.look(link[0])]
        return kept, words.earlier_links(kept)

    outputs = [link, until, delete_link, delete, made, earlier, before]
    gr.on(
        [token.change, desk["go"].click, compare["go"].click, desk["go_on"].click],
        put_away,
        [made, before],
        outputs,
        queue=False,
        **QUIET,
    )
    make.click(None, None, until, js=FETCHING.replace("{what}", "link"))
    done = make.click(create, [token, made, before], outputs, concurrency_limit=2, **QUIET)
    done.success(None, None, None, js=FETCHED.replace("{what}", "link"))
    done.failure(None, None, until, js=FETCHED.replace("{what}", "link"))
    for box in (link, delete_link):
        done.then(None, box, box, js=WHOLE_ADDRESS)
    settling = (settle, [token, made, before], outputs)
    done.success(*settling, **QUIET)
    gone = delete.click(remove, [made, before], outputs, **QUIET)
    for changed in (done, gone):
        changed.success(None, [made, before], None, js=KEEP_LINKS)
    demo.load(recall, before, [before, earlier], js=KEPT_LINKS, queue=False, **QUIET)

    def write_settings(preset: str, preset_b: str | None, view: str, asked: str | None) -> str:
        view = view if view != "song" else asked or ""
        query = {"preset": preset, "preset_b": preset_b, "view": view}
        return "?" + urlencode({key: value for key, value in query.items() if value})

    inputs = [desk["preset"], compare["preset"], views["view"], views["asked"]]
    gr.on(
        [tab.select, *(control.change for control in inputs)],
        write_settings,
        inputs,
        settings,
        queue=False,
        trigger_mode="always_last",
        **QUIET,
    ).then(None, settings, settings, js=WHOLE_ADDRESS)
    return {"settle": settling}


# ------------------------------------------------------------------------- what calls what


def _quote(studio: Studio) -> Callable[..., tuple[Any, Any]]:
    """What a run would cost, and whether it can start."""

    def quote(
        token: str | None,
        preset: str,
        device: str,
        extent: str,
        at: float,
        rest: bool,
        request: gr.Request,
    ) -> tuple[str, Any]:
        presets = studio.engine.presets()
        can_run = presets[preset].available
        song = jobs.load_song(studio.root, token)
        if song is None:
            text = words.cost(studio.engine, presets, preset, device, None)
            # without a token this may come after a song that the question did not know
            return text, gr.skip() if can_run and not token else gr.update(interactive=False)
        part = studio.extent(song, extent, at or 0.0)  # a field may be empty
        start, seconds = (frames / jobs.SAMPLE_RATE for frames in part)
        begins = start if extent == PREVIEW else None
        cost = partial(words.cost, studio.engine, presets, preset, device)
        if studio.is_busy(token, request.session_hash) or not can_run:
            return cost(seconds, begins), gr.update(interactive=False)
        there = studio.alike(song, "a", jobs.Asked(preset, device, *part, rest))
        if there is None:
            way = words.making_way(jobs.load_takes(song), *part)
            return f"{cost(seconds, begins)} {way}".rstrip(), gr.update(interactive=True)
        if there.state == "finished":
            return words.made(studio.has_parts(song)), gr.update(interactive=False)
        left = seconds - there.ready / jobs.SAMPLE_RATE
        return f"{words.GOES_ON} {cost(left)}", gr.update(interactive=True)

    return quote


def _settings(desk: Parts) -> list[Any]:
    """How a song is separated, in the order in which `_quote` and a run take it."""
    return [desk[name] for name in ("preset", "device", "extent", "place", "residual")]


def _quoting(studio: Studio, token: gr.Textbox, desk: Parts) -> tuple[Any, ...]:
    """`_quote` with what it asks for and what it sets, as an event takes them."""
    return _quote(studio), [token, *_settings(desk)], [desk["price"], desk["go"]]


def _how_much(studio: Studio, song: jobs.Song, take: jobs.Take | None = None) -> tuple[Any, Any]:
    """How much of a song can be separated, and where a preview may begin and begins.

    As a take was asked for, where there is one.
    """
    if not studio.has_parts(song):
        return gr.update(value=WHOLE, interactive=False), gr.update(maximum=1, value=0)
    latest = int(song.seconds - PREVIEW_SECONDS)
    begins = min(latest, int(song.seconds / 3))
    if take is None:
        return gr.update(interactive=True), gr.update(maximum=latest, value=begins)
    whole = take.covers(0, song.frames)
    begins = begins if whole else min(latest, take.start // jobs.SAMPLE_RATE)
    return (
        gr.update(value=WHOLE if whole else PREVIEW, interactive=True),
        gr.update(maximum=latest, value=begins),
    )


def _pictures(takes: list[jobs.Take], wanted: str = "song") -> Any:
    """The pictures that there are, and the wanted one if it is among them."""
    there = plots.available(takes)
    choices = [(plots.VIEWS[name], name) for name in there]
    return gr.update(choices=choices, value=wanted if wanted in there else "song")


def _wire_song(
    studio: Studio,
    demo: gr.Blocks,
    token: gr.Textbox,
    player: gr.HTML,
    desk: Parts,
    views: Parts,
    late: Any,
) -> None:
    """Upload, microphone and example. Who brings a song waits no more for `late`, another one."""
    quoting = _quoting(studio, token, desk)

    def arrive(path: str | None, request: gr.Request, origin: str) -> list[Any]:
        song = studio.open_song(path, origin)
        studio.leave(request.session_hash)
        return [
            song.token,
            payload(song, text=song.warning or words.arrived(song)),
            *_how_much(studio, song),
            _pictures([]),
        ]

    arrival = [token, player, desk["extent"], desk["place"], views["view"]]
    upload, record = desk["upload"], desk["record"]
    for event, source, origin in (
        (upload.upload, upload, "upload"),
        (record.stop_recording, record, "recording"),
    ):

        def bring(path: str | None, request: gr.Request, origin: str = origin) -> list[Any]:
            return arrive(path, request, origin)

        # the field is emptied whether the song could be read or not, and takes the next one
        read = event(
            bring,
            source,
            arrival,
            concurrency_limit=4,
            concurrency_id="decode",
            show_progress_on=[source],
            api_visibility="private",
        )
        for over in (read.success, read.failure):
            over(None, None, source, js="() => null")
        read.success(None, None, None, js="() => window.studio.recorder(false)")
        # the end of a run that was left frees the button, at its next block
        read.success(*quoting, queue=False, **QUIET)

    def bring_example(request: gr.Request) -> list[Any]:
        return arrive(str(EXAMPLE), request, "example")

    desk["example"].click(None, None, None, js="() => window.studio.bringing(true)")
    brought = desk["example"].click(
        bring_example,
        None,
        arrival,
        concurrency_limit=4,
        concurrency_id="decode",
        **QUIET,
    )
    brought.then(None, None, None, js="() => window.studio.bringing(false)")
    brought.success(*quoting, queue=False, **QUIET)
    # not at the click: what is dropped may be no song
    token.change(None, cancels=[late])
    desk["recorder"].click(None, None, None, js="() => window.studio.recorder()")
    # what was measured since the page was built, and what a link or an address brought
    gr.on(
        [demo.load, token.change, *(control.change for control in _settings(desk))],
        *quoting,
        queue=False,
        trigger_mode="always_last",
        preprocess=False,  # what is being typed into a field may be out of its range
        **QUIET,
    )
    desk["extent"].change(
        lambda extent: gr.update(visible=True if extent == PREVIEW else "hidden"),
        desk["extent"],
        desk["place"],
        queue=False,
        **QUIET,
    )


def _wire_runs(
    studio: Studio,
    token: gr.Textbox,
    player: gr.HTML,
    desk: Parts,
    compare: Parts,
    views: Parts,
    away: Parts,
    share: Parts,
) -> None:
    idle, busy = gr.update(interactive=True), gr.update(interactive=False)

    def follow(
        song: jobs.Song, request: gr.Request, slot: str, asked: jobs.Asked
    ) -> Iterator[tuple[Any, ...]]:
        """The player's values while a take grows, and both buttons."""
        with studio.run(song, request.session_hash) as run:
            try:
                for phase, text, take in studio.separate(run, slot, asked):
                    if run.left:
                        break
                    button = busy if phase in ("queued", "running") else idle
                    shown = studio.show(song, slot, phase, text, take)
                    if run.left:  # while this was put together
                        break
                    yield song.token, shown, button, button, ""
            except Exception as error:
                # a link's maker may have deleted it, and this copy with it
                gone = jobs.load_song(studio.root, song.token) is None
                text = GONE if gone else str(explain(error).message)
                if not run.left:
                    takes = jobs.load_takes(song)
                    failed = payload(song, takes, phase="failed", text=text, slot=slot)
                    yield song.token, failed, idle, idle, ""
            if run.left:  # the page shows another song by now; Gradio sends the last values twice
                yield gr.skip(), gr.skip(), idle, idle, song.token

    def separate_a(
        token: str,
        preset: str,
        device: str,
        extent: str,
        at: float,
        rest: bool,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        song = studio.song(token)
        asked = jobs.Asked(preset, device, *studio.extent(song, extent, at), rest)
        if studio.is_made(song, "a", asked):
            raise gr.Error(words.made(studio.has_parts(song)))
        song = studio.own(song, *jobs.SLOTS)
        yield from follow(song, request, "a", asked)

    def separate_b(
        token: str, preset: str, device: str, rest: bool, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        song = studio.song(token)
        first = studio.take(song, "a")
        asked = jobs.Asked(preset, device, first.start, first.ready, rest)
        if said := said_before(song, asked):
            raise gr.Error(said)
        song = studio.own(song, *jobs.SLOTS)
        yield from follow(song, request, "b", asked)

    def said_before(song: jobs.Song, asked: jobs.Asked) -> str:
        """Why a B would tell nothing new, if it would not."""
        if studio.is_made(song, "a", asked):
            return words.SAME
        return words.MADE_B if studio.is_made(song, "b", asked) else ""

    def go_on(token: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """What was stopped or has not begun, as it was asked for, whatever the settings say."""
        song = studio.song(token)
        take = jobs.to_go_on(song)
        if take is None:
            raise gr.Error("There is nothing to go on with. Press Separate.")
        song = studio.own(song, *jobs.SLOTS)
        yield from follow(song, request, take.slot, take.asked)

    def choice(takes: list[jobs.Take]) -> Any:
        """From which take to take away, where there are two."""
        both = len(takes) > 1
        return gr.update(visible=True) if both else gr.update(visible="hidden", value="a")

    def choice_of(token: str | None) -> Any:
        song = jobs.load_song(studio.root, token)
        return choice(jobs.load_takes(song) if song else [])

    def after(
        token: str | None, view: str, seen: bool, asked: str | None, left: str | None
    ) -> tuple[Any, ...]:
        """What else of the page follows from a new result."""
        if token and token == left:  # another song is under way, and this answer may come after it
            return (gr.skip(),) * 4
        song = jobs.load_song(studio.root, token)
        takes = jobs.load_takes(song) if song else []
        there = plots.available(takes)
        if asked in there:
            view, asked = asked or "", ""
        elif view not in there:
            view = "song"
        return (
            _pictures(takes, view),
            studio.look(token, view) if seen else gr.skip(),
            choice(takes),
            asked,
        )

    def price_b(
        token: str | None, preset: str | None, device: str, rest: bool, request: gr.Request
    ) -> tuple[str, Any]:
        """What a B would cost, and whether it can be made."""
        song = jobs.load_song(studio.root, token)
        if song is None or preset is None:
            return "", idle
        first = jobs.load_take(song, "a")
        presets = studio.engine.presets()
        free = not studio.is_busy(token, request.session_hash)
        if first is None:
            text = words.cost(studio.engine, presets, preset, device, None)
            return text, idle if free else busy
        asked = jobs.Asked(preset, device, first.start, first.ready, rest)
        if free and (said := said_before(song, asked)):
            return said, busy
        there = studio.alike(song, "b", asked)
        seconds = (first.ready - (there.ready if there else 0)) / jobs.SAMPLE_RATE
        text = words.cost(studio.engine, presets, preset, device, seconds)
        return f"{words.GOES_ON} {text}" if there and free else text, idle if free else busy

    priced = [token, compare["preset"], desk["device"], desk["residual"]]
    cost_b = [compare["price"], compare["go"]]
    left = gr.Textbox(visible="hidden", label="Song whose run was left")
    outputs = [token, player, desk["go"], compare["go"], left]
    rest = [token, views["view"], views["seen"], views["asked"], left]
    shown = [views["view"], views["plot"], away["slot"], views["asked"]]
    runs: dict[str, Any] = {"concurrency_limit": 20, "concurrency_id": "separate", **QUIET}
    quoting = _quoting(studio, token, desk)
    first = desk["go"].click(
        separate_a,
        [token, *_settings(desk)],
        outputs,
        **runs,
    )
    second = compare["go"].click(
        separate_b, [token, compare["preset"], desk["device"], desk["residual"]], outputs, **runs
    )
    third = desk["go_on"].click(go_on, token, outputs, **runs)
    for run in (first, second, third):
        for event in (quoting, (price_b, priced, cost_b), share["settle"], (after, rest, shown)):
            run.then(*event, **QUIET)
    stop = desk["stop"].click(studio.stop, token, None, queue=False, **QUIET)
    stop.failure(None, None, None, js="() => { window.studio.runsOn(); }")
    # who only listens keeps the song, too
    gr.Timer(KEEP_SECONDS / 12).tick(studio.keep, token, None, queue=False, **QUIET)

    token.change(choice_of, token, away["slot"], queue=False, **QUIET)
    gr.on(
        [control.change for control in priced],
        price_b,
        priced,
        cost_b,
        queue=False,
        trigger_mode="always_last",
        **QUIET,
    )

    # a picture is drawn and sent when somebody looks
    views["tab"].select(
        lambda token, view: (studio.look(token, view), True),
        [token, views["view"]],
        [views["plot"], views["seen"]],
        show_progress="minimal",
        api_visibility="private",
    )
    views["view"].input(
        lambda token, view: (studio.look(token, view), ""),
        [token, views["view"]],
        [views["plot"], views["asked"]],
        trigger_mode="always_last",  # who clicks on sees the picture that was clicked last
        show_progress="minimal",
        api_visibility="private",
    )
    token.change(
        lambda token, seen: studio.look(token, "song") if seen else gr.skip(),
        [token, views["seen"]],
        views["plot"],
        **QUIET,
    )


def _wire_links(
    studio: Studio,
    demo: gr.Blocks,
    token: gr.Textbox,
    player: gr.HTML,
    desk: Parts,
    compare: Parts,
    views: Parts,
    tabs: gr.Tabs,
) -> Any:
    """What the page's address or its tab brings; returns that event."""

    def arrive(kept: str | None, request: gr.Request) -> Shown:
        """What the page's address asks for: settings, a result, its deletion, or the example.

        Else the song that this tab had before it was loaded anew, if it is still there.
        """
        asked = {key: str(value) for key, value in dict(request.query_params).items()}
        wanted, view = settings_of(asked), asked.get("view", "")
        link, key = asked.get("r"), asked.get("delete")
        mine = jobs.load_song(studio.root, kept)
        if link and key:
            delete(link, key)
        if link and not key:
            yield from from_link(link, wanted, view)
        elif not link and asked.get("example") == "francium":
            yield from from_example(wanted, view)
        elif not link and mine is not None:
            yield from from_tab(mine, wanted, view)
        else:  # the page says already that it fetches the song, which is not there
            yield {player: {"opening": ""} if kept else gr.skip(), **wanted}

    def settings_of(asked: dict[str, str]) -> dict[Any, Any]:
        presets = studio.engine.presets()
        wanted: dict[Any, Any] = {}
        if asked.get("preset") in presets:
            wanted[desk["preset"]] = asked["preset"]
        if (second := asked.get("preset_b")) in presets and presets[second].available:
            wanted[compare["preset"]] = second
        if (view := asked.get("view")) in plots.VIEWS:
            wanted[tabs] = gr.update(selected="views")
            wanted[views["asked"]] = view if view != "song" else ""
        return wanted

    def delete(link: str, key: str) -> None:
        if studio.unshare(link, key):
            gr.Info("The link is deleted; nobody can open it any more.")
        else:
            gr.Warning("This link is already gone, or it is not yours to delete.")

    def from_link(link: str, wanted: dict[Any, Any], view: str) -> Shown:
        yield {player: {"opening": "Opening a shared song …"}}
        try:
            song = studio.open_link(link)
        except Exception as error:
            yield {player: {"opening": "", "trouble": explain(error).message}, **wanted}
            return
        takes = jobs.load_takes(song)
        result = studio.shares.look(link) or {"expires": 0}
        text = f"A shared result, here until {words.until(result['expires'])}."
        shown = payload(song, takes, phase="finished", text=text)
        yield {token: song.token, player: shown, **wanted, **as_made(song, takes, view)}

    def from_example(wanted: dict[Any, Any], view: str) -> Shown:
        if not EXAMPLE.is_file():
            raise gr.Error("The example is not part of this installation. Drop a song instead.")
        song = studio.open_song(str(EXAMPLE), "example")
        shown = payload(song, text=words.arrived(song))
        yield {token: song.token, player: shown, **wanted, **as_made(song, [], view)}

    def from_tab(mine: jobs.Song, wanted: dict[Any, Any], view: str) -> Shown:
        mine.touch()
        # a run ends where its page goes, at its next block; that of a page which is still
        # open goes on, for this may be a second one
        said = ""
        for long in studio.wait_for(mine.token):
            now = STILL_RUNS if long else ON_ITS_WAY
            # also where nothing is new, so that Gradio can end this for who has left
            yield {player: {"opening": now} if now != said else gr.skip()}
            said = now
        phase, text = "ready", "The page was loaded anew. Your song is still here."
        takes, part, slot = [], None, "a"
        if studio.is_busy(mine.token):
            text = f"{STILL_RUNS} Load this page anew then."
        else:
            takes, part = jobs.load_takes(mine), jobs.to_go_on(mine)
        if part is not None:
            phase, slot = "stopped", part.slot
            before = part.slot in [take.slot for take in takes]
            ended = words.ended(replace(part, state=phase), jobs.SAMPLE_RATE, before)
            text = f"The page was loaded anew. {ended}"
        elif takes:
            phase, slot = takes[-1].state, takes[-1].slot
        shown = payload(mine, takes, phase=phase, text=text, slot=slot, current=part)
        made = as_made(mine, takes, view, part)
        yield {token: mine.token, player: shown, **wanted, **made}

    def as_made(
        song: jobs.Song, takes: list[jobs.Take], view: str, part: jobs.Take | None = None
    ) -> dict[Any, Any]:
        """The settings by which a song's stems were made, so that the page does not say others.

        And the pictures that there are of them. `part` is what can go on.
        """
        there = {take.slot: take for take in [*takes, *([part] if part else [])]}
        first, second = there.get("a"), there.get("b")
        extent, place = _how_much(studio, song, first)
        form = {desk["extent"]: extent, desk["place"]: place, views["view"]: _pictures(takes, view)}
        if view in plots.available(takes):
            form[views["asked"]] = ""
        if first is not None:
            form |= {desk["preset"]: first.preset, desk["residual"]: first.residual}
            if first.device in [device.name for device in studio.engine.devices]:
                form[desk["device"]] = first.device
        if second is not None:
            form[compare["preset"]] = second.preset
        return form

    kept = gr.Textbox(visible="hidden", label="Song of this tab")
    arrival = [token, player, *_settings(desk), compare["preset"]]
    # apart from uploads: it may wait for a run of this song to end
    arrived = demo.load(
        arrive,
        kept,
        [*arrival, tabs, views["view"], views["asked"]],
        js=KEPT,
        concurrency_limit=16,
        concurrency_id="arrive",
        **QUIET,
    )
    arrived.failure(None, None, None, js="() => { window.studio.nothingCame(); }")
    arrived.success(None, None, None, js="() => { window.studio.deleted(); }")
    return arrived


# ------------------------------------------------------------------------- for programs


def _programs(studio: Studio) -> None:
    """Named endpoints for `gradio_client`, `curl` and MCP."""
    runnable = [name for name, preset in studio.engine.presets().items() if preset.available]

    def separate(
        song: str, preset: str, device: str, format: str = "wav16", residual: bool = False
    ) -> list[str]:
        """Separate a song into its stems.

        Args:
            song: an audio file.
            preset: name of a preset that has weights, see `presets`.
            device: "cpu", "cuda" or "mps", if it is there.
            format: "wav16", "wav24", "wav32f", "flac" or "mp3".
            residual: whether what no stem claims goes to "other".

        Returns:
            One file per stem: vocals, drums, bass, other.
        """
        try:
            export.check_format(format)
            opened = studio.open_song(song)
            asked = jobs.Asked(preset, device, 0, opened.frames, residual)
            take = None
            with studio.run(opened) as run:
                for _, _, take in studio.separate(run, "a", asked):  # noqa: B007
                    pass
        except Exception as error:
            raise explain(error) from error
        names = take.sources if take else ()
        return [str(studio.export(opened.token, "a", name, format).path) for name in names]

    def list_presets() -> dict[str, Any]:
        """All presets: their size, range, whether they have weights, and their scores."""
        return {
            name: {
                "parameters": preset.parameters,
                "cutoff_hz": preset.cutoff,
                "available": preset.available,
                "sdr": preset.sdr,
            }
            for name, preset in studio.engine.presets().items()
        }

    with gr.Row(visible=False):
        file = gr.File(label="song", type="filepath")
        # a value is what makes a parameter optional
        names = [
            gr.Textbox(_choose(runnable, DEFAULT) or DEFAULT, label="preset"),
            gr.Textbox(studio.engine.devices[0].name, label="device"),
        ]
        format = gr.Textbox("wav16", label="format")
        residual = gr.Checkbox(False, label="residual")
        files = gr.File(label="stems", file_count="multiple")
        answer = gr.JSON(label="presets")
        trigger, ask = gr.Button(), gr.Button()
    trigger.click(
        separate,
        [file, *names, format, residual],
        files,
        api_name="separate",
        concurrency_limit=20,
        concurrency_id="separate",
    )
    ask.click(list_presets, None, answer, api_name="presets", queue=False)
