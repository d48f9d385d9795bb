"""discovery: which engines run on this machine now, as services that could be declared: matched, measured, estimated.

Nothing is asked that would load a model: Ollama and LM Studio are asked what they have loaded already.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from admitd import asking, checks, engines, modelfiles, patterns, places, supervisors
from admitd.core import headroom, sizing
from admitd.core.respawn import Supervisor
from admitd.core.sizing import Attention, Engine
from admitd.core.terms import RAM, Capacity, ProcessId, Service
from admitd.engines import Draft, Found, Matching
from admitd.measuring import Measuring, in_words
from admitd.memory import Memory
from admitd.modelfiles.bounded import BadFile
from admitd.processes import naming
from admitd.processes.cputime import CpuTimes
from admitd.processes.matching import Matcher
from admitd.processes.table import Look, ProcessTable

ENVIRON_MAX: Final = 1 << 20
PLACES: Final = frozenset({"PATH", "HOME", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"})
CONTEXT: Final = 8192
"""Tokens that an estimate goes by where the command line names none."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A draft with the way it is matched, its budget, and what is to be said of both. Amounts are bytes. `doubt`: what
    its check said, where that was not that it is loaded, as it was when it was found."""

    draft: Draft
    way: Matching | None
    matched: str
    budget: int | None
    why: str
    doubt: str | None = None


@dataclass(frozen=True, slots=True)
class Discovered:
    """What runs, what runs and cannot be declared (engine: why), what is merely installed."""

    services: tuple[Sized, ...] = ()
    passed_over: tuple[tuple[str, str], ...] = ()
    installed: tuple[str, ...] = ()
    held: int = 0


@dataclass(frozen=True, slots=True)
class Eyes:
    """What the machine is seen with. `claimed`: processes that are services already."""

    table: ProcessTable
    memory: Memory
    times: CpuTimes
    environ: Mapping[str, str]
    home: Path
    claimed: frozenset[int] = frozenset()


def discover(eyes: Eyes) -> Discovered:
    """Look. Raises CannotSee."""
    seen = [Service(f"engine-{each.key}", {RAM: 1}, process_pattern=each.seen) for each in engines.ENGINES]
    look = eyes.table.look(Matcher(seen))
    drafts: list[Draft] = []
    passed: dict[str, str] = {}
    for found in _found(look, eyes):
        draft = _that_can_be_matched(engines.of(found))
        if draft is not None:
            drafts.append(under(draft, kept_by(found.pids[0])))
        elif found.engine not in asking.ASKED and found.program != "llama-server":
            pids = ", ".join(map(str, found.pids))
            passed[found.engine] = f"process {pids} does not say in its arguments which one it is"
    running = {sighting.service for sighting in look.sightings if not sighting.mention}
    for engine, ask in asking.ASKED.items():
        if f"engine-{engine}" in running:
            said, why = ask(eyes.environ, eyes.home)
            drafts += said
            if why is not None:
                passed[engine] = why
    ids = _ids(look)
    drafts = _named_apart(drafts)
    matched = _matched(drafts, eyes)
    doubts = _doubts(drafts)
    services = tuple(
        dataclasses.replace(_sized(draft, *matched[draft.name], ids, eyes), doubt=doubts.get(draft.name))
        for draft in drafts
    )
    installed = tuple(
        each.title
        for each in engines.ENGINES
        if f"engine-{each.key}" not in running and any(_installed(tool, eyes) for tool in each.tools)
    )
    return Discovered(services, tuple(passed.items()), installed, _held_by(drafts, ids, eyes))


def sized(draft: Draft, eyes: Eyes) -> Sized:
    """What does not run: matched by the loosest way that matches nothing that does. Raises CannotSee."""
    draft = _that_can_be_matched(draft) or dataclasses.replace(draft, ways=())
    return _sized(draft, *_matched([draft], eyes)[draft.name], {}, eyes)


def _that_can_be_matched(draft: Draft | None) -> Draft | None:
    """Without ways that are no patterns: any user can start a process with a name of 5,000 characters."""
    ways = [] if draft is None else [way for way in draft.ways if _is_pattern(way.pattern)]
    return dataclasses.replace(draft, ways=tuple(ways)) if draft is not None and ways else None


def _is_pattern(text: str) -> bool:
    try:
        patterns.compile(text)
    except patterns.BadPattern:
        return False
    return True


def _held_by(drafts: Sequence[Draft], ids: Mapping[int, ProcessId], eyes: Eyes) -> int:
    """Bytes that these hold now: as their processes show it, or, for what an engine was asked of, as it says."""
    known = [ids[pid] for draft in drafts for pid in draft.pids if pid in ids]
    amounts = [{RAM: eyes.memory.footprint(known, 0) or 0 if known else 0}]
    amounts += [{RAM: draft.budget} for draft in drafts if not draft.pids and draft.budget is not None]
    return headroom.total(amounts).get(RAM, 0)


def without(found: Discovered, declared: Capacity) -> Discovered:
    """What a file lacks: a model that is told by a check is there already where one of its name is; a process has a
    name of its own beside those of the file."""
    services = []
    names = set(declared.services)
    for each in found.services:
        draft = each.draft
        if each.way is None and draft.name in names:
            continue
        name, number = draft.name, 2
        while name in names:
            name, number = f"{draft.name}-{number}", number + 1
        names.add(name)
        services.append(dataclasses.replace(each, draft=dataclasses.replace(draft, name=name)))
    return dataclasses.replace(found, services=tuple(services))


def _ids(look: Look) -> dict[int, ProcessId]:
    return {sighting.process.id.pid: sighting.process.id for sighting in look.sightings}


def _found(look: Look, eyes: Eyes) -> list[Found]:
    """Live processes by engine; those with the same command line are one service."""
    groups: dict[tuple[str, tuple[str, ...]], list[Any]] = {}
    for sighting in look.sightings:
        pid = sighting.process.id.pid
        if not sighting.mention and pid not in eyes.claimed and pid in look.lines:
            line = naming.read(look.lines[pid])
            groups.setdefault((sighting.service.removeprefix("engine-"), line.argv), []).append((sighting, line))
    found = []
    for (engine, argv), members in groups.items():
        sighting, line = members[0]
        pid = sighting.process.id.pid
        cwd, environ = _surroundings(pid)
        pids = tuple(sorted(each.process.id.pid for each, _ in members))
        mine = sighting.process.uid == os.geteuid()
        whole = len(look.lines[pid]) < naming.LOOKED_AT  # else its end is not known
        command = _command(line, cwd, (environ or {}).get("PATH") or eyes.environ.get("PATH", "")) if whole else None
        found.append(Found(engine, pids, argv, line.program, mine, cwd, command))
    return found


def kept_by(pid: int) -> Supervisor | None:
    """The launchd job, or the user's systemd unit whose own first process this is."""
    found = supervisors.of(pid)
    if (found.stop or "").startswith("launchctl "):
        return found
    return found if (found.stop or "").startswith("systemctl --user stop ") and supervisors.is_first(pid) else None


