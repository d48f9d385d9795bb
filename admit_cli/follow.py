"""follow: what is shown while a command waits in the queue or follows a load: on a terminal one line that changes,
elsewhere only what is worth a line in a log: a new place in the queue, and how it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from admit_cli import render
from admit_cli.door import Door
from admit_cli.errors import interrupted
from admit_cli.lastgood import BROKEN, stand_in
from admit_cli.load import said
from admit_cli.tell import out, printable, tell
from admitd import actuator, loading, places, unloading
from admitd.core import wire
from admitd.core.terms import RAM, Service, State
from admitd.core.units import show_duration, to_mb

_CLEAR: Final = "\r\x1b[2K"


class Line:
    """One line of progress on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.is_live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = False

    def show(self, text: str) -> None:
        """Show it in place of what was shown before; cut to the width of the terminal, which a wrapped line would
        not leave any more."""
        if self.is_live:
            text = printable(text)
            width = render.terminal_width() - 1
            tell(_CLEAR + (text if len(text) <= width else f"{text[: width - 3]}..."), end="")
            self._shown = True

    def end(self) -> None:
        """Take it away."""
        if self._shown:
            tell(_CLEAR, end="")
        self._shown = False


class Queue:
    """Our place in the queue, while we wait in it."""

    def __init__(self, door: Door, name: str) -> None:
        self._door = door
        self._name = name
        self._line = Line()
        self._began = time.monotonic()
        self._place = ""

    def show(self) -> None:
        """Look where we are and show it. What cannot be seen now may be at the next look: waiting goes on."""
        try:
            waiting = [each["holder_pid"] for each in self._door.capacity()["waiting"]]
        except Exception as problem:
            self._line.show(f"{self._name} waits; ignoring that its place cannot be seen: {problem}")
            return
        if os.getpid() not in waiting:
            return
        place = f"{self._name} waits, position {waiting.index(os.getpid()) + 1} of {len(waiting)} in the queue"
        self._line.show(f"{place}, {show_duration(time.monotonic() - self._began)} so far")
        if place != self._place and not self._line.is_live:
            tell(f"admit: {place}")
        self._place = place

    def end(self) -> None:
        """The waiting is over, one way or the other."""
        self._line.end()


