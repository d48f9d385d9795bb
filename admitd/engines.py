"""engines: what is known of each engine: how a live one is recognised by its command line, and what a service of it
looks like. Text in, drafts out; nothing is read here.

config/recipes/ says the same to people; a test compares the two. What was tried and what only read stands there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from admitd.core.units import MIB

PRIORITY: Final = 0
"""As that of a service without one in the file: what is declared later, by hand, is their equal."""
ONE_TOKEN: Final = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
_SPECIAL: Final = re.compile(r"([.^$*+?{}\[\]\\|()])")
_END: Final = "( |$)"
_QEMU_OWN: Final = 512 * MIB
_SIZES: Final = {"": MIB, "m": MIB, "g": 1 << 30, "k": 1 << 10, "t": 1 << 40, "b": 1}


@dataclass(frozen=True, slots=True)
class Found:
    """A live process of an engine. `mine`: it belongs to this user. `command`: what would start it again."""

    engine: str
    pids: tuple[int, ...]
    argv: tuple[str, ...]
    program: str = ""
    mine: bool = True
    cwd: str | None = None
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Matching:
    """One way of matching a service: the keys of capacity.yaml."""

    pattern: str
    program: str | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A service as it could be declared. `ways`: how to match it, the loosest first, none where its check tells.

    `keys` holds what else the file says, in its order; `budget`: bytes that the engine itself names, if it does.
    """

    name: str
    engine: str
    title: str
    ways: tuple[Matching, ...] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    model: str | None = None
    tokens: int | None = None
    budget: int | None = None
    cache: int = 0


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine. `seen` is a pattern over live command lines; `tools` are names under which it is installed."""

    key: str
    title: str
    seen: str
    tools: tuple[str, ...]
    draft: Callable[[Found], Draft | None]


def of(found: Found) -> Draft | None:
    """The draft for a live process; None where it is not what it looked like, or cannot be told from others."""
    return next(each for each in ENGINES if each.key == found.engine).draft(found)


def option(argv: Sequence[str], *flags: str) -> str | None:
    """The value of an option, written as `--port 80` or `--port=80`; the last one counts, as servers have it."""
    value = None
    for index, word in enumerate(argv):
        if word in flags and index + 1 < len(argv):
            value = argv[index + 1]
        for flag in flags:
            if flag.startswith("--") and word.startswith(f"{flag}="):
                value = word[len(flag) + 1 :]
    return value


def escaped(text: str) -> str:
    """`text` as a pattern that matches it and nothing else."""
    return _SPECIAL.sub(r"\\\1", text)


def name_of(*parts: str) -> str:
    """A service's name made of words from elsewhere."""
    text = re.sub(r"[^a-z0-9._-]+", "-", "-".join(part for part in parts if part).lower())
    return re.sub(r"-{2,}", "-", text).strip("-._")[:60] or "service"


def short(model: str) -> str:
    """The name of a model, from its path or its repository."""
    parts = [part for part in model.rstrip("/").split("/") if part not in ("", ".", "..")]
    cached = next((part for part in parts if part.startswith("models--")), None)
    if cached is not None:
        return cached.rsplit("--", 1)[-1]
    return re.sub(r"\.(gguf|safetensors)$", "", parts[-1], flags=re.IGNORECASE) if parts else ""


