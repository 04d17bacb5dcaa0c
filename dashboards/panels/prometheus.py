"""The panels in PromQL, over the metrics of docs/otlp.md under the names that Prometheus gives them.

A program may end before its counters are seen twice, so `increase` would leave it out: it counts from the first sample
on. Here a counter that is new counts from zero.
"""

from __future__ import annotations

from typing import Final

from dashboards.panels.table import Query

TYPE: Final = "prometheus"

_SERVICE: Final = 'job=~"$service"'
_CALLS: Final = f'{_SERVICE},gen_ai_provider_name=~"$provider",gen_ai_request_model=~"$model"'
_DURATION: Final = "gen_ai_client_operation_duration_seconds"
_FIRST: Final = "gen_ai_client_operation_time_to_first_chunk_seconds"
_RUN: Final = "escapement_run_cost"

VARIABLES: Final = {
    "service": f"label_values({_DURATION}_count, job)",
    "provider": f"label_values({_DURATION}_count{{{_SERVICE}}}, gen_ai_provider_name)",
    "model": f"label_values({_DURATION}_count{{{_SERVICE}}}, gen_ai_request_model)",
}


def _grown(metric: str, labels: str, by: str = "") -> str:
    """By how much counters have grown in an interval, together."""
    counter = f"{metric}{{{labels}}}"
    most = f"max_over_time({counter}[$__interval])"
    total = f"sum by ({by})" if by else "sum"
    return f"{total} (clamp_min({most} - ({counter} offset $__interval or {most} * 0), 0))"


def _quantile(share: float, histogram: str, labels: str) -> str:
    return f"histogram_quantile({share}, {_grown(f'{histogram}_bucket', labels, 'le')})"


_FAILED: Final = _grown(f"{_DURATION}_count", f'{_CALLS},error_type!=""')

QUERIES: Final[dict[str, tuple[Query, ...]]] = {
    "spend": (
        Query(_grown("escapement_client_cost_total", _CALLS, "gen_ai_request_model"), by="{{gen_ai_request_model}}"),
    ),
    "spend_per_run": (
        Query(f"{_grown(f'{_RUN}_sum', _SERVICE)} / {_grown(f'{_RUN}_count', _SERVICE)}", "mean"),
        Query(_quantile(0.95, _RUN, _SERVICE), "p95"),
    ),
    "tokens": (
        Query(
            _grown("gen_ai_client_token_usage_sum", _CALLS, "gen_ai_request_model, gen_ai_token_type"),
            by="{{gen_ai_request_model}} {{gen_ai_token_type}}",
        ),
    ),
    "duration": (
        Query(_quantile(0.5, _DURATION, _CALLS), "p50"),
        Query(_quantile(0.95, _DURATION, _CALLS), "p95"),
    ),
    "first_chunk": (
        Query(_quantile(0.5, _FIRST, _CALLS), "p50"),
        Query(_quantile(0.95, _FIRST, _CALLS), "p95"),
    ),
    "error_rate": (Query(f"({_FAILED} or vector(0)) / {_grown(f'{_DURATION}_count', _CALLS)}", "errors"),),
    "tools": (
        Query(_grown("escapement_tool_calls_total", _CALLS), "calls"),
        Query(_grown("escapement_tool_failures_total", _CALLS), "failures"),
    ),
    "stopped": (Query(_grown("escapement_guard_kills_total", _SERVICE), "stopped"),),
    "divergences": (Query(_grown("escapement_replay_divergences_total", _SERVICE), "divergences"),),
    "replayed": (
        Query(_grown(f"{_DURATION}_count", _CALLS), "live"),
        Query(_grown("escapement_replay_hits_total", _CALLS), "replayed"),
    ),
    "saved": (
        Query(_grown("escapement_replay_saved_total", _CALLS, "gen_ai_request_model"), by="{{gen_ai_request_model}}"),
    ),
}
