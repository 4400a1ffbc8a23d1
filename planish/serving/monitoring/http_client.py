"""HTTP requests to other services.

Requests are sent only to the given address; redirects are not followed. No error quotes the address, because it may contain a secret.
"""

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
_MOST_BYTES = 50_000_000  # of a response


class NoResponseError(PlanishError):
    """A service does not respond, or responds that it is temporarily unavailable. The request may succeed later."""


class RequestRefusedError(PlanishError):
    """The request is invalid or refused, and would be so later as well."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirected request would pass its key on, and a redirected POST would become a GET."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def is_http(address: str) -> bool:
    """Return whether this is a valid HTTP or HTTPS address."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError if it is not a number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not any(character <= " " for character in address)


def request(who: str, address: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> bytes:
    """Send a GET request, or a POST request if there is a body; return the body of the response.

    Args:
        who: name of the service in errors, which do not quote the address.
        address: http or https URL.
        body: body of the request.
        headers: headers of the request.

    Raises:
        NoResponseError: the connection failed, or the status is 429, 500 or above.
        RequestRefusedError: the address is invalid, or the status is any other error or redirect.
    """
    if not is_http(address):
        raise RequestRefusedError(f"{who} has no valid address", "it begins with http:// or https://, and has no spaces")
    # "from None" hides the original errors, which quote the address
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
    """Return the reason of a failure, without quoting the request."""
    cause = error.reason if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message}); SSL_CERT_FILE names a file of certificates to trust"
    if isinstance(cause, TimeoutError):
        return f"nothing within {_TIMEOUT_S:g} s"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return "what it sends is not HTTP" if isinstance(cause, http.client.HTTPException) else type(cause).__name__
