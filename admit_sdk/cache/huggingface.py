"""huggingface: Hugging Face's own cache: what is in it, which of it is used, and deleting through its own library.

It is read and deleted by huggingface_hub alone (extra `hub`), which knows its layout: revisions that share blobs, blobs
that repositories share, references, locks. Nothing is imported before it is asked for. Nothing of this cache ever goes
by itself, to make room or because it is idle: its owner is another program.
"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from admit_sdk.cache.errors import InUse, NoHub, NotCached
from admit_sdk.cache.opened import is_opened
from admitd import extras

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo

_NOATIME: Final = getattr(os, "ST_NOATIME", 0)


@dataclass(frozen=True, slots=True)
class HubRepo:
    """One repository in the cache. `id` is as Hugging Face's tools write it: model/owner/name; `used_at` is None where
    the file system does not note when files are read, as macOS's does not."""

    id: str
    path: Path
    size_bytes: int
    used_at: float | None
    opened: bool


@dataclass(frozen=True, slots=True)
class HubContents:
    """What is in the cache. `size_bytes` counts what repositories share once; `unfinished_bytes` is left of downloads;
    `warnings`: what could not be understood, and is not counted."""

    folder: Path
    repos: tuple[HubRepo, ...]
    size_bytes: int
    unfinished_bytes: int
    warnings: tuple[str, ...] = ()

    def idle(self, now: float, idle_s: float) -> tuple[HubRepo, ...]:
        """What nobody has open, and nobody has read for longer than `idle_s`; the oldest use first."""
        found = [each for each in self.repos if not each.opened and each.used_at is not None]
        found = [each for each in found if each.used_at is not None and now - each.used_at > idle_s]
        return tuple(sorted(found, key=lambda each: (each.used_at or 0.0, each.id)))


def contents(folder: Path) -> HubContents:
    """What is in the cache at `folder`; empty where there is none. Raises NoHub."""
    info = _scan(folder)
    if info is None:
        return HubContents(folder, (), 0, 0)
    # APFS notes the first reading after a writing, and none after that: the last use would be the download's day.
    is_noted = sys.platform == "linux" and not os.statvfs(folder).f_flag & _NOATIME
    repos = tuple(sorted((_repo(each, is_noted) for each in info.repos), key=lambda each: each.id))
    said = tuple(str(each) for each in info.warnings)
    unfinished = getattr(info, "incomplete_size_on_disk", 0)  # versions before 2 do not say
    return HubContents(folder, repos, info.size_on_disk, unfinished, said)


def evict(folder: Path, name: str) -> int:
    """Delete one repository, by `huggingface_hub`'s own hand; the bytes that came free. `name`: model/owner/name, or
    owner/name where there is one of that name only. Raises NotCached, InUse, NoHub."""
    info = _scan(folder)
    found = [each for each in info.repos if name in (_id(each), each.repo_id)] if info else []
    if info is None or not found:
        raise NotCached(f"no repository {name} is in {folder}; see what is: admit cache status")
    if len(found) > 1:
        names = ", ".join(sorted(map(_id, found)))
        raise NotCached(f"{name} may be each of {names} in {folder}; name one of them")
    (repo,) = found
    if _is_used(repo):
        raise InUse(f"{_id(repo)} stays: a process has it open, or downloads it; end that first")
    # Its library looks for revisions by their hash in all repositories: a copy of this one may have the same.
    alone = replace(info, repos=frozenset({repo}))
    if not repo.revisions:
        raise NotCached(f"{_id(repo)} has no revision that could be deleted; remove it by hand: {repo.repo_path}")
    strategy = alone.delete_revisions(*(each.commit_hash for each in repo.revisions))
    strategy.execute()
    if repo.repo_path.exists():
        raise InUse(f"{repo.repo_path} could not be deleted, or not all of it; look at it: ls -l {repo.repo_path}")
    return strategy.expected_freed_size


def _scan(folder: Path) -> HFCacheInfo | None:
    """What the library says of `folder`; None where there is no such cache. Raises NoHub."""
    if not folder.is_dir():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from huggingface_hub import scan_cache_dir
    except ImportError as problem:
        how = extras.install("hub")
        raise NoHub(f"Hugging Face's cache in {folder} is read through its own library; install it: {how}") from problem
    try:
        return scan_cache_dir(folder)
    except (OSError, ValueError) as problem:
        raise NoHub(f"Hugging Face's cache in {folder} cannot be read: {problem}") from problem


def _repo(repo: CachedRepoInfo, is_noted: bool) -> HubRepo:
    # relatime notes a reading once a day, and some file systems begin with the time of writing.
    used_at = max(repo.last_accessed, repo.last_modified) if is_noted else None
    return HubRepo(_id(repo), repo.repo_path, repo.size_on_disk, used_at, _is_used(repo))


def _is_used(repo: CachedRepoInfo) -> bool:
    """Whether a process has one of its files open, a half-downloaded one included."""
    files: set[Any] = {os.path.realpath(file.blob_path) for each in repo.revisions for file in each.files}
    files |= set((repo.repo_path / "blobs").glob("*.incomplete"))
    return any(is_opened(Path(each)) for each in files)


def _id(repo: CachedRepoInfo) -> str:
    return f"{repo.repo_type}/{repo.repo_id}"
