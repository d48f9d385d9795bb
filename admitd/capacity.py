"""capacity: finds capacity.yaml, reads it into terms.Capacity, and keeps the last good one while it is edited.

What takes long to import (yaml, pydantic, re2) is imported when a file is read, so that `find` costs nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from admitd import hostnames
from admitd.core.terms import Capacity
from admitd.problem import ConfigError, Problem

__all__ = ["Capacity", "ConfigError", "NotFound", "Problem", "Watched", "find", "json_schema", "load"]

NAME: Final = "capacity.yaml"
SCHEMA_ID: Final = "https://json-schema.org/draft/2020-12/schema"

_MOST_WARNINGS: Final = 10
# The kernel stamps files with a clock that ticks every 4 to 10 ms: two edits within a tick look the same.
_UNSETTLED_NS: Final = 50_000_000

Signature = tuple[int, ...]


class NotFound(Exception):
    """There is no capacity.yaml. `looked` says where it was looked for, in order."""

    def __init__(self, looked: tuple[Path, ...], asked: str | None = None) -> None:
        self.looked = looked
        self.asked = asked
        super().__init__(looked, asked)

    def __str__(self) -> str:
        if self.asked is not None:
            return f"{self.looked[0]}: no such file ({self.asked}); write the path of a capacity.yaml"
        places = "".join(f"\n  {path}" for path in self.looked)
        instead = "make one: admit init; or name one with --config or $ADMIT_CONFIG"
        return f"no capacity.yaml; {instead}. Looked in, in order:{places}"


def find(explicit: str | None, environ: Mapping[str, str], home: Path, platform: str = sys.platform) -> Path:
    """The file to read. NotFound where there is none.

    In order: `--config`; `$ADMIT_CONFIG`; `$XDG_CONFIG_HOME/admit/` (else `~/.config/admit/`); on macOS also
    `~/Library/Application Support/admit/`; `~/.sanctum/`. One that is named must exist: nothing else is tried then.
    """
    for asked, named in (("--config", explicit), ("$ADMIT_CONFIG", environ.get("ADMIT_CONFIG"))):
        if named:
            path = home / named[2:] if named.startswith("~/") else Path(named)
            if not path.exists():
                raise NotFound((path.absolute(),), asked)
            return path.absolute()
    looked = []
    for path in _places(environ, home, platform):
        if path.is_file():
            return path
        looked.append(path)
    raise NotFound(tuple(looked))


def _places(environ: Mapping[str, str], home: Path, platform: str) -> Iterator[Path]:
    xdg = environ.get("XDG_CONFIG_HOME", "")
    yield (Path(xdg) if xdg.startswith("/") else home / ".config") / "admit" / NAME
    if platform == "darwin":
        from platformdirs.macos import MacOS

        decided = MacOS("admit", appauthor=False).user_config_path
        inside_home = decided.is_relative_to(Path.home())
        yield (home / decided.relative_to(Path.home()) if inside_home else decided) / NAME
    yield home / ".sanctum" / NAME


def physical_bytes() -> int:
    """This machine's physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def load(
    path: Path,
    *,
    detect_physical: Callable[[], int] = physical_bytes,
    names: Callable[[], Iterable[str]] = hostnames.of_this_machine,
) -> Capacity:
    """Read `path`. ConfigError with every problem at once: file, line, place, what is wrong, what to write instead."""
    from admitd import ownfile, yamlfile

    data = ownfile.read(path, yamlfile.MOST_BYTES)
    document = yamlfile.read(data, str(path))

    from admitd.meaning import Meaning
    from admitd.reading import read_shape

    shape, problems, bad = read_shape(document)
    if shape is None:
        raise ConfigError(_in_order(problems))
    meaning = Meaning(document, shape, bad)
    capacity = meaning.capacity(names(), detect_physical)
    if capacity is None:
        raise ConfigError(_in_order([*problems, *meaning.problems]))
    return capacity


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: problem.line)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, made from the same model that reads it."""
    from admitd.shape import FileShape

    schema = FileShape.model_json_schema()
    return {"$schema": SCHEMA_ID, **schema, "title": NAME}


class Watched:
    """A capacity.yaml that is edited while it is in use. A broken edit leaves the last good one in force.

    `on_problem` is called once for each breakage, `on_reloaded` when an edit changed something or mended the file; both
    on the thread that called `current`.
    """

    def __init__(
        self,
        path: Path,
        load: Callable[[Path], Capacity] = load,
        *,
        on_problem: Callable[[str], None] | None = None,
        on_reloaded: Callable[[Capacity], None] | None = None,
    ) -> None:
        """Raises ConfigError where there is no good one to begin with."""
        self.path = path
        self.warnings: tuple[str, ...] = ()
        self._load = load
        self._on_problem = on_problem
        self._on_reloaded = on_reloaded
        self._lock = threading.RLock()
        self._seen = _signature(path)
        self._good = load(path)
        self._told = ""

    def current(self) -> Capacity:
        """The capacity in force. Costs a few stats while the file is unchanged; never raises for a bad file."""
        with self._lock:
            found = _signature(self.path)
            if found != self._seen:
                self._seen = found
                self._reload()
            return self._good

    def _reload(self) -> None:
        try:
            capacity = self._load(self.path)
        except ConfigError as error:
            self._keep(error.problems)
            return
        except OSError as error:
            self._keep((Problem(str(self.path), "", 0, f"cannot be read ({error.strerror})", "put it back"),))
            return
        is_news = bool(self.warnings) or capacity != self._good
        self._good, self.warnings, self._told = capacity, (), ""
        if is_news and self._on_reloaded is not None:
            self._on_reloaded(capacity)

    def _keep(self, problems: tuple[Problem, ...]) -> None:
        headline = f"{self.path} was changed and cannot be used; the last good one stays in force"
        more = [f"and {len(problems) - _MOST_WARNINGS} more problems"] if len(problems) > _MOST_WARNINGS else []
        self.warnings = (headline, *map(str, problems[:_MOST_WARNINGS]), *more)
        text = "\n".join(self.warnings)
        if text != self._told:
            self._told = text
            if self._on_problem is not None:
                self._on_problem(text)


def _signature(path: Path) -> Signature | None:
    """What changes when the file does, or what is wrong with where it lies; None where there is none. The last part
    lets a young file be read once more."""
    from admitd import ownfile

    try:
        found = path.stat()
    except OSError:
        return None
    young = max(0, time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns)) < _UNSETTLED_NS
    modes = ownfile.folders(path).values()  # their times tell of every file that comes and goes beside it
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, *modes, int(young))
