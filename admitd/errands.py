"""errands: what takes long and is run beside the sentinel's rounds: probes, a few at once, and mending, one a service.

Each has a thread of its own, which ends with the process and holds up no shutdown. What comes of it is taken in by the
sentinel's own thread, so that only one thread ever changes what the sentinel remembers.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, Protocol

from admitd.core.probing import Heard
from admitd.core.terms import Probe
from admitd.probe import ask

PROBES_AT_ONCE: Final = 8

News = Callable[[], None]


class Progress(Protocol):
    """Who knows how much a service has done."""

    def progress(self, service: str) -> int | None:
        """A number that grows while the service works; None where that cannot be told."""

    def own_probe(self, service: str) -> AbstractContextManager[None]:
        """Around a probe of ours."""


class Errands:
    """`watch`: asked for progress when a probe is sent, and when it ends. `failed`: told what was not foreseen."""

    def __init__(self, watch: Progress, failed: Callable[[Exception], None]) -> None:
        self._watch = watch
        self._failed = failed
        self._came: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._waiting: deque[tuple[str, Probe]] = deque()
        self._asking: set[str] = set()
        self._acting: set[str] = set()
        self._heard: list[Heard] = []
        self._stir = threading.Event()

    @property
    def under_way(self) -> frozenset[str]:
        """Whom something is being done to."""
        return frozenset(self._acting)

    @property
    def urgent(self) -> bool:
        """Whether a probe ended without its answer, and waits to be judged."""
        return any(not heard.answered for heard in self._heard)

    def wait(self, for_s: float) -> None:
        """Wait, unless something comes."""
        self._stir.wait(for_s)
        self._stir.clear()

    def stir(self) -> None:
        """End the waiting."""
        self._stir.set()

    def take_in(self) -> None:
        """Take in what has come since the last time."""
        while True:
            try:
                news = self._came.get_nowait()
            except queue.Empty:
                break
            news()
        self._send()

    def heard(self) -> list[Heard]:
        """What the probes that have ended came to; each is told once."""
        heard, self._heard = self._heard, []
        return heard

    def probe(self, service: str, probe: Probe) -> None:
        """Send a probe, when its turn comes."""
        if service not in self._asking and all(name != service for name, _ in self._waiting):
            self._waiting.append((service, probe))
            self._send()

    def ask_now(self, service: str, probe: Probe) -> Heard:
        """Send a probe and wait for what it comes to: for who has a thread of his own."""
        try:
            before = self._watch.progress(service)
            with self._watch.own_probe(service):
                said = ask(probe)
            after = self._watch.progress(service)
            return Heard(service, said.answered, said.detail, said.took_s, before, after, said.refused)
        except Exception as problem:  # who asked must be answered
            return Heard(service, False, f"{type(problem).__name__}: {problem}", 0.0)

    def begin(self, service: str, work: Callable[[], News | None]) -> bool:
        """Do `work` beside the rounds; what it returns is called by the sentinel's thread. False: somebody is at it.
        Raises RuntimeError where the system has no room for a thread."""
        if service in self._acting:
            return False
        self._acting.add(service)
        try:
            self._thread(f"admit-mend-{service}", partial(self._act, service, work))
        except BaseException:
            self._acting.discard(service)
            raise
        return True

    def _act(self, service: str, work: Callable[[], News | None]) -> None:
        news: News | None = None
        try:
            news = work()
        except Exception as problem:  # told, and the service is given free again
            self._arrive(partial(self._failed, problem))
        if news is not None:
            self._arrive(news)
        self._arrive(partial(self._acting.discard, service))

    def _send(self) -> None:
        while self._waiting and len(self._asking) < PROBES_AT_ONCE:
            service, probe = self._waiting[0]
            try:
                self._thread(f"admit-probe-{service}", partial(self._ask, service, probe))
            except RuntimeError as problem:  # no room for a thread: it is this one's turn again next time
                self._failed(problem)
                return
            self._waiting.popleft()
            self._asking.add(service)

    def _ask(self, service: str, probe: Probe) -> None:
        self._arrive(partial(self._answered, self.ask_now(service, probe)))

    def _answered(self, heard: Heard) -> None:
        self._asking.discard(heard.service)
        self._heard.append(heard)

    def _arrive(self, news: News) -> None:
        self._came.put(news)
        self._stir.set()

    def _thread(self, name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()