def amount(text: str | None, unit: str = "") -> int | None:
    """Bytes of a size as engines write it: 4GB, 8G, 8192 (of `unit`)."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d+)?)\s*([kKmMgGtT]?)(?:i?[bB])?", text or "")
    if found is None:
        return None
    letter = found[2].lower() or unit
    return int(float(found[1]) * _SIZES[letter])


def _base(found: Found, default_port: int) -> tuple[int, str]:
    """Port, and the URL to ask at."""
    port = option(found.argv, "--port")
    number = int(port) if port and port.isascii() and port.isdigit() and 0 < int(port) < 65_536 else default_port
    host = option(found.argv, "--host", "--listen") or "127.0.0.1"
    if host in ("0.0.0.0", "localhost", "::", "::1", "*") or not re.fullmatch(r"[A-Za-z0-9.-]+", host):  # noqa: S104
        host = "127.0.0.1"
    return number, f"http://{host}:{number}"


def _port_way(front: str, argv: Sequence[str]) -> str | None:
    port = option(argv, "--port")
    if port is None:
        return None
    equals = any(word.startswith("--port=") for word in argv)
    return f"{front} .*--port{'=' if equals else ' '}{escaped(port)}{_END}"


def _model_way(front: str, model: str) -> str:
    return f"{front} .*{escaped(model.rstrip('/').rsplit('/', 1)[-1])}( |/|$)"


def _loading(found: Found) -> dict[str, Any]:
    if not found.mine:
        return {"evictable": False}  # another user's can't be stopped from here
    return {"load_cmd": found.command} if found.command else {}


def _mlx(found: Found) -> Draft | None:
    _, base = _base(found, 8080)
    model = option(found.argv, "--model") or ""
    front = r"mlx_lm[. ]server"
    by_port = _port_way(front, found.argv)
    patterns = [_model_way(front, model)] if model else []
    patterns += [by_port] if by_port else []
    if not patterns:
        patterns = [f"{front}{_END}"]
    if model and by_port:
        port = escaped(option(found.argv, "--port") or "")
        patterns.append(f"{front} .*{escaped(short(model))}.* --port[ =]{port}{_END}")
    cache = option(found.argv, "--prompt-cache-bytes")
    notes = () if cache else ("Without --prompt-cache-bytes its cache of prompts has no limit: add it to load_cmd.",)
    return Draft(
        name_of("mlx", short(model)),
        "mlx-lm",
        "mlx_lm.server",
        tuple(Matching(pattern) for pattern in patterns) + tuple(Matching(p, found.program) for p in patterns),
        {**_loading(found), "load_timeout_s": 300, "probe": {"url": f"{base}/v1/chat/completions"}},
        notes,
        found.pids,
        model or None,
        cache=amount(cache) or 0,
    )


def _llama(found: Found) -> Draft | None:
    model = option(found.argv, "-m", "--model", "-hf", "--hf-repo", "-hfr") or ""
    if ".ollama/" in model or "/ollama/" in found.argv[0]:
        return None  # Ollama's own: it comes and goes with Ollama's models
    _, base = _base(found, 8080)
    by_port = _port_way("llama-server", found.argv)
    patterns = [each for each in (by_port, _model_way("llama-server", model) if model else None) if each]
    tokens = option(found.argv, "-c", "--ctx-size")
    return Draft(
        name_of("llama", short(model)),
        "llama-server",
        "llama-server",
        tuple(Matching(pattern, "llama-server") for pattern in patterns or [f"llama-server{_END}"]),
        {**_loading(found), "load_timeout_s": 120, "probe": {"url": f"{base}/v1/chat/completions"}},
        (),
        found.pids,
        model or None,
        int(tokens) if tokens and tokens.isascii() and tokens.isdigit() else None,
    )


def _vllm(found: Found) -> Draft | None:
    _, base = _base(found, 8000)
    served = [found.argv[i + 1] for i, word in enumerate(found.argv[:-1]) if word == "serve"]
    model = option(found.argv, "--model") or next((each for each in served if not each.startswith("-")), "")
    front = "vllm serve" if served else r"vllm\.entrypoints\.openai\.api_server"
    patterns = [each for each in (_port_way(front, found.argv), _model_way(front, model) if model else None) if each]
    asked = option(found.argv, "--served-model-name") or model
    probe = {"url": f"{base}/v1/chat/completions", "startup_grace_s": 300, "json": {"model": asked, **ONE_TOKEN}}
    return Draft(
        name_of("vllm", short(model)),
        "vllm",
        "vLLM",
        tuple(Matching(pattern) for pattern in patterns or [f"{front}{_END}"])
        + tuple(Matching(pattern, found.program) for pattern in patterns),
        {
            **_loading(found),
            "load_timeout_s": 600,
            "unload_timeout_s": 120,
            "probe": probe if asked else {"url": f"{base}/health"},
        },
        ("The memory of a GPU is not counted.",),
        found.pids,
    )


def _comfy(found: Found) -> Draft | None:
    folder = next((word for word in found.argv if word.endswith("main.py")), "")
    named = re.search(r"comfy", folder.rpartition("/")[0] + "/" + (found.cwd or ""), re.IGNORECASE)
    _, base = _base(found, 8188)
    by_port = _port_way(r"main\.py", found.argv)
    if not named and not (by_port and base.endswith(":8188")):
        return None
    patterns = [by_port] if by_port else []
    if folder.startswith("/"):
        patterns.append(f"{escaped(folder)}{_END}")
    if not patterns:
        return None
    return Draft(
        name_of("comfyui", "" if base.endswith(":8188") else base.rsplit(":", 1)[-1]),
        "comfyui",
        "ComfyUI",
        tuple(Matching(pattern, "main.py") for pattern in patterns),
        {"priority": PRIORITY - 10, **_loading(found), "load_timeout_s": 120, "probe": {"url": f"{base}/system_stats"}},
        ("What it holds depends on the workflow: measure it with the largest one that you run.",),
        found.pids,
    )


def _qemu(found: Found) -> Draft | None:
    given = option(found.argv, "-name") or ""
    guest = next((part[6:] for part in given.split(",") if part.startswith("guest=")), given.split(",")[0])
    if not guest:
        return None
    utm = found.program == "QEMULauncher"
    front = "QEMULauncher" if utm else "qemu-system-[a-z0-9_]+"
    memory = option(found.argv, "-m") or "128"
    sized = next((part[5:] for part in memory.split(",") if part.startswith("size=")), memory.split(",")[0])
    held = amount(sized)
    keys: dict[str, Any] = {"priority": PRIORITY + 10, **_loading(found), "load_timeout_s": 60}
    if utm:
        app = re.match(r"(/.*?\.app)/Contents/", found.argv[0])
        utmctl = f"{app[1]}/Contents/MacOS/utmctl" if app else "utmctl"  # in PATH only where somebody linked it
        # Without --request it pulls the plug (UTM's utmctl/UTMCtl.swift).
        keys |= {"load_cmd": [utmctl, "start", guest], "unload_cmd": [utmctl, "stop", "--request", guest]}
    elif given.startswith("guest="):  # as libvirt writes it
        virsh = ["virsh", "--connect", "qemu:///session" if found.mine else "qemu:///system"]
        keys |= {"load_cmd": [*virsh, "start", guest], "unload_cmd": [*virsh, "shutdown", guest]}
    return Draft(
        name_of("vm", guest),
        "qemu",
        "UTM" if utm else "qemu",
        (Matching(f"{front} .*-name (guest=)?{escaped(guest)}(,| |$)"),),
        {**keys, "unload_timeout_s": 300, "evictable": False},
        () if "unload_cmd" in keys else ("Without an unload_cmd it gets SIGTERM, which pulls the plug.",),
        found.pids,
        budget=None if held is None else held + _QEMU_OWN,
    )


def _docker(found: Found) -> Draft | None:
    return Draft(
        "docker-desktop",
        "docker",
        "Docker Desktop's virtual machine",
        (Matching(escaped(found.program) + _END),),
        {
            "priority": PRIORITY + 10,
            "load_cmd": ["docker", "desktop", "start"],
            "unload_cmd": ["docker", "desktop", "stop"],
            "load_timeout_s": 120,
            "unload_timeout_s": 120,
            "evictable": False,
        },
        ("Its memory is what Docker Desktop's settings grant the virtual machine.",),
        found.pids,
    )


def _asked(found: Found) -> Draft | None:
    return None  # its models are asked for: what runs does not name them


ENGINES: Final = (
    Engine("mlx-lm", "mlx_lm.server", rf"mlx_lm[. ]server{_END}", ("mlx_lm.server",), _mlx),
    Engine("llama-server", "llama-server", rf"llama-server{_END}", ("llama-server",), _llama),
    Engine("vllm", "vLLM", r"vllm serve |vllm\.entrypoints\.openai\.api_server", ("vllm",), _vllm),
    Engine("comfyui", "ComfyUI", rf"main\.py{_END}", ("comfy",), _comfy),
    Engine("ollama", "Ollama", rf"[oO]llama serve{_END}", ("ollama", "Ollama.app"), _asked),
    Engine("lm-studio", "LM Studio", rf"(LM Studio|lm-studio|llmster){_END}", ("lms", "LM Studio.app"), _asked),
    Engine("qemu", "qemu", r"(QEMULauncher|qemu-system-[a-z0-9_]+) ", ("utmctl", "virsh", "UTM.app"), _qemu),
    Engine(
        "docker",
        "Docker Desktop",
        rf"com\.docker\.(virtualization|krun|hyperkit){_END}",
        ("Docker.app",),
        _docker,
    ),
    Engine("dockerd", "Docker", rf"dockerd{_END}", ("docker",), _asked),
)
