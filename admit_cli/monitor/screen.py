"""screen: what `admit top` draws, and its keys. It looks in one thread, listens to the journal in another, and runs
each command in one of its own: the terminal waits for none of them.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult, ScreenStackError
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.css.query import NoMatches
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static

from admit_cli import events
from admit_cli.errors import sentence
from admit_cli.monitor import lines, offers, rows
from admit_cli.monitor.dialogs import CLOSE, Choice, Dialog
from admit_cli.monitor.listing import Listing
from admit_cli.monitor.messages import Call, Happened, Looked
from admit_cli.monitor.offers import Commands, Offer
from admit_cli.monitor.rows import Order
from admit_cli.monitor.source import Done, Seen, Sees
from admitd.core.events import Entry

EVERY_S: Final = 2.0
LISTEN_EVERY_S: Final = 0.5
PAUSE_S: Final = 0.4
"""Before a question that had to wait for another one: a key that is pressed twice answers nothing unseen."""
_TAKEN_DOWN: Final = suppress(NoMatches, ScreenStackError)
"""News may come, and a timer may end, while what they are drawn on is being taken down."""


class Monitor(App[None]):
    """`first`: the look that showed that there is something to show."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("l", "load", "Load"),
        Binding("u", "unload", "Unload"),
        Binding("e", "explain", "Explain"),
        # Before whatever follows at once: that is for the field.
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("s", "sort", "Sort"),
        Binding("t", "turn", "Turn"),
        Binding("r", "refresh", "Refresh"),
        Binding("escape", "unfilter", show=False),
    ]
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    Static { height: auto; background: ansi_default; }
    #head, #bar { height: 1; }
    #banner { color: ansi_yellow; max-height: 6; }
    #notes { max-height: 5; }
    #events { border-top: solid ansi_bright_black; height: 7; }
    .wide #events { height: 14; }
    .wide #notes { max-height: 9; }
    Listing { height: 1fr; background: ansi_default; }
    Listing > .datatable--header { background: ansi_default; color: ansi_default; text-style: bold; }
    Listing > .datatable--cursor { background: ansi_default; color: ansi_default; text-style: reverse; }
    Input { border: none; height: 1; padding: 0; background: ansi_default; }
    #filtering { height: 1; }
    #asked { width: auto; }
    """

    def __init__(self, source: Sees, first: Seen, order: Order | None = None, wanted: str = "") -> None:
        super().__init__(ansi_color=True)
        self._source = source
        self._seen = first
        self._good = first
        self._order = order or Order()
        self._wanted = wanted
        self._entries: list[Entry] = []
        self._under_way: dict[str, float] = {}
        self._held: list[Offer] = []
        self._asking = False
        self._ended = threading.Event()
        self._stirred = threading.Event()
        self._lost_at: float | None = None
        self.fault: Exception | None = None

    def compose(self) -> ComposeResult:
        """From above: the pool, who does not answer, the services, who holds and waits, the newest events."""
        yield Static(id="head", markup=False)
        yield Static(id="bar", markup=False)
        yield Static(id="pressure", markup=False)
        yield Static(id="banner", markup=False)
        with Horizontal(id="filtering"):
            yield Static("filter: ", id="asked", markup=False)
            yield Input(self._wanted, placeholder="part of a name or a state; Esc shows all", compact=True)
        yield Listing()
        yield Static(id="notes", markup=False)
        yield Static(id="events", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to look and to listen."""
        self._table.focus()
        self._show_field(bool(self._wanted))
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGTERM, self.exit)
        self._draw()
        self.set_interval(1.0, self._age)
        for work in (self._look, self._listen):
            threading.Thread(target=work, daemon=True).start()

    def on_unmount(self) -> None:
        """The threads end by themselves; nobody waits for one that waits for a daemon."""
        self._ended.set()
        self._stirred.set()

    def _handle_exception(self, error: Exception) -> None:
        """A fault is not painted over the terminal: whoever started us tells it, as every command does."""
        self.fault = self.fault or error
        super()._handle_exception(error)
        self._exit_renderables.clear()

    # The threads.

    def _look(self) -> None:
        while not self._ended.is_set():
            seen = self._source.look()
            self._post(Looked(seen))
            self._stirred.wait(EVERY_S)
            self._stirred.clear()

    def _listen(self) -> None:
        while not self._ended.is_set():
            entries = self._source.events()
            if entries:
                self._post(Happened(entries))
            self._ended.wait(LISTEN_EVERY_S)

    def _post(self, message: Message) -> None:
        """Hand it over, unless all has ended meanwhile."""
        with suppress(RuntimeError):
            if not self._ended.is_set():
                self.post_message(message)

    def _aside(self, work: Callable[[], Callable[[], None]]) -> None:
        """Do `work` in a thread, then what it returns here."""

        def run() -> None:
            try:
                then = work()
            except Exception as problem:
                then = partial(self._say, Offer("It cannot be done", sentence(problem) or type(problem).__name__))
            self._post(Call(then))

        threading.Thread(target=run, daemon=True).start()

    def on_call(self, message: Call) -> None:
        """Go on from where a thread ended."""
        with _TAKEN_DOWN:
            message.then()

    def on_looked(self, message: Looked) -> None:
        """Show what was seen; where nothing was, what was seen last stays, and the banner says so."""
        before, self._seen = self._seen, message.seen
        if message.seen.ledger is not None:
            self._good = message.seen
        away = bool(message.seen.problem or message.seen.why_inside)
        was_away = bool(before.problem or before.why_inside)
        if not away:
            if self._lost_at is not None:
                self.notify("The daemon answers again.", markup=False)
            self._lost_at = None
        elif not was_away:
            self._lost_at = message.seen.at
        with _TAKEN_DOWN:
            self._draw()

    def on_happened(self, message: Happened) -> None:
        """Show the newest events."""
        self._entries = [*self._entries, *message.entries][-events.LAST :]
        with _TAKEN_DOWN:
            self._draw_events()

    # Drawing, whatever stands over it at the moment.

    def _line(self, where: str) -> Static:
        return self.screen_stack[0].query_one(where, Static)

    @property
    def _table(self) -> Listing:
        return self.screen_stack[0].query_one(Listing)

    @property
    def _field(self) -> Input:
        return self.screen_stack[0].query_one(Input)

    def _show_field(self, shown: bool) -> None:
        self.screen_stack[0].query_one("#filtering").display = shown

    def _draw(self) -> None:
        ledger = self._good.ledger
        if ledger is None:
            return
        self.screen_stack[0].set_class(self.size.width >= rows.WIDE, "wide")
        width = self.size.width
        self._line("#bar").update(lines.bar(ledger, width))
        self._line("#pressure").update(lines.pressure(ledger, width))
        services = rows.chosen(ledger["services"], self._order, self._wanted)
        self._table.show(services, self._order, width)
        self._draw_what_ages()
        self._draw_events()

    def _draw_what_ages(self) -> None:
        """What changes though nothing was seen: ages, and what runs so far."""
        ledger = self._good.ledger
        if ledger is None:
            return
        now = time.time()
        self._line("#head").update(lines.head(ledger, self._seen, now - self._good.at, self.size.width))
        banner = lines.banner(self._seen, self._good.at, self._lost_at)
        waits = self._held[0].title if self._held and self._is_typing() else ""
        notes = lines.notes(ledger, {words: now - began for words, began in dict(self._under_way).items()}, waits)
        for where, text in (("#banner", banner), ("#notes", notes)):
            widget = self._line(where)
            widget.display = bool(text)
            widget.update(text)

    def _draw_events(self) -> None:
        panel = self._line("#events")
        height = 13 if self.size.width >= rows.WIDE else 6
        newest = [lines.event(entry, self.size.width) for entry in self._entries[-height:]]
        panel.update(Text("\n").join(newest) if newest else Text("nothing was written down yet", "bright_black"))

    def on_resize(self) -> None:
        """Other widths have other columns."""
        with _TAKEN_DOWN:
            self._draw()

    def _age(self) -> None:
        with _TAKEN_DOWN:
            self._draw_what_ages()

    # Keys.

    def _service_at_cursor(self) -> dict[str, Any] | None:
        name = self._table.chosen
        services = (self._good.ledger or {}).get("services", [])
        return next((each for each in services if each["name"] == name), None)

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._order = self._order.next()
        self._draw()

    def action_turn(self) -> None:
        """Sort the other way round."""
        self._order = self._order.turn()
        self._draw()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a title sorts by it; another one turns it round."""
        key = str(event.column_key.value)
        if key in rows.ORDERS:
            self._order = self._order.turn() if key == self._order.by else Order(key)
            self._draw()

    def on_data_table_row_selected(self) -> None:
        """Enter, or a click on the row that is chosen."""
        self.action_explain()

    def action_refresh(self) -> None:
        """Look at once."""
        self._stirred.set()

    def action_filter(self) -> None:
        """Type what to look for."""
        if len(self.screen_stack) == 1:
            self._show_field(True)
            self.screen.set_focus(self._field)

    def action_unfilter(self) -> None:
        """Show all again."""
        self._field.value = ""
        self._show_field(False)
        self._table.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show what has it in it, while it is typed."""
        self._wanted = event.value
        self._draw()

    def on_input_submitted(self) -> None:
        """Keep it, and go back to the services."""
        self._table.focus()

    def action_explain(self) -> None:
        """Show what `admit explain` says."""
        service = self._service_at_cursor()
        if service is not None:
            name = service["name"]

            def explain() -> Callable[[], None]:
                done = self._source.run(("explain", name))
                return partial(self._say, Offer(f"admit explain {name}", done.said))

            self._aside(explain)

    def action_load(self) -> None:
        """Show whether it fits, ask, load."""
        service = self._service_at_cursor()
        if service is not None:
            name = service["name"]
            self._aside(lambda: partial(self._say, offers.load(service, self._source.plan(name))))

    def action_unload(self) -> None:
        """Ask, unload."""
        service = self._service_at_cursor()
        if service is not None:
            self._say(offers.unload(service))

    # What is asked, and done.

    def _is_typing(self) -> bool:
        """Whether letters are for the filter; where another window has the focus, they may be again."""
        base = self.screen_stack[0]
        return base.focused is self._field or (not self.app_focus and base.query_one("#filtering").display)

    def _say(self, offer: Offer) -> None:
        self._held.append(offer)
        self._ask()

    def _ask(self) -> None:
        """Ask what waits, one after the other, and nobody who types: a letter for the filter answers no question."""
        if not self._held or self._asking:
            return
        if not self._is_typing():
            self._asking = True
            offer = self._held.pop(0)
            choices = [Choice(key, label) for key, (label, _) in offer.answers.items()]
            nothing = Choice("n", "Don't") if choices else CLOSE
            self.push_screen(Dialog(offer.title, offer.text, choices, nothing), partial(self._answered, offer))
        self._draw_what_ages()

    def _answered(self, offer: Offer, key: str | None) -> None:
        if self._held:
            self.set_timer(PAUSE_S, self._ask_next)
        else:
            self._asking = False
        if key is not None:
            self._begin(offer.answers[key][1])

    def _ask_next(self) -> None:
        self._asking = False
        self._ask()

    def on_input_blurred(self) -> None:
        """The filter is left: what waited is asked."""
        with _TAKEN_DOWN:
            self._ask()

    def watch_app_focus(self) -> None:
        """The terminal is looked at again."""
        with _TAKEN_DOWN:
            self._ask()

    def _begin(self, commands: Commands) -> None:
        words = "admit " + ", admit ".join(" ".join(each) for each in commands)
        if words in self._under_way:
            self.notify(f"{words} is under way", markup=False)
            return
        self._under_way[words] = time.time()
        self._draw_what_ages()

        def work() -> Callable[[], None]:
            try:
                done = self._source.run(*commands)
                refused = done.code == 2 and commands[-1][0] == "load"
                plan = self._source.plan(commands[-1][1]) if refused else None
            finally:
                self._under_way.pop(words, None)
            return partial(self._ended_with, commands, done, plan)

        self._aside(work)

    def _ended_with(self, commands: Commands, done: Done, plan: dict[str, Any] | None) -> None:
        self._stirred.set()
        if done.code == 0:
            self.notify(done.said.splitlines()[-1] if done.said else "done", markup=False)
        else:
            self._say(offers.after(commands, done.code, done.said, plan))
