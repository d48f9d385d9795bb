"""remote: one answer of a server, asked from a byte on, over HTTP or verified HTTPS, believed as little as possible.

Nothing is written here. What a server says of lengths, ranges and versions is checked against what was asked for; what
it says of the content is checked by the hash of the content alone.
"""

from __future__ import annotations

import http.client
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import IO, Any, Final
from urllib.parse import urlsplit

from admit_sdk.cache.errors import DownloadFailed
from admit_sdk.cache.terms import Source

CHUNK_BYTES: Final = 1 << 20
REDIRECTS_MAX: Final = 5
RETRY_AFTER_MAX_S: Final = 60.0
_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")
_STRONG_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]{1,256}"\Z')
_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_ANOTHER_TIME: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Interrupted(Exception):
    """It broke off, or was not to be had at this moment; asking again may help. `after_s`: what the server asks for."""

    def __init__(self, text: str, after_s: float = 0.0) -> None:
        super().__init__(text)
        self.after_s = after_s


class FromTheStart(Exception):
    """The server cannot go on from where we are: what has come so far is of no use."""


class Answer:
    """A body that begins at `start`. `total_bytes`: how large the whole file is, None where the server does not say;
    `etag`: the version it belongs to, where the server names one exactly."""

    def __init__(self, response: http.client.HTTPResponse, start: int, total_bytes: int | None) -> None:
        self._response = response
        self.start = start
        self.total_bytes = total_bytes
        etag = response.headers.get("ETag", "")
        self.etag = etag if _STRONG_ETAG.match(etag) else None

    def read(self) -> bytes:
        """What comes next, as soon as there is any; b"" at the end, or where it broke off. Raises Interrupted."""
        try:
            return self._response.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise Interrupted(_in_words(problem)) from problem

    def close(self) -> None:
        """End the connection."""
        self._response.close()


def ask(
    source: Source, headers: Mapping[str, str], start: int, etag: str | None, total_bytes: int | None, stall_s: float
) -> Answer:
    """Ask for the content of `source` from byte `start` on; `etag` and `total_bytes`: what is known of it from before.

    The answer may begin at 0 all the same, where a server knows no ranges or has another version now. Raises
    Interrupted, FromTheStart, DownloadFailed.
    """
    request = urllib.request.Request(source.url, headers={"User-Agent": "admit", "Accept-Encoding": "identity"})  # noqa: S310
    for name, value in headers.items():
        request.add_header(name, value)
    if start:
        request.add_header("Range", f"bytes={start}-")
        if etag:
            request.add_header("If-Range", etag)
    try:
        response = _opener().open(request, timeout=stall_s)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(source, error, start) from error
    except DownloadFailed:
        raise
    except ssl.SSLCertVerificationError as problem:
        raise _untrusted(source, problem) from problem
    except urllib.error.URLError as problem:
        if isinstance(problem.reason, ssl.SSLCertVerificationError):
            raise _untrusted(source, problem.reason) from problem
        raise Interrupted(f"{_host(source)} cannot be reached: {_in_words(problem.reason)}") from problem
    except ValueError as problem:
        raise DownloadFailed(f"{source.origin} cannot be asked for: {problem}") from problem
    except (OSError, http.client.HTTPException) as problem:
        raise Interrupted(f"{_host(source)} gave no answer: {_in_words(problem)}") from problem
    try:
        return _understood(source, response, start, etag, total_bytes)
    except BaseException:
        response.close()
        raise


def _understood(source: Source, response: Any, start: int, etag: str | None, total_bytes: int | None) -> Answer:
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("", "identity"):
        raise DownloadFailed(f"{source.origin} comes packed ({encoding[:20]}) though it was asked for as it is")
    if response.status == 206:
        range_ = _RANGE.match(response.headers.get("Content-Range", ""))
        if range_ is None or int(range_[1]) != start:
            raise FromTheStart
        answer = Answer(response, start, None if range_[3] == "*" else int(range_[3]))
        known = (etag, total_bytes)
        if any(old and new and old != new for old, new in zip(known, (answer.etag, answer.total_bytes), strict=True)):
            raise FromTheStart  # another version now, by a server that does not know If-Range
        return answer
    if response.status != 200:
        raise DownloadFailed(f"{source.origin}: the server answered {response.status}, not with a file")
    return Answer(response, 0, response.length if response.length is not None and response.length >= 0 else None)


def _refused(source: Source, error: urllib.error.HTTPError, start: int) -> Exception:
    if error.code == 416 and start:
        return FromTheStart()
    if error.code in _ANOTHER_TIME:
        after = error.headers.get("Retry-After", "")
        after_s = min(float(after), RETRY_AFTER_MAX_S) if after.isascii() and after.isdigit() else 0.0
        return Interrupted(f"{_host(source)} answered {error.code}", after_s)
    next_step = {
        401: "; it asks who you are: give headers={'Authorization': 'Bearer ...'}",
        403: "; it does not let you: look whether you have to accept its terms, or need a token",
        404: "; look at the address",
    }.get(error.code, "")
    return DownloadFailed(f"{source.origin}: the server answered {error.code}{next_step}")


def _untrusted(source: Source, problem: ssl.SSLCertVerificationError) -> DownloadFailed:
    own = "A certificate of your own goes into the system's store, or into the file that SSL_CERT_FILE names"
    if sys.platform == "darwin":  # OpenSSL reads no keychain
        own = "python.org's Python has no certificates before its Install Certificates.command was run; "
        own += "one of your own goes into the file that SSL_CERT_FILE names"
    return DownloadFailed(f"{_host(source)} is not trusted: {problem.verify_message}. {own}")


def _opener() -> urllib.request.OpenerDirector:
    """What urllib would do, without the schemes that are no downloads, and with redirects that give nothing away."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        _Https(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


class _Https(urllib.request.AbstractHTTPHandler):
    """As urllib.request.HTTPSHandler, but the certificates are read (70 ms) only where an address needs them."""

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(http.client.HTTPSConnection, req, context=ssl.create_default_context())

    https_request = urllib.request.AbstractHTTPHandler.do_request_


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to another host lose what was meant for the first; none leads from https to http."""

    max_redirections = REDIRECTS_MAX

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        where = f"{before.scheme}://{before.hostname}"
        if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
            fp.close()
            raise DownloadFailed(f"{where} sends us on to {after.scheme}://{after.hostname}, which cannot be trusted")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (before.scheme, before.netloc) != (after.scheme, after.netloc):
            for name in [name for name in request.headers if name.lower() in _SECRET]:
                request.remove_header(name)
        return request


def _host(source: Source) -> str:
    return urlsplit(source.origin).netloc


def _in_words(problem: object) -> str:
    if isinstance(problem, TimeoutError):
        return "nothing came in time"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return str(problem) or type(problem).__name__
