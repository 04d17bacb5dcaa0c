"""The files that users load into Grafana: what the table of panels makes, valid, and about what is really there."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anthropic
import openai
import promql_parser
import pytest
from opentelemetry import metrics as otel
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.util._once import Once
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dashboards.panels import clickhouse, prometheus, store, tempo
from dashboards.panels.__main__ import FOLDER, files
from dashboards.panels.table import PANELS
from escapement_exporters.export import pipeline
from escapement_exporters.metrics import measuring
from tests.dashboards import story, traceql
from tests.receiver import Receiver
from tests.test_otlp_json import attributes

ROOT = Path(__file__).parent.parent.parent
NODE = ROOT / ".venv-dashboards"
"""What `make dashboards` installs from npm."""

BACKENDS = ("prometheus", "tempo", "clickhouse")
KEYS = [panel.key for panel in PANELS]


def load(backend: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana" / f"{backend}.json").read_text())
    return found


def queries(backend: str, field: str) -> list[str]:
    return [target[field] for panel in load(backend)["panels"] for target in panel["targets"]]


def test_the_files_are_what_the_table_makes() -> None:
    made = dict(files())
    assert {path: path.read_text() for path in made} == made
    there = {path for folder in ("grafana", "sql") for path in (FOLDER / folder).iterdir()}
    assert there == set(made)


def test_every_language_has_every_panel() -> None:
    for language in (prometheus, tempo, clickhouse, store):
        assert list(language.QUERIES) == KEYS, language.__name__
    for backend in BACKENDS:
        panels = load(backend)["panels"]
        assert [panel["title"] for panel in panels] == [panel.title for panel in PANELS]
        assert [panel["fieldConfig"]["defaults"]["unit"] for panel in panels] == [panel.unit for panel in PANELS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_has_to_be_edited_after_an_import(backend: str) -> None:
    dashboard = load(backend)
    source = {"type": dashboard["templating"]["list"][0]["query"], "uid": "${datasource}"}
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert [name for name in names if name != "table"] == ["datasource", "service", "provider", "model"]
    asked = [v for v in dashboard["templating"]["list"] if v["type"] == "query"]
    assert all(of["datasource"] == source for of in [*dashboard["panels"], *asked])
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"datasource"}
    macros = {"__interval", "__all", "__field", "__timeFilter", "__timeInterval", "__conditionalAll"}
    assert used - macros == set(names) - {"datasource"}
    assert "id" not in dashboard  # an id would be that of somebody's own dashboard
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places) == len(PANELS)


# -- Prometheus ------------------------------------------------------------------------------------------------------


@pytest.fixture
def exposed(
    client: openai.OpenAI, claude: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[story.Story, str]]:
    """The story, and its metrics as OpenTelemetry gives them to Prometheus."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(otel._internal, "_METER_PROVIDER", provider)
    monkeypatch.setattr(otel._internal, "_METER_PROVIDER_SET_ONCE", Once())
    told = story.tell(client, claude)
    measuring.finish(10)
    try:
        yield told, generate_latest(REGISTRY).decode()
    finally:
        provider.shutdown()


