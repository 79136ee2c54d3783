"""How much one tenant may ask at a time."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

from asking import JSON, bearer, complete

from quiltwork.gateway import create_app
from quiltwork.gateway.limits import Limits


def test_more_requests_a_second_than_a_tenant_may_are_told_when_to_come_again(keys, tenants, serving):
    now = [100.0]
    app = create_app({"l": tenants}, keys=keys[0], limits=Limits(per_second=0.25, burst=2), clock=lambda: now[0])
    with serving(app) as url:
        red, blue = (bearer(keys[1][tenant]) for tenant in ("red", "blue"))
        assert [complete(url, "base", headers=red)[0] for _ in range(2)] == [200, 200]
        status, headers, body = complete(url, "base", headers=red)
        assert (status, headers["Retry-After"], body["error"]["type"]) == (429, "4", "rate_limit_error")
        assert complete(url, "base", headers=blue)[0] == 200
        now[0] += 4
        assert complete(url, "base", headers=red)[0] == 200


def test_more_requests_at_a_time_than_a_tenant_may_are_refused_until_one_has_ended(keys, tenants, serving):
    app = create_app({"l": tenants}, keys=keys[0], limits=Limits(concurrent=1))
    with serving(app) as url:
        red, blue = (bearer(keys[1][tenant]) for tenant in ("red", "blue"))
        place = urlsplit(url)
        holding = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
        body = json.dumps({"model": "base", "prompt": "hang", "stream": True})
        holding.request("POST", "/v1/completions", body, {**JSON, **red})
        assert holding.getresponse().status == 200
        assert complete(url, "base", headers=red)[0] == 429
        assert complete(url, "base", headers=blue)[0] == 200
        holding.close()
        assert tenants.cancelled.wait(20)
        statuses = (complete(url, "base", headers=red)[0] for _ in range(10_000))
        assert next(status for status in statuses if status != 429) == 200
