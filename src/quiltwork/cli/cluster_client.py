"""How commands talk to a running cluster; what goes wrong is one line."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

import httpx

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.servable import Json

ENDED = ("done", "failed", "cancelled")


class RefusedError(QuiltworkError):
    """The cluster said no."""

    def __init__(self, what: str, *, usage: bool) -> None:
        super().__init__(what)
        self.exit_code = 2 if usage else 1


class Cluster:
    """A running cluster at a URL. Raises BadInputError where that is none.

    Every call raises QuiltworkError where nobody answers, and RefusedError with the server's words where it refuses.
    """

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInputError(f"{url!r} is not a URL", where="--url", hint="http://host:port")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._url = url.rstrip("/") + "/v1/cluster"
        self._client = httpx.Client(headers=headers, timeout=60.0)

    def status(self) -> Json:
        return self._ask("GET", "")

    def jobs(self, *, state: str | None = None, team: str | None = None) -> Json:
        asked = {name: value for name, value in (("state", state), ("team", team)) if value is not None}
        return self._ask("GET", "/jobs", params=asked)["jobs"]

    def job(self, job: str) -> Json:
        return self._ask("GET", f"/jobs/{quote(job, safe='')}")

    def submit(self, text: str) -> Json:
        return self._ask("POST", "/jobs", content=text.encode(), headers={"Content-Type": "application/yaml"})

    def cancel(self, job: str) -> Json:
        return self._ask("POST", f"/jobs/{quote(job, safe='')}/cancel", json={})

    def explain(self, job: str) -> Json:
        return self._ask("GET", f"/jobs/{quote(job, safe='')}/explain")

    def logs(self, job: str, worker: str | None, tail: int) -> str:
        asked = {"tail": tail} | ({} if worker is None else {"worker": worker})
        return self._send("GET", f"/jobs/{quote(job, safe='')}/logs", params=asked).text

    def post(self, path: str, body: Json) -> Json:
        return self._ask("POST", f"/{path}", json=body)

    def wait(self, job: str, *, sleep: Callable[[float], None] = time.sleep, every_s: float = 0.5) -> Json:
        """Until a job has ended."""
        while True:
            found = self.job(job)
            if found["state"] in ENDED:
                return found
            sleep(every_s)

    def _ask(self, method: str, path: str, **how: Json) -> Json:
        return self._send(method, path, **how).json()

    def _send(self, method: str, path: str, **how: Json) -> httpx.Response:
        try:
            answer = self._client.request(method, self._url + path, **how)
        except httpx.HTTPError as error:
            hint = "is it running? `quiltwork cluster up` starts one"
            raise QuiltworkError(f"no answer: {error}", where=self._url, hint=hint) from error
        if answer.is_success:
            return answer
        try:
            said = answer.json()["error"]
            what = str(said["message"])
        except (ValueError, KeyError, TypeError):
            what = f"{self._url} answers {answer.status_code}"
        raise RefusedError(what, usage=400 <= answer.status_code < 500)