def selectors(expression: Any) -> Iterator[Any]:
    """What is selected anywhere in an expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
        return
    for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
        inside = getattr(expression, name, None)
        for one in inside if isinstance(inside, list) else [inside]:
            if one is not None:
                yield from selectors(one)


def test_promql_asks_for_metrics_and_labels_that_there_are(exposed: tuple[story.Story, str]) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposed[1]):
        for sample in family.samples:
            labels.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    asked = set()
    for query in queries("prometheus", "expr"):
        parsed = promql_parser.parse(query.replace("$__interval", "5m"))
        for selector in selectors(parsed):
            asked.add(selector.name)
            assert {matcher.name for matcher in selector.matchers.matchers} <= labels[selector.name], query
            grouped = {name.strip() for names in re.findall(r"by \((.*?)\)", query) for name in names.split(",")}
            assert grouped <= labels[selector.name], query
    # Every metric is on the dashboard, but for misses: a divergence is the first of them.
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    ours = {name for name in labels if name.startswith(("gen_ai_", "escapement_"))}
    assert families == {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in ours} - {
        "escapement_replay_misses_total",
    }  # fmt: skip
    legends = {name for target in queries("prometheus", "legendFormat") for name in re.findall(r"{{(\w+)}}", target)}
    assert legends == {"gen_ai_request_model", "gen_ai_token_type"}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(folder: Path, text: str) -> Iterator[str]:
    """A Prometheus that has these metrics once; its URL."""
    (folder / "metrics").write_text(text)
    handler = partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scraped = {"job_name": "agents", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}]}  # fmt: skip
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scraped]}))  # JSON is YAML
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
         f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        server.shutdown()
        server.server_close()


def asked_of(url: str, query: str) -> list[Any]:
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}") as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
        return found


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian has it)")
def test_prometheus_itself(exposed: tuple[story.Story, str], tmp_path: Path) -> None:
    """What a program counted that was seen once, and had ended before it could be seen again."""
    told, text = exposed
    want = story.expected(tmp_path / ".escapement", told, telemetry=True)
    with running(tmp_path, text) as url:
        deadline = time.monotonic() + 60
        while True:
            try:
                if asked_of(url, "escapement_client_cost_total"):
                    break
            except OSError:
                pass
            assert time.monotonic() < deadline, "Prometheus has no metrics yet"
            time.sleep(0.2)
        found: dict[str, dict[str, float]] = {}
        for panel, key in zip(load("prometheus")["panels"], KEYS, strict=True):
            rows = found.setdefault(key, {})
            for target in panel["targets"]:
                query = re.sub(r"\$(service|provider|model)", ".*", target["expr"].replace("$__interval", "5m"))
                for result in asked_of(url, query):
                    values = result["metric"]
                    series = re.sub(r"{{(\w+)}}", lambda name: values[name[1]], target["legendFormat"])  # noqa: B023
                    rows[series] = float(result["value"][1])
    assert len({day for rows in want.values() for day, _, _ in rows}) == 1, "midnight"
    estimated = {"duration", "first_chunk"}  # between the bounds of a bucket
    for key, rows in want.items():
        exact = {series: value for _, series, value in rows if not (key == "spend_per_run" and series == "p95")}
        if key in estimated:
            assert set(found[key]) == set(exact)
            assert all(0 < value < 1 for value in found[key].values())
        else:
            shown = {series: value for series, value in found[key].items() if series in exact}
            assert shown == pytest.approx(exact), key
            assert set(found[key]) - set(exact) <= {"p95"}


# -- Tempo -----------------------------------------------------------------------------------------------------------


def test_traceql_asks_for_attributes_that_spans_have(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with Receiver() as receiver:
        story.tell(client, claude, receiver.url)
        pipeline.finish()
    there = {f"span.{name}" for span in receiver.spans for name in attributes(span.attributes)}
    for request in receiver.requests:
        for around in request.resource_spans:
            there |= {f"resource.{one.key}" for one in around.resource.attributes}
    text = "\n".join(queries("tempo", "query"))
    looked_up = [v["query"]["label"] for v in load("tempo")["templating"]["list"] if v["type"] == "query"]
    assert set(looked_up) <= {name.partition(".")[2] for name in there}
    assert set(re.findall(r"(?:span|resource)\.[\w.]+", text)) <= there
    # Sums and means are of numbers.
    numbers = re.findall(r"(?:sum|avg|max)_over_time\(span\.([\w.]+)\)", text)
    for name in numbers:
        kinds = {type(given[name]) for span in receiver.spans if name in (given := attributes(span.attributes))}
        assert kinds <= {int, float}, name
        assert kinds, name


def test_what_the_traceql_says(client: openai.OpenAI, claude: anthropic.Anthropic, tmp_path: Path) -> None:
    with Receiver() as receiver:
        told = story.tell(client, claude, receiver.url)
        pipeline.finish()
    spans = list(traceql.exported(receiver))
    want = story.expected(tmp_path / ".escapement", told, telemetry=True)
    for key, asked in tempo.QUERIES.items():
        found = {}
        for query in asked:
            text = re.sub(r"\$(service|provider|model)", ".*", query.text)
            for (day, series), value in traceql.evaluate(text, spans, story.day).items():
                found[day, f"{series}{query.name}"] = value
        if key == "spend_per_run":
            of_runs = {trace.trace_id: trace.cost for trace in (told.support, told.looping, told.diverged)}
            assert {run: value for (_, run), value in found.items()} == pytest.approx(of_runs)
        elif key == "first_chunk":
            assert {series for _, series in found} == {"mean", "longest"}
        elif key == "duration":
            assert {series for _, series in found} == {"p50", "p95"}
        else:
            assert found == pytest.approx({(day, series): value for day, series, value in want[key]}), key


needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "ready").exists(), reason="`make dashboards` installs what this needs"
)


@needs_node
def test_traceql_is_traceql(tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    shutil.copy(Path(__file__).parent / "parse.mjs", tmp_path)
    text = "\n".join([*queries("tempo", "query"), "{ span.a = }"])
    done = subprocess.run(["node", "parse.mjs"], input=text, capture_output=True, text=True, check=True, cwd=tmp_path)
    *good, wrong = done.stdout.split()
    assert set(good) == {"0"}
    assert wrong != "0"


TYPES = """
import type { Dashboard, GraphFieldConfig, VizLegendOptions, VizTooltipOptions } from "@grafana/schema";
type Plain<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends (infer I)[] ? Plain<I>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""
"""Enums of strings are strings in JSON."""


@needs_node
@pytest.mark.parametrize("backend", BACKENDS)
def test_dashboards_are_of_grafanas_types(backend: str, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    dashboard = load(backend)
    kinds = {
        "Dashboard": [dashboard],
        "GraphFieldConfig": [panel["fieldConfig"]["defaults"]["custom"] for panel in dashboard["panels"]],
        "VizLegendOptions": [panel["options"]["legend"] for panel in dashboard["panels"]],
        "VizTooltipOptions": [panel["options"]["tooltip"] for panel in dashboard["panels"]],
    }

    def check(**extra: Any) -> str:
        lines = [f"const a{kind}: Plain<{kind}>[] = {json.dumps(all)};" for kind, all in kinds.items()]
        wrong = f"const wrong: Plain<Dashboard> = {json.dumps({**dashboard, **extra})};"
        (tmp_path / "made.ts").write_text("\n".join([TYPES, *lines, wrong, "export {};"]))
        options = "--noEmit --strict --skipLibCheck --target es2022 --module esnext --moduleResolution bundler"
        command = ["node", str(NODE / "node_modules" / "typescript" / "bin" / "tsc"), *options.split(), "made.ts"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path).stdout

    assert check() == ""
    assert "refrech" in check(refrech="1m")
