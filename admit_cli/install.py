"""install: `admit daemon install` and its kin: the daemon under the system's own supervisor."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from admit_cli import render
from admit_cli.door import BadSetting
from admit_cli.tell import out, tell
from admitd import __version__, actuator, capacity, installing, memory, places, portowner
from admitd.core import wire
from admitd.installing import wanted
from admitd.installing.launchd import LOG
from admitd.installing.wanted import Keeper, KeeperFailed, State, Wanted

LINES: Final = 100
ANSWER_S: Final = 10.0
UP_WITHIN_S: Final = 60.0
_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Daemon:
    """A daemon that answers: its version, its process and the file that it goes by, as far as it noted them."""

    version: str
    pid: int | None
    config: str | None


def install(values: dict[str, Any]) -> int:
    """Install it, and wait until it answers."""
    home = places.home(os.environ)
    keeper = _keeper()
    before = (
        keeper.state()
    )  # what was asked for then stands, until something else is asked for: upgrades ask for nothing
    named = values["config"] or os.environ.get("ADMIT_CONFIG") or before.config
    path = capacity.find(named, os.environ, Path(home))
    good = capacity.load(path, detect_physical=memory.for_this_system().physical)
    port = values["port"] or (_port() if os.environ.get("ADMIT_PORT") else before.port or _port())
    hardened = not values["allow_sudo"] and before.hardened
    _must_be_had(port, keeper, values["config"])
    program = wanted.program(sys.argv[0], os.environ, sys.prefix)
    if keeper.name == "launchd":
        _tell_of_reach(wanted.out_of_an_agents_reach(dict.fromkeys((program, sys.prefix, str(path))), home))
    written = keeper.install(
        Wanted(
            program=program,
            port=port,
            config=str(path) if named else None,
            unix=places.socket_path(os.environ, port),
            log=os.path.join(home, LOG),
            environ=wanted.carried(os.environ, home),
            hardened=hardened,
        )
    )
    found = _answering(port)
    if found is not None and found.version != __version__:
        keeper.restart()
        found = _answering(port)
    if keeper.name == "systemd" and hardened:
        _tell_of_privilege(wanted.needs_privilege(good.services))
    if port != _port():
        tell(f"admit: it listens on port {port}; so that `admit` finds it there, put ADMIT_PORT={port} into your shell")
    return _show(keeper, found, values["json"], changed=bool(written), written=list(written))


def _must_be_had(port: int, keeper: Keeper, config: str | None) -> None:
    """Nothing is written where another has the port: it would fail, and again at each login. Raises KeeperFailed."""
    running = _daemon(port)
    now = keeper.state()  # asking may have woken the installed one
    if running is not None and not now.running:
        pid = f" (pid {running.pid}): end it first, for example by kill {running.pid}" if running.pid else ""
        raise KeeperFailed(f"a daemon that is not installed already answers on 127.0.0.1:{port}{pid}")
    if running is None and not now.holds(port) and not (now.running and now.port == port):
        why_not = portowner.why_not(port)
        if why_not is not None:
            again = render.again(config, "daemon", "install", "--port", str(port + 1))
            raise KeeperFailed(f"{why_not}; next: {again}")


def uninstall(values: dict[str, Any]) -> int:
    """Uninstall it, and say what stays."""
    keeper = _keeper()
    gone = keeper.uninstall()
    kept = [path for path in (_config(), places.user_folder(os.environ)) if path and os.path.exists(path)]
    if values["json"]:
        render.print_json({"supervisor": keeper.name, "changed": bool(gone), "removed": list(gone), "kept": kept})
        return wire.OK
    out(f"removed {_listed(gone)}; the daemon has ended" if gone else "the daemon was not installed: nothing to do")
    for path in kept:
        out(f"  kept      {path}")
    return wire.OK


def start(values: dict[str, Any]) -> int:
    """Start it, and wait until it answers."""
    return _move(values, lambda keeper: keeper.start())


def restart(values: dict[str, Any]) -> int:
    """Start it anew, and wait until it answers."""
    return _move(values, lambda keeper: keeper.restart())


def stop(values: dict[str, Any]) -> int:
    """Stop it."""
    keeper = _keeper()
    keeper.stop()
    if values["json"]:
        render.print_json({"supervisor": keeper.name, "running": False})
    else:
        out("the daemon has ended; it starts again at the next login, or by: admit daemon start")
    return wire.OK


def status(values: dict[str, Any]) -> int:
    """Show how it stands; 69 where no daemon answers."""
    keeper = _keeper()
    state = keeper.state()
    # A port that only systemd holds is not asked: that would start what was stopped.
    found = _daemon(state.port or _port()) if state.running or not state.installed else None
    return _show(keeper, found, values["json"])


def logs(values: dict[str, Any]) -> int:
    """Show what it said; with --follow this process becomes the command that shows it."""
    keeper = _keeper()
    lines = values["lines"] or LINES
    if values["follow"]:
        sys.stdout.flush()
        actuator.become(keeper.log_command(lines))
    said = keeper.log(lines)
    if values["json"]:
        render.print_json({"supervisor": keeper.name, "lines": said})
    elif said:
        out("\n".join(said))
    else:
        tell("admit: it said nothing yet")
    return wire.OK


def _move(values: dict[str, Any], act: Callable[[Keeper], None]) -> int:
    keeper = _keeper()
    act(keeper)
    return _show(keeper, _answering(keeper.state().port or _port()), values["json"])


def _show(keeper: Keeper, found: _Daemon | None, as_json: bool, **more: Any) -> int:
    """How it stands, and 0 where a daemon answers."""
    state = keeper.state()
    code = wire.OK if found is not None else wire.NO_DAEMON
    pid = state.pid or (found.pid if found is not None else None)
    if as_json:
        told = {
            "supervisor": keeper.name,
            "installed": state.installed,
            "running": state.running,
            "said": state.said,
            "restarts": state.restarts,
            "at_boot": state.at_boot,
            "files": list(state.files),
            "pid": pid,
            "port": state.port or _port(),
            "answers": found is not None,
            "version": found.version if found is not None else None,
            "config": found.config if found is not None else None,
        }
        render.print_json({**told, **more})
        return code
    for path in more.get("written", ()):
        out(f"wrote {path}")
    for line in _lines(keeper, state, found, pid):
        out(line)
    return code


def _lines(keeper: Keeper, state: State, found: _Daemon | None, pid: int | None) -> list[str]:
    by = f"installed under {keeper.name}: {state.said}" if state.installed else "not installed as a service"
    lines = [f"the daemon is {by}" + (f", pid {pid}" if pid else "")]
    if state.restarts:
        lines.append(f"  crashed   {state.restarts} times since it was started; why: admit daemon logs")
    if found is None:
        remedy = ("admit daemon start" if not state.running else "admit daemon logs") if state.installed else ""
        lines.append(f"  answers   no; next: {remedy or 'admit daemon install'}")
    else:
        stale = "" if found.version == __version__ else f", this is {__version__}; next: admit daemon restart"
        lines.append(f"  answers   on 127.0.0.1:{state.port or _port()}, admit {found.version}{stale}")
        lines.append(f"  dashboard http://127.0.0.1:{state.port or _port()}/")
        lines.append(f"  goes by   {found.config or 'a file that it did not note'}")
    if state.installed:
        boot = "when the machine starts" if state.at_boot else "at login"
        hint = "" if state.at_boot or keeper.name != "systemd" else "; before it: loginctl enable-linger"
        lines.append(f"  starts    {boot}{hint}")
    return lines


def _tell_of_privilege(found: dict[str, str]) -> None:
    for service, word in found.items():
        tell(
            f"admit: a command of {service} uses {word}, which the hardened service may not run; "
            "next: admit daemon install --allow-sudo"
        )


def _tell_of_reach(paths: tuple[str, ...]) -> None:
    for path in paths:
        tell(
            f"admit: macOS keeps {path} from programs that launchd starts, though not from a terminal; keep it "
            "elsewhere (uv tool install, for admit itself), or give the program Full Disk Access in System Settings"
        )


def _keeper() -> Keeper:
    return installing.for_this_system(os.environ, places.home(os.environ))


def _port() -> int:
    try:
        return places.port(os.environ)
    except ValueError as problem:
        raise BadSetting(str(problem)) from problem


def _config() -> str | None:
    try:
        return str(capacity.find(None, os.environ, Path(places.home(os.environ))))
    except capacity.NotFound:
        return None


def _answering(port: int) -> _Daemon | None:
    """The daemon, once it answers; None where it does not in time."""
    give_up = time.monotonic() + UP_WITHIN_S
    while True:
        found = _daemon(port)
        if found is not None or time.monotonic() > give_up:
            return found
        time.sleep(_PAUSE_S)


def _daemon(port: int) -> _Daemon | None:
    """Who answers on this port; None where nobody does that is an admit."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        line.request("GET", "/healthz")
        said = json.loads(line.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        line.close()
    if not isinstance(said, dict) or not {"version", "title"} & set(said):  # a title: of a problem that it has
        return None
    pid, config = _noted(port)
    return _Daemon(str(said.get("version", "of another version")), pid, config)


def _noted(port: int) -> tuple[int | None, str | None]:
    try:
        with open(places.note_path(os.environ, port), encoding="utf-8") as note:
            lines = note.read().splitlines()
        return int(lines[0]), lines[1]
    except (OSError, ValueError, IndexError):
        return None, None


def _listed(paths: tuple[str, ...]) -> str:
    return " and ".join(paths)
