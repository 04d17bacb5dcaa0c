"""Spans to a collector while an agent runs, on threads of ours. The engine finds `outlet` by its entry point.

It is asked at the start of every run, so what is needed is imported when there is something to do.
"""

from __future__ import annotations

from escapement.engine.exporting import Outlet
from escapement.words.config import Settings
from escapement.words.errors import ConfigError
from escapement_exporters.otlp import endpoint


def outlet(settings: Settings) -> Outlet | None:
    """Spans to a collector, where one is set. Raises ConfigError where `otlp_endpoint` is, and cannot be served."""
    to = endpoint.find(settings, "traces")
    if to is None or (settings.otlp_endpoint is None and endpoint.has_provider()):
        return None
    try:
        endpoint.check(to)
        from escapement_exporters.export import pipeline

        return pipeline.outlet(to, settings)
    except (ConfigError, ImportError) as error:
        reason = error if isinstance(error, ConfigError) else ConfigError(f"{endpoint.NEEDS} ({error})")
        if settings.otlp_endpoint is not None:
            raise reason from None
        from escapement.engine.recording import warn

        warn(f"nothing is exported to {to.shown}: {reason}")
        return None
