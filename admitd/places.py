"""places: where a user's own files are: the token, the socket, the logs of what was loaded.

The command line passes here on every start, so nothing heavy is imported and paths are plain strings.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 2189
_SUN_PATH_MAX = 103  # macOS: 104 with the NUL (sys/un.h); Linux has 108
_TOKEN_MIN = 16


class UnsafePlace(Exception):
    """A file that must be the user's alone is not; the text says which and what to do."""


def port(environ: Mapping[str, str]) -> int:
    """ADMIT_PORT, else 2189. Raises ValueError."""
    return parse_port(environ["ADMIT_PORT"], "ADMIT_PORT") if environ.get("ADMIT_PORT") else PORT


def parse_port(text: str, name: str) -> int:
    """The port that `text` says. Raises ValueError, with what to write instead."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65_536):
        raise ValueError(f"{name}={text!r} is not a port; write a number from 1 to 65535")
    return int(text)


def home(environ: Mapping[str, str]) -> str:
    """The user's home; from the password file where HOME is missing, as it may be under launchd. `/` for a uid that is
    in none, as in a container."""
    if environ.get("HOME"):
        return environ["HOME"]
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def user_folder(environ: Mapping[str, str]) -> str:
    """This user's folder for what is not to be edited."""
    if sys.platform == "darwin":
        return os.path.join(home(environ), "Library", "Application Support", "admit")
    named = environ.get("XDG_STATE_HOME", "")
    return os.path.join(named if named.startswith("/") else os.path.join(home(environ), ".local", "state"), "admit")


def socket_path(environ: Mapping[str, str], port: int) -> str | None:
    """The daemon's unix socket; None where the path would be longer than a socket address holds."""
    path = os.path.join(user_folder(environ), f"admitd-{port}.sock")
    return path if len(os.fsencode(path)) <= _SUN_PATH_MAX else None


def note_path(environ: Mapping[str, str], port: int) -> str:
    """Beside the socket: which process listens (line 1), and the capacity file it goes by (line 2)."""
    return os.path.join(user_folder(environ), f"admitd-{port}.note")


def alive_path(environ: Mapping[str, str], port: int) -> str:
    """The daemon's sign of life, which a clean end takes away."""
    return os.path.join(user_folder(environ), f"admitd-{port}.alive")


def hub_folder(environ: Mapping[str, str], home: str) -> str:
    """Where Hugging Face's library keeps its cache, for who runs in `environ`; it is not asked."""
    if environ.get("HF_HUB_CACHE"):
        named = environ["HF_HUB_CACHE"]
    elif environ.get("HF_HOME"):
        named = os.path.join(environ["HF_HOME"], "hub")
    else:
        named = os.path.join(environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "huggingface", "hub")
    return os.path.expandvars(os.path.expanduser(named))


def log_path(environ: Mapping[str, str], service: str) -> str:
    """Where the output of a service's load_cmd goes."""
    return os.path.join(user_folder(environ), "logs", f"{service}.log")


def make_user_folder(environ: Mapping[str, str]) -> str:
    """This user's folder, made where it is not there yet. Raises UnsafePlace, with what to set where it cannot be."""
    names_it = "HOME" if sys.platform == "darwin" else "XDG_STATE_HOME"
    return make_private(user_folder(environ), f"; set {names_it} to a folder that you may write to")


def make_private(folder: str, instead: str = "") -> str:
    """Make a folder that only its owner may enter. Raises UnsafePlace where it is another's, or others may write to it.

    One of ours that others may merely look into is closed to them. `instead`: what is said where it cannot be made.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.stat(folder)
        if found.st_uid == os.getuid() and found.st_mode & 0o077 and not found.st_mode & 0o022:
            os.chmod(folder, 0o700)
    except OSError as problem:
        raise UnsafePlace(f"{folder} cannot be made: {problem.strerror}{instead}") from problem
    if found.st_uid != os.getuid():
        raise UnsafePlace(f"{folder} belongs to uid {found.st_uid}; it must be yours")
    if found.st_mode & 0o022:
        raise UnsafePlace(f"others may write to {folder}; run: chmod 700 {_quoted(folder)}")
    return folder


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path)


def token(environ: Mapping[str, str]) -> str:
    """The bearer token for what acts on processes; made on first use, readable by its owner alone."""
    path = os.path.join(make_user_folder(environ), "token")
    try:
        return _read_token(path)
    except FileNotFoundError:
        _make_token(path)
    except OSError as problem:
        raise UnsafePlace(f"{path} cannot be read: {problem.strerror}") from problem
    try:
        return _read_token(path)
    except OSError as problem:
        raise UnsafePlace(f"{path} cannot be read: {problem.strerror}") from problem


def _read_token(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.getuid():
            raise UnsafePlace(f"{path} belongs to uid {found.st_uid}; remove it, and the next start makes a new one")
        if found.st_mode & 0o077:
            raise UnsafePlace(f"others may open {path}; run: chmod 600 {_quoted(path)}")
        text = os.read(fd, 256).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
    if len(text) < _TOKEN_MIN or not text.isprintable() or not text.isascii():
        raise UnsafePlace(f"{path} holds no token; remove it, and the next start makes a new one")
    return text


def _make_token(path: str) -> None:
    """Make the file, whole or not at all; where another process has just made it, his stays."""
    import secrets

    making = f"{path}.{secrets.token_hex(4)}"
    try:
        fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_urlsafe(32).encode() + b"\n")
        finally:
            os.close(fd)
        try:
            os.link(making, path)  # unlike rename, never replaces one that another process has just made
        except FileExistsError:
            pass
        finally:
            os.unlink(making)
    except OSError as problem:
        raise UnsafePlace(f"{path} cannot be written: {problem.strerror}") from problem
