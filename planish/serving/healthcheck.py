"""Health check of the service on this machine, for containers: ``python -m planish.serving.healthcheck FILE``.

FILE is the file that ``planish serve --address-file FILE`` wrote. It holds the service's address, and so its port and whether it uses
TLS. The exit status is 0 if the service is ready. Only the standard library is imported.
"""

from __future__ import annotations

import ssl
import sys
import urllib.request
from pathlib import Path

_TIMEOUT_S = 2.0


def fault(address_file: Path) -> str:
    """Return why the service is not ready; empty if it is ready."""
    try:
        address = address_file.read_text(encoding="utf-8").strip()
        unchecked = ssl.create_default_context()  # the certificate is for the public host name, and this connects to the loopback address
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=_TIMEOUT_S, context=unchecked):
            return ""
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(fault(Path(sys.argv[1])) or 0)
