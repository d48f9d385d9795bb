"""answered: services of engines whose processes don't name what they hold, out of what such an engine answered: models
of Ollama and of LM Studio, Docker's containers. Text in, drafts out; nothing is asked here.

`program`: how the engine's own is named in commands; whoever runs them may have another PATH than who found it.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, Final

from admitd.engines import ONE_TOKEN, Draft, name_of, short

CONTAINER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}")
OLLAMA: Final = "127.0.0.1:11434"
"""Where Ollama listens, and where its own commands ask, unless OLLAMA_HOST says otherwise."""
LM_STUDIO: Final = "127.0.0.1:1234"
"""Where LM Studio's server listens, once it is switched on, unless its settings say otherwise."""


def ollama_model(model: str, size: int | None, base: str, *, stays: bool, program: str = "ollama") -> Draft:
    """One model that Ollama has loaded, as its own service: its runners don't name it.

    Its commands name the server that was asked at `base`: whoever runs them may have another OLLAMA_HOST, or none.
    `stays`: it does not go by itself. One that does, after some idle minutes, is not probed: any request that reaches
    the model counts as use, and begins that time anew (Ollama's server/sched.go, useLoadedRunner).
    """
    host = base.removeprefix("http://")
    there = "" if host == OLLAMA else f"OLLAMA_HOST={shlex.quote(host)} "
    ollama = there + shlex.quote(program)
    said = shlex.quote(json.dumps({"model": model, "keep_alive": -1}))
    keys: dict[str, Any] = {
        "loaded_check_cmd": f"{ollama} ps | grep -q {shlex.quote('^' + _dotted(model) + ' ')}",
        "load_cmd": f"curl -fsS {shlex.quote(base)}/api/generate -d {said}",
        "unload_cmd": f"{ollama} stop {shlex.quote(model)}" if there else [program, "stop", model],
        "load_timeout_s": 180,
    }
    notes = ["Any request to Ollama loads a model without asking: OLLAMA_MAX_LOADED_MODELS=1 limits the harm."]
    if stays:
        asked = {"model": model, "prompt": "hi", "stream": False, "options": {"num_predict": 1}}
        keys["probe"] = {"url": f"{base}/api/generate", "json": asked}
    else:
        notes.append(
            "No probe: it was loaded to go by itself when it is idle, and a probe is a use, so that it would never go. "
            "What admit loads stays; to have that probed, take this service out while it is loaded so, and run: "
            "admit init --merge"
        )
    return Draft(
        name_of("ollama", model.replace(":", "-")), "ollama", "a model of Ollama's", (), keys, tuple(notes), budget=size
    )


def _dotted(model: str) -> str:
    """As grep reads it, where only these few signs are special."""
    return re.sub(r"([.*^$\[\]\\])", r"\\\1", model)


def lm_studio_model(identifier: str, key: str, size: int | None, server: str | None, program: str = "lms") -> Draft:
    """One model that LM Studio has loaded: its workers don't name it. `server`: where its server answers; None where it
    is off, as it is until somebody switches it on: then a probe would be refused for ever, and the model be loaded
    again and again for that."""
    keys: dict[str, Any] = {
        "loaded_check_cmd": f"{shlex.quote(program)} ps | grep -qwF -- {shlex.quote(identifier)}",
        "load_cmd": [program, "load", key, "--identifier", identifier, "-y"],
        "unload_cmd": [program, "unload", identifier],
        "load_timeout_s": 180,
    }
    notes = ["Turn just-in-time loading off in LM Studio, or a request loads a model without asking."]
    if server is None:
        notes.append(
            f"No probe, because LM Studio's server did not answer at http://{LM_STUDIO}: nobody sees whether the model "
            "still works. Switch the server on (lms server start), take this service out, and run: admit init --merge"
        )
    else:
        keys["probe"] = {"url": f"http://{server}/v1/chat/completions", "json": {"model": identifier, **ONE_TOKEN}}
    return Draft(
        name_of("lmstudio", short(identifier)),
        "lm-studio",
        "a model of LM Studio's",
        (),
        keys,
        tuple(notes),
        budget=size,
    )


def container(name: str, held: int, program: str = "docker") -> Draft:
    """One container on this very machine. Its processes are told by Docker alone."""
    only = shlex.quote(f"name=^/{_dotted(name)}$")
    return Draft(
        name_of("docker", name),
        "dockerd",
        "a container",
        (),
        {
            "loaded_check_cmd": f"{shlex.quote(program)} ps -q --filter {only} | grep -q .",
            "load_cmd": [program, "start", name],
            "unload_cmd": [program, "stop", name],
            "load_timeout_s": 120,
        },
        (),
        budget=held,
    )
