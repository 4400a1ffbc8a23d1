"""The OpenAPI document tells the truth: requests made from it, right and wrong ones, are answered as it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from strategies import FILES, damaged

from planish.serving.http.keys import OPEN

if TYPE_CHECKING:
    from conftest import Served

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, response_headers_conformance,
    unsupported_method,
]  # fmt: skip
schemathesis.openapi.media_type("image/png", st.sampled_from(FILES) | damaged(), aliases=["image/jpeg", "application/octet-stream"])


@pytest.mark.parametrize("count", [100, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("with_keys", [False, True])
def test_answers_are_as_described(serve: Callable[..., Served], bundle: Path, tmp_path: Path, count: int, with_keys: bool) -> None:
    (tmp_path / "keys").write_text("secret\n")
    keys = ["--keys", tmp_path / "keys"] if with_keys else []
    served = serve(f"shapes={bundle}", "--max-bytes", 300_000, "--max-pixels", 1_000_000, "--timeout", 2, *keys)
    headers = {"Authorization": "Bearer secret"}
    described = schemathesis.openapi.from_url(f"http://{served.address}/openapi.json", headers=headers)
    operations = [result.ok() for result in described.get_all_operations()]
    assert len(operations) == 17
    kinds = [operation.as_strategy(generation_mode=mode) for operation in operations for mode in schemathesis.GenerationMode]
    names, found = st.sampled_from(["shapes", "shapes", "other"]), Counter[str]()

    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.one_of(kinds), names, st.booleans())
    def ask(case: Any, name: str, known: bool) -> None:
        if case.path_parameters and isinstance(case.path_parameters.get("name"), str):
            case.path_parameters["name"] = name
        answer = case.call(headers=headers if known else {}, timeout=10)
        case.validate_response(answer, checks=CHECKS)
        if with_keys and not known:
            assert answer.status_code == 401 or case.path in OPEN
        found[str(answer.status_code)] += 1

    ask()
    print(f"{found.total()} requests: {dict(found)}")
    assert found["200"] > 0.05 * found.total()
    assert "Traceback" not in served.log.read_text()
