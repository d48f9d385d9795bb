"""Downloads from servers that behave, and from servers that do not: what is served is right, or nothing is."""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from admit_sdk.cache import (
    BadName,
    DownloadFailed,
    Held,
    ModelCache,
    Progress,
    Source,
    State,
    Stopped,
    WrongContent,
)
from tests.sdk.cache.conftest import MB
from tests.sdk.cache.server import Manners, Server, serving, sha256, some_bytes

DATA = some_bytes(3 * MB + 17)
SHA = sha256(DATA)


def fetch(cache: ModelCache, url: str, sha: str = SHA, **options: Any) -> Held:
    return cache.fetch(url, sha, **options)


def nothing_is_there(where: Path) -> bool:
    """No file, no part, no note."""
    return not any(path.is_file() for folder in ("files", "downloads") for path in (where / folder).iterdir())


def test_a_file_comes_once_verified_and_read_only(cache: ModelCache, server: Server) -> None:
    url = server.put("/org/model.gguf", DATA)
    told: list[Progress] = []
    with fetch(cache, url, on_progress=told.append) as held:
        assert held.path.read_bytes() == DATA
        assert held.size_bytes == len(DATA)
        assert stat.S_IMODE(held.path.stat().st_mode) == 0o444
        (file,) = cache.contents().files
        assert (file.name, file.origin, file.sha256) == ("model.gguf", url, SHA)
        assert [each.app for each in file.references] == ["tests"]
    assert told[-1] == Progress(State.DOWNLOADING, len(DATA), len(DATA))
    with fetch(cache, url, SHA.upper()) as held:
        assert held.path.read_bytes() == DATA
    assert len(server.asked) == 1
    assert not list((cache.folder / "downloads").iterdir())


@pytest.mark.parametrize(
    ("manners", "ranges"),
    [
        ([Manners(ends_after=MB)], [None, f"bytes={MB}-"]),
        ([Manners(ends_after=MB), Manners(ends_after=MB)], [None, f"bytes={MB}-", f"bytes={2 * MB}-"]),
        ([Manners(status=500), Manners(status=503, headers={"Retry-After": "0"})], [None, None, None]),
        ([Manners(status=429, headers={"Retry-After": "never"})], [None, None]),
        ([Manners(closes_at_once=True)], [None, None]),
        ([Manners(said_length=len(DATA) + 1)], [None]),
        ([Manners(ends_after=MB), Manners(knows_ranges=False)], [None, f"bytes={MB}-"]),
        ([Manners(ends_after=MB), Manners(status=416)], [None, f"bytes={MB}-", None]),
        ([Manners(ends_after=MB), Manners(starts_off_by=5)], [None, f"bytes={MB}-", None]),
        ([Manners(ends_after=MB), Manners(status=206)], [None, f"bytes={MB}-", None]),
        ([Manners(body=some_bytes(len(DATA), 1), etag='"two"', ends_after=MB)], [None, f"bytes={MB}-"]),
        ([Manners(body=some_bytes(len(DATA), 1), ends_after=MB)], [None, f"bytes={MB}-", None]),
        (
            [Manners(ends_after=MB), Manners(etag='"two"', knows_if_range=False)],
            [None, f"bytes={MB}-", None],
        ),
    ],
    ids=[
        "it breaks off",
        "it breaks off twice",
        "500, then 503",
        "429 with nonsense",
        "it hangs up",
        "it says more than comes",
        "it knows no ranges",
        "416",
        "another range than was asked for",
        "206 without a range",
        "another version, and it says so",
        "another version, and it does not say so",
        "another version, and it knows no If-Range",
    ],
)
def test_a_bad_server_that_comes_to_its_senses(
    cache: ModelCache, server: Server, manners: list[Manners], ranges: list[str | None]
) -> None:
    url = server.put("/model.gguf", DATA)
    server.next = manners
    with fetch(cache, url) as held:
        assert held.path.read_bytes() == DATA
    assert server.ranges == ranges


