"""What inference needs, by what its gateway says of its load."""

from __future__ import annotations

import json
import math
import threading
import urllib.request

from quiltwork.core.errors import BadInputError, QuiltworkError


class GatewayLender:
    """The lender is a gateway: so many requests at a time keep one of its servers busy.

    url : of a running gateway. servers : that it may lend. requests_per_server : running and waiting requests that one
    server answers at a time. key : an administrator's, where the gateway asks for one. every_s : it is asked so often,
    by a thread of its own, so that nobody waits for it.

    A server is idle as soon as the load says so. The gateway's memory is not the server's: models stay in it, and a
    request that comes while all servers are lent is answered all the same, beside whoever trains.
    """

    def __init__(
        self,
        url: str,
        servers: int,
        *,
        requests_per_server: float = 4.0,
        key: str | None = None,
        every_s: float = 1.0,
        timeout_s: float = 5.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadInputError(f"{url!r} is not a URL", where="gateway", hint="http://host:port")
        if servers < 1 or not requests_per_server > 0:
            raise BadInputError(f"{servers} servers for {requests_per_server} requests each", where="gateway")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._request = urllib.request.Request(url.rstrip("/").removesuffix("/v1") + "/v1/status", headers=headers)
        self._servers, self._each = servers, requests_per_server
        self._every_s, self._timeout_s = every_s, timeout_s
        self._asked: float | str = "was not asked yet"
        """Requests that it has, or why nobody knows."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gateway-load", daemon=True)

    def __enter__(self) -> GatewayLender:
        # Once before anybody wants to know: a need that nobody knows is taken for a need of everything, and remembered.
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()

    def look(self) -> None:
        """Ask the gateway."""
        try:
            with urllib.request.urlopen(self._request, timeout=self._timeout_s) as answer:
                status = json.load(answer)
            queues = [part.get("queue") or {} for part in status["servables"].values()]
            self._asked = sum(float(queue.get("running", 0)) + float(queue.get("waiting", 0)) for queue in queues)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            self._asked = f"does not say what it needs: {error}"

    def need(self) -> float:
        """As ``Lender`` says."""
        if isinstance(self._asked, str):
            raise QuiltworkError(self._asked, where=self._request.full_url)
        return min(1.0, math.ceil(self._asked / self._each) / self._servers)

    def release(self, server: str) -> bool:
        """As ``Lender`` says: nothing of the gateway is on one server rather than on another."""
        return True

    def take_back(self, server: str) -> None:
        """As ``Lender`` says: it never stopped listening for requests."""
