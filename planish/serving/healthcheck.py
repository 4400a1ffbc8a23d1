"""Whether the service on this machine is ready, for a container's health check: ``python -m planish.serving.healthcheck FILE``.

FILE is what ``planish serve --address-file FILE`` wrote: the service's own address, so that its port and TLS are known. The exit status
is 0 where it is ready. The standard library is all that is imported.
"""

from __future__ import annotations

import ssl
import sys
import urllib.request
from pathlib import Path

_TIMEOUT_S = 2.0


def fault(address_file: Path) -> str:
    """Why the service is not ready; empty where it is."""
    try:
        address = address_file.read_text(encoding="utf-8").strip()
        unchecked = ssl.create_default_context()  # the certificate is for the name that clients use, and this is the loopback
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=_TIMEOUT_S, context=unchecked):
            return ""
    except (OSError, ValueError) as error:  # urllib's are OSErrors
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(fault(Path(sys.argv[1])) or 0)