@pytest.mark.parametrize(
    ("manners", "error", "says"),
    [
        (Manners(status=500), DownloadFailed, "answered 500, 5 times in a row; nothing of it was kept"),
        (Manners(status=404), DownloadFailed, "answered 404; look at the address"),
        (Manners(status=401), DownloadFailed, "give headers="),
        (Manners(status=204), DownloadFailed, "answered 204, not with a file"),
        (Manners(closes_at_once=True), DownloadFailed, "gave no answer"),
        (Manners(ends_after=0), DownloadFailed, "broke off after 0 of"),
        (Manners(ends_after=MB, knows_ranges=False), DownloadFailed, "5 times in a row; 1.0 MiB are kept"),
        (Manners(body=some_bytes(MB, 1)), WrongContent, "Nothing of it was kept"),
        (Manners(body=some_bytes(len(DATA), 1), ends_after=MB), WrongContent, "its SHA-256 is"),
        (Manners(said_length=MB), WrongContent, "its SHA-256 is"),
        (Manners(body=b""), WrongContent, "its SHA-256 is"),
        (Manners(chunked=True), DownloadFailed, "does not say how large it is"),
        (Manners(headers={"Content-Encoding": "gzip"}), DownloadFailed, "comes packed"),
        (Manners(status=302, headers={"Location": "/model.gguf"}), DownloadFailed, "302"),
        (Manners(status=302, headers={"Location": "file:///etc/passwd"}), DownloadFailed, "answered 302"),
        (Manners(status=302, headers={"Location": "ftp://localhost/x"}), DownloadFailed, "cannot be trusted"),
    ],
)
def test_a_bad_server_that_stays_bad(
    cache: ModelCache, server: Server, manners: Manners, error: type[Exception], says: str
) -> None:
    url = server.put("/model.gguf", DATA)
    server.always = manners
    with pytest.raises(error, match=says):
        fetch(cache, url)
    contents = cache.contents()
    assert not contents.files
    assert all(not each.runs for each in contents.downloads)
    if "kept" not in says or "othing" in says:
        assert not contents.downloads or error is DownloadFailed
    server.always = None
    with fetch(cache, url) as held:  # and nothing that it left is in the way
        assert held.path.read_bytes() == DATA


def test_the_wrong_content_leaves_nothing(cache: ModelCache, server: Server, where: Path) -> None:
    with pytest.raises(WrongContent):
        fetch(cache, server.put("/model.gguf", b"something else"))
    assert nothing_is_there(where)


def test_a_server_that_drips_is_followed_byte_by_byte(cache: ModelCache, server: Server) -> None:
    data = some_bytes(3000)
    url = server.put("/small", data)
    server.next = [Manners(piece=7)]
    with fetch(cache, url, sha256(data)) as held:
        assert held.path.read_bytes() == data


def test_a_server_that_falls_silent_is_asked_again(cache: ModelCache, server: Server) -> None:
    url = server.put("/model.gguf", DATA)
    server.next = [Manners(waits_after=MB)]
    with fetch(cache, url, stall_s=1.0) as held:
        assert held.path.read_bytes() == DATA
    assert f"bytes={MB}-" in server.ranges


def test_a_length_that_only_the_caller_knows_is_enough(cache: ModelCache, server: Server) -> None:
    url = server.put("/model.gguf", DATA)
    server.always = Manners(chunked=True)
    with fetch(cache, url, size_bytes=len(DATA)) as held:
        assert held.path.read_bytes() == DATA


def test_a_length_that_is_not_the_declared_one_is_refused_before_a_byte_is_written(
    cache: ModelCache, server: Server, where: Path
) -> None:
    url = server.put("/model.gguf", DATA)
    with pytest.raises(DownloadFailed, match=f"has {len(DATA)} bytes by what its server says, not 5"):
        fetch(cache, url, size_bytes=5)
    assert nothing_is_there(where)


def test_more_than_the_declared_length_is_never_written(cache: ModelCache, server: Server) -> None:
    url = server.put("/model.gguf", DATA)
    server.always = Manners(chunked=True)
    told: list[Progress] = []
    with pytest.raises(WrongContent):
        fetch(cache, url, size_bytes=MB, on_progress=told.append)
    assert max(each.done_bytes for each in told) == MB


