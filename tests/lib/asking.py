"""Plain HTTP requests to a server under test."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

JSON = {"Content-Type": "application/json"}


def ask(url, method="GET", path="/v1/models", body=None, **headers):
    """(status, headers, JSON or text)."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
    try:
        data = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, data, {**(JSON if body is not None else {}), **headers})
        reply = connection.getresponse()
        text = reply.read().decode()
        shown = json.loads(text) if reply.headers.get_content_type() == "application/json" else text
        return reply.status, reply.headers, shown
    finally:
        connection.close()


def complete(url, model="law", prompt="a b", headers=None, **fields):
    return ask(url, "POST", "/v1/completions", {"model": model, "prompt": prompt, **fields}, **(headers or {}))


def bearer(key):
    return {"Authorization": f"Bearer {key}"}
