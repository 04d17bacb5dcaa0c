"""The pictures of docs/dashboards.md, drawn from what real queries answer about some minutes of real recordings.

    pip install matplotlib chdb; apt install prometheus; python -m tests.dashboards.pictures

Grafana is not needed, and not in the pictures: matplotlib draws what the queries in the files give.
"""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
import time
import urllib.parse
import urllib.request
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anthropic
import matplotlib as mpl
import openai
from opentelemetry import metrics as otel
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest

import escapement
from dashboards.panels import prometheus, tempo
from dashboards.panels.table import PANELS, Panel
from escapement_exporters.export import pipeline
from escapement_exporters.metrics import measuring
from tests.conftest import ask
from tests.dashboards import story, test_clickhouse, traceql
from tests.dashboards.test_grafana import running
from tests.provider import Provider
from tests.receiver import Receiver

PICTURES = Path(__file__).parent.parent.parent / "docs" / "pictures"
STEP = 10  # seconds
LENGTH = int(os.environ.get("LENGTH", "240"))  # seconds
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d")

Lines = dict[str, list[tuple[float, float]]]
"""By series: times (seconds since the epoch) and values."""


def happen(client: openai.OpenAI, claude: anthropic.Anthropic, to: str) -> None:
    """One of the things that happen to agents."""
    what = random.choices(("support", "plain", "claude", "error", "loop", "replay", "diverge"), (4, 3, 2, 1, 1, 3, 1))[
        0
    ]
    name = "support-agent" if what in ("support", "plain") else "billing-agent"
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        if what in ("replay", "diverge"):
            trace_id, result = SUPPORT[-1]
            stack.enter_context(escapement.replay(trace_id, otlp_endpoint=to))
            if what == "replay":
                story.agent(client, result)
            else:
                ask(client, "one")
                ask(client, f"new {random.random()}")
            return
        trace = stack.enter_context(escapement.init(name, max_identical_calls=3, otlp_endpoint=to))
        if what == "support":
            result = random.choice(("Error: no such page", "a page", "another page"))
            story.agent(client, result)
            SUPPORT.append((trace.trace_id, result))
        elif what == "plain":
            for number in range(random.randint(1, 4)):
                ask(client, f"question {number}", random.choice(("gpt-4o", "gpt-4o-mini", "gpt-4.1")))
        elif what == "claude":
            said: Any = [{"role": "user", "content": f"hello {random.random()}"}]
            with claude.messages.stream(model="claude-sonnet-4-5", max_tokens=99, messages=said) as stream:
                stream.until_done()
        else:
            try:
                for _ in range(3):
                    ask(client, "again and again", "error-400" if what == "error" else "gpt-4o-mini")
            except (openai.BadRequestError, escapement.LoopDetectedError):
                pass


WHEN: list[float] = []
"""Beginning and end of what is shown, in seconds since the epoch."""
SUPPORT: list[tuple[str, str]] = []
"""The runs that can be replayed, and what their tools gave."""


def main() -> None:
    os.environ["ESCAPEMENT_SEALING"] = "manual"
    otel.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.chdir(folder)
        provider = stack.enter_context(Provider())
        receiver = stack.enter_context(Receiver())
        url = stack.enter_context(running(folder, ""))
        client = openai.OpenAI(api_key="none", base_url=f"{provider.base_url}/v1")
        claude = anthropic.Anthropic(api_key="none", base_url=provider.base_url)
        with escapement.init("support-agent", otlp_endpoint=receiver.url) as first:
            story.agent(client, "a page")
        SUPPORT.append((first.trace_id, "a page"))
        began = time.time()
        while time.time() < began + LENGTH:
            happen(client, claude, receiver.url)
            measuring.finish(5)
            (folder / "metrics").write_bytes(generate_latest(REGISTRY))
            time.sleep(random.uniform(1.0, 4.0))
        pipeline.finish()
        time.sleep(2)
        ended = time.time()
        WHEN[:] = [began - STEP, ended + STEP]
        draw("prometheus", lambda panel: of_prometheus(url, panel, began, ended))
        spans = list(traceql.exported(receiver))
        draw("tempo", lambda panel: of_tempo(panel, spans))
        for name, asked in (("clickhouse", of_clickhouse(receiver)), ("duckdb", of_store)):
            draw(name, asked)


# -- what the queries answer -----------------------------------------------------------------------------------------


