"""meaning: what a file's parts say about each other: names, pool, exclusions, patterns. Shape -> terms.Capacity."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from admitd import patterns
from admitd.core import headroom
from admitd.core.terms import NAME, RAM, Capacity, Command, Host, OnPressure, Probe, Sentinel, Service
from admitd.core.units import free_to_mb, from_mb, to_mb
from admitd.problem import MOST_SHOWN, Keys, Problem, closest, show
from admitd.shape import FileShape, HostShape, ProbeShape, SentinelShape, ServiceShape
from admitd.yamlfile import Document

LARGEST_PATTERNS: Final = 500_000
"""Of RE2's instructions, all patterns of a file together. A thousand usual ones have 40,000, and compile in 30 ms."""

_SIGNS: Final = ("process_pattern", "loaded_check_cmd")
_TOO_LARGE: Final = 40_000  # about where re2 gives up with 8 MiB, after 45 ms

_ONE_TOKEN: Final[Mapping[str, object]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
    "/v1/completions": {"prompt": "hi", "max_tokens": 1},
}
"""No "model" in there: mlx_lm.server loads whichever model a request names, beside the one that it has."""


class Meaning:
    """One file, read for what it means. What the shape already complained of (`bad`) is left alone."""

    def __init__(self, document: Document, shape: FileShape, bad: frozenset[Keys]) -> None:
        self._document = document
        self._shape = shape
        self._bad = bad
        self._bad_in: dict[Keys, list[str]] = {}
        for keys in bad:
            self._bad_in.setdefault(keys[:2], []).append(str(keys[2]) if len(keys) > 2 else "")
        self._services = _names_in(document, "services")
        self._hosts = _names_in(document, "hosts")
        self._compiled: dict[str, patterns.BadPattern | None] = {}
        self._instructions = 0
        self.problems: list[Problem] = []

    def capacity(self, names: Iterable[str], detect_physical: Callable[[], int]) -> Capacity | None:
        """The capacity; None where there are problems."""
        self._check_names()
        for name, service in self._shape.services.items():
            self._check_exclusion(name)
            self._check_signs(name, service)
            self._check_limit(name, service)
        self._check_safelist()
        host = self._host(names, detect_physical)
        if host is not None:
            self._check_fit(host)
        if self.problems or self._bad or host is None:
            return None
        shape = self._shape
        return Capacity(host, _services_of(shape), shape.live_veto, self._document.file, _sentinel(shape.sentinel))

    def _say(self, keys: Keys, what: str, instead: str) -> None:
        self.problems.append(self._document.problem(keys, what, instead))

    def _is_bad(self, *keys: str) -> bool:
        return any(keys[:depth] in self._bad for depth in range(1, len(keys) + 1))

    def _meant(self, word: str, known: list[str]) -> str:
        """`did you mean ...? Write`, or just `write`; not for the thousandth time, because looking is slow."""
        found = closest(word, filter(NAME.match, known)) if len(self.problems) < MOST_SHOWN else None
        return f"did you mean {found}? Write" if found else "write"

    def _words(self, *keys: str) -> list[tuple[int, str]]:
        """The texts of a list in the file, whatever else is wrong in that list."""
        node = self._document.value
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        items = enumerate(node) if isinstance(node, list) else ()
        return [(place, item) for place, item in items if isinstance(item, str) and item.strip()]

    # Names

    def _check_names(self) -> None:
        for section, names in (("hosts", self._hosts), ("services", self._services)):
            for name in names:
                if NAME.match(name):
                    continue
                cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name[:200]).strip("-._")[:63]
                rule = "letters, digits, '.', '_' and '-', at most 63, the first a letter or a digit"
                instead = f"write {cleaned} ({rule})" if cleaned else f"write {rule}"
                self._say((section, name), f"{show(name)} is no name", instead)

    def _check_exclusion(self, name: str) -> None:
        for place, other in self._words("services", name, "exclusive_with"):
            keys = ("services", name, "exclusive_with", place)
            if other == name:
                self._say(keys, f"{show(name)} excludes itself", "take it out: one service is loaded once anyway")
            elif other not in self._shape.services:
                hint = self._meant(other, self._services)
                self._say(keys, f"{show(other)} is no service of this file", f"{hint} the name of one, or take it out")

    def _check_limit(self, name: str, service: ServiceShape) -> None:
        limit = service.hard_limit_mb
        bad = any(self._is_bad("services", name, key) for key in ("hard_limit_mb", "ram_budget_mb"))
        if limit is not None and not bad and limit < service.ram_budget_mb:
            what = f"{limit} MB is less than its budget of {service.ram_budget_mb} MB: it would be closed for using it"
            self._say(("services", name, "hard_limit_mb"), what, f"write at least {service.ram_budget_mb}")

    # How a service is seen

    def _check_signs(self, name: str, service: ServiceShape) -> None:
        here = ("services", name)
        pattern_is_bad = self._is_bad(*here, "process_pattern")
        if service.process_pattern is not None and not pattern_is_bad:
            self._check_pattern((*here, "process_pattern"), service.process_pattern)
        if pattern_is_bad or service.process_pattern is not None or self._is_bad(*here):
            return
        if service.loaded_check_cmd is None and not self._is_bad(*here, "loaded_check_cmd"):
            if any(closest(key, _SIGNS) for key in self._bad_in.get(here, ())):
                return  # it is there, misspelt, and has been named
            what = "has neither process_pattern nor loaded_check_cmd, so that nobody could tell whether it is loaded"
            self._say(here, what, "write process_pattern: '...' with what its command line contains")
        elif service.program is not None:
            what = "narrows process_pattern, and there is none"
            self._say((*here, "program"), what, "write process_pattern: '...' too, or take program out")

    def _check_safelist(self) -> None:
        for place, entry in self._words("sentinel", "safelist"):
            if entry not in self._services:
                self._check_pattern(("sentinel", "safelist", place), entry)

    def _check_pattern(self, keys: Keys, pattern: str) -> None:
        if pattern not in self._compiled:
            self._compiled[pattern] = self._compile(pattern)
        problem = self._compiled[pattern]
        if problem is not None:
            self._say(keys, problem.why, problem.instead)

    def _compile(self, pattern: str) -> patterns.BadPattern | None:
        if self._instructions > LARGEST_PATTERNS:
            return patterns.BadPattern("the patterns of this file are too large together", "write simpler ones")
        try:
            self._instructions += patterns.size(patterns.compile(pattern))
        except patterns.BadPattern as problem:
            self._instructions += _TOO_LARGE if "too large" in problem.why else 100
            return problem
        return None

    # The machine

    def _host(self, names: Iterable[str], detect_physical: Callable[[], int]) -> Host | None:
        entries = self._shape.hosts
        if not self._is_bad("hosts") and not entries:
            self._say(("hosts",), "names no machine", "write the name of this one and its memory under it")
        chosen = self._choose_host(names)
        for name, entry in entries.items():
            if name != chosen and entry.ram_physical_mb is not None:
                self._terms_of_host(name, entry, from_mb(entry.ram_physical_mb))
        if chosen is None:
            return None
        entry = entries[chosen]
        if entry.ram_physical_mb is not None:
            return self._terms_of_host(chosen, entry, from_mb(entry.ram_physical_mb))
        try:
            physical = detect_physical()
        except (OSError, ValueError, RuntimeError) as error:
            what = f"the system does not say how much memory it has ({error})"
            self._say(("hosts", chosen), what, "write ram_physical_mb: 65536, for example")
            return None
        return self._terms_of_host(chosen, entry, physical)

    def _choose_host(self, names: Iterable[str]) -> str | None:
        entries, wanted = self._shape.hosts, self._shape.host
        if self._is_bad("host") or not entries:
            return None
        if wanted is not None:
            if wanted in entries:
                return wanted
            hint = self._meant(wanted, self._hosts)
            self._say(("host",), f"{show(wanted)} is no entry of hosts", f"{hint} one of {_listed(self._hosts)}")
            return None
        if len(entries) == 1:
            return next(iter(entries))
        known = {name.casefold(): name for name in reversed(entries)}
        tried = []
        for mine in names:  # one after the other: the second takes a look at the disk
            short = mine.partition(".")[0]
            for candidate in (mine.casefold(), short.casefold()):
                if candidate in known:
                    return known[candidate]
            tried.append((mine, short))
        what = f"none of {_listed(self._hosts)} is the name of this machine ({' or '.join(mine for mine, _ in tried)})"
        name = tried[-1][1].casefold() if tried else "after it"
        self._say(("hosts",), what, f"write host: {_listed(self._hosts[:1])} at the top, or name an entry {name}")
        return None

    def _terms_of_host(self, name: str, entry: HostShape, physical: int) -> Host | None:
        """The host; None where its memory is known to be wrong, or leaves nothing to share."""
        here = ("hosts", name)
        if here in self._bad_in:
            return None
        kept = [from_mb(entry.ram_reserved_mb), from_mb(entry.ram_safety_mb)]
        host = Host(name, {RAM: physical}, {RAM: kept[0]}, {RAM: kept[1]})
        pool = headroom.pool(host)[RAM]
        if pool > 0 and free_to_mb(pool) > 0:
            return host
        what = f"leaves a pool of {free_to_mb(pool)} MB ({_sum(host)}): nothing could be admitted"
        self._say(here, what, "write a smaller ram_reserved_mb or ram_safety_mb")
        return None

    def _check_fit(self, host: Host) -> None:
        pool = headroom.pool(host)
        pinned = []
        for name, service in self._shape.services.items():
            budget = {RAM: from_mb(service.ram_budget_mb)}
            if self._is_bad("services", name, "ram_budget_mb"):
                continue
            if not headroom.fits(budget, pool):
                what = f"{service.ram_budget_mb} MB is more than the whole pool of {free_to_mb(pool[RAM])} MB"
                instead = f"write at most {free_to_mb(pool[RAM])}, or leave more in the pool ({_sum(host)})"
                self._say(("services", name, "ram_budget_mb"), what, instead)
            elif service.pinned:
                pinned.append((name, budget))
        whole = headroom.total(budget for _, budget in pinned)
        if not headroom.fits(whole, pool):
            names = _listed([name for name, _ in pinned])
            what = f"the pinned services {names} need {to_mb(whole[RAM])} MB together, more than the pool"
            what += f" of {free_to_mb(pool[RAM])} MB"
            self._say(("services", pinned[-1][0], "pinned"), what, "write pinned: false for one of them")


