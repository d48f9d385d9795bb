"""A file that others may change is refused, as ssh refuses a loose key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from admitd import ownfile
from tests.capacity_files import Write, complaints, load, service, writer


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


LOOSE = [
    ("mine alone", 0o600, 1000, 1000, None),
    ("readable by all", 0o644, 1000, 1000, None),
    ("root's", 0o644, 0, 1000, None),
    ("the group may write", 0o664, 1000, 1000, "run: chmod go-w '/home/me/my capacity.yaml'"),
    ("anyone may write", 0o646, 1000, 1000, "run: chmod go-w '/home/me/my capacity.yaml'"),
    ("root's, and the group may write", 0o664, 0, 1000, "run: chmod go-w"),
    ("another user's", 0o600, 1001, 1000, "sudo chown 1000 '/home/me/my capacity.yaml'"),
    ("a user's, read by root", 0o600, 1000, 0, "sudo chown 0"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "owner", "euid", "remedy"), [pytest.param(*row[1:], id=row[0]) for row in LOOSE])
def test_a_file_that_others_may_change_is_loose(mode: int, owner: int, euid: int, remedy: str | None) -> None:
    found = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, 100, 10, 0, 0, 0))
    fault = ownfile.loose_file(found, euid, Path("/home/me/my capacity.yaml"))
    if remedy is None:
        assert fault is None
    else:
        assert fault is not None
        assert remedy in fault[1]


@pytest.mark.parametrize("mode", [0o660, 0o606, 0o666])
def test_a_loose_file_is_refused_before_anything_in_it_is_believed(write: Write, mode: int) -> None:
    path = write("not: {even, good")
    path.chmod(mode)
    (said,) = complaints(path)
    assert f"(mode {mode:04o}); run: chmod go-w {path}" in said


def test_a_folder_where_anyone_may_put_files_is_refused_as_well(write: Write, tmp_path: Path) -> None:
    path = write(service())
    tmp_path.chmod(0o777)
    (said,) = complaints(path)
    assert f"run: chmod o-w {tmp_path}" in said
    tmp_path.chmod(0o1777)  # as /tmp: nobody can replace another's file there
    assert load(path).services


def test_the_folder_behind_a_link_counts(write: Write, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    real = write(service(), "open/real.yaml")
    (tmp_path / "open").chmod(0o777)
    link = tmp_path / "link.yaml"
    link.symlink_to(real)
    (said,) = complaints(link)
    assert f"run: chmod o-w {tmp_path / 'open'}" in said


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path in (fifo, tmp_path, Path(os.devnull)):
        assert "is not a regular file" in complaints(path)[0]
    assert "cannot be read (No such file or directory)" in complaints(tmp_path / "nothing")[0]


def test_a_file_without_end_is_read_to_the_bound_only(write: Write) -> None:
    path = write("")
    os.truncate(path, 1 << 40)
    assert "is larger than 1048576 bytes" in complaints(path)[0]
