"""listing: the table of services. Only what changed is drawn anew: nothing flickers, and what was chosen stays."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from admit_cli import states
from admit_cli.monitor import lines, rows
from admit_cli.monitor.rows import Order


class Listing(DataTable[Text]):
    """One row a service; its key is the service's name."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(cursor_type="row")
        self._frame: tuple[Any, ...] = ()
        self._shown: dict[str, dict[str, str]] = {}

    @property
    def chosen(self) -> str | None:
        """The service under the cursor."""
        if not self.is_valid_row_index(self.cursor_row):
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    def show(self, services: list[rows.Service], order: Order, width: int) -> None:
        """Show these, in this order, on a terminal of `width` columns."""
        watched = rows.are_watched(services)
        titles = rows.titles(order, width, watched=watched)
        shown = {service["name"]: rows.cells(service, width, watched=watched) for service in services}
        widths = {key: max(map(len, (title, *(row[key] for row in shown.values())))) for key, title in titles.items()}
        words = {service["name"]: states.word(service) for service in services}
        frame = (titles, widths, list(shown), words)
        if frame != self._frame:
            self._frame = frame
            self._build(titles, widths, shown, words)
        else:
            for name, row in shown.items():
                for key in row.keys() - {"state"}:
                    if row[key] != self._shown[name][key]:
                        self.update_cell(name, key, lines.cell(key, row[key]))
        self._shown = shown

    def _build(
        self,
        titles: dict[str, str],
        widths: dict[str, int],
        shown: dict[str, dict[str, str]],
        words: dict[str, str],
    ) -> None:
        at, scroll = self.chosen, self.scroll_offset
        self.clear(columns=True)
        for key, title in titles.items():
            self.add_column(lines.cell(key, title), key=key, width=widths[key])
        for name, row in shown.items():
            colours = {"state": lines.colour(words[name])}
            self.add_row(*(lines.cell(key, text, colours.get(key, "")) for key, text in row.items()), key=name)
        if at in shown:
            self.move_cursor(row=list(shown).index(at), animate=False)
            self.scroll_to(scroll.x, scroll.y, animate=False)