class Following:
    """One admitted load, from its command to its end; says everything, and gives the reservation back, unless another
    program goes on to load."""

    def __init__(self, door: Door, values: dict[str, Any], verdict: dict[str, Any]) -> None:
        self._door = door
        self._values = values
        self._name: str = values["name"]
        self._budget_mb: int = verdict["budget_mb"]
        self._held: str = verdict["reservation"]["id"]
        self._log = Path(places.log_path(os.environ, self._name))
        self._line = Line()
        self._load: loading.Load | None = None
        self._stands = False
        """What was reserved is to stand when this process has ended."""

    def run(self) -> int:
        """Start it and follow it; the exit code."""
        try:
            return self._run()
        except KeyboardInterrupt as stop:
            self._line.end()
            # Noted first: pressed again, it ends at once, and what another program loads keeps its room.
            self._stands = self._load is not None and self._load.hand_over()
            left = (self._what_may_come() if self._stands else "") or self._what_is_left()
            return interrupted("; ".join(filter(None, [left, str(stop)])), as_json=self._values["json"])
        finally:
            self._line.end()
            if not self._stands:
                self._give_back()

    def _run(self) -> int:
        inside = self._door.inside()
        self._gate = inside.house.gate
        self._service = inside.declared(self._name)
        places.make_user_folder(os.environ)  # where its log goes
        if self._line.is_live:
            tell(f"{self._name} is admitted, {self._budget_mb} MB are reserved")
            tell(f"  log: {render.from_home(str(self._log))}")
        with _heeded_after():
            self._load = loading.Load(self._gate, self._service, self._log, self._held)
        outcome = self._load.follow(_shown(self._line, self._service))
        self._line.end()
        if isinstance(outcome, loading.Loaded):
            return self._loaded(outcome)
        if isinstance(outcome, loading.LoadFailed):
            return self._not_loaded(wire.FAILED, "failed", f"failed to load: {outcome.why}", outcome.tail)
        seen = printable(outcome.seen)
        late = f"was not loaded within {show_duration(self._service.load_timeout_s)}: {seen}"
        return self._not_loaded(wire.TIMED_OUT, "timed_out", late, outcome.tail)

    def _loaded(self, outcome: loading.Loaded) -> int:
        from admitd.acting import loaded

        result = loaded(self._name, "loaded", outcome)
        if self._values["json"]:
            render.print_json({"verdict": "admitted", **result})
        else:
            out(render.loaded(result, to_mb(self._service.budget.get(RAM, 0))))
        return wire.OK

    def _not_loaded(self, code: int, word: str, why: str, tail: tuple[str, ...]) -> int:
        tell(f"admit: {self._name} {why}")
        for each in tail:
            tell(f"  | {printable(each)}")
        log = render.from_home(str(self._log))
        tell(f"  log: {log}" if tail else f"  its load_cmd printed nothing to {log}")
        body = {"verdict": "admitted", "outcome": word, "service": self._name, "detail": why, "log": str(self._log)}
        if word == "timed_out":
            body["left"] = self._clean_up() if self._values["cleanup"] else self._left_running()
            tell(f"  {body['left']}")
        if self._values["json"]:
            render.print_json({**body, "tail": list(tail)})
        return code

    def _clean_up(self) -> str:
        """What `--cleanup` does after a timeout: its own way to unload, and SIGTERM to what is left of the load_cmd.

        Never SIGKILL: who is ended hard while it holds wired GPU memory can leak that until the next boot."""
        outcome = unloading.clean_up(self._gate, self._name, lambda text: tell(f"admit: {text}"))
        said = render.unload_outcome(self._name, outcome, self._values["config"])
        left: tuple[int, ...] = ()
        load = self._load
        if load is not None and load.process.poll() is None and not self._was_asked(outcome, load.process.pid):
            pid, patience_s = load.process.pid, self._service.unload_timeout_s
            tell(f"admit: SIGTERM to its load_cmd (process {pid})")
            left = actuator.ask_session(pid, patience_s)
            if left:
                which = " ".join(map(str, left))
                said += f"; its load_cmd is still there {show_duration(patience_s)} after SIGTERM: process {which}"
                said += f"; end it for certain: kill -KILL {which}"
            elif isinstance(outcome, unloading.Unloaded) or self._is_there():
                said += f"; its load_cmd (process {pid}) is ended"
            else:
                return f"cleaned up: {outcome.why}; but its load_cmd (process {pid}) is ended, and nothing is left"
        is_clean = isinstance(outcome, unloading.Unloaded) and not left
        return f"{'cleaned up' if is_clean else 'not all is cleaned up'}: {said}"

    def _was_asked(self, outcome: unloading.Outcome, pid: int) -> bool:
        """Whether a process has had its SIGTERM, and its time to go, already."""
        return isinstance(outcome, unloading.UnloadTimedOut) and pid in outcome.pids and not self._service.unload_cmd

    def _is_there(self) -> bool:
        return self._gate.look().ledger.account(self._service).state.is_loaded

    def _what_may_come(self) -> str:
        """What is to be said where another program loads it, and it is not visible yet."""
        until, calls_off = "", self._service.unload_cmd is not None
        with contextlib.suppress(Exception):
            account = self._gate.look().ledger.account(self._service)
            if account.state.is_loaded and not account.mention_only:
                return ""
            if account.reservation is not None:
                until = f" until {time.strftime('%H:%M:%S', time.localtime(account.reservation.expires_at))}"
        ends = f"{'call it off' if calls_off else 'end it once it is up'}: "
        ends += render.again(self._values["config"], "unload", self._name)
        return (
            f"interrupted; the load_cmd of {self._name} has ended well, and it may come up yet: its "
            f"{self._budget_mb} MB stay reserved{until}; {ends}"
        )

    def _what_is_left(self) -> str:
        said = f"interrupted; nothing is reserved for {self._name} any more"
        return f"{said}; {self._left_running()}" if self._load is not None else f"{said}, and nothing was started"

    def _left_running(self) -> str:
        """What was started and is there still, and the command that ends it."""
        load = self._load
        command = load.process.pid if load is not None and load.process.poll() is None else None
        seen: tuple[int, ...] = ()
        is_there, unseen = False, ""
        try:
            account = self._gate.look().ledger.account(self._service)
            seen, is_there = tuple(p.id.pid for p in account.processes), account.state.is_loaded
        except Exception as problem:
            unseen = f" (ignoring that {problem})"
        left = [f"process {pid}" for pid in seen if pid != command]
        if command is not None:
            left.append(f"process {command} (its load_cmd)")
        if not left and not is_there:
            return f"nothing of it was left running{unseen}"
        ends = render.again(self._values["config"], "unload", self._name) if is_there else f"kill -TERM -{command}"
        return f"left running: {', '.join(left) or 'what its check calls loaded'}{unseen}; end it: {ends}"

    def _give_back(self) -> None:
        try:
            self._door.ask("DELETE", f"/reservations/{self._held}")
        except Exception as problem:
            tell(f"admit: ignoring that the reservation could not be given back ({problem}): it ends with this process")


