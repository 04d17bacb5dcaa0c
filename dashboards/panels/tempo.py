"""The panels in TraceQL, over the spans of docs/otlp.md.

TraceQL has percentiles of durations only: of seconds and dollars in attributes it knows sums, means and extremes. Nor
does it divide one query by another, so spend is told run by run, and the error rate is a mean.
"""

from __future__ import annotations

from typing import Final

from dashboards.panels.table import Query

TYPE: Final = "tempo"

_SERVICE: Final = 'resource.service.name =~ "$service"'
_CALLS: Final = f'{_SERVICE} && span.gen_ai.provider.name =~ "$provider" && span.gen_ai.request.model =~ "$model"'
_LIVE: Final = f'{_CALLS} && span.escapement.mode != "replay"'
_SERVED: Final = f'{_CALLS} && span.escapement.mode = "replay"'
_MODEL: Final = "span.gen_ai.request.model"
_RUN: Final = "resource.escapement.trace.id"

VARIABLES: Final = {"service": "service.name", "provider": "gen_ai.provider.name", "model": "gen_ai.request.model"}
"""Attributes without a scope: Grafana looks for that itself."""


def _over_time(which: str, function: str, by: str = "") -> str:
    return f"{{ {which} }} | {function}" + (f" by ({by})" if by else "")


QUERIES: Final[dict[str, tuple[Query, ...]]] = {
    "spend": (Query(_over_time(_LIVE, "sum_over_time(span.escapement.call.cost)", _MODEL), by=_MODEL),),
    "spend_per_run": (
        Query(_over_time(_LIVE, "sum_over_time(span.escapement.call.cost)", _RUN) + " | topk(10)", by=_RUN),
    ),
    "tokens": (
        Query(_over_time(_LIVE, "sum_over_time(span.gen_ai.usage.input_tokens)", _MODEL), " input", _MODEL),
        Query(_over_time(_LIVE, "sum_over_time(span.gen_ai.usage.output_tokens)", _MODEL), " output", _MODEL),
    ),
    "duration": (
        Query(_over_time(_LIVE, "quantile_over_time(duration, 0.5)"), "p50"),
        Query(_over_time(_LIVE, "quantile_over_time(duration, 0.95)"), "p95"),
    ),
    "first_chunk": (
        Query(_over_time(_LIVE, "avg_over_time(span.gen_ai.response.time_to_first_chunk)"), "mean"),
        Query(_over_time(_LIVE, "max_over_time(span.gen_ai.response.time_to_first_chunk)"), "longest"),
    ),
    "error_rate": (Query(_over_time(_LIVE, "avg_over_time(span.escapement.call.failed)"), "errors"),),
    "tools": (
        Query(_over_time(_LIVE, "sum_over_time(span.escapement.tool.calls)"), "calls"),
        Query(_over_time(_LIVE, "sum_over_time(span.escapement.tool.failures)"), "failures"),
    ),
    "stopped": (
        Query(_over_time(f'{_SERVICE} && span.escapement.trace.status = "killed"', "count_over_time()"), "stopped"),
    ),
    "divergences": (
        Query(
            _over_time(
                f"{_SERVICE} && span.escapement.trace.status != nil && span.escapement.divergence != nil",
                "count_over_time()",
            ),
            "divergences",
        ),
    ),
    "replayed": (
        Query(_over_time(_LIVE, "count_over_time()"), "live"),
        Query(_over_time(_SERVED, "count_over_time()"), "replayed"),
    ),
    "saved": (Query(_over_time(_SERVED, "sum_over_time(span.escapement.call.saved)", _MODEL), by=_MODEL),),
}
