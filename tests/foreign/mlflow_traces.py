"""What MLflow's own client finds in an experiment, as JSON. It runs where MLflow is, and Escapement is not.

python mlflow_traces.py http://127.0.0.1:5000 1
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    import mlflow

    url, experiment = sys.argv[1:]
    mlflow.set_tracking_uri(url)
    spans: list[dict[str, Any]] = []
    totals = {"input": 0, "output": 0, "cost": 0.0, "traces": 0}
    for trace in mlflow.MlflowClient().search_traces(locations=[experiment], max_results=500):
        usage, cost = trace.info.token_usage or {}, trace.info.cost or {}
        totals["traces"] += 1
        totals["input"] += usage.get("input_tokens", 0)
        totals["output"] += usage.get("output_tokens", 0)
        totals["cost"] += cost.get("total_cost", 0.0)
        for span in trace.data.spans:
            spans.append(
                {
                    "trace_id": span.trace_id.removeprefix("tr-"),
                    "span_id": span.span_id,
                    "parent": span.parent_id or "",
                    "name": span.name,
                    "status": str(span.status.status_code.value),
                    "start": span.start_time_ns // 1000,
                    "end": span.end_time_ns // 1000,
                    "attributes": dict(span.attributes),
                    "shown": span.span_type or "",
                }
            )
    json.dump({"spans": spans, "totals": totals}, sys.stdout, default=str)


if __name__ == "__main__":
    main()
