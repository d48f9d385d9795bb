"""Who listens on a port, and whether it can be had."""

from __future__ import annotations

import os
import socket

import pytest

from admitd import portowner
from tests.daemons import free_port


def test_who_listens_as_lsof_prints_it() -> None:
    assert portowner.owner_in("p412\ncControlCe\nf10\np500\ncother\n") == (412, "ControlCe")
    assert portowner.owner_in("") is None


def test_a_port_that_is_taken_is_so_by_somebody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = portowner.why_not(port) or ""
        assert said.startswith(f"127.0.0.1:{port} is taken by process {os.getpid()} (")
    assert portowner.why_not(port) is None


def test_one_that_only_root_may_have_is_taken_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refused)
    assert portowner.why_not(80) == "127.0.0.1:80 cannot be had: Permission denied"


def test_a_free_one_can_be_had() -> None:
    assert portowner.why_not(free_port()) is None
