"""asking: what engines say of themselves, where their processes don't: Ollama, LM Studio, Docker. A question loads
nothing, and has two to ten seconds."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from admitd import actuator, answered, engines
from admitd.core.units import MIB
from admitd.engines import Draft
from admitd.installing.wanted import ALWAYS_IN_PATH
from admitd.probe import cut_after

ASK_S: Final = 2.0
PRINT_S: Final = 10.0
ANSWER_MAX: Final = 1 << 20
LARGE: Final = 1024 * MIB
"""A container that holds less is no affair of this: it is part of what is reserved for everything else."""

Said = tuple[list[Draft], str | None]
"""The services that it names, and why there is none, or not all."""


def ollama(environ: Mapping[str, str], home: Path) -> Said:
    """The models that Ollama has loaded."""
    host = (environ.get("OLLAMA_HOST") or answered.OLLAMA).removeprefix("http://").rstrip("/")
    host = host if ":" in host else f"{host}:11434"
    host = host.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    answer = _answered(host, "/api/ps")
    listed = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        return [], f"it runs, and does not say at http://{host}/api/ps which models it has loaded"
    program = _named(shutil.which("ollama", path=environ.get("PATH")), "ollama")
    found = []
    for each in listed:
        name, size = (each.get("name"), each.get("size")) if isinstance(each, dict) else (None, None)
        if isinstance(name, str) and name.isprintable() and 0 < len(name) < 200:
            held = size if isinstance(size, int) else None
            stays = _is_for_ever(each.get("expires_at"))
            found.append(answered.ollama_model(name, held, f"http://{host}", stays=stays, program=program))
    return found, None if found else "it runs and has no model loaded; load one, then: admit init --merge"


def _is_for_ever(expires_at: Any) -> bool:
    """Whether a model stays: Ollama writes a time that is centuries away for it."""
    year = expires_at[:4] if isinstance(expires_at, str) else ""
    return year.isascii() and year.isdigit() and int(year) > time.gmtime().tm_year + 100


def lm_studio(environ: Mapping[str, str], home: Path) -> Said:
    """The models that LM Studio has loaded."""
    lms = shutil.which("lms", path=environ.get("PATH")) or str(home / ".lmstudio" / "bin" / "lms")
    listed: Any = None
    if os.access(lms, os.X_OK):
        listed = _parsed(_printed((lms, "ps", "--json")))
    if not isinstance(listed, list):
        return [], "it runs, and its command lms does not say which models it has loaded"
    server = answered.LM_STUDIO if _lists_models(_answered(answered.LM_STUDIO, "/v1/models")) else None
    found = []
    for each in listed:
        if isinstance(each, dict) and isinstance(name := each.get("identifier"), str) and name.isprintable() and name:
            size, key = each.get("sizeBytes"), each.get("modelKey")
            key = key if isinstance(key, str) and key.isprintable() else name
            found.append(
                answered.lm_studio_model(name, key, size if isinstance(size, int) else None, server, _named(lms, "lms"))
            )
    return found, None if found else "it runs and has no model loaded; load one, then: admit init --merge"


def _named(found: str | None, name: str) -> str:
    """How commands name the program that was found: by its path, unless it is where every daemon looks first."""
    everywhere = shutil.which(name, path=":".join(ALWAYS_IN_PATH))
    return name if found is None or found == everywhere else os.path.abspath(found)


def _lists_models(answer: Any) -> bool:
    """Whether a server says its models, as OpenAI's does. One that wants a token first would refuse a probe, too."""
    return isinstance(answer, dict) and isinstance(answer.get("data"), list)


def docker(environ: Mapping[str, str], home: Path) -> Said:
    """The large containers of this machine. Those of Docker Desktop live in a virtual machine, which is a service."""
    program = shutil.which("docker", path=environ.get("PATH"))
    printed = _printed((program, "stats", "--no-stream", "--format", "{{json .}}")) if program else b""
    found = []
    for line in printed.splitlines():
        each = _parsed(line)
        name, used = (each.get("Name"), each.get("MemUsage")) if isinstance(each, dict) else (None, None)
        if isinstance(name, str) and isinstance(used, str) and answered.CONTAINER.fullmatch(name):
            held = engines.amount(used.split("/")[0].strip(), "b")
            if held is not None and held >= LARGE:
                found.append(answered.container(name, held, _named(program, "docker")))
    return found, None if found else f"it runs, and no container of it holds {LARGE // MIB} MB"


def _answered(host: str, path: str) -> Any:
    """What a server on this machine answers; None where it does not, or not all of it in time."""
    try:
        client = http.client.HTTPConnection(host, timeout=ASK_S)
    except http.client.HTTPException:
        return None
    try:
        with cut_after(client, ASK_S):
            client.request("GET", path)
            return _parsed(client.getresponse().read(ANSWER_MAX))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        client.close()


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _printed(command: tuple[str, ...]) -> bytes:
    """What a command prints; nothing where it does not end in time."""
    try:
        process = actuator.start_helper(command, subprocess.PIPE)
    except actuator.CannotStart:
        return b""
    try:
        return process.communicate(timeout=PRINT_S)[0]
    except subprocess.TimeoutExpired:
        actuator.end_session(process.pid)
        process.communicate()
        return b""


ASKED: Final[Mapping[str, Callable[[Mapping[str, str], Path], Said]]] = {
    "ollama": ollama,
    "lm-studio": lm_studio,
    "dockerd": docker,
}
"""By engine (engines.ENGINES)."""
