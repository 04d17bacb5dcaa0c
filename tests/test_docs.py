"""The README: its code runs, and it names every command and setting there is."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.metrics import NoOpMeterProvider

import escapement
from escapement.cli import application
from escapement.words.config import SETTINGS, resolve, variable
from escapement.words.rules import RULES
from tests import agents
from tests.frameworks.environments import FRAMEWORKS, RECEIVERS
from tests.provider import Provider

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(block: str, page: str) -> dict[str, Any]:
    """Run the Python of a page; what it made. Clients are closed, which a page need not do."""
    made: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, page, "exec", dont_inherit=True), made)
    for value in made.values():
        if isinstance(value, openai.OpenAI):
            value.close()
    return made


def test_the_python_blocks_run_one_after_the_other(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-needed")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.base_url}/v1")
    ran = 0
    for block in blocks("python"):
        run(block, "README.md")
        while escapement.stop() is not None:
            pass
        ran += 1
    assert ran == 6
    # One call recorded, one replayed, one replayed and one live after the fork, one edited, one by LangChain.
    assert provider.count == 3


def test_every_command_is_in_the_table() -> None:
    app = application()
    commands = {command.name: command for command in app.registered_commands}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        commands |= {f"{group.name} {command.name}": command for command in group.typer_instance.registered_commands}
    assert set(re.findall(r"^\| `escapement ([a-z ]+[a-z])", README, re.MULTILINE)) == set(commands)
    for command in commands.values():
        assert command.callback is not None
        assert command.callback.__doc__


def test_every_setting_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(\w+)` \| (.+?) \|$", README, re.MULTILINE)
    assert {name: environment for name, _, environment, _ in rows} == {name: variable(name) for name in SETTINGS}
    defaults = {name: default.strip("`") for name, default, _, _ in rows}
    for name, setting in SETTINGS.items():
        shown = {True: "true", False: "false", (): "none", None: "none"}.get(setting.default, str(setting.default))
        assert defaults[name] == shown, name


def test_make_targets_and_files_named_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"):
        text = (ROOT / document).read_text()
        assert set(re.findall(r"`?make ([a-z-]+)", text)) <= targets, document
        for path in re.findall(r"`((?:escapement|instrumentation|tests|benchmarks)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), f"{document} names {path}"
    assert openai.__version__


def test_ci_calls_the_readmes_test_command() -> None:
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()
    assert "$ make test\n" in README


def test_every_column_of_every_view_is_documented(store: Path) -> None:
    text = (ROOT / "docs" / "store.md").read_text()
    opened = escapement.open_store(store)
    for view in ("traces", "lineage", "spans", "llm_calls", "tool_calls", "messages"):
        section = re.search(rf"^### {view}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
        assert section is not None
        cells = re.findall(r"^\| (`.*?) \|", section.group(1), re.MULTILINE)
        documented = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
        assert sorted(documented) == sorted(opened.query(f"SELECT * FROM {view}").column_names), view


def test_the_python_of_the_stores_page_runs(client: openai.OpenAI) -> None:
    with escapement.init("page"):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hello"}])
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "store.md").read_text(), re.MULTILINE | re.DOTALL)
    found = run(block, "store.md")
    assert found["rows"] == [{"model": "gpt-4o", "calls": 1}]
    table = re.findall(r"^\| `(\w+)\(", (ROOT / "docs" / "store.md").read_text(), re.MULTILINE)
    public = {name for name in dir(escapement.open_store()) if not name.startswith("_")}
    assert set(table) == public - {"place"}


def test_the_example_of_a_provider_reads_its_protocol() -> None:
    text = (ROOT / "docs" / "providers.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    made = run(block, "providers.md")
    talk = made["OPERATIONS"]["talk"]
    assert talk.request({"model": "m", "heat": 0.5}) == {
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5,
    }
    assert talk.answer({"id": "1", "used": {"in": 2, "out": 3}}) == {
        "gen_ai.response.id": "1",
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 3,
    }
    assert [(message.role, message.text) for message in talk.asked({"say": "hi"})] == [("user", "hi")]
    assert [(message.role, message.text) for message in talk.said({"reply": "ho"})] == [("assistant", "ho")]


def test_the_frameworks_page_names_what_is_tested() -> None:
    text = (ROOT / "docs" / "frameworks.md").read_text()
    rows = dict(re.findall(r"^\| .+? \| `([\w-]+)` ([\d.]+) \|", text, re.MULTILINE))
    assert rows == {name: framework.version for name, framework in FRAMEWORKS.items()}
    programs = {path.stem.replace("_", "-") for path in (ROOT / "tests" / "frameworks" / "programs").glob("*.py")}
    assert programs == set(FRAMEWORKS)
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    run(block, "frameworks.md")
    assert escapement.stop() is not None


def test_the_python_of_the_page_on_divergence_runs(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-needed")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.base_url}/v1")
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "divergence.md").read_text(), re.MULTILINE | re.DOTALL
    )
    run(block, "divergence.md")
    assert provider.count == 1


def test_the_python_of_the_page_on_otlp_runs() -> None:
    from escapement_exporters.export import pipeline
    from escapement_exporters.metrics import measuring
    from tests.receiver import Receiver

    text = (ROOT / "docs" / "otlp.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    with Receiver() as receiver:
        exec(compile(block.replace("http://localhost:4318", receiver.url), "otlp.md", "exec"), {})
        pipeline.finish()
        assert [span.name for span in receiver.spans] == ["support-agent"]
    metrics = text.partition("## Metrics")[2]
    named = set(re.findall(r"^\| `((?:gen_ai|escapement)\.[a-z_.]+)` \|", metrics, re.MULTILINE))
    assert named == set(measuring._instruments(NoOpMeterProvider()))


BACKENDS: dict[str, tuple[str, dict[str, str], str | None]] = {
    # Where spans go, with which headers; and metrics, if they go anywhere.
    "Phoenix": ("http://localhost:6006/v1/traces", {}, None),
    "MLflow": ("http://localhost:5000/v1/traces", {"x-mlflow-experiment-id": "0"}, None),
    "A collector": ("http://localhost:4318/v1/traces", {}, "http://localhost:4318/v1/metrics"),
    "Langfuse": (
        "https://cloud.langfuse.com/api/public/otel/v1/traces",
        {"authorization": "Basic cGstbGY6c2stbGY=", "x-langfuse-ingestion-version": "4"},
        None,
    ),
    "Jaeger": ("http://localhost:4318/v1/traces", {}, None),
    "Tempo": ("http://localhost:4318/v1/traces", {}, None),
    "Datadog": ("http://localhost:4318/v1/traces", {}, "http://localhost:4318/v1/metrics"),
    "Datadog, direct": (
        "https://otlp.datadoghq.com/v1/traces",
        {"dd-api-key": "dd", "dd-otlp-source": "llmobs"},
        None,
    ),
    "Honeycomb": (
        "https://api.honeycomb.io/v1/traces",
        {"x-honeycomb-team": "hny"},
        "https://api.honeycomb.io/v1/metrics",
    ),
    "Logfire": (
        "https://logfire-us.pydantic.dev/v1/traces",
        {"authorization": "lf"},
        "https://logfire-us.pydantic.dev/v1/metrics",
    ),
}
KEYS = {
    "LANGFUSE_PUBLIC_KEY": "pk-lf", "LANGFUSE_SECRET_KEY": "sk-lf", "DD_API_KEY": "dd", "HONEYCOMB_API_KEY": "hny",
    "LOGFIRE_TOKEN": "lf",
}  # fmt: skip


def backends() -> dict[str, list[str]]:
    """The `export` lines of the page, by backend; a second block of one is its direct way."""
    text = (ROOT / "docs" / "use-with.md").read_text()
    found = {}
    for title, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        shells = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        for name, block in zip((title, f"{title}, direct"), shells, strict=False):
            found[name] = re.findall(r"^\$ (export .+)$", block, re.MULTILINE)
    return found


def test_the_page_of_backends_names_what_is_tested() -> None:
    text = (ROOT / "docs" / "use-with.md").read_text()
    run_by = dict(re.findall(r"`make interop`.*?`([a-z-]+)` ([\w.]+)", text))
    assert run_by == {
        framework.requirements[0].partition("==")[0]: framework.version for framework in RECEIVERS.values()
    }
    assert backends().keys() == BACKENDS.keys()


@pytest.mark.parametrize("name", BACKENDS)
def test_what_the_page_of_backends_sets_sends_there(
    name: str, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell runs the lines; then only the host is another one."""
    from escapement_exporters.export import pipeline
    from escapement_exporters.metrics import measuring
    from tests.receiver import Receiver

    class Paths(Receiver):
        def __init__(self) -> None:
            super().__init__()
            self.paths: list[str] = []

        def take(self, path: str, data: bytes, headers: dict[str, str]) -> bytes:
            self.paths.append(path)
            return super().take(path, data, headers)

    shell = subprocess.run(
        ["bash", "-euc", "\n".join([*backends()[name], "env -0"])], env={**os.environ, **KEYS}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    traces, headers, metrics = BACKENDS[name]
    with Paths() as receiver:
        base = re.match(r"https?://[^/]+", traces)
        assert base is not None
        for variable_, value in (line.partition("=")[::2] for line in shell.stdout.split("\0") if line):
            if variable_.startswith(("ESCAPEMENT_", "OTEL_")):
                monkeypatch.setenv(variable_, value.replace(base.group(), receiver.url))
        with escapement.init("page") as trace:
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hello"}])
        pipeline.finish()
        measuring.finish()
        assert trace.exported == {"sent": 2}
    paths = dict(zip(receiver.paths, receiver.headers, strict=True))
    wanted = {traces.removeprefix(base.group()): headers}
    if metrics is not None:
        dataset = {"x-honeycomb-dataset": "agent-metrics"} if name == "Honeycomb" else {}
        wanted[metrics.removeprefix(base.group())] = headers | dataset
    assert paths.keys() == wanted.keys()
    for path, sent in wanted.items():
        assert sent.items() <= paths[path].items()


def test_the_page_of_guards_names_every_rule_and_its_python_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "guards.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(RULES)
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        made = run(block, "guards.md")
        escapement.stop()
    with (
        agents.in_memory() as client,
        pytest.raises(escapement.LoopDetectedError),
        escapement.init(on_guard=lambda verdict: "kill" if made["decide"](verdict) == "warn" else None),
    ):
        agents.same_call(agents.by_http(client), 6)
    said = "repeated_tool in steps 2, 3, 4: the tool search was called 3 times with the same arguments and gave the same result"
    assert capsys.readouterr().out.startswith(said)
    # The environment and the project file say what the page says that they do.
    for name, value in re.findall(r"(ESCAPEMENT_(?!BUDGET)\w+)='?([^ '\n]+)", text.partition("## Budgets")[0]):
        monkeypatch.setenv(name, value)
    by_environment = resolve()
    for name in SETTINGS:
        monkeypatch.delenv(variable(name), raising=False)
    (table,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(table)
    by_project = resolve()
    for name in ("on_guard", "exempt_tools", "max_cost", "max_duration"):
        assert getattr(by_environment, name) == getattr(by_project, name) is not None, name