def test_stopped_in_the_middle_it_goes_on_from_there(cache: ModelCache, server: Server) -> None:
    url = server.put("/model.gguf", DATA)
    server.next = [Manners(waits_after=MB)]
    stop = threading.Event()

    def stop_it() -> None:
        server.waits.wait(30)
        stop.set()
        server.go_on.set()

    stopping = threading.Thread(target=stop_it, daemon=True)
    stopping.start()
    with pytest.raises(Stopped, match="goes on from there"):
        fetch(cache, url, stop=stop)
    stopping.join(30)
    (left,) = cache.contents().downloads
    assert 0 < left.size_bytes < len(DATA)
    assert (left.name, left.total_bytes, left.runs) == ("model.gguf", len(DATA), False)
    with fetch(cache, url) as held:
        assert held.path.read_bytes() == DATA
    assert server.ranges[1] == f"bytes={left.size_bytes}-"
    assert server.asked[1].headers["If-Range"] == '"one"'


def test_another_address_goes_on_with_what_the_first_one_left(cache: ModelCache, server: Server) -> None:
    server.next = [Manners(ends_after=MB), *[Manners(status=500)] * 5]
    with pytest.raises(DownloadFailed):
        fetch(cache, server.put("/first/model.gguf", DATA))
    with fetch(cache, server.put("/second/model.gguf", DATA, '"other"')) as held:
        assert held.path.read_bytes() == DATA
    assert server.ranges[-1] == f"bytes={MB}-"
    assert "If-Range" not in server.asked[-1].headers


def test_a_part_that_was_damaged_is_thrown_away_and_fetched_anew(cache: ModelCache, server: Server) -> None:
    url = server.put("/model.gguf", DATA)
    server.next = [Manners(ends_after=MB), *[Manners(status=500)] * 5]
    with pytest.raises(DownloadFailed):
        fetch(cache, url)
    (part,) = (cache.folder / "downloads").glob("*.part")
    part.write_bytes(bytes(MB))
    with fetch(cache, url) as held:
        assert held.path.read_bytes() == DATA


def test_a_part_that_is_whole_already_needs_no_server(cache: ModelCache, where: Path) -> None:
    cache.contents()
    (where / "downloads" / f"{SHA}.part").write_bytes(DATA)
    with fetch(cache, "http://localhost:9/model.gguf") as held:
        assert held.path.read_bytes() == DATA


def test_a_file_whose_size_has_changed_is_fetched_anew(cache: ModelCache, server: Server) -> None:
    url = server.put("/model.gguf", DATA)
    with fetch(cache, url) as held:
        path = held.path
    path.chmod(0o644)
    path.write_bytes(DATA[:-1])
    with fetch(cache, url) as held:
        assert held.path.read_bytes() == DATA


def test_a_redirect_to_another_host_takes_no_secrets_along(cache: ModelCache, server: Server) -> None:
    with serving() as other:
        other.put("/real", DATA)
        target = other.url.replace("localhost", "127.0.0.1") + "/real?signed=1"
        url = server.put("/model.gguf", DATA)
        server.next = [Manners(status=302, headers={"Location": target})]
        with fetch(cache, url + "?token=secret", headers={"Authorization": "Bearer secret"}) as held:
            assert held.path.read_bytes() == DATA
        assert server.asked[0].headers["Authorization"] == "Bearer secret"
        assert "Authorization" not in other.asked[0].headers
    (file,) = cache.contents().files
    assert file.origin == url
    notes = "".join(path.read_text() for path in cache.folder.rglob("*.json"))
    assert "secret" not in notes


@pytest.mark.parametrize(
    "url",
    ["", "model.gguf", "file:///etc/passwd", "ftp://host/x", "http://", "http://host/a b", "https://host/x\r\nA: b"],
)
def test_what_is_no_address_is_refused(cache: ModelCache, url: str) -> None:
    with pytest.raises(BadName):
        fetch(cache, url)


