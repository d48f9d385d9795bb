"""The dashboard's files as they are served and shipped: what a browser may do with them, and that all are there."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitd import page
from tests.daemons import Daemon, flagged, running

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "admitd" / "static"
OURS = sorted(name for name in page.files() if not name.startswith("vendor/"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("page")
    with running(folder, flagged("light", folder, 100)) as up:
        yield up


def test_the_page_and_every_file_are_served_without_a_token(daemon: Daemon) -> None:
    front = daemon.ask("GET", "/")
    assert (front.status, front.header("content-type")) == (200, "text/html; charset=utf-8")
    assert front.body == (STATIC / "index.html").read_bytes()
    for name, body in page.files().items():
        reply = daemon.ask("GET", f"/static/{name}")
        assert (reply.status, reply.body) == (200, body), name
        assert reply.header("content-type") == page.KINDS[Path(name).suffix]
    assert daemon.ask("HEAD", "/").status == 200


def test_what_a_browser_may_do_is_said_with_every_file(daemon: Daemon) -> None:
    for path in ("/", "/static/main.js", "/static/page.css", "/static/vendor/uplot/uPlot.iife.min.js"):
        headers = daemon.ask("GET", path).headers
        assert len({name for name, _ in headers}) == len(headers), "each header once"
        told = dict(headers)
        policy = dict(part.strip().split(" ", 1) for part in told["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in told["content-security-policy"]
        assert policy["require-trusted-types-for"] == "'script'"
        assert (told["x-content-type-options"], told["cache-control"]) == ("nosniff", "no-store")
        assert (told["x-frame-options"], told["referrer-policy"]) == ("DENY", "no-referrer")


def test_the_door_is_kept_for_the_page_too(daemon: Daemon) -> None:
    assert daemon.ask("GET", "/", host="evil.test").status == 421
    assert daemon.ask("GET", "/", headers={"Origin": "http://evil.test"}).status == 403
    assert daemon.ask("GET", "/static/main.js", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert daemon.ask("POST", "/", {}).status == 405


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "",
        "..",
        "../api.py",
        "..%2fapi.py",
        "%2e%2e/api.py",
        "/etc/passwd",
        "vendor",
        "vendor/",
        "main.js/",
    ],
)
def test_nothing_else_can_be_named(daemon: Daemon, name: str) -> None:
    reply = daemon.ask("GET", f"/static/{name}")
    assert (reply.status, reply.header("content-type")) == (404, "application/problem+json")


def test_the_page_is_no_part_of_the_api(daemon: Daemon) -> None:
    assert not [path for path in daemon.ask("GET", "/openapi.json").json()["paths"] if path in ("/", "/static/{name}")]


def test_every_file_that_is_referred_to_is_there() -> None:
    named = re.findall(r'(?:src|href)="/static/([^"]+)"', page.files()["index.html"].decode())
    assert len(named) > 5
    for script in (name for name in OURS if name.endswith(".js")):
        named += re.findall(r'from "\./([^"]+)"', page.files()[script].decode())
    assert set(named) <= set(page.files())
    unused = {name for name in OURS if not name.endswith(".html")} - set(named)
    assert not unused


@pytest.mark.parametrize("name", OURS)
def test_nothing_refers_to_other_places_or_is_written_inline(name: str) -> None:
    text = page.files()[name].decode().replace("http://www.w3.org/2000/svg", "")
    assert "://" not in text, "everything comes from the daemon"
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|setAttribute\(\"style", text)
    assert len(text.splitlines()) <= 400
    first = text.lstrip().splitlines()[0]
    assert name.endswith((".html", ".svg")) or first.startswith((f"// {Path(name).stem}:", f"/* {Path(name).stem}:"))


def test_what_is_not_ours_comes_with_its_licence() -> None:
    folders = {name.split("/")[1] for name in page.files() if name.startswith("vendor/")}
    assert folders == {"uplot"}
    assert "MIT License" in page.files()["vendor/uplot/LICENSE.txt"].decode()


@pytest.mark.slow
def test_the_wheel_has_every_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as whole:
        for name, body in page.files().items():
            assert whole.read(f"admitd/static/{name}") == body


def test_the_pictures_in_the_docs_are_small_and_all_used() -> None:
    text = (ROOT / "docs" / "dashboard.md").read_text()
    pictures = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").glob("dashboard-*")}
    assert pictures and all(size < 150_000 for size in pictures.values())
    assert {name for name in pictures if f"images/{name}" in text} == set(pictures)
