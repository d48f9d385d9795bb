"""gather: looks at everything that the checks go by, once, and changes nothing. What can't be seen stays unsaid."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from admitd import (
    __version__,
    capacity,
    extras,
    installing,
    ownfile,
    places,
    portowner,
    processes,
    reservations,
    safelist,
    supervisors,
    trail,
)
from admitd import memory as memories
from admitd.core.respawn import Supervisor
from admitd.core.terms import Capacity, Command, ProcessId
from admitd.doctor import logind
from admitd.doctor.commandline import programs
from admitd.doctor.finding import Answering, Facts, Held, Logout, Missing
from admitd.installing.wanted import KeeperFailed, NoSupervisor, State
from admitd.journal import NAME
from admitd.measuring import Measuring
from admitd.memory import Memory
from admitd.problem import Problem
from admitd.processes import cputime, ps
from admitd.processes.matching import Matcher
from admitd.processes.table import CannotSee, Look

ANSWER_S: Final = 5.0
ANSWER_MAX: Final = 65_536


def gather(environ: Mapping[str, str], config: str | None, port: int) -> Facts:
    """Look at everything."""
    home = Path(places.home(environ))
    memory = memories.for_this_system()
    path, looked, declared, problems = _file(config, environ, home, memory)
    look, cannot_see = _look(declared, environ)
    installed = _installed(environ, str(home))
    # A port that only systemd holds is not asked: that would start what was stopped, or fails.
    answering = None if installed is not None and installed.holds(port) else _answering(port, environ)
    journal = Path(places.user_folder(environ), NAME)
    newest, journal_problem = _newest(journal)
    pid = answering.pid if answering is not None and answering.ours else None
    return Facts(
        version=__version__,
        uid=os.geteuid(),
        port=port,
        environ=environ,
        mac=sys.platform == "darwin",
        config=os.path.abspath(os.path.expanduser(config)) if config else None,
        looked=tuple(map(str, looked)),
        path=None if path is None else str(path),
        capacity=declared,
        problems=problems,
        loose=tuple(_loose(environ)),
        look=look,
        safelisted={}
        if declared is None
        else {each.name: entry for entry, each in safelist.services_of(declared).items()},
        cannot_see=cannot_see,
        reading=memory.reading(),
        physical=_physical(memory),
        wired_limit=_wired_limit(memory),
        held=_held(declared, look, memory),
        missing=tuple(_missing(declared, environ)),
        supervisors=_supervisors(declared, look),
        answering=answering,
        keeper=None if pid is None else supervisors.of(pid),
        installed=installed,
        now=time.time(),
        newest_entry=newest,
        file_changed=None if path is None else _changed(path),
        journal=str(journal),
        journal_problem=journal_problem,
        journal_closed=_closed(journal),
        disk_free=_free(journal.parent),
        logout=_logout(environ),
        install_apprise="" if importlib.util.find_spec("apprise") else extras.install("notify"),
    )


def _file(
    config: str | None, environ: Mapping[str, str], home: Path, memory: Memory
) -> tuple[Path | None, tuple[Path, ...], Capacity | None, tuple[Problem, ...]]:
    try:
        path = capacity.find(config, environ, home)
    except capacity.NotFound as missing:
        return None, missing.looked, None, ()
    except OSError as error:
        closed = Problem(str(error.filename), "", 0, f"cannot be read ({error.strerror})", "look at it: ls -ld")
        return Path(str(error.filename)), (), None, (closed,)
    try:
        return path, (), capacity.load(path, detect_physical=memory.physical), ()
    except capacity.ConfigError as error:
        return path, (), None, error.problems


def _look(declared: Capacity | None, environ: Mapping[str, str]) -> tuple[Look | None, str | None]:
    services = list(declared.services.values()) if declared is not None else []
    if declared is not None:
        services += safelist.services_of(declared).values()
    try:
        look = processes.for_this_system(environ).look(Matcher(services))
    except (CannotSee, processes.NoSuchReader) as problem:
        return None, str(problem)
    return look, None


def _physical(memory: Memory) -> int | None:
    try:
        return memory.physical()
    except (OSError, ValueError, RuntimeError):
        return None


def _wired_limit(memory: Memory) -> int | None:
    from admitd.memory.darwin import DarwinMemory

    return memory.wired_limit() if isinstance(memory, DarwinMemory) else None


def _own(declared: Capacity | None, look: Look | None) -> dict[str, list[tuple[ProcessId, float | None]]]:
    """The processes that are services, by service, with their ages."""
    found: dict[str, list[tuple[ProcessId, float | None]]] = {}
    for sighting in look.sightings if look is not None else ():
        if declared is not None and sighting.service in declared.services and not sighting.mention:
            found.setdefault(sighting.service, []).append((sighting.process.id, sighting.process.age_s))
    return found


def _held(declared: Capacity | None, look: Look | None, memory: Memory) -> dict[str, Held]:
    held: dict[str, Held] = {}
    for name, own in _own(declared, look).items():
        watching = Measuring(lambda own=own: [each for each, _ in own], memory, cputime.for_this_system())  # type: ignore[misc]
        if watching.look(time.monotonic()):
            ages = [age for _, age in own if age is not None]
            held[name] = Held(watching.seen.most, min(ages) if ages else None)
    return held


def _supervisors(declared: Capacity | None, look: Look | None) -> dict[str, Supervisor]:
    """Who keeps each running. What only runs inside of a systemd unit is not stopped by stopping that: it may be a
    whole terminal's."""
    found = {}
    for name, own in _own(declared, look).items():
        first = next((each.pid for each, _ in own if supervisors.is_first(each.pid)), None)
        supervisor = supervisors.of(own[0][0].pid if first is None else first)
        unit = first is None and "systemctl" in (supervisor.stop or "")
        found[name] = replace(supervisor, stop=None) if unit else supervisor
    return found


