"""A table of the receivers that ran, and what they made of a run."""

from __future__ import annotations

import pytest

ROW = "{:<10} {:<14} {:<8} {:>6} {:>10} {:>10} {:>12} {:>12}"
KILLED = "rotel killed  {:<14} sent {:>5}, spooled and sent later {:>5}; of these lost in it {}, twice {}; all there after a push"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    noted = [pair for report in reports for pair in report.user_properties]
    rows = [value for key, value in noted if key == "receiver"]
    killed = [value for key, value in noted if key == "killed"]
    if not rows and not killed:
        return
    terminalreporter.section("receivers")
    terminalreporter.line(
        ROW.format("receiver", "protocol", "content", "spans", "input", "output", "its cost", "our cost")
    )
    for name, protocol, content, count, totals, cost in rows:
        theirs = "–" if totals.get("cost") is None else f"{totals['cost']:.6f}"
        tokens = (totals.get("input", "–"), totals.get("output", "–"))
        shown = ROW.format(name, protocol, "yes" if content else "no", count, *tokens, theirs, f"{cost:.6f}")
        terminalreporter.line(shown)
    for row in killed:
        terminalreporter.line(KILLED.format(*row))
