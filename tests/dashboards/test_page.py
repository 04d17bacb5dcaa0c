"""docs/dashboards.md: what it names is there, and its commands run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

import escapement
from dashboards.panels.table import PANELS
from tests.conftest import ask
from tests.receiver import Receiver

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "dashboards.md").read_text()
COMMANDS = [line[2:] for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def run(command: str, **environment: str) -> str:
    """As a shell has it that stands beside the repository's `dashboards`."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    return subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=True).stdout


def test_it_names_the_panels_and_the_files() -> None:
    section = PAGE.partition("## The panels")[2].partition("\n## ")[0]
    assert re.findall(r"^\| ([A-Z][^|]+) \|", section, re.MULTILINE) == [panel.title for panel in PANELS]
    duckdb = PAGE.partition("One file a panel:")[2].partition(".")[0]
    assert re.findall(r"`(\w+)`", duckdb) == [panel.key for panel in PANELS]
    for path in re.findall(r"`(dashboards/[\w/]+\.\w+)`", PAGE):
        assert (ROOT / path).exists(), path
    pictures = re.findall(r"\(pictures/(.*?)\)", PAGE)
    assert sorted(pictures) == sorted(path.name for path in (ROOT / "docs" / "pictures").glob("dashboard-*"))
    assert len(COMMANDS) == 5


def test_its_commands_for_duckdb(client: openai.OpenAI, tmp_path: Path) -> None:
    with escapement.init("page") as trace:
        ask(client)
    (tmp_path / "dashboards").symlink_to(ROOT / "dashboards")
    spend, tokens, errors = (run(command) for command in COMMANDS if "sql/" in command)
    day = r"20\d\d-\d\d-\d\d"
    assert re.search(rf"{day}.* gpt-4o .*0\.\d+", spend)
    assert [line.partition(",")[2] for line in tokens.splitlines()] == [
        "series,value", f"gpt-4o input,{trace.input_tokens}", f"gpt-4o output,{trace.output_tokens}",
    ]  # fmt: skip
    assert re.search(rf"{day}.*errors.*0\.0", errors)


def test_its_command_for_a_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agent.py").write_text("import escapement\nwith escapement.init('anything'): pass\n")
    (command,) = (command for command in COMMANDS if "OTLP" in command)
    with Receiver() as receiver:
        run(command.replace("http://localhost:4318", receiver.url))
    ((around,),) = (request.resource_spans for request in receiver.requests)
    resource = {one.key: one.value.string_value for one in around.resource.attributes}
    assert resource["service.name"] == "support-agent"


def test_its_configuration_of_a_collector_hangs_together() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    parts: dict[str, Any] = yaml.safe_load(block)
    for kind in ("receivers", "exporters"):
        used = {name for pipeline in parts["service"]["pipelines"].values() for name in pipeline[kind]}
        assert used == set(parts[kind])
