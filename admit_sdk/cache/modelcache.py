"""modelcache: the cache as an app uses it: fetch a file and hold it, look, collect, evict."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final

from admit_sdk.cache import room
from admit_sdk.cache.errors import BadName, CacheError, CacheUnusable, NotCached
from admit_sdk.cache.folder import Folder
from admit_sdk.cache.keeper import COLLECT_EVERY_S, Keeper
from admit_sdk.cache.manner import STALL_S, Manner
from admit_sdk.cache.references import Held
from admit_sdk.cache.room import Victim
from admit_sdk.cache.terms import (
    APP,
    Contents,
    OnProgress,
    Progress,
    Source,
    State,
    content,
    inner_path,
    plain_name,
)
from admitd import places
from admitd.core.units import parse_amount
from admitd.machinelock import Busy

_LOOK_EVERY_S: Final = 0.25


class ModelCache:
    """The model files that a user's apps share. Any number of processes and threads may use one folder at once.

    `folder`: ADMIT_MODEL_CACHE and the user's cache folder otherwise. `app`: the name under which files are held, the
    program's otherwise. `max_bytes`: ADMIT_MODEL_CACHE_MAX, and a quarter of the free disk otherwise. `spare_bytes`
    always stay free on the disk. What nobody has used for `idle_s` goes. Raises CacheUnusable, BadName.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        app: str | None = None,
        max_bytes: int | None = None,
        spare_bytes: int = room.SPARE_BYTES,
        idle_s: float = room.IDLE_S,
    ) -> None:
        # Absolute: the app may change its working folder, and links lead here from elsewhere.
        self._folder = Folder(_folder_of(os.environ) if folder is None else Path(folder).expanduser().absolute())
        self._app = _app_name() if app is None else app
        if not APP.match(self._app):
            raise BadName(f"{self._app[:80]!r} is no name of an app; write letters, digits and . _ -, at most 63")
        most = _max_of(os.environ) if max_bytes is None else max_bytes
        self._collects_at_s = 0.0
        self._keeper = Keeper(self._folder, most, max_bytes is not None, spare_bytes, idle_s)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder.root

    def fetch(
        self,
        url: str,
        sha256: str,
        *,
        name: str | None = None,
        size_bytes: int | None = None,
        headers: Mapping[str, str] | None = None,
        on_progress: OnProgress | None = None,
        stop: threading.Event | None = None,
        wait_s: float | None = None,
        stall_s: float = STALL_S,
    ) -> Held:
        """The file with this content, from the cache or from `url`, held until it is released.

        Where there is no room, it pauses until there is, for at most `wait_s`. Raises what errors.py lists.
        """
        source = Source(url, sha256, size_bytes)
        manner = Manner(headers or {}, on_progress, stop, wait_s, stall_s)
        return self._fetched(source, source.name if name is None else plain_name(name), manner)

    def fetch_folder(
        self,
        files: Mapping[str, Source],
        into: str | os.PathLike[str],
        *,
        headers: Mapping[str, str] | None = None,
        on_progress: OnProgress | None = None,
        stop: threading.Event | None = None,
        wait_s: float | None = None,
    ) -> HeldFolder:
        """A model of several files: each fetched and held, and linked to under its own name in the folder `into`.

        All names are looked at before anything is downloaded, and all sizes that the sources tell. Raises what
        errors.py lists, TooLarge also where only all of them together are, and OSError.
        """
        paths = {inner_path(name): source for name, source in files.items()}
        manner = Manner(headers or {}, on_progress, stop, wait_s)
        with contextlib.ExitStack() as stack:
            held: dict[PurePosixPath, Held] = {}
            sizes = {each.sha256: each.size_bytes or 0 for each in paths.values()}  # of one content, under any names
            for path, each in paths.items():
                # What is held here would be waited for in vain: it goes only after this has ended.
                beside = sum(sizes.values()) - sizes[each.sha256]
                held[path] = self._fetched(each, path.name, replace(manner, beside_bytes=beside))
                stack.enter_context(held[path])
                sizes[each.sha256] = held[path].size_bytes
            for path, file in held.items():
                _link(Path(into) / path, file.path)
            stack.pop_all()
        return HeldFolder(Path(into), tuple(held.values()))

    def hold(self, sha256: str) -> Held:
        """A file that is there already. Raises NotCached."""
        key = content(sha256)
        with self._folder.lock():
            held = self._held(key)
        if held is None:
            raise NotCached(f"nothing with SHA-256 {key} is in the cache; fetch it, or see what is: admit cache status")
        self._collect_daily()
        return held

    def contents(self) -> Contents:
        """What is there now: files, references, downloads, the bounds. Raises CacheUnusable."""
        return self._keeper.contents()

    def collect(self, *, only_look: bool = False) -> tuple[Victim, ...]:
        """Remove what nobody has used for too long, and, the oldest first, what is beyond the maximum."""
        return self._keeper.collect(only_look=only_look)

    def evict(self, sha256: str) -> tuple[Victim, ...]:
        """Remove one file that nobody uses. Raises NotCached, InUse."""
        return self._keeper.evict(content(sha256))

    def _fetched(self, source: Source, name: str, manner: Manner) -> Held:
        while True:
            with self._folder.lock():
                held = self._held(source.sha256)
            if held is not None:
                self._collect_daily()
                return held
            manner.check()
            try:
                with self._folder.download_lock(source.sha256, _LOOK_EVERY_S):
                    return self._download(source, name, manner)
            except Busy:
                done = _size(self._folder.part(source.sha256))
                manner.tell(Progress(State.WAITING, done, source.size_bytes, "another process downloads it"))

    def _download(self, source: Source, name: str, manner: Manner) -> Held:
        """By the one who holds the download's lock."""
        from admit_sdk.cache.download import Download  # and with it HTTP and TLS, which a file that is there needs not

        with self._folder.lock():
            held = self._held(source.sha256)
        if held is not None:  # another was quicker, between our look and our lock
            self._folder.forget_download(source.sha256)
            return held
        size = Download(self._folder, self._keeper, source, name, manner).run()
        with self._folder.lock():
            # Held before it is there to be found: there is no moment at which it could go.
            held = Held(self._folder, source.sha256, self._app)
            try:
                self._folder.publish(source.sha256, name, source.origin, size)
            except BaseException:
                held.release()
                raise
            self._folder.used_now(source.sha256)
        with contextlib.suppress(CacheError):  # the file is there and held: what is idle can go another time
            self._keeper.collect()
        return held

    def _collect_daily(self) -> None:
        """Have what is idle collected where that is due, by a thread of its own: who has the file waits for nothing."""
        now_s = time.monotonic()
        if now_s < self._collects_at_s or not self._keeper.is_due():
            return
        self._collects_at_s = now_s + COLLECT_EVERY_S  # whatever comes of it
        with contextlib.suppress(RuntimeError):  # no thread is to be had: another time
            threading.Thread(target=_collect_idle, args=(self._keeper,), name="admit-cache", daemon=True).start()

    def _held(self, sha256: str) -> Held | None:
        """Under the lock."""
        return Held(self._folder, sha256, self._app) if self._folder.is_whole(sha256) else None


