"""What inference needs, by what its gateway says of its load."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request

from quiltwork.core.errors import BadInputError, QuiltworkError


class GatewayLender:
    """The lender is a gateway: so many requests at a time keep one of its servers busy.

    url : of a running gateway. servers : that it may lend. requests_per_server : running and waiting requests that one
    server answers at a time. key : an administrator's, where the gateway asks for one.

    A server is idle as soon as the load says so; what it has in memory stays there for when it comes back.
    """

    def __init__(
        self,
        url: str,
        servers: int,
        *,
        requests_per_server: float = 4.0,
        key: str | None = None,
        timeout_s: float = 2.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadInputError(f"{url!r} is not a URL", where="gateway", hint="http://host:port")
        if not requests_per_server > 0:
            raise BadInputError(f"{requests_per_server} requests", where="requests_per_server")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._request = urllib.request.Request(url.rstrip("/").removesuffix("/v1") + "/v1/status", headers=headers)
        self._servers, self._each, self._timeout_s = servers, requests_per_server, timeout_s

    def need(self) -> float:
        """As ``Lender`` says."""
        try:
            with urllib.request.urlopen(self._request, timeout=self._timeout_s) as answer:
                status = json.load(answer)
            queues = [part.get("queue") or {} for part in status["servables"].values()]
            asked = sum(float(queue.get("running", 0)) + float(queue.get("waiting", 0)) for queue in queues)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise QuiltworkError(f"does not say what it needs: {error}", where=self._request.full_url) from error
        return min(1.0, math.ceil(asked / self._each) / self._servers) if self._servers else 1.0

    def release(self, server: str) -> bool:
        """As ``Lender`` says."""
        return True

    def take_back(self, server: str) -> None:
        """As ``Lender`` says: it never stopped listening for requests."""
