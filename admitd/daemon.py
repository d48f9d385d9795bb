"""daemon: one run of the daemon, from its sockets to its end."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from admitd import __version__, places, serving
from admitd.app import descriptors_to_keep, furnish
from admitd.core import headroom
from admitd.core.events import Event, Number
from admitd.core.terms import RAM
from admitd.core.units import free_to_mb, to_mb
from admitd.gate import Gate
from admitd.handover import ALONE, Handed
from admitd.notify import Notifier


def run(environ: Mapping[str, str], config: str | None, port: int, handed: Handed = ALONE) -> None:
    """Serve until SIGTERM or SIGINT. `handed`: what a supervisor handed over. Raises serving.PortTaken,
    places.UnsafePlace and all that furnish raises."""
    gc.disable()  # until all is imported: it finds nothing there to collect, and takes a tenth of the time
    house = furnish(environ, config, keep=descriptors_to_keep())
    token = places.token(environ)
    unix = places.socket_path(environ, port)
    note = places.note_path(environ, port)
    with _signals_held(), contextlib.ExitStack() as ends:
        # Before what takes time to import: who starts a second one is told at once, and who asks meanwhile only waits.
        sockets = serving.listen(port, None if unix is None else Path(unix), handed.sockets)
        # A socket of the supervisor's stays where it is: whoever asks while this daemon is not there waits at it.
        is_ours = not any(each.family == socket.AF_UNIX for each in handed.sockets)
        take_down = ends.enter_context(_taken_down(note, *([unix] if unix is not None and is_ours else [])))
        with open(note, "w", encoding="utf-8") as out:
            out.write(f"{os.getpid()}\n{os.path.abspath(house.watched.path)}\n")
        sentinel = house.sentinel(port)
        notifier = Notifier(lambda: house.gate.capacity().sentinel, house.journal.write)
        ends.callback(notifier.close)
        house.journal.listen(notifier.tell)
        house.journal.listen(house.gate.tally.happened)

        def ready() -> None:
            gc.freeze()  # nor is there anything to find later in what stays for good
            gc.enable()
            house.journal.write(_started(house.gate, port))
            sentinel.start()
            where = f"http://127.0.0.1:{port}" + (f" and {unix}" if unix else "")
            print(f"admitd {__version__} listens on {where}", file=sys.stderr)
            print(_in_force(house.gate), file=sys.stderr, flush=True)
            handed.ready(f"listens on {where}")

        def ending() -> None:
            handed.stopping()
            take_down()
            house.streams.stop()

        serving.serve(serving.server(house.application(port, sentinel, token), ready, ending, handed), sockets)
        sentinel.stop()
        house.journal.write(Event("daemon_stopped", "the daemon was stopped", numbers={"pid": os.getpid()}))


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """From the first file that must be removed again, until the server listens to signals itself, they wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, serving.ENDED_BY)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _taken_down(*paths: str) -> Iterator[Callable[[], None]]:
    """Files that are removed when the end begins, or however else it ends; once, as another's may be there later."""
    left = list(paths)

    def take_down() -> None:
        while left:
            with contextlib.suppress(OSError):
                os.unlink(left.pop())

    try:
        yield take_down
    finally:
        take_down()


def _started(gate: Gate, port: int) -> Event:
    pool = free_to_mb(headroom.pool(gate.capacity().host)[RAM])
    numbers: dict[str, Number] = {"pid": os.getpid(), "port": port, "pool_mb": pool}
    return Event("daemon_started", f"the daemon was started (admit {__version__}, port {port})", numbers=numbers)


def _in_force(gate: Gate) -> str:
    """The limits in force, for the log."""
    capacity = gate.capacity()
    pool = free_to_mb(headroom.pool(capacity.host)[RAM])
    largest = max((to_mb(service.budget.get(RAM, 0)) for service in capacity.services.values()), default=0)
    return (
        f"admitd goes by {capacity.path}: host {capacity.host.name}, pool {pool} MB, "
        f"{len(capacity.services)} services, the largest {largest} MB, "
        f"live_veto {'on' if capacity.live_veto else 'off'}"
    )
