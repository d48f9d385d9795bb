"""channels: the ways by which people are told: URLs of Apprise, the desktop, a command. Each takes a message, or says
why it could not; what it is configured with holds secrets, and is in nothing that it says.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass
from typing import Any, Final, Protocol

from admitd import actuator, extras
from admitd.core.events import Severity, to_json
from admitd.core.grouping import Message
from admitd.core.terms import Command, Sentinel

COMMAND_WAIT_S: Final = 10.0
DESKTOP_WAIT_S: Final = 5.0
_DESKTOP: Final = "desktop"
_APPRISE_TYPES: Final = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}
# Arguments reach the run handler (osascript(1)), so that no text is ever taken for AppleScript.
_OSASCRIPT: Final = (
    "osascript",
    "-e",
    "on run argv",
    "-e",
    "display notification (item 1 of argv) with title (item 2 of argv)",
    "-e",
    "end run",
)


class Channel(Protocol):
    """One way to people. `label` names it without its secrets."""

    @property
    def label(self) -> str: ...

    def send(self, message: Message) -> str | None:
        """None where it was taken, else why not, without secrets. May take long; may raise."""


@dataclass(frozen=True)
class AppriseChannel:
    """One URL of Apprise."""

    label: str
    _url: str

    def send(self, message: Message) -> str | None:
        # What Apprise logs of its own accord may hold parts of the URL.
        logging.getLogger("apprise").disabled = True
        try:
            import apprise
        except ImportError:
            return f"Apprise is not installed: {extras.install('notify')}"
        one: Any = apprise.Apprise()
        if not one.add(self._url):
            return "Apprise takes it for no URL of its own; see its list of services"
        kind = _APPRISE_TYPES[message.severity]
        taken = one.notify(title=message.title, body=message.body, notify_type=kind, body_format="text")
        return None if taken else "it was not taken; try the URL with Apprise's own command, apprise -vv"


@dataclass(frozen=True)
class DesktopChannel:
    """A notification on this machine's desktop."""

    label: str
    platform: str = sys.platform

    def send(self, message: Message) -> str | None:
        return actuator.run_bounded(self.command(message), DESKTOP_WAIT_S)

    def command(self, message: Message) -> tuple[str, ...]:
        """What shows it. The body of notify-send is markup; osascript must not take the text for an option."""
        title, body = (text.replace("\0", "") for text in (message.title, message.body))
        if self.platform == "darwin":
            return (*_OSASCRIPT, f" {body}" if body.startswith("-") else body, title)
        urgency = "critical" if message.severity is Severity.CRITICAL else "normal"
        body = body.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return ("notify-send", "-a", "admit", "-u", urgency, "--", title, body)


@dataclass(frozen=True)
class CommandChannel:
    """A command: the worst event as JSON on stdin, with all of them under `events`; the same in ADMIT_EVENT_*."""

    label: str
    _command: Command

    def send(self, message: Message) -> str | None:
        worst = to_json(max(message.events, key=lambda event: event.severity.rank))
        events = [to_json(event) for event in message.events]
        document = {**worst, "text": message.body, "title": message.title, "events": events}
        words = {name: document[name] for name in ("kind", "severity", "service", "text", "next", "title")}
        environ = {f"ADMIT_EVENT_{name.upper()}": _word(value) for name, value in words.items()}
        said = json.dumps(document).encode()
        return actuator.run_bounded(self._command, COMMAND_WAIT_S, said, {**os.environ, **environ})


def of(settings: Sentinel) -> list[Channel]:
    """The channels that capacity.yaml declares, in its order."""
    out: list[Channel] = []
    for index, url in enumerate(settings.notify):
        scheme = url.partition("://")[0].lower()
        label = f"notify[{index}] ({scheme}://)"
        out.append(DesktopChannel(label) if scheme == _DESKTOP else AppriseChannel(label, url))
    if settings.notify_command is not None:
        out.append(CommandChannel("notify_command", settings.notify_command))
    return out


def _word(value: object) -> str:
    return "" if value is None else str(value).replace("\0", "")
