"""Servers on loopback for what talks to one: the gateway over a Servable, and one that says what it is told to."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from quiltwork.gateway import Address, create_app, listen, url_of
from quiltwork.gateway.server import _Server, uvicorn

MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'


@contextmanager
def serving(servable, **options):
    """The URL of the gateway over ``servable``."""
    app, bound, ready = create_app({"language": servable}, **options), listen(Address(port=0)), threading.Event()
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config, app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    assert ready.wait(20)
    yield url_of(bound)
    server.should_exit = True
    thread.join(20)


@contextmanager
def answering(*events, end=b"data: [DONE]\n\n", models=MODELS):
    """The URL of a server whose every stream is ``events`` and ``end``, after which it hangs up."""
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + end

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.reply(models, "application/json" if models.startswith(b"{") else "text/html")

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(body, "text/event-stream")

        def reply(self, body, kind):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(20)
    server.server_close()


def event(text, finish_reason=None, **fields):
    choice = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": None}
    return {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], **fields}
