"""What a query found, as a table for people, or as JSON or CSV for programs. Times are as the query has them: UTC."""

from __future__ import annotations

import csv
import datetime
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson
from rich.table import Table
from rich.text import Text

from escapement.cli import output

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

SHOWN: Final = 1000
"""Rows that a table shows: more is for programs."""
_NARROW: Final = 16  # no text is folded to less than this; where that does not fit, a row is a list of its values


def show(found: pa.Table) -> None:
    """The first rows as a table; one value a line where it has too many columns for the width."""
    if not found.column_names:
        return
    console = output.console()
    if found.column_names == ["explain_key", "explain_value"]:  # a drawing
        for _, drawing in _rows(found):
            print(drawing.rstrip())
        return
    rows = [[_text(value) for value in row] for row in _rows(found.slice(0, SHOWN))]
    widths = _widths(found.schema, rows, console.width)
    if widths:
        console.print(_table(found, rows, widths))
    else:
        _print_records(console, found.column_names, rows)
    if found.num_rows == 0:
        print("No rows.", file=sys.stderr)
    elif found.num_rows > SHOWN:
        print(
            f"The first {SHOWN} of {found.num_rows} rows; --json and --csv give all, LIMIT gives fewer.",
            file=sys.stderr,
        )


def print_json(found: pa.Table) -> None:
    """A document a row."""
    names = _unique(found.column_names)
    output.print_json_lines([dict(zip(names, map(_plain, row), strict=True)) for row in _rows(found)])


def print_csv(found: pa.Table) -> None:
    """Rows below the names of their columns; what is not there is empty, what has parts is JSON."""
    if not found.column_names:
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(found.column_names)
    for row in _rows(found):
        writer.writerow([_field(value) for value in row])
    sys.stdout.flush()


def _rows(found: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist(maps_as_pydicts="lossy") for column in found.columns), strict=True)


def _widths(fields: pa.Schema, rows: Sequence[Sequence[Text]], room: int) -> list[int]:
    """The width of each column; none if they do not fit beside each other. Numbers and times are not folded."""
    import pyarrow as pa

    wanted, widths = [], []
    for at, field in enumerate(fields):
        widest = max((output.widest(row[at]) for row in rows), default=0)
        solid = pa.types.is_primitive(field.type) or pa.types.is_decimal(field.type)
        wanted.append(max(widest, len(field.name)))
        widths.append(max(widest if solid else min(widest, _NARROW), min(len(field.name), _NARROW)))
    spare = room - sum(widths) - 2 * (len(widths) - 1)
    if spare < 0:
        return []
    by_need = sorted(range(len(widths)), key=lambda at: wanted[at] - widths[at])
    for still, at in zip(range(len(widths), 0, -1), by_need, strict=True):
        more = min(spare // still, wanted[at] - widths[at])
        widths[at] += more
        spare -= more
    return widths


def _table(found: pa.Table, rows: Sequence[Sequence[Text]], widths: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, (field, width) in enumerate(zip(found.schema, widths, strict=True)):
        numeric = any(row[at].justify == "right" for row in rows)
        title = Text(output.plain(field.name), overflow="fold")
        table.add_column(title, justify="right" if numeric else "left", overflow="fold", width=width)
    for row in rows:
        table.add_row(*row)
    return table


def _print_records(console: Console, names: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    for number, row in enumerate(rows, 1):
        console.print(Text(f"─ {number} {'─' * 20}", "dim"))
        record = Table.grid(padding=(0, 2))
        record.add_column(no_wrap=True)
        record.add_column(overflow="fold")
        for name, value in zip(names, row, strict=True):
            value.justify = "left"
            record.add_row(Text(output.plain(name), "bold"), value)
        console.print(record)


def _text(value: Any) -> Text:
    """A value for a terminal. What is not there is a dash, and dim: a text that is a dash is not."""
    value = _plain(value)
    if value is None:
        return Text("–", "dim")
    if isinstance(value, bool):
        return Text(str(value).lower())
    if isinstance(value, int):
        return Text(str(value), justify="right")
    if isinstance(value, float):
        return Text(_number(value), justify="right")
    return Text(_moment(value) or output.plain(_field(value)).rstrip("\n"))


def _number(value: float) -> str:
    """Six digits, and never fewer than those before the point."""
    if not math.isfinite(value) or not value:
        return f"{value:g}"
    if abs(value) < 1e-4 or abs(value) >= 1e15:
        return f"{value:.6g}"
    shown = f"{value:.{max(0, 5 - math.floor(math.log10(abs(value))))}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def _moment(value: Any) -> str:
    """A time to the millisecond, where it has such."""
    if not isinstance(value, datetime.datetime):
        return ""
    return value.replace(tzinfo=None).isoformat(" ", "milliseconds" if value.microsecond else "seconds")


def _field(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, list | dict | bool):
        return orjson.dumps(value, option=orjson.OPT_NAIVE_UTC | orjson.OPT_NON_STR_KEYS).decode()
    return value.isoformat(" ") if isinstance(value, datetime.datetime) else str(value)


def _plain(value: Any) -> Any:
    """A value in types that JSON, too, has a form for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "nanoseconds"):
        return {part: getattr(value, part) for part in ("months", "days", "nanoseconds")}  # an interval
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Decimal):
        whole = value == value.to_integral_value() and abs(value) < 2**63
        return int(value) if whole else float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.timedelta):
        return str(value)
    return value


def _unique(names: Sequence[str]) -> list[str]:
    """Names as keys: a second `id` is `id_2`."""
    keys: list[str] = []
    for name in names:
        number = 1
        key = name
        while key in keys:
            number += 1
            key = f"{name}_{number}"
        keys.append(key)
    return keys
