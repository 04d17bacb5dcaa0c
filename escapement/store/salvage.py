"""What can still be read of a damaged Parquet file: row group by row group, and column by column where one is torn.

Damage stays with the traces whose rows are in the groups that cannot be read; those are named where that is possible.
What Parquet cannot notice (a flipped bit that still decompresses) is under the checksums of the rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from escapement.store import columns, pieces, schema, tables
from escapement.words.errors import EscapementWarning

if TYPE_CHECKING:
    import pyarrow as pa

_NEEDED = frozenset({*columns.KEPT, "checksum", "hash", "data"})
"""Columns without which a row is worth nothing. The others follow from them, or are only shown."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """`rows` of a file that can be read (None: none), why others cannot, and the traces that are touched."""

    path: str
    rows: pa.Table | None
    reason: str
    trace_ids: tuple[str, ...]
    """Empty where even that cannot be read."""


def examine(path: str, wanted: pa.Schema, *, expected: int | None = None) -> Salvaged | None:
    """Read a file whole, as pyarrow and as DuckDB read it; None if nothing is wrong with it.

    `expected` is the number of rows that the table's log says are in it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = pa.schema([field for field in wanted if field.name != "date"])
    good: list[pa.Table] = []
    reasons: list[str] = []
    touched: list[str] = []
    try:
        with pq.ParquetFile(path) as file:
            for number in range(file.metadata.num_row_groups):
                group, reason = _read_group(file, number, fields)
                if group is not None:
                    good.append(group)
                if reason:
                    reasons.append(reason)
                    touched += _trace_ids(file, number)
    except Exception as error:  # damage can have any shape
        return Salvaged(path, None, tables.first_line(error), ())
    found = sum(group.num_rows for group in good)
    if not reasons and expected is not None and found != expected:
        reasons.append(f"{found} rows where the log counts {expected}")
    if not reasons and (reason := duckdb_refuses(path, fields.names)):
        reasons.append(reason)
    if not reasons:
        return None
    return Salvaged(path, pa.concat_tables(good) if good else None, reasons[0], tuple(dict.fromkeys(touched)))


def _read_group(file: Any, number: int, fields: pa.Schema) -> tuple[pa.Table | None, str]:
    """A row group as far as it can be read, and what is wrong with it."""
    import pyarrow as pa

    try:
        return whole(file.read_row_group(number, columns=fields.names), fields), ""
    except Exception as error:
        reason = tables.first_line(error)
    found: list[pa.Array] = []
    try:
        height = file.metadata.row_group(number).num_rows
        for field in fields:
            try:
                table = whole(file.read_row_group(number, columns=[field.name]), pa.schema([field]))
                found.append(table.column(0).combine_chunks())
            except Exception:
                if field.name in _NEEDED:
                    raise
                found.append(pa.nulls(height, field.type))
        return pa.Table.from_arrays(found, schema=fields), reason
    except Exception:
        return None, reason


def whole(table: pa.Table, fields: pa.Schema) -> pa.Table:
    """A table with these columns and no others, valid in every value. Raises for one that is not."""
    table = table.select(fields.names).cast(fields)
    table.validate(full=True)
    return table


def _trace_ids(file: Any, group: int) -> list[str]:
    try:
        ids: list[str] = file.read_row_group(group, columns=["trace_id"]).column(0).unique().to_pylist()
    except Exception:
        return []
    return [trace_id for trace_id in ids if isinstance(trace_id, str) and trace_id.startswith("tr_")]


def duckdb_refuses(path: str, names: Sequence[str], *, limit: str = "") -> str:
    """Why DuckDB cannot read these columns of a file; empty if it can. It is pickier than pyarrow about some damage."""
    import duckdb

    quoted = path.replace("'", "''")
    source = f"read_parquet(['{quoted}'], hive_partitioning = false)"
    try:
        with duckdb.connect() as connection:
            reader: Any = connection.sql(f"SELECT {', '.join(names)} FROM {source} {limit}").to_arrow_reader(2048)
            for _ in reader:
                pass
    except Exception as error:
        return tables.first_line(error)
    return ""


def passed_over(path: str, counts: Mapping[str, int]) -> str:
    """Whether DuckDB finds as many rows of each trace, asked for it alone: what it skips by may be damaged."""
    import duckdb

    quoted = path.replace("'", "''")
    with duckdb.connect() as connection:
        for trace_id, count in counts.items():
            query = f"SELECT count(*) FROM read_parquet(['{quoted}']) WHERE trace_id = '{trace_id}'"
            if connection.execute(query).fetchall() != [(count,)]:
                return f"rows of {trace_id} are passed over: its statistics are damaged"
    return ""


def is_mistake(error: Exception, paths: Iterable[str]) -> bool:
    """Whether DuckDB failed because of how a query is put, and not because these files lack a column of `spans`."""
    import duckdb

    names = [name for name in schema.spans().names if name != "date"]
    about_names = isinstance(error, (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException))
    return about_names and not any(duckdb_refuses(path, names, limit="LIMIT 0") for path in paths)


def is_sound(row: columns.Row) -> bool:
    """Whether a row of either table is what was written."""
    if "hash" in row:
        return bool(pieces.digest(row["data"] or b"") == row["hash"])
    return (
        columns.is_sound(row)
        and columns.checksum_shown(row) == row["checksum_shown"]
        and all(row[name] == value for name, value in columns.times(row).items())
    )


def sift(table: pa.Table) -> tuple[pa.Table, list[str]]:
    """The rows that are sound, and the traces of the others.

    One in which only what follows from the rest is damaged stays, without that.
    """
    import pyarrow as pa

    kept: list[columns.Row] = []
    touched: dict[str, None] = {}
    for batch in table.to_batches(max_chunksize=512):
        for row in batch.to_pylist():
            if not is_sound(row):
                touched[str(row["trace_id"])] = None
                if "hash" in row or not columns.is_sound(row):
                    continue
                if columns.checksum_shown(row) != row["checksum_shown"]:
                    row |= dict.fromkeys(columns.SHOWN)
                row |= {**columns.times(row), "checksum_shown": columns.checksum_shown(row)}
            kept.append(row)
    return pa.Table.from_pylist(kept, table.schema), list(touched)


def tell(found: Salvaged) -> None:
    """Warn of a damaged file, once it is found."""
    touched = f"traces {some(found.trace_ids)}" if found.trace_ids else "the traces in it"
    warnings.warn(
        f"Escapement: {found.path} is damaged ({found.reason}): {touched} cannot be read whole; everything else can. "
        "`escapement store check` says what can be done",
        EscapementWarning,
        stacklevel=2,
    )


def some(found: Sequence[str], most: int = 6) -> str:
    """The first of many, and how many more."""
    more = f", and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
