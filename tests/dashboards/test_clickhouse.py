"""The ClickHouse dashboard on chDB, over spans that were really exported, in the table that the Collector makes of them.

`make scale` installs chDB, which is ClickHouse in a wheel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from dashboards.panels import clickhouse
from escapement_exporters.export import pipeline
from tests.dashboards import story
from tests.receiver import Receiver

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = json.loads((ROOT / "dashboards" / "grafana" / "clickhouse.json").read_text())
TARGETS = {panel["title"]: target["rawSql"] for panel in DASHBOARD["panels"] for target in panel["targets"]}

TABLE = """
CREATE TABLE otel_traces (
  Timestamp DateTime64(9), TraceId String, SpanId String, ParentSpanId String, TraceState String,
  SpanName LowCardinality(String), SpanKind LowCardinality(String), ServiceName LowCardinality(String),
  ResourceAttributes Map(LowCardinality(String), String), ScopeName String, ScopeVersion String,
  SpanAttributes Map(LowCardinality(String), String), Duration UInt64,
  StatusCode LowCardinality(String), StatusMessage String,
  Events Nested (Timestamp DateTime64(9), Name LowCardinality(String), Attributes Map(LowCardinality(String), String)),
  Links Nested (TraceId String, SpanId String, TraceState String, Attributes Map(LowCardinality(String), String))
) ENGINE = MergeTree ORDER BY (ServiceName, SpanName, toDateTime(Timestamp))
"""
"""As the exporter has it (opentelemetry-collector-contrib, exporter/clickhouseexporter), without codecs and indexes."""


def value(any_value: Any) -> str:
    """What the Collector makes of an attribute in a map of texts."""
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return json.dumps([value(one) for one in any_value.array_value.values], separators=(",", ":"))
    if kind == "bool_value":
        return "true" if any_value.bool_value else "false"
    return "" if kind is None else str(getattr(any_value, kind))


def rows(receiver: Receiver) -> Iterator[dict[str, Any]]:
    """The spans as the exporter inserts them."""
    for request in receiver.requests:
        for around in request.resource_spans:
            resource = {one.key: value(one.value) for one in around.resource.attributes}
            for scope in around.scope_spans:
                for span in scope.spans:
                    yield {
                        "Timestamp": f"{span.start_time_unix_nano // 10**9}.{span.start_time_unix_nano % 10**9:09d}",
                        "TraceId": span.trace_id.hex(),
                        "SpanId": span.span_id.hex(),
                        "ParentSpanId": span.parent_span_id.hex(),
                        "SpanName": span.name,
                        "SpanKind": span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").capitalize(),
                        "ServiceName": resource["service.name"],
                        "ResourceAttributes": resource,
                        "ScopeName": scope.scope.name,
                        "ScopeVersion": scope.scope.version,
                        "SpanAttributes": {one.key: value(one.value) for one in span.attributes},
                        "Duration": span.end_time_unix_nano - span.start_time_unix_nano,
                        "StatusCode": ["Unset", "Ok", "Error"][span.status.code],
                        "StatusMessage": span.status.message,
                        "Links.TraceId": [link.trace_id.hex() for link in span.links],
                        "Links.SpanId": [link.span_id.hex() for link in span.links],
                        "Links.TraceState": [link.trace_state for link in span.links],
                        "Links.Attributes": [{} for _ in span.links],
                    }


class Grafana:
    """What Grafana and its plugin put in the places of variables and macros: a day as the interval."""

    def __init__(self, **chosen: str) -> None:
        self._chosen = chosen

    def sql(self, text: str) -> str:
        text = re.sub(r"\$__conditionalAll\((.*\)), \$(\w+)\)", self._condition, text)
        for name, chosen in self._chosen.items():
            text = text.replace(f"${{{name}:singlequote}}", f"'{chosen}'")
        text = text.replace("${table:raw}", "otel_traces")
        text = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 >= now() - INTERVAL 2 DAY AND \1 <= now() + 60", text)
        text = re.sub(r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(toDateTime(\1), INTERVAL 86400 second)", text)
        assert "$" not in text, text
        return text

    def _condition(self, found: re.Match[str]) -> str:
        return found[1] if found[2] in self._chosen else "1=1"


@pytest.fixture
def told(client: openai.OpenAI, claude: anthropic.Anthropic) -> Iterator[tuple[story.Story, Any]]:
    """The story, and how to ask ClickHouse about it."""
    chdb = pytest.importorskip("chdb", reason="chdb is not installed: make scale installs it")
    from chdb.session import Session

    assert chdb
    with Receiver() as receiver:
        happened = story.tell(client, claude, receiver.url)
        pipeline.finish()
    session = Session()
    session.query("SET session_timezone = 'UTC'")
    session.query(TABLE)
    lines = "\n".join(map(json.dumps, rows(receiver)))
    session.query(f"INSERT INTO otel_traces FORMAT JSONEachRow {lines}")

    def ask(sql: str) -> list[Any]:
        answer = str(session.query(f"{sql} SETTINGS output_format_json_quote_64bit_integers = 0", "JSONCompactEachRow"))
        return [json.loads(line) for line in answer.splitlines()]

    try:
        yield happened, ask
    finally:
        session.close()


def test_what_the_panels_say(told: tuple[story.Story, Any], store: Path) -> None:
    happened, ask = told
    told_of = (happened.support, happened.billing, happened.looping, happened.served, happened.diverged)
    assert ask("SELECT count(), uniqExact(TraceId, SpanId) FROM otel_traces") == [
        [sum(trace.exported["sent"] for trace in told_of)] * 2
    ]
    titles = dict(zip(TARGETS, clickhouse.QUERIES, strict=True))
    found = {
        key: [(time[:10], series, float(amount)) for time, series, amount in ask(Grafana().sql(TARGETS[title]))]
        for title, key in titles.items()
    }
    assert story.rounded(found) == story.rounded(story.expected(store, happened, telemetry=True))
    assert all(found.values())


def test_variables(told: tuple[story.Story, Any]) -> None:
    happened, ask = told
    lists = {v["name"]: v["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"}
    assert {name: sorted(name for (name,) in ask(Grafana().sql(query))) for name, query in lists.items()} == {
        "service": ["billing", "escapement", "looping", "support"],
        "provider": ["anthropic", "openai"],
        "model": ["claude", "error-400", "gpt-4o", "gpt-4o-mini"],
    }
    chosen = Grafana(service="looping", provider="openai", model="gpt-4o-mini")
    ((_, series, spent),) = ask(chosen.sql(TARGETS["Spend"]))
    assert (series, spent) == ("gpt-4o-mini", pytest.approx(happened.looping.cost))
    assert ask(Grafana(service="looping", provider="anthropic").sql(TARGETS["Spend"])) == []
