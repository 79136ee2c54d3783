"""Whatever comes in, the answer is never the server's own failure."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import schemathesis
from fake_servable import FakeServable
from hypothesis import Phase, settings
from schemathesis.checks import not_a_server_error
from tiny_sentences import tiny_host, tiny_zoo

from quiltwork.core.names import ModelRef
from quiltwork.gateway import create_app

FOLDER = tempfile.TemporaryDirectory(prefix="quiltwork-fuzz-")
SENTENCES = tiny_host(tiny_zoo(Path(FOLDER.name), ModelRef("words")))
SENTENCES.offer(ModelRef("words"))
APP = create_app({"language": FakeServable(ModelRef("base")), "text": SENTENCES})
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@schema.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate])
@pytest.mark.slow
def test_the_openapi_document_finds_no_server_error(case):
    case.call_and_validate(checks=[not_a_server_error])
