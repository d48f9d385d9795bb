"""places: where a user's own files are, and that they are his alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from admitd import places
from admitd.places import UnsafePlace


def environ(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), **more}


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


class TestPort:
    @pytest.mark.parametrize(("said", "port"), [(None, 2189), ("", 2189), ("1", 1), ("65535", 65_535), ("00080", 80)])
    def test_is_2189_or_what_the_environment_says(self, said: str | None, port: int) -> None:
        assert places.port({} if said is None else {"ADMIT_PORT": said}) == port

    @pytest.mark.parametrize("said", ["0", "65536", "-1", "+1", "1.0", " 1", "1_0", "x", "٣", "9" * 5000])
    def test_that_is_none_is_told(self, said: str) -> None:
        with pytest.raises(ValueError, match=r"ADMIT_PORT=.* is not a port; write a number from 1 to 65535"):
            places.port({"ADMIT_PORT": said})


def test_a_uid_that_nobody_has_is_at_home_in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_294_900_000)
    assert places.home({}) == "/"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has folders of its own")
class TestFolder:
    def test_is_in_the_users_state_folder(self) -> None:
        assert places.user_folder({"HOME": "/h"}) == "/h/.local/state/admit"
        assert places.user_folder({"HOME": "/h", "XDG_STATE_HOME": "/s"}) == "/s/admit"

    @pytest.mark.parametrize("relative", ["s", "./s", "~/s", ""])
    def test_a_relative_state_folder_is_ignored_as_xdg_wants(self, relative: str) -> None:
        assert places.user_folder({"HOME": "/h", "XDG_STATE_HOME": relative}) == "/h/.local/state/admit"

    def test_without_a_home_the_password_file_is_asked(self) -> None:
        assert (
            places.home({})
            == places.home({"HOME": ""})
            == os.path.expanduser(f"~{os.getuid()}").replace(f"~{os.getuid()}", _password_home())
        )

    def test_the_socket_has_a_path_that_fits_an_address(self) -> None:
        assert places.socket_path({"HOME": "/h"}, 1) == "/h/.local/state/admit/admitd-1.sock"
        longest = "/" + "x" * (103 - len("/.local/state/admit/admitd-1.sock") - 1)
        assert len(places.socket_path({"HOME": longest}, 1) or "") == 103
        assert places.socket_path({"HOME": longest + "x"}, 1) is None
        assert places.socket_path({"HOME": longest[:-1] + "ü"}, 1) is None, "bytes count, not letters"

    def test_each_port_has_its_own(self) -> None:
        assert places.note_path({"HOME": "/h"}, 7) == "/h/.local/state/admit/admitd-7.note"
        assert places.log_path({"HOME": "/h"}, "x") == "/h/.local/state/admit/logs/x.log"


def _password_home() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_dir


class TestMakePrivate:
    @pytest.mark.parametrize("umask", [0, 0o077])
    def test_makes_a_folder_that_only_its_owner_may_enter(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            assert mode(places.make_private(str(tmp_path / "a" / "b"))) == 0o700
        finally:
            os.umask(before)

    @pytest.mark.parametrize("found", [0o755, 0o711, 0o750, 0o700])
    def test_closes_one_of_ours_that_others_may_look_into(self, tmp_path: Path, found: int) -> None:
        folder = tmp_path / "admit"
        folder.mkdir()
        folder.chmod(found)
        places.make_private(str(folder))
        assert mode(folder) == 0o700

    @pytest.mark.parametrize("found", [0o777, 0o770, 0o702, 0o1777])
    def test_refuses_one_that_others_may_write_to(self, tmp_path: Path, found: int) -> None:
        folder = tmp_path / "Application Support"
        folder.mkdir()
        folder.chmod(found)
        with pytest.raises(UnsafePlace, match=f"others may write to {folder}; run: chmod 700 '{folder}'"):
            places.make_private(str(folder))
        assert mode(folder) == found, "what others may have put there is for the user to look at"

    def test_refuses_anothers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
        with pytest.raises(UnsafePlace, match="it must be yours"):
            places.make_private(str(tmp_path))

    def test_says_why_where_it_cannot(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UnsafePlace, match="cannot be made: File exists"):
            places.make_private(str(tmp_path / "file"))
        with pytest.raises(UnsafePlace, match="cannot be made: Not a directory"):
            places.make_private(str(tmp_path / "file" / "below"))


class TestToken:
    def test_is_made_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        token = places.token(environ(tmp_path))
        path = Path(places.user_folder(environ(tmp_path))) / "token"
        assert len(token) >= 43 and mode(path) == 0o600 and mode(path.parent) == 0o700
        assert places.token(environ(tmp_path)) == token == path.read_text().strip()
        assert [entry.name for entry in path.parent.iterdir()] == ["token"]

    def test_each_home_has_its_own(self, tmp_path: Path) -> None:
        assert places.token(environ(tmp_path / "a")) != places.token(environ(tmp_path / "b"))

    def test_is_his_alone_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            places.token(environ(tmp_path))
        finally:
            os.umask(before)
        assert mode(Path(places.user_folder(environ(tmp_path))) / "token") == 0o600

    @pytest.mark.parametrize("found", [0o604, 0o640, 0o644, 0o660, 0o666, 0o601])
    def test_that_others_may_open_is_refused(self, tmp_path: Path, found: int) -> None:
        path = _token(tmp_path / "a home", "x" * 43, found)
        with pytest.raises(UnsafePlace, match=f"others may open {path}; run: chmod 600 '{path}'"):
            places.token(environ(tmp_path / "a home"))

    @pytest.mark.parametrize("text", ["", "\n", "short", "x" * 15, "x" * 20 + "\ny", "ü" * 20, "x" * 20 + "\x00"])
    def test_that_is_none_is_refused(self, tmp_path: Path, text: str) -> None:
        _token(tmp_path, text, 0o600)
        with pytest.raises(UnsafePlace, match="holds no token; remove it"):
            places.token(environ(tmp_path))

    def test_of_ones_own_making_is_taken(self, tmp_path: Path) -> None:
        _token(tmp_path, "correct horse battery\n", 0o600)
        assert places.token(environ(tmp_path)) == "correct horse battery"

    def test_that_is_a_link_or_a_folder_is_refused(self, tmp_path: Path) -> None:
        real = tmp_path / "real"
        real.write_text("x" * 43)
        real.chmod(0o600)
        path = Path(places.make_private(places.user_folder(environ(tmp_path)))) / "token"
        path.symlink_to(real)
        with pytest.raises(UnsafePlace, match="token cannot be read"):
            places.token(environ(tmp_path))
        path.unlink()
        path.mkdir(mode=0o700)
        with pytest.raises(UnsafePlace, match="token cannot be read"):
            places.token(environ(tmp_path))

    def test_that_is_a_pipe_does_not_hang(self, tmp_path: Path) -> None:
        path = Path(places.make_private(places.user_folder(environ(tmp_path)))) / "token"
        os.mkfifo(path, 0o600)
        with pytest.raises(UnsafePlace, match="holds no token"):
            places.token(environ(tmp_path))

    def test_of_another_user_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = _token(tmp_path, "x" * 43, 0o600)
        monkeypatch.setattr(places, "make_user_folder", places.user_folder)
        monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
        with pytest.raises(UnsafePlace, match=f"{path} belongs to uid"):
            places.token(environ(tmp_path))

    def test_that_cannot_be_written_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UnsafePlace, match="token cannot be written: No space left"):
            places.token(environ(tmp_path))

    def test_processes_that_make_it_at_once_agree(self, tmp_path: Path) -> None:
        """Each waits for the others right before it would make the file, so that every one of them tries."""
        code = (
            "import os, sys\n"
            "from admitd import places\n"
            "make = places._make_token\n"
            "def together(path):\n"
            "    sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
            "    make(path)\n"
            "places._make_token = together\n"
            "print(places.token(os.environ))\n"
        )
        line = [sys.executable, "-c", code]
        env = {**os.environ, **environ(tmp_path)}
        env.pop("XDG_STATE_HOME", None)
        pipe = subprocess.PIPE
        several = [subprocess.Popen(line, env=env, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
        for each in several:
            assert each.stdout is not None and each.stdout.readline() == "ready\n"
        with ThreadPoolExecutor(len(several)) as pool:
            found = list(pool.map(lambda each: each.communicate("go\n", timeout=30)[0], several))
        assert len(set(found)) == 1 and len(found[0].strip()) >= 43
        assert os.listdir(places.user_folder(environ(tmp_path))) == ["token"]


def _token(home: Path, text: str, found: int) -> Path:
    path = Path(places.make_private(places.user_folder(environ(home)))) / "token"
    path.write_text(text)
    path.chmod(found)
    return path


def test_nothing_heavy_is_imported() -> None:
    """The command line passes here on every start."""
    code = "import sys; before = set(sys.modules); import admitd.places; print(*sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) <= {"admitd", "admitd.places", "__future__"}


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({}, "/home/me/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "/hf", "XDG_CACHE_HOME": "/x"}, "/hf/hub"),
        ({"HF_HUB_CACHE": "/hub", "HF_HOME": "/hf"}, "/hub"),
    ],
)
def test_where_hugging_faces_cache_is(environ: dict[str, str], folder: str) -> None:
    assert places.hub_folder(environ, "/home/me") == folder
