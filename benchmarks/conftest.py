"""Prints, below pytest-benchmark's own table, what the benchmarks are about: ratios."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed")
    rows = [dict(report.user_properties) for report in reports if report.user_properties]
    if not rows:
        return
    terminalreporter.section("an explanation against plain inference, medians, interleaved")
    names = f"{'model':18}{'adapter':12}{'batch':>6}{'plain ms':>10}{'ours ms':>10}"
    terminalreporter.write_line(f"{names}{'ratio':>8}{'spread':>16}")
    for row in rows:
        terminalreporter.write_line(
            f"{row['model']:18}{row['adapter']:12}{row['batch']:>6}{row['plain']:>10.1f}"
            f"{row['ours']:>10.1f}{row['ratio']:>8.3f}{row['spread']:>16}"
        )
