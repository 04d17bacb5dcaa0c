"""The panels in ClickHouse's SQL, over `otel_traces` as the OpenTelemetry Collector's exporter makes it.

Every query gives rows of `time`, `series` and `value`. `$__timeInterval` and the like are macros of Grafana's plugin.
"""

from __future__ import annotations

from typing import Final

from dashboards.panels.table import Query

TYPE: Final = "grafana-clickhouse-datasource"

_TIME: Final = "$__timeInterval(Timestamp) AS time"
_MODEL: Final = "SpanAttributes['gen_ai.request.model']"
_SHOWN: Final = f"if({_MODEL} = '', 'unknown', {_MODEL})"
_MODE: Final = "SpanAttributes['escapement.mode']"

_CHOSEN: Final = "$__conditionalAll(ServiceName IN (${service:singlequote}), $service)"
_RUNS: Final = f"$__timeFilter(Timestamp) AND SpanAttributes['escapement.trace.status'] != '' AND {_CHOSEN}"
"""The span of a run that has ended, once."""
_CALLS: Final = f"""$__timeFilter(Timestamp) AND SpanAttributes['escapement.step'] != '' AND {_CHOSEN}
  AND $__conditionalAll(SpanAttributes['gen_ai.provider.name'] IN (${{provider:singlequote}}), $provider)
  AND $__conditionalAll({_MODEL} IN (${{model:singlequote}}), $model)"""
_LIVE: Final = f"{_CALLS}\n  AND {_MODE} != 'replay'"
_SERVED: Final = f"{_CALLS}\n  AND {_MODE} = 'replay'"
_ENDED: Final = f"{_LIVE} AND SpanAttributes['escapement.in_flight'] = ''"

VARIABLES: Final = {
    "service": "SELECT DISTINCT ServiceName FROM ${table:raw} WHERE $__timeFilter(Timestamp) "
    "AND SpanAttributes['escapement.trace.id'] != ''",
    "provider": "SELECT DISTINCT SpanAttributes['gen_ai.provider.name'] FROM ${table:raw} WHERE "
    "$__timeFilter(Timestamp) AND SpanAttributes['escapement.step'] != ''",
    "model": f"SELECT DISTINCT {_MODEL} FROM ${{table:raw}} WHERE $__timeFilter(Timestamp) "
    "AND SpanAttributes['escapement.step'] != ''",
}


def _number(attribute: str) -> str:
    return f"toFloat64OrZero(SpanAttributes['{attribute}'])"


def _rows(series: str, value: str, which: str, more: str = "") -> str:
    return f"""SELECT {_TIME}, {series} AS series, {value} AS value
FROM ${{table:raw}}
WHERE {which}
GROUP BY time, series{more}"""


def _ordered(*parts: str) -> Query:
    rows = "\nUNION ALL\n".join(parts)
    text = f"SELECT time, series, value FROM (\n{rows}\n)" if len(parts) > 1 else rows
    return Query(f"{text}\nORDER BY time, series", by="series")


def _quantiles(value: str, which: str) -> Query:
    return _ordered(
        *(_rows(f"'p{share}'", f"quantileExactInclusive({share / 100})({value})", which) for share in (50, 95))
    )


_COST_OF_RUNS: Final = f"""SELECT min(Timestamp) AS began, sum({_number("escapement.call.cost")}) AS cost
  FROM ${{table:raw}}
  WHERE {_LIVE}
  GROUP BY ResourceAttributes['escapement.trace.id']
  HAVING countIf(SpanAttributes['escapement.call.cost'] = '' AND SpanAttributes['error.type'] = '') = 0"""
"""Of runs all of whose calls have a known price."""


def _of_runs(series: str, value: str) -> str:
    time = "$__timeInterval(began) AS time"
    return f"SELECT {time}, '{series}' AS series, {value} AS value\nFROM (\n  {_COST_OF_RUNS}\n)\nGROUP BY time"


QUERIES: Final[dict[str, tuple[Query, ...]]] = {
    "spend": (_ordered(_rows(_SHOWN, f"sum({_number('escapement.call.cost')})", _LIVE, "\nHAVING value > 0")),),
    "spend_per_run": (_ordered(_of_runs("mean", "avg(cost)"), _of_runs("p95", "quantileExactInclusive(0.95)(cost)")),),
    "tokens": (
        _ordered(
            *(
                _rows(
                    f"concat({_SHOWN}, ' {kind}')",
                    f"sum({_number(f'gen_ai.usage.{kind}_tokens')})",
                    _LIVE,
                    "\nHAVING value > 0",
                )
                for kind in ("input", "output")
            )
        ),
    ),
    "duration": (_quantiles("Duration / 1e9", _ENDED),),
    "first_chunk": (
        _quantiles(
            _number("gen_ai.response.time_to_first_chunk"),
            f"{_LIVE} AND SpanAttributes['gen_ai.response.time_to_first_chunk'] != ''",
        ),
    ),
    "error_rate": (_ordered(_rows("'errors'", "countIf(SpanAttributes['error.type'] != '') / count()", _LIVE)),),
    "tools": (
        _ordered(
            _rows("'calls'", f"sum({_number('escapement.tool.calls')})", _LIVE, "\nHAVING value > 0"),
            _rows("'failures'", f"sum({_number('escapement.tool.failures')})", _LIVE, "\nHAVING value > 0"),
        ),
    ),
    "stopped": (
        _ordered(
            _rows(
                "'stopped'",
                "uniqExact(TraceId, SpanId)",
                f"{_RUNS} AND SpanAttributes['escapement.trace.status'] = 'killed'",
            )
        ),
    ),
    "divergences": (
        _ordered(
            _rows(
                "'divergences'",
                "uniqExact(TraceId, SpanId)",
                f"{_RUNS} AND SpanAttributes['escapement.divergence'] != ''",
            )
        ),
    ),
    "replayed": (_ordered(_rows(f"if({_MODE} = 'replay', 'replayed', 'live')", "count()", _CALLS)),),
    "saved": (_ordered(_rows(_SHOWN, f"sum({_number('escapement.call.saved')})", _SERVED, "\nHAVING value > 0")),),
}
