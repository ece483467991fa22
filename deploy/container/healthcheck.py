# ruff: noqa: INP001 - a script, not a package
"""Whether the gateway in this container answers: exit code 0 if it does, 1 with a sentence if not.

It asks /health, not /ready: a database that is away is no reason to end a gateway that waits for it.
"""

import http.client
import os
import sys

TIMEOUT_SECONDS = 3.0  # below the time-out of HEALTHCHECK, so that it is this sentence that shows up


def main() -> int:
    """Ask once."""
    port = int(os.environ.get("PORT") or 8787)
    # Not urllib: it would go through the proxy that HTTP_PROXY names.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"port {port} does not answer: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        print(f"/health answers {status}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