def _sum(host: Host) -> str:
    physical, reserved, safety = (to_mb(part[RAM]) for part in (host.physical, host.reserved, host.safety))
    return f"{physical} physical - {reserved} reserved - {safety} safety"


def _listed(names: list[str]) -> str:
    shown = ", ".join(show(name).strip('"') for name in names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown


def _names_in(document: Document, section: str) -> list[str]:
    whole = document.value
    part = whole.get(section) if isinstance(whole, dict) else None
    return list(part) if isinstance(part, dict) else []


def _services_of(shape: FileShape) -> dict[str, Service]:
    """The services, with exclusion on both sides even if only one side said it."""
    apart: dict[str, set[str]] = {name: set() for name in shape.services}
    for name, service in shape.services.items():
        for other in service.exclusive_with:
            apart[name].add(other)
            apart[other].add(name)
    return {name: _service(name, service, apart[name]) for name, service in shape.services.items()}


def _service(name: str, shape: ServiceShape, exclusive_with: set[str]) -> Service:
    return Service(
        name=name,
        budget={RAM: from_mb(shape.ram_budget_mb)},
        priority=shape.priority,
        exclusive_with=frozenset(exclusive_with),
        process_pattern=shape.process_pattern,
        program=shape.program,
        loaded_check_cmd=_command(shape.loaded_check_cmd),
        load_cmd=_command(shape.load_cmd),
        unload_cmd=_command(shape.unload_cmd),
        load_timeout_s=shape.load_timeout_s,
        unload_timeout_s=shape.unload_timeout_s,
        pinned=shape.pinned,
        evictable=shape.evictable,
        probe=_probe(shape.probe) if shape.probe else None,
        hard_limit=None if shape.hard_limit_mb is None else {RAM: from_mb(shape.hard_limit_mb)},
        recover=shape.recover,
        idle_unload_s=shape.idle_unload_s,
        eager=shape.eager,
    )


def _sentinel(shape: SentinelShape) -> Sentinel:
    return Sentinel(
        safelist=tuple(shape.safelist),
        stopped_interval_s=shape.stopped_interval_s,
        probe_interval_s=shape.probe_interval_s,
        probe_failures=shape.probe_failures,
        recoveries_per_hour=shape.recoveries_per_hour,
        save_grace_s=shape.save_grace_s,
        on_pressure=OnPressure(shape.on_pressure),
        notify=tuple(shape.notify),
        notify_command=_command(shape.notify_command),
    )


def _command(value: str | list[str] | None) -> Command | None:
    return tuple(value) if isinstance(value, list) else value


def _probe(shape: ProbeShape) -> Probe:
    body: Any = shape.body
    if "body" not in shape.model_fields_set and shape.method in (None, "POST"):
        path = urlsplit(shape.url).path.rstrip("/")
        body = next((one for end, one in _ONE_TOKEN.items() if path.endswith(end)), None)
    return Probe(
        url=shape.url,
        method=shape.method or ("GET" if body is None else "POST"),
        json=body,
        expect_status=shape.expect_status,
        timeout_s=shape.timeout_s,
        startup_grace_s=shape.startup_grace_s,
    )
