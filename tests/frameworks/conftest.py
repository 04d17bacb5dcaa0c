"""A table of the frameworks that ran."""

from __future__ import annotations

import pytest

ROW = "{:<14} {:<9} {:>5}  {:<18} {:<6} {:>8} {:>8}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    rows = sorted(value for report in reports for key, value in report.user_properties if key == "framework")
    if not rows:
        return
    terminalreporter.section("frameworks")
    terminalreporter.line(ROW.format("framework", "version", "calls", "by", "same", "record", "replay"))
    for name, version, calls, ways, same, record, replay in rows:
        seconds = (f"{record:.1f} s", f"{replay:.1f} s")
        terminalreporter.line(ROW.format(name, version, calls, ways, "yes" if same else "NO", *seconds))
