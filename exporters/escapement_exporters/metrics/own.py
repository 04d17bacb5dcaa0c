"""A meter provider of ours that sends to the collector, for applications that have none.

OpenTelemetry's own exporter would say on stderr, once a minute, that a collector is away.
"""

from __future__ import annotations

import os
import uuid
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource

from escapement.engine.telemetry import own_version, service_name
from escapement_exporters.otlp.endpoint import Endpoint
from escapement_exporters.otlp.sending import connect
from escapement_exporters.spans import surroundings

_WITHIN: Final = 10.0


def provider(to: Endpoint) -> MeterProvider:
    """It collects once a minute, or as `OTEL_METRIC_EXPORT_INTERVAL` says. Raises ConfigError."""
    resource = Resource(
        {
            **surroundings(),
            "service.name": service_name() or "escapement",
            "telemetry.sdk.name": "escapement",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": own_version(),
            "process.pid": os.getpid(),
            # Without it, sums of processes that run at once would be one series that jumps to and fro.
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    reader = PeriodicExportingMetricReader(_Exporter(to))
    return MeterProvider([reader], resource, shutdown_on_exit=False)


class _Exporter(MetricExporter):
    """Hands what was collected to a receiver. What it does not take is in the next collection: sums go on."""

    def __init__(self, to: Endpoint) -> None:
        super().__init__()
        self._receiver = connect(to, "metrics")
        self._process = os.getpid()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        if os.getpid() != self._process:
            return MetricExportResult.SUCCESS  # a fork has its parent's sums, and the parent tells them
        data = encode_metrics(metrics_data).SerializeToString()
        answer = self._receiver.send(data, min(_WITHIN, timeout_millis / 1000))
        return MetricExportResult.SUCCESS if answer.outcome == "sent" else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._receiver.close()
