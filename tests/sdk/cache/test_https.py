"""HTTPS: a certificate that nobody vouches for is refused; one that the user's own file vouches for is not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from admit_sdk.cache import DownloadFailed, ModelCache
from tests.sdk.cache.server import Manners, Server, serving, sha256, some_bytes

DATA = some_bytes(10_000)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = path.with_name("key.pem")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


def test_an_unknown_certificate_is_refused_and_asked_for_once(cache: ModelCache, certificate: Path) -> None:
    with serving(certificate) as server, pytest.raises(DownloadFailed, match=r"is not trusted: .*SSL_CERT_FILE"):
        cache.fetch(server.put("/x", DATA), sha256(DATA))
    assert not cache.contents().files
    assert not server.asked


def test_a_certificate_that_the_user_vouches_for_is_trusted(
    cache: ModelCache, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(certificate) as server, cache.fetch(server.put("/x", DATA), sha256(DATA)) as held:
        assert held.path.read_bytes() == DATA


def test_https_never_leads_on_to_http(
    cache: ModelCache, certificate: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(certificate) as safe:
        url = safe.put("/x", DATA)
        safe.next = [Manners(status=302, headers={"Location": server.put("/x", DATA)})]
        with pytest.raises(DownloadFailed, match="sends us on to http://localhost, which cannot be trusted"):
            cache.fetch(url, sha256(DATA))
    assert not server.asked
