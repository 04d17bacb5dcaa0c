"""The Delta tables `spans` and `parts`: everything here is one commit each, seen whole or not at all.

A commit that seals journals carries a transaction id for each of them, so the same journal is never taken in twice,
whoever tries. `parts` are written before `spans`: a span that can be seen has its payload.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlparse

import orjson

from escapement.store import schema
from escapement.store.layout import Layout
from escapement.words.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from deltalake import DeltaTable, WriterProperties

ROWS_PER_GROUP: Final = 20_000
_FEW: Final = 16  # journals that are asked for one by one: Delta then goes through its whole log for each
_CONFIGURATION = {
    # Statistics only of what files are chosen by: never of what somebody said.
    "delta.dataSkippingStatsColumns": "trace_id,journal,start_unix_nano",
    # The log stays readable as JSON from its beginning: `views.sql` reads it in a plain DuckDB shell.
    "delta.enableExpiredLogCleanup": "false",
}


class Table:
    """One of the two tables. Reading a table that does not exist yet finds it empty."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.name = name
        self.uri = layout.table(name)
        self.is_local = layout.remote is None
        self._found: DeltaTable | None = None
        self._sound = -1
        self._taken_in: set[str] = set()
        self._taken_in_at = -1

    def refresh(self) -> None:
        """Look at the newest version from here on. Raises StoreError."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            if self._found is not None:
                self._found.update_incremental()
            elif not self.is_local or os.path.isdir(os.path.join(self.uri, "_delta_log")):
                self._found = DeltaTable(self.uri)
            elif glob.glob(os.path.join(glob.escape(self.uri), "date=*", "*.parquet")):
                raise OSError("its log is gone")
            if self.is_local and self.version > self._sound:
                _verify_log(self.uri, self.version)
                self._sound = self.version
        except TableNotFoundError:
            self._found = None
        except (DeltaError, OSError) as error:
            self._found = None
            raise StoreError(f"the table {self.uri} cannot be read: {first_line(error)}") from error

    @property
    def exists(self) -> bool:
        return self._found is not None

    @property
    def version(self) -> int:
        """-1 where there is no table yet."""
        return self._found.version() if self._found is not None else -1

    def files(self) -> list[str]:
        """The files of this version: paths, or URLs of a remote store."""
        return self._found.file_uris() if self._found is not None else []

    def actions(self) -> list[dict[str, Any]]:
        """What the log says of each file: `path`, `size_bytes`, `num_records`, `min.trace_id`, `max.trace_id`."""
        if self._found is None:
            return []
        import pyarrow as pa

        listed: list[dict[str, Any]] = pa.table(self._found.get_add_actions(flatten=True)).to_pylist()
        for action in listed:
            action["path"] = unquote(action["path"])
        return listed

    def holds(self, journal: str) -> bool:
        """Whether this version has taken a journal in."""
        return self._found is not None and self._found.transaction_version(journal) is not None

    def holding(self, journals: Sequence[str]) -> set[str]:
        """Those of some journals that this version has taken in."""
        if self.is_local and len(journals) > _FEW and self._read_log():
            return self._taken_in.intersection(journals)
        return {journal for journal in journals if self.holds(journal)}

    def _read_log(self) -> bool:
        """Read which journals the commits since the last time took in. False where a commit is only in a checkpoint."""
        if self.version < self._taken_in_at:  # made anew meanwhile
            self._taken_in, self._taken_in_at = set(), -1
        for version in range(self._taken_in_at + 1, self.version + 1):
            try:
                with open(_commit(self.uri, version), "rb") as file:
                    actions = [orjson.loads(line) for line in file if line.startswith(b'{"txn"')]
            except FileNotFoundError:
                return False
            self._taken_in.update(action["txn"]["appId"] for action in actions)
            self._taken_in_at = version
        return True

    def dataset(self) -> Any:
        """The table as a pyarrow dataset: for stores that DuckDB cannot reach by itself."""
        assert self._found is not None
        return self._found.to_pyarrow_dataset()

    def select(self, names: str, condition: str) -> list[tuple[Any, ...]]:
        """Rows of a remote table, chosen where they are."""
        import pyarrow as pa
        from deltalake import QueryBuilder

        assert self._found is not None
        query = f"SELECT {names} FROM this WHERE {condition}"
        found = pa.table(QueryBuilder().register("this", self._found).execute(query).read_all())
        return [tuple(row.values()) for row in found.to_pylist()]

    # -- writing -------------------------------------------------------------------------------------------------

    def append(self, rows: pa.Table, journals: Sequence[str]) -> None:
        """Add rows, and note that these journals are in. Raises StoreError; then nothing was added."""
        from deltalake import CommitProperties, Transaction, write_deltalake

        with self._writing():
            table = self._open_or_make()
            if self.holding(journals):
                raise StoreError(f"another process has sealed into {self.uri} at the same time: nothing is lost")
            write_deltalake(
                table,
                rows,
                mode="append",
                writer_properties=properties(),
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(journal, 1) for journal in journals], max_commit_retries=50
                ),
            )
        self.refresh()

    def delete(self, trace_ids: Iterable[str]) -> int:
        """Delete every row of these traces; how many there were."""
        chosen = ", ".join(f"'{trace_id}'" for trace_id in trace_ids)
        if self._found is None or not chosen:
            return 0
        with self._writing():
            done = self._found.delete(f"trace_id IN ({chosen})", writer_properties=properties())
        self.refresh()
        return int(done.get("num_deleted_rows") or 0)

    def compact(self) -> tuple[int, int]:
        """Merge small files; how many there were of them, and are now."""
        if self._found is None:
            return 0, 0
        with self._writing():
            done = self._found.optimize.compact(writer_properties=properties())
        self.refresh()
        return int(done["numFilesRemoved"]), int(done["numFilesAdded"])

    def vacuum(self, *, hours: int = 0) -> list[str]:
        """Remove files that no version since so many hours needs; which."""
        if self._found is None:
            return []
        with self._writing():
            removed: list[str] = self._found.vacuum(
                retention_hours=hours, dry_run=False, enforce_retention_duration=False, full=True
            )
        self.refresh()
        return removed

    def forget_missing(self) -> list[str]:
        """Take files that are not there any more out of the log; which."""
        if self._found is None:
            return []
        with self._writing():
            removed: list[str] = self._found.repair()["files_removed"]
        self.refresh()
        return removed

    def _open_or_make(self) -> DeltaTable:
        from deltalake import DeltaTable

        if self._found is None:
            self._found = DeltaTable.create(
                self.uri,
                schema=getattr(schema, self.name)(),
                partition_by=["date"],
                configuration=_CONFIGURATION,
                mode="ignore",
            )
        return self._found

    @contextmanager
    def _writing(self) -> Iterator[None]:
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (DeltaError, OSError) as error:
            raise StoreError(
                f"the table {self.uri} cannot be written: {first_line(error)}. Nothing is lost: "
                "what was to be written is where it was."
            ) from error
        finally:
            if self.is_local:
                make_private(self.uri)


def _verify_log(uri: str, version: int) -> None:
    """Raise OSError where the newest commit is short of something, as a power cut may leave it.

    Delta takes a file that stops at the end of a line, or at once, for a commit that did less.
    """
    path = _commit(uri, version)
    try:
        with open(path, "rb") as file:
            actions = [orjson.loads(line) for line in file]
    except (FileNotFoundError, orjson.JSONDecodeError):
        return  # a checkpoint is all there is; or Delta knew how to read it
    said = next((action["commitInfo"] for action in actions if "commitInfo" in action), None)
    files = sum("add" in action for action in actions)
    if said is None or (said.get("operationMetrics") or {}).get("num_added_files", files) != files:
        raise OSError(f"{path} ends early")


def _commit(uri: str, version: int) -> str:
    """The file of the log that holds one commit."""
    return os.path.join(uri, "_delta_log", f"{version:020}.json")


def flush(folder: str) -> None:
    """See to it that a table is on the disk, should the power go."""
    for path, _, files in os.walk(folder):
        for name in (".", *files):
            descriptor = os.open(os.path.join(path, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@cache
def properties() -> WriterProperties:
    """How Parquet files are written: a trace's rows in few groups, and found without reading the others."""
    from deltalake import BloomFilterProperties, ColumnProperties, WriterProperties

    bloom = BloomFilterProperties(set_bloom_filter_enabled=True, fpp=0.01, ndv=2000)
    return WriterProperties(
        compression="ZSTD",
        compression_level=12,
        max_row_group_size=ROWS_PER_GROUP,
        column_properties={"trace_id": ColumnProperties(bloom_filter_properties=bloom)},
    )


def arrow(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of the schema of `name`."""
    import pyarrow as pa

    columns: pa.Schema = getattr(schema, name)()
    return pa.Table.from_pydict({field.name: [row.get(field.name) for row in rows] for field in columns}, columns)


def make_private(folder: str) -> None:
    """Take everybody else's permissions off what the Delta writer made; the folder around it keeps them out already."""
    for path, folders, files in os.walk(folder):
        for entry in (*folders, *files):
            full = os.path.join(path, entry)
            wanted = 0o700 if entry in folders else 0o600
            try:
                if os.stat(full).st_mode & 0o777 != wanted:
                    os.chmod(full, wanted)
            except OSError:
                continue  # compacted away meanwhile
    if os.path.isdir(folder):
        os.chmod(folder, 0o700)


def local_path(uri: str) -> str:
    """The path of a file of a local table."""
    return unquote(urlparse(uri).path) if uri.startswith("file:") else uri


def first_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
