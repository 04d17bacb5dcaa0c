"""Metrics to whichever meter provider there is; where there is none, to the collector that is set."""

from __future__ import annotations

from escapement.engine.exporting import Outlet
from escapement.words.config import Settings


def outlet(settings: Settings) -> Outlet:
    """What measures a run. The engine finds it by its entry point, and asks at the start of every run."""
    from escapement_exporters.metrics import measuring

    return measuring.outlet(settings)
