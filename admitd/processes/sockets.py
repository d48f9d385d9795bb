"""sockets: how many are connected to the ports that processes listen on, read from /proc; no traffic, no fork.

Only one's own user's descriptors can be read, so for others the answer is None, as it is on systems without /proc.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from admitd.core.terms import ProcessId

DESCRIPTORS_MAX: Final = 4096
TABLE_MAX: Final = 4 << 20
"""Bytes of one table: 28,000 sockets; a machine with more is not asked."""
PORTS_KEPT_S: Final = 30.0
_SOCKET: Final = "socket:["
# include/net/tcp_states.h, as /proc/net/tcp prints it
_ESTABLISHED: Final = b"01"
_LISTEN: Final = b"0A"


@dataclass(frozen=True, slots=True)
class _Table:
    """The TCP sockets of one network namespace: inode -> port for those that listen; port -> how many connected."""

    listening: Mapping[str, bytes]
    connected: Mapping[bytes, int]


class Sockets:
    """One look's view of the sockets; `begin` begins the next one."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._now = 0.0
        self._tables: dict[str, _Table] = {}
        self._ports: dict[frozenset[ProcessId], tuple[float, frozenset[tuple[str, bytes]]]] = {}

    def begin(self, now: float) -> None:
        """What was read of connections is out of date; ports that are known stay so for half a minute."""
        self._now = now
        self._tables = {}
        self._ports = {k: v for k, v in self._ports.items() if now - v[0] < PORTS_KEPT_S}

    def connections(self, processes: Sequence[ProcessId]) -> int | None:
        """How many are connected to the ports that these processes listen on; None where that can't be seen, or where
        they listen on none."""
        key = frozenset(processes)
        try:
            if key not in self._ports:
                found = frozenset(port for each in processes for port in self._listening(each.pid))
                if not found:
                    return None
                self._ports[key] = (self._now, found)
            ports = self._ports[key][1]
            by_space = {space: self._table(space, processes) for space, _ in ports}
            return sum(by_space[space].connected.get(port, 0) for space, port in ports)
        except (OSError, ValueError, IndexError):
            return None

    def ports(self, processes: Sequence[ProcessId]) -> frozenset[int]:
        """The ports that `connections` last found them to listen on, of those in our own network namespace."""
        known = self._ports.get(frozenset(processes), (0.0, frozenset()))[1]
        try:
            here = os.readlink(f"{self._proc}/self/ns/net") if known else ""
        except OSError:
            return frozenset()
        return frozenset(int(port, 16) for space, port in known if space == here)

    def _listening(self, pid: int) -> set[tuple[str, bytes]]:
        """The (network namespace, port) pairs that one process listens on."""
        folder = f"{self._proc}/{pid}"
        try:
            descriptors = os.listdir(f"{folder}/fd")
        except (FileNotFoundError, ProcessLookupError):
            return set()
        if len(descriptors) > DESCRIPTORS_MAX:
            raise OSError(f"process {pid} has {len(descriptors)} descriptors")
        inodes: set[str] = set()
        for descriptor in descriptors:
            try:
                target = os.readlink(f"{folder}/fd/{descriptor}")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if target.startswith(_SOCKET):
                inodes.add(target[len(_SOCKET) : -1])
        if not inodes:
            return set()
        space = os.readlink(f"{folder}/ns/net")
        listening = self._read(space, pid).listening
        return {(space, listening[inode]) for inode in inodes if inode in listening}

    def _table(self, space: str, processes: Sequence[ProcessId]) -> _Table:
        if space in self._tables:
            return self._tables[space]
        for each in processes:
            try:
                if os.readlink(f"{self._proc}/{each.pid}/ns/net") == space:
                    return self._read(space, each.pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
        raise OSError("no process of that namespace is left")

    def _read(self, space: str, pid: int) -> _Table:
        """The table of a namespace, as one of its processes sees it; read once in each look."""
        if space not in self._tables:
            listening: dict[str, bytes] = {}
            connected: Counter[bytes] = Counter()
            for name in ("tcp", "tcp6"):
                for line in _lines(f"{self._proc}/{pid}/net/{name}"):
                    # 0: local:port remote:port state queues timer retransmits uid timeout inode
                    fields = line.split(None, 10)
                    if fields[3] == _LISTEN:
                        listening[fields[9].decode("ascii")] = fields[1].rpartition(b":")[2]
                    elif fields[3] == _ESTABLISHED:
                        connected[fields[1].rpartition(b":")[2]] += 1
            self._tables[space] = _Table(listening, connected)
        return self._tables[space]


def _lines(path: str) -> list[bytes]:
    """The lines of a table below its heading; none where there is no such table (a kernel without IPv6)."""
    try:
        with open(path, "rb") as table:
            text = table.read(TABLE_MAX)
    except FileNotFoundError:
        return []
    if len(text) == TABLE_MAX:
        raise OSError(f"{path} is larger than {TABLE_MAX} bytes")
    return text.splitlines()[1:]