def under(draft: Draft, keeper: Supervisor | None) -> Draft:
    """The draft of a service that a supervisor keeps running: systemd loads and unloads it; what launchd's job is
    loaded from, its label does not say."""
    if keeper is None or keeper.stop is None:
        return draft
    words = shlex.split(keeper.stop)
    if words[0] != "systemctl":
        advice = f"put `admit run {draft.name} --` in front of its ProgramArguments, or stop it for good: {keeper.stop}"
        return dataclasses.replace(draft, notes=(*draft.notes, f"Kept running by {keeper.name}: {advice}."))
    keys = {name: value for name, value in draft.keys.items() if name not in ("load_cmd", "unload_cmd")}
    keys = {"load_cmd": [*words[:2], "start", words[-1]], "unload_cmd": words, **keys}
    return dataclasses.replace(draft, keys=keys, notes=(*draft.notes, f"Kept running by {keeper.name}."))


def _surroundings(pid: int) -> tuple[str | None, Mapping[str, str] | None]:
    """A process's folder, and what of its environment decides where files are found, where they can be read; macOS
    shows nobody an environment."""
    if sys.platform == "darwin":
        from admitd.processes import darwin

        return darwin.folder(pid, darwin.load()), None
    cwd = environ = None
    try:
        cwd = os.readlink(f"/proc/{pid}/cwd")
        lines = Path(f"/proc/{pid}/environ").read_bytes()[:ENVIRON_MAX].split(b"\0")
        pairs = [line.decode("utf-8", "surrogateescape").partition("=") for line in lines]
        # What is no text can't be written down as such.
        environ = {name: value for name, _, value in pairs if name in PLACES and value.isprintable()}
    except OSError:
        pass
    return cwd if cwd and cwd.isprintable() else None, environ


def _command(line: naming.Line, cwd: str | None, path: str) -> str:
    """What starts the same server again: absolute where it can be, in its folder where its arguments need that."""
    argv = list(line.argv)
    script = argv[line.script] if line.script is not None else ""
    if script.startswith("/") and os.access(script, os.X_OK):
        argv = argv[line.script :]
    elif "/" not in argv[0]:
        argv[0] = shutil.which(argv[0], path=path) or argv[0]
    text = shlex.join(argv)
    relative = [word for word in argv if not word.startswith(("/", "-")) and ("/" in word or word == script)]
    if cwd and any(os.path.exists(os.path.join(cwd, word)) for word in relative):
        return f"cd {shlex.quote(cwd)} && exec {text}"
    return text


def _named_apart(drafts: Iterable[Draft]) -> list[Draft]:
    """Each with a name of its own."""
    out: dict[str, Draft] = {}
    for draft in drafts:
        name, number = draft.name, 2
        while name in out:
            name, number = f"{draft.name}-{number}", number + 1
        out[name] = dataclasses.replace(draft, name=name)
    return list(out.values())


def _doubts(drafts: Sequence[Draft]) -> dict[str, str]:
    """Run their checks once, as the daemon would: those that do not say what their engine said, and what they say."""
    commands = {draft.name: draft.keys["loaded_check_cmd"] for draft in drafts if "loaded_check_cmd" in draft.keys}
    said = {name: check.detail for name, check in checks.run_all(commands).items() if check.loaded is not True}
    return {name: "".join(sign if sign.isprintable() else " " for sign in text[:300]) for name, text in said.items()}


