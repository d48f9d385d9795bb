"""Whether systemd-logind removes a user's reservations at his logout, by its files as logind.conf(5) has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from admitd.doctor import logind
from admitd.doctor.finding import Logout
from admitd.doctor.gather import gather
from tests.daemons import free_port

ALICE = 4_294_900_001  # a uid that is in no password file is called by its number
NAME = str(ALICE)
ON, OFF, SILENT = "[Login]\nRemoveIPC=yes\n", "[Login]\nRemoveIPC=no\n", "[Login]\n#RemoveIPC=no\n"
DEFAULT = "its default"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which logind runs."""
    for folder in ("dev/shm/admit", "run/systemd/seats", "var/lib/systemd/linger"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def removed(root: Path, uid: int = ALICE, folder: str = "dev/shm/admit") -> Logout | None:
    return logind.removes(root / folder, uid, root)


ETC, RUN, USR = "etc/systemd/logind.conf", "run/systemd/logind.conf", "usr/lib/systemd/logind.conf"


@pytest.mark.parametrize(
    ("files", "by"),
    [
        ({}, DEFAULT),
        ({ETC: SILENT}, DEFAULT),
        ({ETC: ON}, f"/{ETC}"),
        ({ETC: OFF}, None),
        ({USR: OFF}, None),
        ({USR: OFF, ETC: SILENT}, DEFAULT),  # only the first logind.conf is read
        ({ETC: OFF, f"{USR}.d/10-vendor.conf": ON}, f"/{USR}.d/10-vendor.conf"),  # any drop-in comes after it
        ({f"{ETC}.d/60-mine.conf": OFF, f"{USR}.d/90-vendor.conf": ON}, f"/{USR}.d/90-vendor.conf"),
        ({f"{ETC}.d/90-mine.conf": OFF, f"{USR}.d/60-vendor.conf": ON}, None),
        ({f"{ETC}.d/50.conf": SILENT, f"{RUN}.d/50.conf": OFF}, DEFAULT),  # of one name only the first is read
        ({f"{ETC}.d/50.conf.bak": OFF}, DEFAULT),
        ({ETC: "RemoveIPC=no\n[Other]\nRemoveIPC=no\n"}, DEFAULT),
        ({ETC: "[Login]\n RemoveIPC = False \n"}, None),
        ({ETC: "[Login]\nRemoveIPC=no\nRemoveIPC=1\n"}, f"/{ETC}"),
        ({ETC: "[Login]\nRemoveIPC=no\nRemoveIPC=perhaps\nRemoveIPC\n"}, None),
        ({ETC: "\ufffd\x00\n[Login]\nRemoveIPC=no"}, None),
    ],
)
def test_its_files_are_read_as_it_reads_them(root: Path, files: dict[str, str], by: str | None) -> None:
    write(root, **files)
    assert removed(root) == (None if by is None else Logout(NAME, by))


def test_a_drop_in_that_leads_to_dev_null_silences_the_one_below_it(root: Path) -> None:
    write(root, **{f"{USR}.d/50.conf": OFF})
    assert removed(root) is None
    masked = root / f"{ETC}.d" / "50.conf"
    masked.parent.mkdir(parents=True)
    masked.symlink_to(os.devnull)
    assert removed(root) == Logout(NAME, DEFAULT)


def test_a_folder_in_the_place_of_a_file_says_nothing(root: Path) -> None:
    (root / ETC).mkdir(parents=True)
    assert removed(root) == Logout(NAME, DEFAULT)


def test_who_lingers_is_spared(root: Path) -> None:
    (root / "var/lib/systemd/linger" / NAME).touch()
    assert removed(root) is None


@pytest.mark.parametrize(("uid", "spared"), [(0, True), (999, True), (1000, False), (ALICE, False)])
def test_root_and_system_users_are_spared(root: Path, uid: int, spared: bool) -> None:
    assert (removed(root, uid) is None) is spared


def test_elsewhere_nothing_is_removed(root: Path) -> None:
    assert removed(root, folder="home/alice/state") is None
    (root / "run/systemd/seats").rmdir()
    assert removed(root) is None


def test_doctor_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, int]] = []

    def removes(folder: Path, uid: int) -> Logout:
        asked.append((folder, uid))
        return Logout("alice", DEFAULT)

    monkeypatch.setattr(logind, "removes", removes)
    environ = {"HOME": str(tmp_path), "PATH": os.defpath}
    assert gather({**environ, "ADMIT_STATE_DIR": "/dev/shm/a"}, None, free_port()).logout == Logout("alice", DEFAULT)
    assert gather({**environ, "ADMIT_STATE_DIR": "relative"}, None, free_port()).logout is None
    assert asked == [(Path("/dev/shm/a"), os.geteuid())]