def start_and_follow(door: Door, values: dict[str, Any], verdict: dict[str, Any]) -> int:
    """Run the load_cmd of an admitted service and follow it; the exit code. The reservation is given back."""
    try:
        return Following(door, values, verdict).run()
    except BROKEN as broken:  # before anything was started
        return stand_in(door, broken).load(values, verdict)


def await_answer(door: Door, values: dict[str, Any], verdict: dict[str, Any]) -> int:
    """Follow what is there already until its check says so and its probe is answered, where it has one: somebody else
    may be loading it still; the exit code."""
    name, line = values["name"], Line()
    try:
        inside = door.inside()
    except BROKEN as broken:
        return stand_in(door, broken).load(values, verdict)
    service, state = inside.declared(name), State(verdict["state"])
    bound = show_duration(service.load_timeout_s)
    is_half = state is State.HALF_LOADED
    is_there, waits, not_yet = (
        ("is there already", "until it is loaded", "is not loaded yet")
        if is_half
        else ("is loaded already", "for its answer", "has not answered yet")
    )
    told: list[str] = []

    def show(progress: loading.Progress) -> None:
        if not told:
            told.append(f"admit: {name} {is_there}; waiting {waits}, {bound} at most")
            tell(told[0])
        _shown(line, service)(progress)

    try:
        outcome = loading.await_answer(inside.house.gate, service, state, show)
    except KeyboardInterrupt:
        line.end()
        left = f"interrupted; {name} {is_there.replace('is', 'was', 1)}, goes on, and {not_yet}"
        return interrupted(left, as_json=values["json"])
    finally:
        line.end()
    if isinstance(outcome, loading.Loaded):
        return said({**verdict, "state": State.LOADED.value}, values["json"])
    if isinstance(outcome, loading.LoadFailed):
        code, word, why = wire.FAILED, "failed", f"{is_there.replace('is', 'was', 1)}, but {outcome.why}"
    else:
        code, word = wire.TIMED_OUT, "timed_out"
        why = f"{is_there}, but {'was not loaded' if is_half else 'did not answer'} within {bound}: "
        why += printable(outcome.seen)
        why += f"; end it: {render.again(values['config'], 'unload', name)}"
    tell(f"admit: {name} {why}")
    if values["json"]:
        render.print_json({**verdict, "outcome": word, "detail": why})
    return code


@contextlib.contextmanager
def _heeded_after() -> Iterator[None]:
    """Ctrl-C and SIGTERM while a process is being started are heeded once it is known which one it is."""
    came: list[int] = []
    before = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM)}
    for sig, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(sig, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
    if came:
        raise KeyboardInterrupt


def _shown(line: Line, service: Service) -> Callable[[loading.Progress], None]:
    budget = to_mb(service.budget.get(RAM, 0))

    def show(progress: loading.Progress) -> None:
        held = to_mb(progress.measured.get(RAM, 0))
        bar = render.bar(loading.share(progress, service), 20)
        line.show(f"{service.name}  {progress.elapsed_s:4.0f} s  {bar} {held} of {budget} MB  {progress.doing}")

    return show