def _matched(drafts: Sequence[Draft], eyes: Eyes) -> dict[str, tuple[Matching | None, str]]:
    """For each draft the loosest way that matches its processes and nothing else, and what that way matches now."""
    ways = {
        f"d{i}.w{j}": (draft, way) for i, draft in enumerate(drafts) for j, way in enumerate(dict.fromkeys(draft.ways))
    }
    services = [Service(key, {RAM: 1}, process_pattern=w.pattern, program=w.program) for key, (_, w) in ways.items()]
    look = eyes.table.look(Matcher(services)) if services else Look()
    out: dict[str, tuple[Matching | None, str]] = {}
    for draft in drafts:
        best: tuple[tuple[int, int, int], Matching, str] | None = None
        for key, (whose, way) in ways.items():
            if whose is not draft:
                continue
            is_it = {s.process.id.pid for s in look.sightings if s.service == key and not s.mention}
            mention = {s.process.id.pid for s in look.sightings if s.service == key and s.mention} - is_it
            rank = (len(set(draft.pids) - is_it), len(is_it - set(draft.pids)), len(mention))
            if best is None or rank < best[0]:
                best = (rank, way, _said(set(draft.pids), is_it, mention))
        out[draft.name] = (best[1], best[2]) if best else (None, "told by its check, not by a process")
    return out


def _said(own: set[int], is_it: set[int], mention: set[int]) -> str:
    text = f"matches process {_listed(own & is_it)} now" if own & is_it else "matches no process now"
    if is_it - own:
        text += f", and also {_listed(is_it - own)}: make it stricter"
    elif mention:
        return f"{text}; {_listed(mention)} only mentions it: charged, and never signalled"
    else:
        text += " and nothing else"
    return text


def _listed(pids: Iterable[int]) -> str:
    return ", ".join(str(pid) for pid in sorted(pids))


def _sized(draft: Draft, way: Matching | None, matched: str, ids: Mapping[int, ProcessId], eyes: Eyes) -> Sized:
    """The budget: the largest of what was measured, what the model's files say, and what the engine names."""
    said: list[tuple[int, str]] = []
    own = [ids[pid] for pid in draft.pids if pid in ids]
    if own:
        watching = Measuring(lambda: own, eyes.memory, eyes.times)
        if watching.look(time.monotonic()):
            most = watching.seen.most
            said.append((sizing.budget(most), f"held {in_words(most)} at most since it started"))
    estimated = _estimate(draft, eyes)
    if estimated is not None:
        said.append(estimated)
    if draft.budget is not None:
        exact = draft.engine == "qemu"
        said.append(
            (draft.budget if exact else sizing.budget(draft.budget), f"{in_words(draft.budget)} by its own account")
        )
    if not said:
        return Sized(draft, way, matched, None, "nothing tells what it will hold")
    return Sized(draft, way, matched, max(size for size, _ in said), "; ".join(text for _, text in said))


def _estimate(draft: Draft, eyes: Eyes) -> tuple[int, str] | None:
    """What the model's files say, where they are here."""
    path = _model_path(draft, eyes)
    if path is None:
        return None
    try:
        files = modelfiles.read(path)
    except (BadFile, OSError, RecursionError):
        return None
    trained = files.shape.context
    whole = files.engine is Engine.LLAMA and trained
    tokens = draft.tokens or (trained if whole and trained else min(CONTEXT, trained or CONTEXT))
    attention = Attention.FUSED if sys.platform == "darwin" else Attention.WHOLE
    found = sizing.estimate(files, tokens, 1, attention)
    extra = f" and its cache of prompts {in_words(draft.cache)}" if draft.cache else ""
    return sizing.budget(
        found.together + draft.cache
    ), f"its files say {in_words(found.together)} at {tokens} tokens{extra}"


def _model_path(draft: Draft, eyes: Eyes) -> Path | None:
    """Where the model lies: a path, from the folder of its server, or a repository in Hugging Face's cache."""
    if draft.model is None:
        return None
    cwd, environ = _surroundings(draft.pids[0]) if draft.pids else (None, None)
    path = os.path.expanduser(draft.model)
    path = os.path.join(cwd, path) if cwd else path
    if os.path.isabs(path) and os.path.exists(path):
        return Path(path)
    theirs = eyes.environ if environ is None else environ  # a server that runs knows where it found its own
    hub = places.hub_folder(theirs, theirs.get("HOME") or str(eyes.home))
    cached = Path(cwd or "", hub) / ("models--" + draft.model.split(":")[0].replace("/", "--"))
    return cached if os.path.isdir(cached) else None


def _installed(tool: str, eyes: Eyes) -> bool:
    if tool.endswith(".app"):
        return sys.platform == "darwin" and any((Path(f) / tool).exists() for f in ("/Applications", eyes.home))
    return shutil.which(tool, path=eyes.environ.get("PATH")) is not None
