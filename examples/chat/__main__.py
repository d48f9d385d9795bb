"""Run it: python -m examples.chat FOLDER [--smaller FOLDER] [--soft 4GiB --hard 5GiB] [--save FILE]

FOLDER is a model for mlx-lm. Ctrl-C stops an answer; /evict unloads the model, /new forgets what was said,
/status shows memory, /quit ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from pathlib import Path

from admit_sdk import (
    Capability,
    Citizen,
    Message,
    Model,
    ModelFailed,
    ModelPool,
    Pressure,
    Profile,
    ResourceNotAvailableError,
    SaveAndStop,
    TextToText,
    on_battery,
    profile_for_this_system,
)
from admit_sdk.lifecycle import State
from examples.chat import words

TOKENS = 200


class Chat:
    """One conversation. What memory does is told between two lines of it, never in the middle of an answer."""

    def __init__(self, save: Path | None) -> None:
        self.turns: list[Message] = []
        self._save = save
        self._told: list[str] = []
        self._pressure = Pressure.LOW
        self._lock = threading.Lock()
        self._has_to_stop = False

    def hear_pressure(self, now: Pressure, why: str) -> None:
        with self._lock:
            said = words.banner(self._pressure, now)
            self._pressure = now
            self._told += [said] if said else []

    def hear_state(self, model: str, state: State) -> None:
        said = words.news(model, state)
        with self._lock:
            self._told += [said] if said else []

    def tell(self) -> None:
        """Print what was heard."""
        with self._lock:
            told, self._told = self._told, []
        for line in told:
            print(line, flush=True)

    def answer(self, pool: ModelPool, said: str) -> None:
        """Ask, and print the answer as it comes. A turn that came to nothing is not kept."""
        request = TextToText((*self.turns, Message("user", said)), max_tokens=TOKENS)
        try:
            with pool.stream("chat", request, wait_s=5) as stream:
                for number, piece in enumerate(stream):
                    if not number:
                        self.tell()
                    print(piece.text, end="", flush=True)
                text = stream.answer.text
        except KeyboardInterrupt:
            print("\n(stopped)")
            if self._has_to_stop:
                raise
            return
        except ResourceNotAvailableError as why:
            print(words.refusal(why))
            return
        except (ModelFailed, ValueError) as why:
            print(f"No answer: {why} (/new begins a new conversation)")
            return
        print(flush=True)
        self.turns += [Message("user", said), Message("assistant", text)]

    def save(self, why: object = "") -> None:
        """Also called when the app has to stop because it holds too much, by another thread: then the interrupt that
        follows is not the user's. Raises OSError."""
        if why:
            self._has_to_stop = True
            print(f"*** {why} ***", flush=True)
        if self._save is not None:
            turns = [{"role": each.role, "content": each.content} for each in self.turns]
            self._save.write_text(json.dumps(turns, indent=1), encoding="utf-8")

    def run(self, pool: ModelPool) -> None:
        """Until /quit or the end of the input."""
        while True:
            self.tell()
            print(f"{words.badge(pool)} you> ", end="", flush=True)
            line = sys.stdin.readline()
            said = line.strip()
            if not line or said == "/quit":
                return
            if said == "/status":
                print(words.status(pool))
            elif said == "/new":
                self.turns.clear()
            elif said == "/evict":
                print(f"{pool.evict('chat')} unloaded")
            elif said:
                self.answer(pool, said)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.chat", description=__doc__)
    parser.add_argument("model", type=Path, help="the folder of a model for mlx-lm")
    parser.add_argument("--smaller", type=Path, help="a smaller model, which answers on battery")
    parser.add_argument("--soft", default="", help="the app's soft budget, 4GiB say; else by the size of this machine")
    parser.add_argument("--hard", default="", help="its hard limit")
    parser.add_argument("--save", type=Path, help="where to keep the conversation when the app ends")
    given = parser.parse_args()
    if given.save and (given.save.is_dir() or not os.access(given.save.parent, os.W_OK)):
        parser.error(f"--save {given.save}: no file can be written there")
    models = [Model("chat", given.model, Capability.TEXT_TO_TEXT, smaller="small" if given.smaller else None)]
    if given.smaller:
        models.append(Model("small", given.smaller, Capability.TEXT_TO_TEXT))
    chat = Chat(given.save)
    try:
        profile = Profile.of(given.soft, given.hard or given.soft) if given.soft else profile_for_this_system()
        pool = ModelPool.with_profile(
            profile,
            models,
            name="chat",
            prefers_smaller=on_battery,
            overrun=SaveAndStop(save=chat.save),
            told=chat.hear_state,
        )
    except (OSError, ValueError) as why:
        parser.error(str(why))
    with pool, Citizen(pool.governor) as citizen:
        pool.governor.on_pressure(chat.hear_pressure)
        if citizen.warning:
            print(f"*** {citizen.warning} ***")
        try:
            chat.run(pool)
        except KeyboardInterrupt:
            print()
        try:
            chat.save()
        except OSError as why:
            print(f"The conversation is not saved: {why}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
