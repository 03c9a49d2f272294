"""Whether a server can be reached at all."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from auditor.data.base import printable
from auditor.errors import DataError

PATIENCE_S = 5.0


def check_reachable(url: str) -> None:
    """Fail within seconds where a server cannot be reached, before what downloads tries again and again.

    URLs that are not of the web or the hub pass, and so do all where a proxy stands between.

    Raises
    ------
    DataError
        Naming the server.
    """
    if url.startswith("hf:"):
        url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.scheme in getproxies():
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=PATIENCE_S).close()
    except OSError as error:
        raise DataError(
            f"{parts.hostname} cannot be reached: {printable(str(error))}.",
            got=printable(url),
            fix="Check the network.",
        ) from error
