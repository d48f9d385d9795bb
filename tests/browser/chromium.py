"""chromium: a real browser, and a dashboard in it, with the words in which a test says what people do there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.daemons import Door

FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS: Final = 30_000
WHERE: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Where the browser is."""
    return next((found for name in WHERE if (found := shutil.which(name))), None)


@dataclass
class Dashboard:
    """One page, opened at a daemon. `asked`: every address it asked for; `faults`: what the browser complained of."""

    page: Page
    door: Door
    asked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: self.faults.append(said.text) if self._is_fault(said) else None)

    def _is_fault(self, said: Any) -> bool:
        # Chromium says of every refusal, and of a daemon that is gone, that a resource could not be loaded.
        return said.type in ("error", "warning") and not said.text.startswith("Failed to load resource")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.door.port}/"

    def open(self) -> Dashboard:
        self.page.goto(self.address)
        expect(self.page.locator("#link")).to_contain_text("live ·")
        return self

    def row(self, service: str) -> Locator:
        return self.page.locator(f'tr[data-service="{service}"]')

    def cell(self, service: str, column: str) -> Locator:
        return self.row(service).locator(f'[data-label="{column}"]')

    def button(self, service: str) -> Locator:
        return self.row(service).locator("td.act button")

    def card(self, service: str) -> Locator:
        return self.page.locator(f'.card[data-service="{service}"]')

    def shows(self, service: str, state: str) -> None:
        """Wait until the row says so."""
        expect(self.cell(service, "State")).to_have_text(state)

    def give_token(self, token: str | None = None) -> None:
        dialog = self.page.locator("#ask-token")
        expect(dialog).to_be_visible()
        dialog.get_by_role("textbox", name="Token").fill(self.door.token if token is None else token)
        dialog.get_by_role("button", name="Use it").click()

    def agree(self, yes: str) -> None:
        dialog = self.page.locator("#agree")
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name=yes, exact=True).click()

    def unfit(self) -> list[str]:
        """What axe-core finds that is serious or worse, each in a line."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']} ({each['impact']}): {[node['html'][:200] for node in each['nodes']]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    def done(self) -> None:
        """Nothing was asked of anybody else, and the browser found nothing wrong."""
        strangers = [url for url in self.asked if not url.startswith(self.address)]
        assert not strangers
        assert not self.faults


expect.set_options(timeout=PATIENCE_MS)
Show = Callable[..., Dashboard]


def launch(path: str) -> tuple[Any, Browser]:
    """Playwright's driver, and the browser."""
    driver = sync_playwright().start()
    try:
        return driver, driver.chromium.launch(executable_path=path, args=FLAGS)
    except BaseException:
        driver.stop()
        raise


def figure(text: str) -> int:
    """The first amount in a text: "1,234 MB free" is 1234."""
    found = re.search(r"\d[\d,]*", text)
    assert found, text
    return int(found[0].replace(",", ""))
