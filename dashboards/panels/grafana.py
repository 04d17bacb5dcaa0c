"""Dashboards for Grafana, by its own builders (grafana-foundation-sdk), whose types are its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, timeseries
from grafana_foundation_sdk.builders import prometheus as prometheus_queries
from grafana_foundation_sdk.builders import tempo as tempo_queries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.tempo import MetricsQueryType

from dashboards.panels import clickhouse, prometheus, tempo
from dashboards.panels.table import PANELS, Panel, Query

_NAMES: Final = {"prometheus": "Prometheus", "tempo": "Tempo", "clickhouse": "ClickHouse"}
LANGUAGES: Final[dict[str, ModuleType]] = {"prometheus": prometheus, "tempo": tempo, "clickhouse": clickhouse}
_WIDE, _HIGH = 8, 8
"""Of 24 columns, and in rows of 30 pixels."""
_INTERVAL: Final = "1m"
"""Metrics come once a minute, so bars of less would have gaps."""


@dataclass(slots=True)
class _ClickHouseQuery(Dataquery):
    """A query as the ClickHouse plugin keeps it: the SDK has builders for Grafana's own datasources only."""

    ref_id: str
    sql: str

    def build(self) -> _ClickHouseQuery:
        return self

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref_id,
            "editorType": "sql",
            "queryType": "timeseries",
            "format": 0,
            "rawSql": self.sql,
            "meta": {},
            "pluginVersion": "4.0.0",
        }


def text(backend: str) -> str:
    """The JSON of the dashboard for `prometheus`, `tempo` or `clickhouse`."""
    made = json.loads(json.dumps(_dashboard(backend).build(), cls=JSONEncoder))
    for variable in made["templating"]["list"]:
        for name in ("auto", "auto_min", "auto_count"):  # of intervals; the SDK has them for all kinds of variables
            variable.pop(name, None)
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _dashboard(backend: str) -> dashboard.Dashboard:
    language = LANGUAGES[backend]
    made = (
        dashboard.Dashboard(f"Escapement: agents ({_NAMES[backend]})")
        .uid(f"escapement-{backend}")
        .description("What agents did, cost, and saved in replays. https://opentelemetry.io/docs/specs/semconv/gen-ai/")
        .tags(["escapement", "gen-ai", "opentelemetry"])
        .editable()
        .time("now-24h", "now")
        .timezone("browser")
        .refresh("1m")
        .tooltip(DashboardCursorSync.CROSSHAIR)
    )
    for variable in _variables(backend, language):
        made.with_variable(variable)
    for number, panel in enumerate(PANELS, 1):
        made.with_panel(_panel(panel, backend, language).id(number))
    return made


def _source(language: ModuleType) -> DataSourceRef:
    return DataSourceRef(language.TYPE, "${datasource}")


# -- variables -------------------------------------------------------------------------------------------------------


def _variables(backend: str, language: ModuleType) -> Iterator[Builder[Any]]:
    yield dashboard.DatasourceVariable("datasource").label("Data source").type(language.TYPE)
    if backend == "clickhouse":
        yield dashboard.TextBoxVariable("table").label("Table").default_value("otel_traces")
    for name, query in language.VARIABLES.items():
        made = (
            dashboard.QueryVariable(name)
            .label(name.capitalize())
            .datasource(_source(language))
            .query(_lookup(backend, query))
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .current(VariableOption(text=["All"], value=["$__all"]))
        )
        yield made if backend == "clickhouse" else made.all_value(".*")


def _lookup(backend: str, query: str) -> str | dict[str, object]:
    if backend == "tempo":
        return {"refId": "TempoDatasourceVariableQueryEditor-VariableQuery", "type": 1, "label": query, "stream": ""}
    return query


# -- panels ----------------------------------------------------------------------------------------------------------


def _panel(panel: Panel, backend: str, language: ModuleType) -> timeseries.Panel:
    queries = language.QUERIES[panel.key]
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.says)
        .datasource(_source(language))
        .interval(_INTERVAL)
        .unit(panel.unit)
        .min(0)
        .span(_WIDE)
        .height(_HIGH)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.TABLE)
            .calcs(["lastNotNull", "max"] if panel.drawn == "lines" else ["sum"])
        )
    )
    if panel.drawn == "lines":
        made.draw_style(GraphDrawStyle.LINE).show_points(VisibilityMode.ALWAYS).span_nulls(True)
    else:
        stacking = StackingMode.NORMAL if panel.drawn == "parts" else StackingMode.NONE
        made.draw_style(GraphDrawStyle.BARS).fill_opacity(80).stacking(common.StackingConfig().mode(stacking))
    _warn(made, panel)
    for letter, query in zip("ABC", queries, strict=False):
        made.with_target(_target(backend, query, letter))
    _call(made, backend, queries)
    return made


def _warn(made: timeseries.Panel, panel: Panel) -> None:
    if panel.warns_at is not None:
        steps = [Threshold(color="green"), Threshold(panel.warns_at, "red")]
        made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        made.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))


def _target(backend: str, query: Query, letter: str) -> Builder[Dataquery]:
    if backend == "prometheus":
        made = prometheus_queries.Dataquery().expr(query.text).range().legend_format(query.by or query.name)
        return made.ref_id(letter)
    if backend == "tempo":
        asked = tempo_queries.TempoQuery().query(query.text).query_type("traceql")
        return asked.metrics_query_type(MetricsQueryType.RANGE).ref_id(letter)
    return _ClickHouseQuery(letter, query.text)  # type: ignore[return-value]


def _call(made: timeseries.Panel, backend: str, queries: Sequence[Query]) -> None:
    """Give series their names. Prometheus does it itself, by the legend."""
    if backend == "prometheus":
        return
    names = [f'${{__field.labels["{query.by}"]}}{query.name}' if query.by else query.name for query in queries]
    if len(names) == 1:
        made.display_name(names[0])
        return
    for letter, name in zip("ABC", names, strict=False):
        made.override_by_query(letter, [DynamicConfigValue("displayName", name)])
