"""inside: the application in this process, without a socket: the same ASGI application that the daemon serves."""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from admit_cli.door import BadSetting, NoService, Reply
from admitd import unloading
from admitd.app import House, furnish
from admitd.core import wire
from admitd.core.terms import Service

_TICK_S: Final = 1.0


class Inside:
    """One furnished house, and its application once it is asked anything."""

    def __init__(self, config: str | None, port: int) -> None:
        try:
            self.house: House = furnish(os.environ, config)
        except ValueError as problem:
            raise BadSetting(str(problem)) from problem
        self._port = port
        self.busy = False

    def ask(self, method: str, path: str, body: bytes | None, on_tick: Callable[[], None] | None = None) -> Reply:
        """One request, in one run of an event loop."""
        self.busy = True
        try:
            return asyncio.run(self._ask(method, path, body, on_tick))
        finally:
            self.busy = False

    def declared(self, name: str) -> Service:
        """The service of that name. Raises NoService, with names that look alike."""
        capacity = self.house.gate.capacity()
        if name in capacity.services:
            return capacity.services[name]
        near = difflib.get_close_matches(name[:100], list(capacity.services), n=3)
        did_you_mean = f" Did you mean {' or '.join(near)}?" if near else ""
        raise NoService(f"{capacity.path} declares no service {name!r}.{did_you_mean}")

    def has_load_cmd(self, name: str) -> bool:
        """Whether a service can be loaded. Raises NoService."""
        return self.declared(name).load_cmd is not None

    def unload(self, name: str, say: unloading.Tell, *, kill: bool = False) -> unloading.Outcome:
        """Unload one service."""
        return unloading.unload(self.house.gate, name, say, kill=kill)

    def capacity(self) -> dict[str, Any]:
        """The ledger as it is now."""
        scene = self.house.gate.look()
        return wire.capacity(scene.ledger, scene.reading)

    async def _ask(self, method: str, path: str, body: bytes | None, on_tick: Callable[[], None] | None) -> Reply:
        asked = asyncio.ensure_future(self._exchange(method, path, body))
        while not asked.done():
            await asyncio.wait((asked,), timeout=_TICK_S)
            if not asked.done() and on_tick is not None:
                on_tick()
        return asked.result()

    async def _exchange(self, method: str, path: str, body: bytes | None) -> Reply:
        target, _, query = path.partition("?")
        headers = [(b"host", b"localhost")]
        if body is not None:
            headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        scope: MutableMapping[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": None,
            "server": None,
        }
        given = False
        status = 0
        parts: list[bytes] = []

        async def receive() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # the client stays until it is answered
            given = True
            return {"type": "http.request", "body": body or b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        # Made here and not kept: what it holds of the event loop ends with this run of it.
        await self.house.application(self._port)(scope, receive, send)
        return Reply(status, b"".join(parts))
