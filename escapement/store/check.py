"""Whether a store is whole: every file read, every hash and checksum, every request rebuilt; and what can be mended.

What is verified when: reading a trace verifies the checksum of each of its rows, how many there are, and the hash of
every piece. Lists, statistics and SQL show what Parquet gives them. This verifies everything, file by file, then some
traces at a time, so that memory stays bounded.
"""

from __future__ import annotations

import os
import stat
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from escapement.store import journal, mending, salvage, schema, sealing, segments, tables, upkeep
from escapement.store import layout as places
from escapement.store.layout import Layout
from escapement.store.rows import TraceRow
from escapement.store.segments import Segment
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.errors import StoreError

_AT_A_TIME: Final = 32_000_000  # bytes of payload
_TRACES_AT_A_TIME: Final = 500
_DRAFT_AGE: Final = 60.0  # seconds after which nobody is writing a small file any more

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, where, with which traces (empty: that cannot be told), and what was or can be done about it."""

    what: str
    where: str
    trace_ids: tuple[str, ...]
    remedy: str
    repaired: bool = False


@dataclass(slots=True)
class Report:
    """What was verified, what is wrong, and what lies about that nothing needs and nobody sees."""

    traces: int = 0
    spans: int = 0
    parts: int = 0
    requests: int = 0
    problems: list[Problem] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def check(layout: Layout, *, repair: bool = False, progress: Progress = lambda done, all: None) -> Report:
    """Verify a store, and with `repair` (the caller holds the lock) mend what can safely be mended.

    Raises StoreError for one that is of a newer format or cannot be read at all.
    """
    checking = _Check(layout, repair, progress)
    if layout.root.is_dir() or layout.remote is not None:
        checking.run()
    return checking.report


class _Check:
    def __init__(self, layout: Layout, repair: bool, progress: Progress) -> None:
        self._layout = layout
        self._repair = repair
        self._progress = progress
        self._damaged: dict[str, salvage.Salvaged] = {}
        self.report = Report()

    def run(self) -> None:
        usable = self._marker()
        self._modes()
        readable = [self._log(name) for name in (schema.SPANS, schema.PARTS)]
        self._journals()
        if all(readable):
            self._files()
        if usable and all(readable):
            self._traces()
            self._leftovers()

    def _problem(
        self, what: str, where: object, remedy: str, *, traces: Sequence[str] = (), repaired: bool = False
    ) -> None:
        self.report.problems.append(Problem(what, str(where), tuple(traces), remedy, repaired))

    # -- the directory -------------------------------------------------------------------------------------------

    def _marker(self) -> bool:
        """store.json. Whether the store can be used."""
        layout = self._layout
        try:
            found = orjson.loads(layout.marker.read_bytes())["format"]
            if isinstance(found, int):
                places.open_existing(layout.remote or layout.root)  # raises for a newer one
                return True
            what = "it does not say which format the store has"
        except FileNotFoundError:
            if not self._is_a_store():
                return True
            what = "it is missing"
        except (orjson.JSONDecodeError, KeyError, TypeError):
            what = "it is damaged"
        except OSError as error:
            raise StoreError(f"{layout.marker} cannot be read: {error.strerror or error}") from error
        if self._repair and self._is_a_store():
            places.write_private(layout.marker, orjson.dumps({"format": places.FORMAT}) + b"\n")
            self._problem(what, layout.marker, "written again", repaired=True)
            return True
        self._problem(
            what, layout.marker, f'write {{"format": {places.FORMAT}}} into it, or repair; nothing else is lost'
        )
        return what == "it is missing"

    def _is_a_store(self) -> bool:
        return self._layout.journals.is_dir() or (self._layout.root / schema.SPANS / "_delta_log").is_dir()

    def _modes(self) -> None:
        root = self._layout.root
        for path in (root, *root.rglob("*")):
            try:
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode) or not mode & 0o077:
                    continue
                if self._repair:
                    path.chmod(0o700 if stat.S_ISDIR(mode) else 0o600)
            except OSError:
                continue
            # Inside a private directory nobody gets at it: files of the Delta writer become private a moment later.
            if self._repair or path == root:
                done = "made private" if self._repair else f"chmod {'700' if stat.S_ISDIR(mode) else '600'}, or repair"
                self._problem("others may read it", path, done, repaired=self._repair)

    def _log(self, name: str) -> bool:
        """Whether a table can be opened. One without a log that can be read is made anew of its files."""
        layout = self._layout
        where = layout.table(name)
        if layout.remote is None and self._repair and mending.is_half_rebuilt(layout, name):
            self._problem("its rebuilding was cut off", where, _rows(mending.rebuild(layout, name)), repaired=True)
        try:
            table = mending.opened(layout, name)
            if table.exists or layout.remote is not None or not any(Path(where).glob("date=*/*.parquet")):
                return True
            what = "its log is gone"
        except StoreError as error:
            what = f"its log is damaged ({error.__cause__ or error})".splitlines()[0]
        if self._repair and layout.remote is None:
            self._problem(what, where, f"made anew of its files: {_rows(mending.rebuild(layout, name))}; "
                          f"what was there is in {layout.damaged}", repaired=True)  # fmt: skip
            return True
        self._problem(what, where, "repair makes the table anew of its files; until then sealed traces cannot be read")
        return False

    def _journals(self) -> None:
        for trace_id, path in sealing.journals(self._layout):
            try:
                _, damaged = journal.read(path)
                segment = segments.read(path, trace_id)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._problem(f"it cannot be read: {error.strerror}", path, "see to its permissions, or to the disk",
                              traces=[trace_id])  # fmt: skip
                continue
            if damaged or segment.damaged:
                self._problem(
                    f"{segment.damaged} lines are damaged", path, "what they said is lost; everything else of it reads",
                    traces=[trace_id],
                )  # fmt: skip

    # -- files -----------------------------------------------------------------------------------------------------

    def _files(self) -> None:
        """Read every file of both tables, every row against its checksum. Repair moves damaged ones out of the way."""
        found = [
            (name, tables.local_path(uri), action)
            for name in (schema.PARTS, schema.SPANS)
            for table in [mending.opened(self._layout, name)]
            for uri, action in zip(table.files(), table.actions(), strict=True)
        ]
        total, done = sum(action["size_bytes"] for *_, action in found), 0
        broken: dict[str, list[str]] = {schema.SPANS: [], schema.PARTS: []}
        for name, path, action in found:
            if self._layout.remote is None:
                damaged = self._file(name, path, action["num_records"])
                if damaged is not None:
                    self._damaged[path] = damaged
                    broken[name].append(path)
            done += action["size_bytes"]
            self._progress(done, 2 * total)
        if self._repair and self._layout.remote is None:
            self._mend(broken)
        for path, damaged in self._damaged.items():
            if self._repair:
                remedy = f"moved to {self._layout.damaged}; what can be read of it was written back"
            else:
                remedy = "repair moves it to damaged/ and writes back what can be read of it"
            if not os.path.exists(path) and not self._repair:
                remedy = "repair takes it out of the log; put it back first if there is a copy"
            self._problem(damaged.reason, path, remedy, traces=damaged.trace_ids, repaired=self._repair)

    def _file(self, name: str, path: str, expected: int) -> salvage.Salvaged | None:
        """What is wrong with a file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not os.path.exists(path):
            return salvage.Salvaged(path, None, "the file is missing", ())
        fields = mending.columns_of(name)
        counts = Counter[str]()
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(512, columns=fields.names):
                    rows = salvage.whole(pa.Table.from_batches([batch]), fields).to_pylist()
                    if not all(map(salvage.is_sound, rows)):
                        raise ValueError("rows are not what was written")
                    counts.update(row["trace_id"] for row in rows)
                    if name == schema.PARTS:
                        self.report.parts += len(rows)
                    else:
                        self.report.spans += sum(row["kind"] != "trace" for row in rows)
            if counts.total() != expected:
                raise ValueError(f"{counts.total()} rows where the log counts {expected}")
            if reason := salvage.duckdb_refuses(path, fields.names) or salvage.passed_over(path, counts):
                raise ValueError(reason)
        except Exception as error:  # damage can have any shape
            reason = tables.first_line(error)
        else:
            return None
        rows, touched = mending.readable(path, name)
        return salvage.Salvaged(path, rows, reason, tuple(touched))

    def _mend(self, broken: dict[str, list[str]]) -> None:
        """Each step can be told to be done: a repair that was cut off goes on here."""
        layout = self._layout
        restored = mending.restore(layout, broken) if any(broken.values()) else 0
        for name, paths in broken.items():
            for path in paths:
                if os.path.exists(path):
                    mending.set_aside(layout, name, path)
        for name in (schema.PARTS, schema.SPANS):
            for file, count in mending.finish(layout, name).items():
                if not broken[name]:
                    self._problem("its repair was cut off", layout.damaged / file, _rows(count), repaired=True)
        if restored:
            self._problem("rows were only in journals any more", layout.journals, _rows(restored), repaired=True)

    # -- traces ----------------------------------------------------------------------------------------------------

    def _traces(self) -> None:
        store = SpanStore(self._layout.remote or self._layout.root)
        if not self._repair:
            store.leave_out(self._damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they would say is in the report
            weights = store.weights()
            names = [str(name) for (name,) in store.sql("SELECT DISTINCT trace_id FROM stored ORDER BY ALL").rows]
            self.report.traces = len(names)
            known, gone = set(names), Counter[tuple[str, str]]()
            for number, chosen in enumerate(_batches(names, weights), 1):
                everything = store.segments_of(chosen)
                for trace_id in chosen:
                    found = everything.get(trace_id, [])
                    self._trace(trace_id, found)
                    gone.update(
                        (trace_id, step.source[0])
                        for segment in found
                        for step in segment.steps.values()
                        if step.source is not None and step.source[0] not in known
                    )
                self._progress(len(names) + min(number * len(chosen), len(names)), 2 * len(names))
        self.report.leftovers += [
            f"{trace_id}: {count} of its steps were served from {source}, which is not in the store any more"
            for (trace_id, source), count in gone.items()
        ]
        self._orphans = sorted(set(weights) - known)

    def _trace(self, trace_id: str, found: list[Segment]) -> None:
        """Rebuild every request of a trace, and see that nothing is missing or there twice."""
        row = segments.assemble(trace_id, found)
        faults: list[str] = []
        ids = Counter(span["span_id"] for span in row.spans)
        twice = [name for name, count in ids.items() if count > 1]
        if twice:
            faults.append(f"{len(twice)} of its spans are there more than once")
        if row.damaged:
            faults.append(f"{row.damaged} of its records or answers are damaged, gone or there twice")
        broken = list(self._broken_requests(row))
        if broken:
            faults.append(f"the requests of {len(broken)} steps cannot be rebuilt (step {broken[0]})")
        if faults:
            self._problem("; ".join(faults), trace_id, "the rest of it can be read and replayed; it cannot be brought "
                          f"back: `escapement delete {trace_id}` removes it", traces=[trace_id])  # fmt: skip

    def _broken_requests(self, row: TraceRow) -> Iterator[int]:
        for step in row.steps:
            if step.source is not None:
                continue
            self.report.requests += 1
            try:
                body = row.request_body(step)
            except StoreError:
                yield step.step
                continue
            # The size is that of the request as it was sent: where a key was scrubbed, it is not that of what is kept.
            size = step.attributes.get(semconv.REQUEST_BYTES)
            if size is not None and size != len(body) and b"[REDACTED:" not in body:
                yield step.step

    # -- leftovers -------------------------------------------------------------------------------------------------

    def _leftovers(self) -> None:
        layout = self._layout
        spans = mending.opened(layout, schema.SPANS)
        now = time.time()
        listed = sealing.journals(layout)
        waiting = set(sealing.unsealed(listed, spans))
        live = {trace_id for trace_id, _ in waiting}
        orphans = [trace_id for trace_id in self._orphans if trace_id not in live]
        if orphans:
            self.report.leftovers.append(f"payload of {salvage.some(orphans)}: a deletion was cut off")
        for owner, path in listed:
            if (owner, path) not in waiting and abs(now - path.stat().st_mtime) >= sealing.GRACE:
                self.report.leftovers.append(f"{path}: in the tables already")
        drafts = [path for path in _drafts(layout) if now - path.stat().st_mtime > _DRAFT_AGE]
        self.report.leftovers += [f"{path}: never finished" for path in drafts]
        for name in (schema.SPANS, schema.PARTS) if layout.remote is None else ():
            table = mending.opened(layout, name)
            needed = {os.path.basename(file) for file in table.files()}
            unused = [path for path in Path(table.uri).glob("date=*/*.parquet") if path.name not in needed]
            if unused:
                self.report.leftovers.append(f"{len(unused)} files in {table.uri} that only older versions need")
        if self._repair:
            if orphans:
                mending.opened(layout, schema.PARTS).delete(orphans)
            for path in drafts:
                path.unlink(missing_ok=True)
            upkeep.vacuum(layout)


def _drafts(layout: Layout) -> Iterator[Path]:
    """Small files that were being written when their writer died."""
    yield from (path for path in layout.root.glob(".*.*") if path.name.rpartition(".")[2].isdigit())
    for name in (schema.SPANS, schema.PARTS):
        yield from layout.root.glob(f"{name}/_delta_log/*#*")


def _batches(names: Sequence[str], weights: dict[str, int]) -> Iterator[list[str]]:
    """Traces, as many at a time as fit into memory."""
    batch: list[str] = []
    weight = 0
    for name in names:
        batch.append(name)
        weight += weights.get(name, 0)
        if weight >= _AT_A_TIME or len(batch) >= _TRACES_AT_A_TIME:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def _rows(count: int) -> str:
    return f"{count} rows written back"