def _missing(declared: Capacity | None, environ: Mapping[str, str]) -> Iterable[Missing]:
    if declared is None:
        return
    commands: list[tuple[str, str, Command | None]] = [("", "notify_command", declared.sentinel.notify_command)]
    for name, service in declared.services.items():
        for key in ("load_cmd", "unload_cmd", "loaded_check_cmd"):
            commands.append((name, key, getattr(service, key)))
    for name, key, command in commands:
        for each in programs(command, environ) if command is not None else ():
            folder = None if each.folder is None or "$" in each.folder else Path(each.folder)
            if folder is not None and not os.path.isdir(folder):
                yield Missing(name, key, str(folder), folder=True)
            elif not _is_there(each.argv[0], folder, environ):
                yield Missing(name, key, each.argv[0])


def _is_there(program: str, folder: Path | None, environ: Mapping[str, str]) -> bool:
    if "/" not in program:
        return shutil.which(program, path=environ.get("PATH")) is not None
    path = Path(program)
    if not path.is_absolute():
        if folder is None:
            return True  # depends on where the daemon stands
        path = folder / path
    return os.access(path, os.X_OK) and path.is_file()


def _loose(environ: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """What of admit's own folders others could change; nothing is made or mended here."""
    folder = Path(places.user_folder(environ))
    for path in (folder, folder / "token"):
        with contextlib.suppress(OSError):
            found = path.stat()
            problem = ownfile.loose_file(found, os.geteuid(), path)
            if problem is not None:
                yield f"{path} {problem[0]}", problem[1].partition(": ")[2]
            elif path.name == "token" and found.st_mode & 0o077:
                yield f"others may read {path}, and so load and unload", f"chmod 600 {shlex.quote(str(path))}"
    try:
        shared = reservations.folder(environ)
        mode = shared.stat().st_mode
        if mode & 0o002 and not mode & 0o1000:
            yield f"{shared} may be emptied by anyone", f"chmod 1777 {shlex.quote(str(shared))}"
    except FileNotFoundError:
        pass
    except (OSError, reservations.NotRecorded) as problem:
        yield f"the folder of reservations can't be used: {problem}", "ls -ld /dev/shm/admit /private/var/tmp/admit"


def _logout(environ: Mapping[str, str]) -> Logout | None:
    try:
        return logind.removes(reservations.folder(environ), os.geteuid())
    except (OSError, reservations.NotRecorded):
        return None


def _answering(port: int, environ: Mapping[str, str]) -> Answering | None:
    """Who answers on the port; None where nobody does."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        client.connect()
    except ConnectionRefusedError:
        return None
    except OSError as problem:
        return Answering(False, problem=str(problem))
    try:
        client.request("GET", "/healthz")
        answer = client.getresponse()
        status, body = answer.status, json.loads(answer.read(ANSWER_MAX))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        status, body = 0, None
    finally:
        client.close()
    pid, file = _note(environ, port)
    if isinstance(body, dict) and ("sentinel" in body or (pid is not None and "detail" in body)):
        version, detail = body.get("version"), body.get("detail")
        return Answering(True, version and str(version), None if status == 200 else str(detail), pid, "admitd", file)
    owner = portowner.of(port)
    return Answering(False, None, None, *owner) if owner else Answering(False)


def _note(environ: Mapping[str, str], port: int) -> tuple[int | None, str | None]:
    """The daemon's pid and the file that it goes by, as it noted them."""
    try:
        lines = Path(places.note_path(environ, port)).read_text(encoding="utf-8").splitlines()
        pid = int(lines[0])
        return (pid if ps.identify(pid) is not None else None), lines[1]
    except (OSError, ValueError, IndexError, ps.NotTold):
        return None, None


def _installed(environ: Mapping[str, str], home: str) -> State | None:
    """How the installed daemon stands; None where none is, or the supervisor can't be asked."""
    try:
        state = installing.for_this_system(environ, home).state()
    except (KeeperFailed, NoSupervisor):
        return None
    return state if state.installed else None


def _newest(journal: Path) -> tuple[float | None, str | None]:
    try:
        entries = trail.read(journal, None, None, 1)
    except OSError as problem:
        return None, problem.strerror or str(problem)
    return (entries[-1].at if entries else None), None


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _closed(path: Path) -> str | None:
    """What keeps this user from writing there; None where nothing does."""
    there = _there(path)
    return None if os.access(there, os.W_OK) and (there == path or there.is_dir()) else str(there)


def _there(path: Path) -> Path:
    """A path, or the nearest folder above it that exists."""
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def _free(folder: Path) -> int | None:
    """Bytes that this user may still write where the folder is, or will be."""
    try:
        found = os.statvfs(_there(folder))
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
