"""Requests to other services. What is asked goes to the address given and nowhere else, and no error quotes it: it may hold a secret."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import IO
from urllib.parse import urlsplit

from planish.errors import PlanishError

_TIMEOUT_S = 10.0
_MOST_BYTES = 50_000_000  # of an answer


class NoResponseError(PlanishError):
    """A service that did not answer, or answered that it cannot do so now. Later it may."""


class RequestRefusedError(PlanishError):
    """A request that is wrong, and will be so later."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected request would take its key with it, and a redirected POST would become a GET."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def is_http(address: str) -> bool:
    """Whether this is an address to send requests to."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises where it is not a number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not any(character <= " " for character in address)


def request(who: str, address: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> bytes:
    """GET, or POST where there is a body; returns the answer's body.

    Args:
        who: is asked, for errors, which do not quote the address.
        address: http or https.
        body: of the request.
        headers: likewise.

    Raises:
        NoResponseError: the connection failed, or the status is 429 or from 500.
        RequestRefusedError: any other status that is no success, or no address.
    """
    if not is_http(address):
        raise RequestRefusedError(f"{who} has no valid address", "it begins with http:// or https://, and has no spaces")
    # "from None" throughout: the errors below quote the address
    try:
        with _OPENER.open(urllib.request.Request(address, body, dict(headers)), timeout=_TIMEOUT_S) as answer:
            found: bytes = answer.read(_MOST_BYTES)
            return found
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoResponseError(f"{who} does not answer: {_reason(error)}") from None
    if status == 429 or status >= 500:
        raise NoResponseError(f"{who} answers with the status {status}")
    raise RequestRefusedError(f"{who} answers with the status {status}", _RULES.get(status, ""))


_RULES = {401: "it needs a key", 403: "the key does not do for this", 404: "there is nothing at this address"} | dict.fromkeys(
    (301, 302, 303, 307, 308), "redirects are not followed; give the address itself"
)


def _reason(error: Exception) -> str:
    """In words that do not quote the request."""
    cause = error.reason if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message}); SSL_CERT_FILE names a file of certificates to trust"
    if isinstance(cause, TimeoutError):
        return f"nothing within {_TIMEOUT_S:g} s"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return "what it sends is not HTTP" if isinstance(cause, http.client.HTTPException) else type(cause).__name__
