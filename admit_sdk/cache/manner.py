"""manner: how a download is to be done: whom it tells, who may stop it, how long it waits for what."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from admit_sdk.cache.errors import Stopped
from admit_sdk.cache.terms import OnProgress, Progress

TRIES: Final = 5
STALL_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Manner:
    """How to download. `wait_s`: how long to pause where there is no room, None for as long as it takes; `stall_s`:
    how long a server may say nothing; `tries`: how often in a row it may fail without a further byte; `beside_bytes`:
    how large the other files of the same model are, as far as that is known, which are held at the same time."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    on_progress: OnProgress | None = None
    stop: threading.Event | None = None
    wait_s: float | None = None
    stall_s: float = STALL_S
    tries: int = TRIES
    beside_bytes: int = 0

    def check(self) -> None:
        """Raises Stopped once the caller has asked to stop."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped("the download was stopped; what came of it is kept, and the next attempt goes on from there")

    def sleep(self, seconds: float) -> None:
        """Wait, unless the caller asks to stop. Raises Stopped."""
        if self.stop is not None:
            self.stop.wait(seconds)
        else:
            time.sleep(seconds)
        self.check()

    def tell(self, progress: Progress) -> None:
        """Say how far it is."""
        if self.on_progress is not None:
            self.on_progress(progress)
