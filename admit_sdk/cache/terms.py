"""terms: the nouns of the model cache. Frozen, and valid if they exist; no file is touched here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from admit_sdk.cache.errors import BadName

APP: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_NAME_MAX: Final = 255
_USERS_SHOWN: Final = 3


class State(StrEnum):
    """What a download is doing."""

    WAITING = "waiting"
    """Another process or thread downloads the same file."""
    PAUSED = "paused"
    """There is no room for it yet."""
    CHECKING = "checking"
    """What an earlier attempt left is read again, to go on from there."""
    DOWNLOADING = "downloading"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is. `total_bytes` is None until a server has said it; `why` says why it does not go on."""

    state: State
    done_bytes: int
    total_bytes: int | None
    why: str = ""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file is to be had, and which content it must have. `size_bytes` where it is known beforehand."""

    url: str
    sha256: str
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", content(self.sha256))
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadName(f"{self.origin!r} is no address to download from; write https://host/path")
        if any(ord(each) <= ord(" ") or ord(each) > ord("~") for each in self.url):
            raise BadName(f"{self.origin!r} holds a blank or a letter outside ASCII; write it percent-encoded")
        if self.size_bytes is not None and self.size_bytes < 0:
            raise BadName(f"a size is at least 0 bytes, not {self.size_bytes}")

    @property
    def origin(self) -> str:
        """The address without what may be secret: no user, password, query or fragment."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def name(self) -> str:
        """The file's name as the address says it; its hash where that is no plain name."""
        last = unquote(urlsplit(self.url).path.rpartition("/")[2])
        return last if _is_plain(last) else self.sha256[:12]


@dataclass(frozen=True, slots=True)
class Reference:
    """An app that uses a file: it stays. `since` is in seconds since 1970."""

    app: str
    pid: int
    since: float


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A complete file. `used_at` is in seconds since 1970; `opened`: a process has it open or mapped."""

    sha256: str
    name: str
    origin: str
    size_bytes: int
    used_at: float
    references: tuple[Reference, ...] = ()
    opened: bool = False

    @property
    def in_use(self) -> bool:
        return bool(self.references) or self.opened

    @property
    def users(self) -> str:
        """Who uses it, for people: "chat (pid 12), notes (pid 7, 3 times)"; empty where nobody does."""
        counts = Counter((each.app, each.pid) for each in self.references)
        shown = [
            f"{app} (pid {pid}{f', {count} times' if count > 1 else ''})"
            for (app, pid), count in counts.most_common(_USERS_SHOWN)
        ]
        if len(counts) > _USERS_SHOWN:
            shown.append(f"{len(counts) - _USERS_SHOWN} more")
        return ", ".join(shown) or ("a process that has it open" if self.opened else "")


@dataclass(frozen=True, slots=True)
class Leftover:
    """What has come of a download: one that `runs`, or one that broke off and can be gone on with."""

    sha256: str
    name: str
    origin: str
    size_bytes: int
    total_bytes: int | None
    used_at: float
    runs: bool = False

    @property
    def counted_bytes(self) -> int:
        """What it will hold: all of it, if it runs."""
        return max(self.size_bytes, self.total_bytes or 0) if self.runs else self.size_bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in the cache at one moment, and what there is room for."""

    files: tuple[CachedFile, ...] = ()
    downloads: tuple[Leftover, ...] = ()
    max_bytes: int = 0
    free_bytes: int = 0
    spare_bytes: int = 0
    warnings: tuple[str, ...] = field(default=())

    @property
    def held_bytes(self) -> int:
        """What it holds, and what running downloads will add."""
        return sum(file.size_bytes for file in self.files) + sum(each.counted_bytes for each in self.downloads)

    @property
    def unwritten_bytes(self) -> int:
        """What running downloads will still write to the disk."""
        return sum(each.counted_bytes - each.size_bytes for each in self.downloads)


def content(sha256: str) -> str:
    """A SHA-256 in its one spelling, 64 small hexadecimal digits. Raises BadName."""
    plain = sha256.strip().lower().removeprefix("sha256:")
    if not _SHA256.match(plain):
        raise BadName(f"{sha256[:80]!r} is no SHA-256; write its 64 hexadecimal digits")
    return plain


def plain_name(name: str) -> str:
    """A file's name that is nothing but a name. Raises BadName."""
    if not _is_plain(name):
        raise BadName(f"{name[:80]!r} is no name of a file; write one without / and control characters, not . or ..")
    return name


def inner_path(name: str) -> PurePosixPath:
    """A path that stays inside the folder it is used in: `a.json`, `onnx/model.onnx`. Raises BadName."""
    parts = name.split("/")
    if not all(_is_plain(part) for part in parts):
        raise BadName(f"{name[:80]!r} is no path inside a model's folder; write for example config.json")
    return PurePosixPath(*parts)


def _is_plain(name: str) -> bool:
    return (
        name not in ("", ".", "..")
        and "/" not in name
        and "\\" not in name
        and name.isprintable()
        and len(name.encode("utf-8", "replace")) <= _NAME_MAX
    )
