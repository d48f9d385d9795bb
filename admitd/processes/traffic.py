"""traffic: how much was sent and received on the connections to a port, as the kernel counts it; no traffic of our own.

Linux only, by sock_diag(7) in our own network namespace, as `ss -ti` asks; elsewhere nothing is known.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

WAIT_S: Final = 1.0
READ_MAX: Final = 1 << 20
"""Bytes of the answers to one question: some 2,500 connections to one port; more are not looked at."""
# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_REQUEST_DUMP: Final = 0x301
_ERROR, _DONE = 2, 3
_WITH_INFO: Final = 1 << 1
_ESTABLISHED: Final = 1 << 1
_HEADER: Final = struct.Struct("=IHHII")
_QUESTION: Final = struct.Struct("=BBBxI2s46x")
_COOKIE: Final = struct.Struct("=44xQ")
_MESSAGE: Final = 72
_ATTRIBUTE: Final = struct.Struct("=HH")
_INFO: Final = 2
_COUNTS: Final = struct.Struct("=120xQQ")
"""tcpi_bytes_acked and tcpi_bytes_received, of struct tcp_info (linux/tcp.h), since Linux 4.1."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes of one connection since it was made. `sent`: what the other side has confirmed."""

    sent: int
    received: int


def moved(ports: Collection[int]) -> Mapping[int, Moved]:
    """What went over each established connection to these local ports, by the kernel's name of it; what can't be seen
    is left out."""
    if not sys.platform.startswith("linux"):
        return {}
    found: dict[int, Moved] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as asked:
            asked.settimeout(WAIT_S)
            for port in ports:
                for family in (socket.AF_INET, socket.AF_INET6):
                    found.update(_dumped(asked, family, port))
    except (OSError, struct.error):
        return {}
    return found


def _dumped(asked: socket.socket, family: int, port: int) -> Iterator[tuple[int, Moved]]:
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, _WITH_INFO, _ESTABLISHED, port.to_bytes(2, "big"))
    size = _HEADER.size + len(question)
    asked.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + question)
    read = 0
    while read < READ_MAX:
        answer = asked.recv(1 << 16)
        read += len(answer)
        at = 0
        while at < len(answer):
            length, kind, *_ = _HEADER.unpack_from(answer, at)
            if kind in (_ERROR, _DONE):
                return
            told = _counts(answer[at + _HEADER.size : at + length])
            if told is not None:
                yield told
            at += max(_HEADER.size, length + 3 & ~3)
    raise OSError("more connections than are looked at")


def _counts(message: bytes) -> tuple[int, Moved] | None:
    """The attributes that follow a message are looked through for the one that has the counts."""
    at = _MESSAGE
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == _INFO:
            sent, received = _COUNTS.unpack_from(message, at + _ATTRIBUTE.size)
            return _COOKIE.unpack_from(message)[0], Moved(sent, received)
        at += max(_ATTRIBUTE.size, length + 3 & ~3)
    return None
