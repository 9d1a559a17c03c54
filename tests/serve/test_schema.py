"""Schemathesis: requests made from the OpenAPI description, right ones and wrong ones.

A longer run: `st run http://127.0.0.1:8000/openapi.json` against a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings

if TYPE_CHECKING:
    from running_server import Running

pytest_plugins = ["running_server"]
schemathesis = pytest.importorskip("schemathesis")
positive_data_acceptance = pytest.importorskip(
    "schemathesis.specs.openapi.checks"
).positive_data_acceptance


MODES = schemathesis.GenerationMode
PATHS = {
    "/v1/chat/completions": "POST", "/v1/completions": "POST", "/v1/judge": "POST",
    "/v1/models": "GET", "/v1/models/{name}": "GET", "/health": "GET", "/metrics": "GET",
}  # fmt: skip


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
@pytest.mark.parametrize("path", PATHS)
def test_answers_are_those_that_the_description_names(
    shared: Running, path: str, mode: str
) -> None:
    schema = schemathesis.openapi.from_url(f"{shared.url}/openapi.json")
    assert set(schema.raw_schema["paths"]) == set(PATHS)
    if mode == "NEGATIVE" and PATHS[path] == "GET":
        pytest.skip("there is nothing in it that could be wrong")
    cases = schema[path][PATHS[path]].as_strategy(generation_mode=MODES[mode])

    @settings(
        max_examples=4, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases)
    def check(case: Any) -> None:
        if isinstance(case.body, dict):  # thousands of tokens would say no more than three
            for name in ("max_tokens", "max_completion_tokens"):
                if type(case.body.get(name)) is int and case.body[name] > 3:
                    case.body[name] = 3
        # whether user and assistant take turns is beyond what a schema can say
        case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=30)

    check()
