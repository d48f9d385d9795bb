"""Debian's Chromium, driven by Playwright; where there is none, the tests are skipped and say so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.browser.chromium import Dashboard, Show
from tests.daemons import Door
from tests.live.conftest import free_port, gguf_model, mlx_model, model_folder, server_env, servers

__all__ = ["free_port", "gguf_model", "mlx_model", "model_folder", "server_env", "servers"]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = chromium.find()
    if path is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    driver, made = chromium.launch(path)
    try:
        yield made
    finally:
        made.close()
        driver.stop()


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    """`show(daemon)` opens its dashboard in a browser of its own; options are those of a context of Playwright's."""
    shown: list[Dashboard] = []

    def show(door: Door, *, opened: bool = True, **options: object) -> Dashboard:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})  # type: ignore[arg-type]
        dashboard = Dashboard(context.new_page(), door)
        dashboard.listen()
        shown.append(dashboard)
        return dashboard.open() if opened else dashboard

    yield show
    for each in shown:
        each.page.context.close()
    for each in shown:
        each.done()
