"""errors: what can go wrong with the model cache, each as a sentence with its numbers and what to do next."""

from __future__ import annotations


class CacheError(Exception):
    """Something of the model cache went wrong; the text is fit for users."""


class CacheUnusable(CacheError):
    """The cache's folder cannot be used: not private, not writable, or its lock not to be had."""


class NotCached(CacheError):
    """No complete file with this content is in the cache."""


class BadName(CacheError, ValueError):
    """A name, a hash or an address that cannot be used."""


class InUse(CacheError):
    """A file that was to go is in use, and stays."""


class NoRoom(CacheError):
    """There was no room for a download within the time that the caller gave."""

    def __init__(self, text: str, needed_bytes: int, max_bytes: int) -> None:
        super().__init__(text)
        self.needed_bytes = needed_bytes
        self.max_bytes = max_bytes


class TooLarge(NoRoom):
    """It would not fit into an empty cache either, so waiting would not help."""


class DownloadFailed(CacheError):
    """The server did not give the file. What came of it is kept, and the next attempt goes on from there."""


class WrongContent(CacheError):
    """All of it came, and it is not the content that was asked for. Nothing of it is kept."""


class Stopped(CacheError):
    """The caller stopped the download. What came of it is kept."""


class NoHub(CacheError):
    """Hugging Face's own library is not installed, or too old; or its cache cannot be read."""
