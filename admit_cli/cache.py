"""cache: `admit cache status`, `gc` and `evict`: the model files that apps share, and Hugging Face's cache."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from admit_cli import render
from admit_cli.tell import out, printable, tell
from admit_sdk.cache import CachedFile, CacheError, Contents, Leftover, ModelCache, NoHub, NotCached, huggingface, room
from admit_sdk.cache.huggingface import HubContents, HubRepo
from admitd import places
from admitd.core import wire
from admitd.core.units import show_amount

_KEY: Final = 12
"""As many digits of a SHA-256 as are shown, and are enough to name a file."""
_LEAST: Final = 4
_DAY_S: Final = 86_400.0


def status(values: dict[str, Any]) -> int:
    """Show what is there; the exit code."""
    cache = ModelCache()
    contents = cache.contents()
    hub, hub_problem = _hub()
    if values["json"]:
        render.print_json(
            {
                "folder": str(cache.folder),
                "held_bytes": contents.held_bytes,
                "max_bytes": contents.max_bytes,
                "free_bytes": contents.free_bytes,
                "files": [_file_json(each) for each in contents.files],
                "downloads": [_leftover_json(each) for each in contents.downloads],
                "idle_bytes": sum(each.size_bytes for each in room.gone_idle(contents, time.time())),
                "hub": None if hub is None else _hub_json(hub),
                "hub_problem": hub_problem,
            }
        )
        return wire.OK
    for line in (*_own_lines(cache, contents), *_hub_lines(hub, hub_problem)):
        out(line)
    return wire.OK


def gc(values: dict[str, Any]) -> int:
    """Remove what is idle or beyond the maximum; the exit code."""
    cache = ModelCache()
    dry = values["dry_run"]
    gone = cache.collect(only_look=dry)
    repos = _idle_repos() if values["hub"] else ()
    if not values["json"]:
        _say_gone(gone, dry)
        if values["hub"] and not repos:
            out("nothing in Hugging Face's cache is idle for 30 days")
    freed: list[HubRepo] = []
    failures: list[str] = []
    if repos and not dry and (values["yes"] or _agrees(repos)):
        for repo in repos:
            try:
                huggingface.evict(repo.path.parent, repo.id)
                freed.append(repo)
            except CacheError as problem:
                failures.append(str(problem))
                tell(f"admit: {problem}")
    if values["json"]:
        own = [{"sha256": each.sha256, "name": each.name, "size_bytes": each.size_bytes} for each in gone]
        hub = [{"id": repo.id, "size_bytes": repo.size_bytes} for repo in (repos if dry else freed)]
        render.print_json({"dry_run": dry, "gone": own, "hub_gone": hub, "failures": failures})
    else:
        for repo in repos if dry else freed:
            size = show_amount(repo.size_bytes)
            out(f"{'would go' if dry else 'gone'}: {printable(repo.id)}  {size}, {_used(repo.used_at)}")
    return wire.FAILED if failures else wire.OK


def evict(values: dict[str, Any]) -> int:
    """Remove what is named; the exit code. Nothing goes where one of the names is none."""
    cache = ModelCache()
    contents = cache.contents()
    own = {name: _named(contents, name) for name in values["file"]}
    unknown = [name for name, key in own.items() if key is None and "/" not in name]
    if unknown:
        raise NotCached(f"nothing called {unknown[0]!r} is in {cache.folder}; see what is: admit cache status")
    gone, failures = [], []
    for name, key in own.items():
        try:
            freed = _evict_repo(name) if key is None else sum(each.size_bytes for each in cache.evict(key))
            gone.append({"name": name, "size_bytes": freed})
            if not values["json"]:
                out(f"gone: {printable(name)}  {show_amount(freed)}")
        except CacheError as problem:
            failures.append(problem)
            tell(f"admit: {problem}")
    if values["json"]:
        render.print_json({"gone": gone, "failures": [str(each) for each in failures]})
    if not failures:
        return wire.OK
    return wire.NO_SUCH if all(isinstance(each, NotCached) for each in failures) else wire.FAILED


def _named(contents: Contents, name: str) -> str | None:
    """The hash of the file that is meant: by its whole name, else by how its hash begins. Raises NotCached."""
    names = [(each.name, each.sha256) for each in contents.files]
    names += [(each.name, each.sha256) for each in contents.downloads]
    found = {key for each, key in names if each == name}
    if not found and len(name) >= _LEAST:
        found = {key for _, key in names if key.startswith(name.lower())}
    if len(found) > 1:
        keys = ", ".join(key[:_KEY] for key in sorted(found))
        raise NotCached(f"{name} may be each of {keys}; name one of them: admit cache evict {sorted(found)[0][:_KEY]}")
    return found.pop() if found else None


def _evict_repo(name: str) -> int:
    return huggingface.evict(_hub_folder(), name)


def _hub_folder() -> Path:
    return Path(places.hub_folder(os.environ, places.home(os.environ)))


def _hub() -> tuple[HubContents | None, str | None]:
    """Hugging Face's cache, or why it cannot be shown; neither where there is none."""
    folder = _hub_folder()
    if not folder.is_dir():
        return None, None
    try:
        return huggingface.contents(folder), None
    except NoHub as problem:
        return None, str(problem)