def of_prometheus(url: str, panel: Panel, began: float, ended: float) -> Lines:
    found: Lines = {}
    began = ended - ((ended - began) // STEP + 1) * STEP  # so that the last interval ends with the recordings
    for query in prometheus.QUERIES[panel.key]:
        text = re.sub(r"\$(service|provider|model)", ".*", query.text.replace("$__interval", f"{STEP}s"))
        asked = urllib.parse.urlencode({"query": text, "start": began, "end": ended, "step": STEP})
        with urllib.request.urlopen(f"{url}/api/v1/query_range?{asked}") as answer:
            for result in json.load(answer)["data"]["result"]:
                labels = result["metric"]
                name = re.sub(r"{{(\w+)}}", lambda one: labels[one[1]], query.by) or query.name  # noqa: B023
                found[name] = [(float(at), float(value)) for at, value in result["values"] if value != "NaN"]
    return found


def of_tempo(panel: Panel, spans: list[traceql.Exported]) -> Lines:
    found: Lines = defaultdict(list)
    for query in tempo.QUERIES[panel.key]:
        text = re.sub(r"\$(service|provider|model)", ".*", query.text)
        answer = traceql.evaluate(text, spans, lambda at: at // (STEP * 10**9) * STEP)
        totals: dict[str, float] = defaultdict(float)
        for (_, series), value in answer.items():
            totals[series] += value
        kept = sorted(totals, key=lambda series: -totals[series])[: 10 if "topk" in text else None]
        for (at, series), value in sorted(answer.items()):
            if series in kept:
                found[f"{series}{query.name}"].append((at, value))
    return found


def of_clickhouse(receiver: Receiver) -> Callable[[Panel], Lines]:
    from chdb.session import Session

    session = Session()
    session.query("SET session_timezone = 'UTC'")
    session.query(test_clickhouse.TABLE)
    lines = "\n".join(map(json.dumps, test_clickhouse.rows(receiver)))
    session.query(f"INSERT INTO otel_traces FORMAT JSONEachRow {lines}")

    def asked(panel: Panel) -> Lines:
        text = test_clickhouse.TARGETS[panel.title]
        sql = test_clickhouse.Grafana().sql(text).replace("INTERVAL 86400 second", f"INTERVAL {STEP} second")
        answer = [json.loads(line) for line in str(session.query(sql, "JSONCompactEachRow")).splitlines()]
        return lined((at, series, value) for at, series, value in answer)

    return asked


def of_store(panel: Panel) -> Lines:
    """By the file, but for the day, which is too long for a recording of minutes."""
    sql = (PICTURES.parent.parent / "dashboards" / "sql" / f"{panel.key}.sql").read_text()
    sql = re.sub(r"date_trunc\('day', (\S+)\)", rf"time_bucket(INTERVAL {STEP} SECOND, \1)", sql)
    found = escapement.open_store(Path(".escapement")).query(sql).to_pylist()
    return lined((str(row["time"]), row["series"], row["value"]) for row in found)


def lined(rows: Iterator[tuple[str, str, Any]]) -> Lines:
    found: Lines = defaultdict(list)
    for at, series, value in rows:
        found[series].append((datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp(), float(value)))
    return found


# -- drawing ---------------------------------------------------------------------------------------------------------


def draw(name: str, asked: Callable[[Panel], Lines]) -> None:
    """One picture: a panel beside the other, as the dashboard has them."""
    mpl.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 8, "text.color": "#d8d9da", "axes.labelcolor": "#d8d9da"})
    figure, places = pyplot.subplots(4, 3, figsize=(14, 11), facecolor="#111217")
    for place in places.flat[len(PANELS) :]:
        place.set_axis_off()
    for panel, place in zip(PANELS, places.flat, strict=False):
        place.set_facecolor("#181b1f")
        place.set_title(panel.title, loc="left", fontsize=10, color="#d8d9da", fontweight="bold")
        place.tick_params(colors="#9fa7b3", length=0)
        place.grid(color="#2c3235", linewidth=0.6)
        place.set_axisbelow(True)
        for spine in place.spines.values():
            spine.set_color("#2c3235")
        show(place, panel, asked(panel))
        place.set_xlim(*(datetime.fromtimestamp(at, UTC) for at in WHEN))
    figure.tight_layout(h_pad=2.2)
    figure.savefig(PICTURES / f"dashboard-{name}.png", dpi=80, pil_kwargs={"optimize": True})
    pyplot.close(figure)


def show(place: Any, panel: Panel, lines: Lines) -> None:
    below: dict[float, float] = defaultdict(float)
    beside = len(lines) if panel.drawn == "bars" else 1
    for number, ((series, points), colour) in enumerate(zip(sorted(lines.items()), COLOURS * 3, strict=False)):
        shift = (number % beside - (beside - 1) / 2) * STEP * 0.8 / beside if panel.drawn != "lines" else 0
        times = [datetime.fromtimestamp(at + shift, UTC) for at, _ in points]
        values = [value for _, value in points]
        if panel.drawn != "lines":
            bottoms = [below[at] if panel.drawn == "parts" else 0 for at, _ in points]
            label = f"{series}  {amount(panel, sum(values))}"
            place.bar(times, values, STEP * 0.8 / 86400 / beside, bottoms, color=colour, label=label)
            for at, value in points:
                below[at] += value
        else:
            label = f"{series}  {amount(panel, values[-1])}" if values else series
            place.plot(times, values, color=colour, marker="o", markersize=2.5, linewidth=1.2, label=label)
    if panel.warns_at is not None:
        place.axhline(panel.warns_at, color="#f2495c", linestyle="--", linewidth=0.8)
    if not lines:
        place.text(0.5, 0.5, "No data", transform=place.transAxes, ha="center", color="#9fa7b3")
    place.set_ylim(bottom=0)
    place.xaxis.set_major_formatter(mpl.dates.DateFormatter("%H:%M:%S"))
    place.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    place.yaxis.set_major_formatter(lambda value, _: amount(panel, value))
    if lines:
        columns = 2 if len(lines) > 2 else 3
        place.legend(
            loc="upper left", bbox_to_anchor=(0, -0.1), ncols=columns, fontsize=7, frameon=False, labelcolor="#d8d9da"
        )


def amount(panel: Panel, value: float) -> str:
    if panel.unit == "currencyUSD":
        return f"${value:.3g}"
    if panel.unit == "percentunit":
        return f"{value:.0%}"
    if panel.unit == "s":
        return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value / 1e3:.3g} K" if value >= 1000 else f"{value:g}"


if __name__ == "__main__":
    main()