def _collect_idle(keeper: Keeper) -> None:
    with contextlib.suppress(CacheError):
        keeper.collect_idle()


class HeldFolder:
    """A model of several files, each held. `path` is the folder with their names."""

    def __init__(self, path: Path, files: tuple[Held, ...]) -> None:
        self.path = path
        self.files = files

    def release(self) -> None:
        """Give all of them back. The names stay, for the next time."""
        for each in self.files:
            each.release()

    def __enter__(self) -> HeldFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def _folder_of(environ: Mapping[str, str]) -> Path:
    named = environ.get("ADMIT_MODEL_CACHE")
    if named and not named.startswith("/"):
        raise CacheUnusable(f"ADMIT_MODEL_CACHE={named} depends on the working folder; write the whole path, from /")
    if named:
        return Path(named)
    home = places.home(environ)
    if sys.platform == "darwin":  # among the caches, which Time Machine leaves out
        return Path(home, "Library", "Caches", "admit", "models")
    caches = environ.get("XDG_CACHE_HOME", "")
    return Path(caches if caches.startswith("/") else f"{home}/.cache", "admit", "models")


def _max_of(environ: Mapping[str, str]) -> int | None:
    named = environ.get("ADMIT_MODEL_CACHE_MAX")
    if not named:
        return None
    try:
        return parse_amount(named)
    except ValueError as problem:
        raise CacheUnusable(f"ADMIT_MODEL_CACHE_MAX: {problem}") from problem


def _app_name() -> str:
    """The program's name, as far as it can be part of a file's name."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(sys.argv[0] if sys.argv else "").stem).lstrip("._-")[:63]
    return plain or "app"


def _link(at: Path, to: Path) -> None:
    """A name that leads to a file of the cache. A link that is there already is replaced at once, by whomever it was
    made; a file of the user's own is not: FileExistsError."""
    at.parent.mkdir(parents=True, exist_ok=True)
    if at.exists() and not at.is_symlink():
        raise FileExistsError(errno.EEXIST, "there is a file of your own", str(at))
    making = at.with_name(f".{secrets.token_hex(8)}")
    os.symlink(to, making)
    os.replace(making, at)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
