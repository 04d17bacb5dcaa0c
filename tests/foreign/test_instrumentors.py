"""The instrumentors of others as they are now: recorded with Escapement off, imported, replayed. `make interop`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.foreign.record import INSTRUMENTORS
from tests.frameworks import environments
from tests.provider import Provider
from tests.test_cli import Cli, cli
from tests.test_otlp_import import ROOT, imported, replayed, without_unknown_ids

__all__ = ["cli"]  # a fixture

pytestmark = pytest.mark.framework

KINDS = [
    (dialect, program)
    for dialect in INSTRUMENTORS
    for program in ("chat", "responses", "messages")
    if dialect != "anthropic-sdk" or program == "messages"
]


@pytest.mark.parametrize(("dialect", "program"), KINDS)
def test_an_instrumentor_records_and_we_replay(
    dialect: str, program: str, cli: Cli, tmp_path: Path, provider: Provider
) -> None:
    interpreter = environments.python("instrumentors", environments.INSTRUMENTORS)
    to, spans = tmp_path / "said.json", tmp_path / "spans.pb"
    command: list[str | Path] = [interpreter, "-W", "ignore", "-m", "tests.foreign.record", dialect, program, to, spans]
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run(command, cwd=ROOT, env=surroundings, check=True)
    row = imported(cli, tmp_path / "copy.pb", spans.read_bytes())
    said = json.loads(to.read_text())["said"]
    assert [step.answered for step in row.steps] == [True] * len(said)
    again, _ = replayed(row.trace_id, program, provider.base_url)
    assert without_unknown_ids(row, again) == without_unknown_ids(row, said)
    assert provider.count == 0