@pytest.mark.parametrize("sha", ["", "abc", "../../x", "g" * 64, "a" * 63 + "/", "a" * 65])
def test_what_is_no_hash_is_refused(cache: ModelCache, server: Server, sha: str) -> None:
    with pytest.raises(BadName):
        fetch(cache, server.put("/x", DATA), sha)
    with pytest.raises(BadName):
        cache.hold(sha)
    with pytest.raises(BadName):
        cache.evict(sha)


@pytest.mark.parametrize("name", ["../../x", "..", "", "a/b", "a\\b", "a\0b", "a\x1b[2J", "x" * 256])
def test_a_name_is_nothing_but_a_name(cache: ModelCache, server: Server, name: str, tmp_path: Path) -> None:
    with pytest.raises(BadName):
        fetch(cache, server.put("/x", DATA), name=name)
    assert not server.asked


@pytest.mark.parametrize("path", ["/..%2F..%2Fx", "/..", "/a%00b", "/%1b%5b2J", "/"])
def test_an_address_that_holds_a_hostile_name_gives_none(cache: ModelCache, server: Server, path: str) -> None:
    with fetch(cache, server.put(path, DATA)):
        (file,) = cache.contents().files
    assert file.name == SHA[:12]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "a/../b", "", ".", "a/."])
def test_no_file_of_a_model_lands_outside_its_folder(
    cache: ModelCache, server: Server, tmp_path: Path, name: str
) -> None:
    url = server.put("/x", DATA)
    with pytest.raises(BadName):
        cache.fetch_folder({"good": Source(url, SHA), name: Source(url, SHA)}, tmp_path / "model")
    assert not server.asked
    assert not (tmp_path / "model").exists()


def test_a_model_of_several_files_has_them_under_their_names(cache: ModelCache, server: Server, tmp_path: Path) -> None:
    config = b"{}"
    files = {
        "config.json": Source(server.put("/config.json", config), sha256(config)),
        "onnx/model.onnx": Source(server.put("/model.onnx", DATA), SHA),
    }
    for _ in range(2):
        with cache.fetch_folder(files, tmp_path / "model") as model:
            assert (model.path / "config.json").read_bytes() == config
            assert (model.path / "onnx" / "model.onnx").read_bytes() == DATA
            assert all(each.in_use for each in cache.contents().files)
    assert len(server.asked) == 2
    assert not any(each.in_use for each in cache.contents().files)


def test_links_are_replaced_and_files_of_the_users_own_are_not(
    cache: ModelCache, server: Server, tmp_path: Path
) -> None:
    files = {"config.json": Source(server.put("/config.json", DATA), SHA)}
    at = tmp_path / "model" / "config.json"
    at.parent.mkdir()
    at.symlink_to("/nowhere")
    cache.fetch_folder(files, at.parent).release()
    assert at.read_bytes() == DATA
    at.unlink()
    at.write_text("mine")
    with pytest.raises(FileExistsError):
        cache.fetch_folder(files, at.parent)
    assert at.read_text() == "mine"
    assert not any(each.in_use for each in cache.contents().files)
    assert sorted(at.parent.iterdir()) == [at]


def test_a_folder_that_is_named_from_here_is_meant_from_here_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = ModelCache("models", app="tests", max_bytes=100 * MB, spare_bytes=0)
    model = cache.fetch_folder({"a.bin": Source(server.put("/a.bin", DATA), SHA)}, "model")
    monkeypatch.chdir("/")
    assert (tmp_path / "model" / "a.bin").read_bytes() == DATA
    model.release()
    with cache.hold(SHA) as held:
        assert held.path.read_bytes() == DATA


def test_a_model_of_which_one_file_fails_holds_nothing(cache: ModelCache, server: Server, tmp_path: Path) -> None:
    files = {"a": Source(server.put("/a", DATA), SHA), "b": Source(server.url + "/gone", sha256(b"b"))}
    with pytest.raises(DownloadFailed, match="404"):
        cache.fetch_folder(files, tmp_path / "model")
    assert not any(each.in_use for each in cache.contents().files)
