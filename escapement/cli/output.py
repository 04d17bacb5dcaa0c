"""How things look: numbers, times, tables; and JSON for programs."""

from __future__ import annotations

import datetime
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from escapement.words.errors import ConfigError

STATUS_STYLES = {"running": "cyan", "completed": "green", "failed": "red", "killed": "red", "interrupted": "yellow"}


def console() -> Console:
    """A console on stdout: no colour and no cropping of data when it is not a terminal."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=_piped_width(), color_system=None)


def _piped_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) > 20 else 200


def grid(titles: Sequence[str], rows: Sequence[Sequence[Text]], width: int, *, flexible: int, numbers: range) -> Table:
    """A table in which one column is cut to what the others leave of the width, and some hold numbers."""
    naturals = [max([len(title), *(widest(row[at]) for row in rows)]) for at, title in enumerate(titles)]
    left = width - sum(naturals) + naturals[flexible] - 2 * (len(titles) - 1)
    naturals[flexible] = max(8, min(naturals[flexible], left))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, (title, natural) in enumerate(zip(titles, naturals, strict=True)):
        justify: Literal["right", "left"] = "right" if at in numbers else "left"
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", width=natural)
    for row in rows:
        table.add_row(*row)
    return table


def widest(text: Text) -> int:
    """The width of the longest line of a text."""
    return max((line.cell_len for line in text.split()), default=0)


def name(text: str) -> Text:
    """A name from a trace, on one line."""
    return Text(plain(text).replace("\n", " ")) if text else Text("–", "dim")


def print_json(document: Any) -> None:
    """One document, indented for a person, on one line for a program."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    sys.stdout.buffer.write(orjson.dumps(document, option=option | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def print_json_lines(documents: list[Any]) -> None:
    """A document a line."""
    for document in documents:
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NAIVE_UTC))
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


def moment(nanoseconds: int, *, short: bool = False) -> str:
    """A time in the local zone, to the second; without year and seconds where there is little room."""
    if not nanoseconds:
        return "–"
    form = "%m-%d %H:%M" if short else "%Y-%m-%d %H:%M:%S"
    return datetime.datetime.fromtimestamp(nanoseconds / 1e9).strftime(form)


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


def amount(number: int, noun: str) -> str:
    """A number of things in words: `1 trace`, `2 traces`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while something long is done, where somebody is looking; tell it how much of how much is done."""
    if not sys.stderr.isatty():
        yield lambda done, all: None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, all: bar.update(task, completed=done, total=all)


def when(text: str, option: str) -> int | None:
    """Nanoseconds since the epoch for a date, a date and time (local), or an age; None for nothing."""
    if not text:
        return None
    age = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if age is not None:
        seconds = int(age.group(1)) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[age.group(2)]
        return time.time_ns() - seconds * 1_000_000_000
    try:
        return int(datetime.datetime.fromisoformat(text).timestamp() * 1e9)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{option} takes a date (2026-11-23), a time (2026-11-23T09:00) or an age (90m, 12h, 7d), not {text!r}"
        ) from None
