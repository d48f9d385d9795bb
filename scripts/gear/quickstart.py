"""The main job as a story in the terminal: two real model servers, room for one, every command and answer shown.

Run by `scripts/quickstart`, which sets up what this needs. Exit 0 only if each step ended as the story says.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

GEAR = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent

DONE, REFUSED = 0, 2
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A machine of 2 GiB in the eyes of `admit`, so that the story is the same on every machine that has as much to spare.
# Each server takes about 400 MB: 300 of weights, the rest is Python and its libraries.
WEIGHTS_MB = 300
CAPACITY = """\
hosts:
  quickstart:
    ram_physical_mb: 2048
    ram_reserved_mb: 592
    ram_safety_mb: 256        # leaves a pool of 1200 MB
services:
{services}"""
SERVICE = """\
  {name}:
    ram_budget_mb: 700
    process_pattern: 'mlx_lm\\.server --model models/{name} --port {port}'
    load_cmd: mlx_lm.server --model models/{name} --port {port}
    load_timeout_s: 60
    probe:
      url: http://127.0.0.1:{port}/v1/chat/completions
"""


class Departure(Exception):
    """A step did not end as the story says."""


class Story:
    """Commands shown and run in a home of their own: nothing of the user's is read or written."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.command: subprocess.Popen[bytes] | None = None
        self.interrupted: int | None = None
        self.ports = dict(zip(("chat", "coder"), free_ports(2), strict=True))
        (home / "huggingface" / "hub").mkdir(parents=True)
        (home / "state").mkdir(mode=0o700)
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("ADMIT_", "XDG_", "HF_"))}
        self.env |= {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(BIN), str(GEAR), os.environ.get("PATH", os.defpath)]),
            "ADMIT_CONFIG": "capacity.yaml",
            "ADMIT_STATE_DIR": str(home / "state"),
            # A port on which nothing listens: a daemon that the user runs knows another capacity.yaml.
            "ADMIT_PORT": str(free_ports(1)[0]),
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "MLX_DISABLE_COMPILE": "1",  # else the first answer waits for a C++ compiler, which may not be there
        }

    def say(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        """Note the signal, and pass it on. Nothing is raised here: half-way into a start, its process would be lost."""
        self.interrupted = number
        if self.command and number != signal.SIGINT:  # which the terminal sends to the command as well
            self.command.send_signal(number)

    def run(self, line: str, expect: int = DONE) -> None:
        """Show the command line and run it as if it were typed; raises Departure if it ends otherwise."""
        bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
        print(f"\n{bold}$ {line}{plain}", flush=True)
        # `exec`, so that a signal reaches the command and not a shell around it.
        self.command = subprocess.Popen(["/bin/sh", "-c", f"exec {line}"], cwd=self.home, env=self.env)
        if self.interrupted:
            self.command.send_signal(self.interrupted)
        code = self.command.wait()
        self.command = None
        if code != expect or self.interrupted:
            raise Departure(f"`{line}` ended with {code}; the story says {expect}")
        if expect != DONE:
            print(f"(exit {expect})", flush=True)

    def ask_json(self, *command: str) -> tuple[int, dict[str, Any]]:
        """Run `admit ... --json` unseen; returns its exit code and what it said."""
        ended = subprocess.run(
            ["admit", *command, "--json"], cwd=self.home, env=self.env, capture_output=True, text=True, check=False
        )
        try:
            answer = json.loads(ended.stdout)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            said = f"{ended.stdout}{ended.stderr}".strip()
            raise Departure(f"`admit {shlex.join(command)} --json` gave no JSON object but: {said}")
        return ended.returncode, answer

    def write_capacity(self) -> None:
        services = "".join(SERVICE.format(name=name, port=port) for name, port in self.ports.items())
        path = self.home / "capacity.yaml"
        path.write_text(CAPACITY.format(services=services))
        path.chmod(0o600)  # `admit` refuses a file that others may write to, and some have a umask that lets them

    def unload_all(self) -> None:
        """End what the story started, through `admit` alone, and see that it is gone; raises Departure if not.

        One look is not enough: cut short, a load may have started a server that is not to be seen yet.
        """
        give_up_at = time.monotonic() + 60
        while left := self.holding():
            if time.monotonic() > give_up_at:
                raise Departure(f"still there: {', '.join(left)}; pids {[*left.values()]}")
            for name in left:
                subprocess.run(["admit", "unload", name], cwd=self.home, env=self.env, capture_output=True, check=False)
            time.sleep(0.2)

    def holding(self) -> dict[str, list[int]]:
        """The services that hold memory, or a reservation of it, each with its processes."""
        _, ledger = self.ask_json("status")
        return {service["name"]: service["pids"] for service in ledger["services"] if service["state"] != "stopped"}


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens. All are held while the next one is sought, so that no two are the same."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def tell(story: Story) -> None:
    story.say("Two models, made of random numbers: nothing is downloaded.")
    story.run(f"make_mlx_model.py models/chat --mb {WEIGHTS_MB} --seed 10")
    story.run(f"make_mlx_model.py models/coder --mb {WEIGHTS_MB} --seed 25")

    story.say("A capacity.yaml that gives each of them a budget, and a pool that holds one of the two.")
    story.write_capacity()
    story.run("cat capacity.yaml")
    story.run("admit config check")
    story.run("admit status")

    story.say("The first one fits. `admit` starts it, and waits until it answers.")
    story.run("admit load chat")
    story.run(f"ask.py http://127.0.0.1:{story.ports['chat']}")

    story.say("The second one does not: it is refused before anything is started.")
    story.run("admit load coder", expect=REFUSED)

    code, refusal = story.ask_json("load", "coder")
    remedy = refusal.get("remedy")
    if code != REFUSED or not isinstance(remedy, str):
        raise Departure(f"`admit load coder --json` ended with {code} and this remedy: {remedy!r}")
    story.say("The refusal names one command that makes room. Run as it was printed:")
    story.run(remedy)

    story.say("Now it fits.")
    story.run("admit load coder")
    story.run(f"ask.py http://127.0.0.1:{story.ports['coder']}")
    story.run("admit status")

    story.say("And back to where we were.")
    story.run("admit unload coder")


def main() -> int:
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="admit-quickstart-"))
    story = Story(home)
    for number in INTERRUPTS:
        signal.signal(number, story.interrupt)
    departures: list[Departure] = []
    try:
        tell(story)
    except Departure as departure:
        if not story.interrupted:
            departures.append(departure)

    # Whoever presses Ctrl-C twice is in a hurry, but hardly wants two model servers left behind.
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    try:
        story.unload_all()
    except Departure as departure:
        departures.append(departure)

    shutil.rmtree(home / "models", ignore_errors=True)  # the heavy part, and never the reason
    if story.interrupted:
        print(f"\nquickstart: ended by {signal.Signals(story.interrupted).name}", file=sys.stderr)
    for each in departures:
        print(f"\nquickstart: {each}", file=sys.stderr)
    if departures:
        print(f"The logs and the rest of what it wrote are kept in {home}", file=sys.stderr)
        return 1
    shutil.rmtree(home)
    print(f"\nDone in {time.monotonic() - began:.0f} s; nothing was left running.", flush=True)
    return 128 + story.interrupted if story.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
