"""Mending a store: what is damaged is moved into `damaged/`, what of it can be read is written back.

Each step is one rename or one commit with a name, and can be told to have been done: cut off anywhere, mending again
finishes. All of it wants the store's lock.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from escapement.store import columns, journal, salvage, schema, sealing, segments, tables
from escapement.store.layout import Layout

if TYPE_CHECKING:
    import pyarrow as pa

_DATE: Final = re.compile(r"date=(\d{4}-\d\d-\d\d)")
_ASIDE: Final = re.compile(r"(spans|parts)-date=(\d{4}-\d\d-\d\d)-(.+\.parquet)")
_REBUILT: Final = ".rebuilt"


def set_aside(layout: Layout, name: str, path: str) -> Path:
    """Move a damaged file of a table to where it is out of the way; where."""
    layout.damaged.mkdir(mode=0o700, exist_ok=True)
    target = layout.damaged / f"{name}-date={_day(path)}-{os.path.basename(path)}"
    os.rename(path, target)
    return target


def finish(layout: Layout, name: str) -> dict[str, int]:
    """Take files that are gone out of the log, and write back what can be read of those set aside: rows by file."""
    table = opened(layout, name)
    if not table.exists:
        return {}
    table.forget_missing()
    written: dict[str, int] = {}
    for path in sorted(layout.damaged.glob(f"{name}-date=*.parquet")) if layout.damaged.is_dir() else ():
        match = _ASIDE.fullmatch(path.name)
        if match is not None and not table.holds(f"mended {match[3]}"):
            rows = dated(readable(str(path), name)[0], match[2], name)
            table.append(rows, [f"mended {match[3]}"])
            written[path.name] = rows.num_rows
    return written


def readable(path: str, name: str) -> tuple[pa.Table, list[str]]:
    """The rows of a file that can be read and are sound, and the traces of the others as far as they are known."""
    import pyarrow.parquet as pq

    fields = columns_of(name)
    found = salvage.examine(path, fields)
    if found is None:
        with pq.ParquetFile(path) as file:
            return salvage.sift(salvage.whole(file.read(columns=fields.names), fields))
    if found.rows is None:
        return fields.empty_table(), list(found.trace_ids)
    rows, touched = salvage.sift(found.rows)
    return rows, list(dict.fromkeys([*found.trace_ids, *touched]))


def restore(layout: Layout, damaged: Mapping[str, Sequence[str]]) -> int:
    """Take rows that only files had that are damaged or gone from journals that are still there; how many.

    `damaged` names those files by table.
    """
    spans, parts = opened(layout, schema.SPANS), opened(layout, schema.PARTS)
    count = 0
    for trace_id, path in sealing.journals(layout):
        if not spans.holds(path.stem) or journal.has_writer(path):
            continue
        with contextlib.suppress(OSError):
            segment = segments.read(path, trace_id)
            for table, made, key in (
                (parts, columns.parts(segment), "hash"),
                (spans, columns.rows(segment), "checksum"),
            ):
                own = {row[key] for row in _left(table, trace_id, key, damaged[table.name])}
                missing = [row for row in made if row[key] not in own]
                if missing:
                    table.append(tables.arrow(table.name, missing), [f"restored {path.stem} at {table.version}"])
                    count += len(missing)
    return count


def _left(table: tables.Table, trace_id: str, key: str, damaged: Sequence[str]) -> Iterator[columns.Row]:
    """What the table has of a trace, damaged files included as far as they can be read."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for uri in table.files():
        path = tables.local_path(uri)
        if path not in damaged:
            found = pq.read_table(path, columns=["trace_id", key], partitioning=None)
        elif os.path.exists(path):
            found, _ = readable(path, table.name)
        else:
            continue
        yield from found.filter(pc.equal(found["trace_id"], trace_id)).select([key]).to_pylist()


def rebuild(layout: Layout, name: str) -> int:
    """Make a table anew of its Parquet files, where its log cannot be read; how many rows it has. The old one is kept.

    Files that were merged but not removed yet hold the same rows again: each is taken once.
    """
    where, new = Path(layout.table(name)), layout.root / f"{_REBUILT}-{name}"
    if where.is_dir():
        shutil.rmtree(new, ignore_errors=True)  # of a rebuild that was cut off: the old table is still there
    if not new.is_dir():
        _fill(layout, name, where, new)
    if where.is_dir():
        layout.damaged.mkdir(mode=0o700, exist_ok=True)
        number = sum(path.name.startswith(f"{name}-table-") for path in layout.damaged.iterdir()) + 1
        os.rename(where, layout.damaged / f"{name}-table-{number}")
    os.rename(new, where)
    return sum(int(action["num_records"]) for action in opened(layout, name).actions())


def is_half_rebuilt(layout: Layout, name: str) -> bool:
    """Whether a rebuild was cut off between its last two steps."""
    return (layout.root / f"{_REBUILT}-{name}").is_dir() and not Path(layout.table(name)).is_dir()


def _fill(layout: Layout, name: str, old: Path, new: Path) -> None:
    draft = Path(f"{new}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    table = tables.Table(layout, name)
    table.uri = str(draft)
    seen: set[Any] = set()
    for path in sorted(old.glob("date=*/*.parquet")):
        rows, _ = readable(str(path), name)
        mask, journals = [], set()
        for row in rows.select([field for field in _KEYS[name] if field in rows.column_names]).to_pylist():
            key = tuple(row.values())
            mask.append(key not in seen)
            seen.add(key)
            journals.add(row.get("journal", ""))
        import pyarrow as pa

        kept = rows.filter(pa.array(mask, pa.bool_()))
        new_ones = sorted(stem for stem in journals if stem and not table.holds(stem))
        table.append(dated(kept, _day(str(path)), name), [f"rebuilt {path.name}", *new_ones])
    if not seen:
        table.append(dated(columns_of(name).empty_table(), "1970-01-01", name), ["rebuilt"])
    os.rename(draft, new)


_KEYS: Final = {schema.SPANS: ("journal", "checksum"), schema.PARTS: ("trace_id", "hash")}


def opened(layout: Layout, name: str) -> tables.Table:
    table = tables.Table(layout, name)
    table.refresh()
    return table


def columns_of(name: str) -> pa.Schema:
    """The columns that are in the files of a table: the date is in their folder's name."""
    import pyarrow as pa

    return pa.schema([field for field in getattr(schema, name)() if field.name != "date"])


def dated(rows: pa.Table, day: str, name: str) -> pa.Table:
    """Rows of a file with their date again."""
    import pyarrow as pa

    value = pa.scalar(datetime.date.fromisoformat(day), pa.date32())
    return rows.append_column("date", pa.repeat(value, rows.num_rows)).select(getattr(schema, name)().names)


def _day(path: str) -> str:
    match = _DATE.search(path)
    return match[1] if match else "1970-01-01"