def _idle_repos() -> Sequence[HubRepo]:
    return huggingface.contents(_hub_folder()).idle(time.time(), room.IDLE_S)


def _agrees(repos: Sequence[HubRepo]) -> bool:
    tell("These have been idle in Hugging Face's cache for more than 30 days:")
    for each in repos:
        tell(f"  {printable(each.id)}  {show_amount(each.size_bytes)}, {_used(each.used_at)}")
    if not sys.stdin.isatty():
        tell("admit: deleting them is agreed to on a terminal, or with --yes")
        return False
    tell("Delete? [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _say_gone(gone: Sequence[CachedFile | Leftover], dry: bool) -> None:
    for each in gone:
        left = " (left of a download)" if isinstance(each, Leftover) else ""
        size = show_amount(each.size_bytes)
        out(f"{'would go' if dry else 'gone'}: {each.name}{left}  {size}, {_used(each.used_at)}")
    total = show_amount(sum(each.size_bytes for each in gone))
    out(f"{total} {'would come' if dry else 'came'} free" if gone else "nothing has to go")


def _own_lines(cache: ModelCache, contents: Contents) -> list[str]:
    lines = [
        f"{render.from_home(str(cache.folder))}: {show_amount(contents.held_bytes)} of at most "
        f"{show_amount(contents.max_bytes)}; {show_amount(contents.free_bytes)} are free on its disk"
    ]
    if contents.files:
        width = max(4, *(len(each.name) for each in contents.files))
        lines.append(render.coloured(f"{'FILE':{width}}  {'SHA-256':{_KEY}}  {'SIZE':>10}  USED", "dim"))
        for each in contents.files:
            size = show_amount(each.size_bytes)
            lines.append(f"{each.name:{width}}  {each.sha256[:_KEY]}  {size:>10}  {_by_whom(each)}")
    for leftover in contents.downloads:
        total = "?" if leftover.total_bytes is None else show_amount(leftover.total_bytes)
        state = "is being downloaded" if leftover.runs else f"broke off, {_used(leftover.used_at)}"
        lines.append(
            f"{leftover.name}  {leftover.sha256[:_KEY]}  {show_amount(leftover.size_bytes)} of {total}: {state}"
        )
    idle = sum(each.size_bytes for each in room.gone_idle(contents, time.time()))
    if idle:
        lines.append(f"{show_amount(idle)} have been idle for more than 30 days: admit cache gc")
    return lines


def _hub_lines(hub: HubContents | None, problem: str | None) -> list[str]:
    if problem is not None:
        return ["", f"Hugging Face's cache is not counted: {printable(problem)}"]
    if hub is None:
        return []
    left = f", and {show_amount(hub.unfinished_bytes)} left of downloads" if hub.unfinished_bytes else ""
    where = render.from_home(str(hub.folder))
    lines = ["", f"Hugging Face's cache, {where}: {show_amount(hub.size_bytes)} in {len(hub.repos)} repositories{left}"]
    width = max((len(printable(each.id)) for each in hub.repos), default=0)
    for each in hub.repos:
        used = "open in a process" if each.opened else _used(each.used_at)
        lines.append(f"{printable(each.id):{width}}  {show_amount(each.size_bytes):>10}  {used}")
    lines += [render.coloured(f"warning: {printable(each)}", "yellow") for each in hub.warnings]
    return lines


def _by_whom(file: CachedFile) -> str:
    return f"by {file.users}" if file.in_use else _used(file.used_at)


def _used(used_at: float | None) -> str:
    """When something was used last, as people say it."""
    if used_at is None:
        return "last use unknown"
    ago = time.time() - used_at
    if ago < 3600:
        return "within the hour"
    return f"{ago / 3600:.0f} h ago" if ago < 2 * _DAY_S else f"{ago / _DAY_S:.0f} days ago"


def _file_json(file: CachedFile) -> dict[str, Any]:
    return {
        "sha256": file.sha256,
        "name": file.name,
        "origin": file.origin,
        "size_bytes": file.size_bytes,
        "used_at": file.used_at,
        "opened": file.opened,
        "references": [{"app": each.app, "pid": each.pid, "since": each.since} for each in file.references],
    }


def _leftover_json(each: Leftover) -> dict[str, Any]:
    return {
        "sha256": each.sha256,
        "name": each.name,
        "origin": each.origin,
        "size_bytes": each.size_bytes,
        "total_bytes": each.total_bytes,
        "used_at": each.used_at,
        "runs": each.runs,
    }


def _hub_json(hub: HubContents) -> dict[str, Any]:
    return {
        "folder": str(hub.folder),
        "size_bytes": hub.size_bytes,
        "unfinished_bytes": hub.unfinished_bytes,
        "repos": [
            {"id": each.id, "size_bytes": each.size_bytes, "used_at": each.used_at, "opened": each.opened}
            for each in hub.repos
        ],
        "warnings": list(hub.warnings),
    }
