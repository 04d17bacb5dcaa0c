"""How things look: numbers, times, tables; and JSON for programs."""

from __future__ import annotations

import datetime
import sys
from typing import Any

import orjson
from rich.console import Console

STATUS_STYLES = {"running": "cyan", "completed": "green", "failed": "red", "killed": "red", "interrupted": "yellow"}


def console() -> Console:
    """A console on stdout: no colour and no cropping of data when it is not a terminal."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=_piped_width(), color_system=None)


def _piped_width() -> int:
    import os

    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) > 20 else 200


def print_json(document: Any) -> None:
    """One document, indented for a person, on one line for a program."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    sys.stdout.buffer.write(orjson.dumps(document, option=option | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def print_json_lines(documents: list[Any]) -> None:
    """A document a line."""
    for document in documents:
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def duration(nanoseconds: int | None) -> str:
    if nanoseconds is None:
        return "–"
    seconds = nanoseconds / 1e9
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} m"


def tokens(number: int) -> str:
    if number < 10_000:
        return str(number)
    return f"{number / 1e3:.1f}k" if number < 1_000_000 else f"{number / 1e6:.1f}M"


def cost(dollars: float | None) -> str:
    """Unknown is a dash, never a zero."""
    if dollars is None:
        return "–"
    return f"${dollars:.2f}" if dollars >= 1 or dollars == 0 else f"${dollars:.4f}"


def size(number: int) -> str:
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000  # type: ignore[assignment]
    return f"{number:.1f} GB"


def moment(nanoseconds: int) -> str:
    """A time in the local zone, to the second."""
    if not nanoseconds:
        return "–"
    return datetime.datetime.fromtimestamp(nanoseconds / 1e9).strftime("%Y-%m-%d %H:%M:%S")


def iso(nanoseconds: int | None) -> str | None:
    """A time for programs: ISO 8601 in UTC."""
    if not nanoseconds:
        return None
    return datetime.datetime.fromtimestamp(nanoseconds / 1e9, datetime.UTC).isoformat()


def plain(text: str) -> str:
    """Text from a trace for a terminal: control characters (and so escape sequences) made visible."""
    return "".join(
        character
        if character == "\n" or (character >= " " and character != "\x7f" and not "\x80" <= character <= "\x9f")
        else f"\\x{ord(character):02x}"
        for character in text
    )
