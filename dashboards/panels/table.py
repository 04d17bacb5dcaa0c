"""The panels, in the order in which they are shown. Everything else is a translation of this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Panel:
    """`key` names its query in each language; `unit` is one of Grafana's.

    Amounts are drawn as bars, on top of each other where they are parts of one; shares and percentiles as lines.
    """

    key: str
    title: str
    says: str
    unit: str
    drawn: Literal["parts", "bars", "lines"] = "parts"
    warns_at: float | None = None
    """A value from which on something is wrong."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel. `name` is what its series is called; with `by`, they are called after a label."""

    text: str
    name: str = ""
    by: str = ""


PANELS: Final = (
    Panel("spend", "Spend", "US dollars of live calls whose price is known, by model.", "currencyUSD"),
    Panel("spend_per_run", "Spend per run", "US dollars of a run with live calls.", "currencyUSD", "lines"),
    Panel("tokens", "Tokens", "Tokens of live calls, by type and model.", "short"),
    Panel("duration", "Duration", "How long live calls took.", "s", "lines"),
    Panel("first_chunk", "Time to first chunk", "How long live streams took to begin.", "s", "lines"),
    Panel("error_rate", "Error rate", "The share of live calls that failed.", "percentunit", "lines", 0.05),
    Panel(
        "tools",
        "Tool calls and failures",
        "Tools that models asked for, and results that were errors.",
        "short",
        "bars",
    ),
    Panel(
        "stopped", "Runs stopped", "Runs that a guard stopped: loops, and budgets that were used up.", "short", "bars"
    ),
    Panel("divergences", "Divergences", "Replays that asked for something their trace does not hold.", "short", "bars"),
    Panel(
        "replayed", "Replayed and live calls", "Calls that a trace answered, and calls that went to a model.", "short"
    ),
    Panel("saved", "Money saved", "US dollars that calls would have cost that a trace answered.", "currencyUSD"),
)
