"""Our own OpenAPI document against the real service: nothing that schemathesis makes of it breaks the server,
and every answer is one that the document declares. The junk that no document leads to is in test_junk.py.
"""

import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from app.local.model import DEFAULT_MODEL
from app.main import create_app

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
CREATE, COUNT = "POST /v1/responses", "POST /v1/responses/input_tokens"
CONTEXT, COMPACT = "POST /v1/contexts", "POST /v1/responses/compact"
ADDING = ("POST /v1/conversations", "POST /v1/conversations/{conversation_id}/items")
ONE_IN = {(CREATE, True): 8, (CREATE, False): 6}
ONE_IN |= {(label, good): 16 for label in (COUNT, CONTEXT, *ADDING) for good in (True, False)}
ONE_IN |= {(COMPACT, True): 60, (COMPACT, False): 16}
"""Of schemathesis' good requests to create, some 550, and bad ones, some 1300, so many are sent: a good one
makes the model work, the longest to sum something up. The others' items are parsed as those to create are."""


# Made here and not asked of the service, so that pytest knows the operations before there is one.
app = create_app(
    database_url="postgresql://nobody@nowhere/none", worker_urls=[], secret=None, prefix_ttl_seconds=1
)
schema = schemathesis.openapi.from_dict(app.openapi())


@pytest.fixture(scope="session")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def test_the_service_has_that_document(service_url: str) -> None:
    assert requests.get(f"{service_url}/openapi.json", timeout=60).json() == app.openapi()


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.timeout(580)
def test_answers_are_as_declared(case: schemathesis.Case, service_url: str, http: requests.Session) -> None:
    """The same cases at every run: the document's limits one by one, and some at random."""
    label, good = case.operation.label, case.meta.generation.mode is GenerationMode.POSITIVE
    if not _is_one_in(ONE_IN.get((label, good), 1), case.body):
        return
    if label == CREATE:
        _lead_to_the_model(case.body)
    case.call_and_validate(service_url, checks=CHECKS, session=http, timeout=60)


def _is_one_in(number: int, body: Any) -> bool:
    return zlib.crc32(json.dumps(body, sort_keys=True, default=str).encode()) % number == 0


def _lead_to_the_model(body: Any) -> None:
    """Names that nothing has would end every request at the same place; and the model need not say much."""
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = DEFAULT_MODEL
    for name in ("previous_response_id", "conversation"):
        if isinstance(body.get(name), str | dict):
            del body[name]
    most = body.get("max_output_tokens")
    if most is None or (isinstance(most, int) and most > 1):
        body["max_output_tokens"] = 1
