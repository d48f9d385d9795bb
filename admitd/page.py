"""page: the dashboard's files at `/`, and what a browser may do with them. They need no token: what they ask for does.

All of them are read at the first request and kept, so that an upgrade under a running daemon never mixes two versions.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException

KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
"""Beside those that serving.py puts on every answer (nosniff, no-store). Nothing but this daemon's own files and
answers, and no text that becomes markup (trusted types): a service may be called what it likes. https://www.w3.org/TR/CSP3/"""


def show(app: FastAPI) -> None:
    """Add the page and its files; they are no part of the API, and so of no schema."""

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        return _file(name)


def _file(name: str) -> Response:
    found = files().get(name)
    if found is None:
        raise HTTPException(404, "No such file")
    return Response(found, headers=HEADERS, media_type=KINDS[name[name.rindex(".") :]])


@cache
def files() -> dict[str, bytes]:
    """Every file that is served, by its name below `static/`; nothing else can be named."""
    return dict(_below(resources.files("admitd") / "static", ""))


def _below(folder: Traversable, name: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{name}{entry.name}/")
        elif entry.name[entry.name.rfind(".") :] in KINDS:
            found.append((name + entry.name, entry.read_bytes()))
    return found
