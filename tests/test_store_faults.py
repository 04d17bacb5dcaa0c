"""What happens to disks happens to stores: full, read-only, damaged anywhere, with a clock that runs backwards."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import escapement
from escapement.store import layout, sealing, summaries, tables, upkeep
from escapement.store.traces import SpanStore
from tests.test_check import agent, content, content_of, contents, look, mend, record, seal, table_files

# -- a disk that is full ----------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB. Only root may make one."""
    where = tmp_path / "disk"
    where.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk up to so many bytes."""
    ballast = disk / "ballast"
    room = os.statvfs(disk)
    with ballast.open("wb", buffering=0) as file:
        file.write(b"\0" * max(0, room.f_bavail * room.f_frsize - leave))
    return ballast


def test_recording_on_a_full_disk_goes_on_and_says_so(small: Path) -> None:
    store = small / "store"
    with agent() as client, escapement.init("crowded", storage_dir=store) as trace:

        def call(text: str) -> None:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

        call("one")
        ballast = fill(small, 0)
        with pytest.warns(escapement.EscapementWarning, match="INCOMPLETE.*No space left"):
            call("0 " + "x" * 3000)
        for number in range(1, 8):
            call(f"{number} " + "x" * 3000)
        ballast.unlink()
        call("last")
    row = SpanStore(store).load(trace.trace_id)
    assert (row.status, row.damaged, row.lost > 0) == ("completed", 0, True)
    assert row.lost + sum(step.answered for step in row.steps) == 10
    assert row.steps[-1].answered
    before = content(SpanStore(store), trace.trace_id)
    assert look(store).problems == []
    seal(store)
    assert content(SpanStore(store), trace.trace_id) == before


def crowded(store: Path, work: Callable[[layout.Layout], Any]) -> tuple[int, int]:
    """Do work on a disk with ever more room, until it succeeds; how often it failed, and then did not."""
    found = layout.create(store)
    failed = 0
    for leave in (0, 4096, 8192, 16384, 32768, 65536, 131072, 1 << 20):
        ballast = fill(store.parent, leave)
        try:
            with sealing.upkeep(found):
                work(found)
        except escapement.StoreError as error:
            assert "cannot be" in str(error)
            failed += 1
        else:
            return failed, leave
        finally:
            ballast.unlink()
    raise AssertionError("it never succeeded")


def test_sealing_compacting_and_deleting_on_a_full_disk(small: Path) -> None:
    store = small / "store"
    ids = record(store, 4, 8)
    before = contents(store, ids)

    def still(*gone: str) -> None:
        left = [trace_id for trace_id in ids if trace_id not in gone]
        assert contents(store, left) == {trace_id: before[trace_id] for trace_id in left}

    failed, _ = crowded(store, lambda found: sealing.seal(found, grace=0))
    assert failed
    still()
    ids += record(store, 4, 8, seed=2)
    before |= contents(store, ids[4:])
    seal(store)
    failed, _ = crowded(store, upkeep.compact)
    assert failed
    still()
    failed, _ = crowded(store, lambda found: upkeep.delete(found, ids[:1]))
    assert failed
    still(ids[0])
    assert set(SpanStore(store).trace_ids()) == set(ids[1:])
    report = look(store)
    assert report.problems == []
    mend(store)
    still(ids[0])


def test_a_failed_write_in_the_middle_changes_nothing(small: Path) -> None:
    """Between the attempts everything reads as before."""
    store = small / "store"
    ids = record(store, 3, 8)
    before = contents(store, ids)
    found = layout.create(store)
    for leave in (0, 4096, 12288, 20480):
        ballast = fill(small, leave)
        try:
            with sealing.upkeep(found):
                sealing.seal(found, grace=0)
        except escapement.StoreError:
            pass
        assert contents(store, ids) == before
        assert len(summaries.page(SpanStore(store))) == 3
        ballast.unlink()
    seal(store)
    assert contents(store, ids) == before


# -- a disk that cannot be written --------------------------------------------------------------------------------------


def test_a_store_on_a_read_only_disk(tmp_path: Path) -> None:
    source, shown = tmp_path / "source", tmp_path / "shown"
    ids = record(source, 2)
    seal(source)
    ids += record(source, 1, seed=2)
    before = contents(source, ids)
    shown.mkdir()
    mounted = subprocess.run(["mount", "--bind", str(source), str(shown)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(shown)], check=True)
        assert contents(shown, ids) == before
        reader = SpanStore(shown)
        assert [summary.trace_id for summary in summaries.page(reader)] == list(reversed(ids))
        assert summaries.stats(reader)[0].calls == 9
        assert reader.sql("SELECT count(*) FROM llm_calls").rows == [(9,)]
        report = look(shown)
        assert (report.problems, report.traces) == ([], 3)
        with pytest.raises(escapement.StoreError, match="(Read-only|cannot be)"), escapement.init(storage_dir=shown):
            pass
        with pytest.raises(escapement.StoreError, match="cannot be changed: Read-only file system"):
            seal(shown)
        with agent() as client, escapement.replay(ids[0], storage_dir=shown, strict_replay=True):
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "0 0 " + "word " * 30}]
            )
        assert contents(shown, ids) == before
    finally:
        subprocess.run(["umount", "-l", str(shown)], check=True)


# -- a clock that is set back -------------------------------------------------------------------------------------------

_BACKWARDS = """
import sys, time
real, shift = time.time, [0.0]
time.time = lambda: real() + shift[0]
time.time_ns = lambda: int((real() + shift[0]) * 1e9)
from pathlib import Path
from tests.test_check import agent, contents, look, record, seal, layout, sealing, upkeep
from escapement.store import summaries
from escapement.store.traces import SpanStore
import escapement
store = Path(sys.argv[1])
"""


def backwards(program: str, store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BACKWARDS + textwrap.dedent(program), str(store)],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[1],
        env={**os.environ, "ESCAPEMENT_SEALING": "manual"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_clock_that_is_set_back_between_and_in_runs(store: Path) -> None:
    backwards(
        """
        ids = record(store, 2)
        seal(store, grace=10)
        shift[0] = -40 * 86400
        ids += record(store, 2, seed=2)
        with agent(3) as client, escapement.init("in the middle", storage_dir=store) as trace:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "one"}])
            shift[0] -= 3600
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "two"}])
        ids.append(trace.trace_id)
        before = contents(store, ids)
        row = SpanStore(store).load(trace.trace_id)
        assert [step.step for step in row.steps] == [1, 2], row.steps
        assert row.status == "completed"
        seal(store, grace=10)
        assert contents(store, ids) == before
        assert seal(store, grace=10).journals == 0
        shift[0] = 0.0
        found = layout.create(store)
        with sealing.upkeep(found):
            upkeep.compact(found)
        assert contents(store, ids) == before
        assert sorted(SpanStore(store).trace_ids()) == sorted(ids)
        assert summaries.stats(SpanStore(store))[0].calls == 4 * 3 + 2
        seal(store, grace=0)
        assert not list(store.glob("journal/*"))
        assert contents(store, ids) == before
        report = look(store)
        assert (report.problems, report.traces) == ([], 5), report
        """,
        store,
    )


# -- damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of many small row groups."""
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 8)
    tables.properties.cache_clear()
    yield
    tables.properties.cache_clear()


def outcome(store: Path, before: dict[str, tuple[Any, ...]], *, numbers: bool = True) -> Counter[str]:
    """How every trace reads now: the same, damaged and said so, or gone and said so. Anything else is a failure."""
    seen: Counter[str] = Counter()
    reader = SpanStore(store)
    for trace_id, whole in before.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                row = reader.load(trace_id)
                if content_of(row) == whole:
                    seen["same"] += 1
                elif not row.complete:
                    seen["damaged"] += 1
                else:
                    raise AssertionError(f"{trace_id} reads otherwise without a word")
            except escapement.TraceNotFoundError as error:
                assert told or "damaged" in str(error), f"{trace_id} is gone without a word"
                seen["gone"] += 1
    if not numbers:
        return seen
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for summary in summaries.page(reader):
            assert summary.trace_id
        summaries.stats(reader)
        reader.sql("SELECT count(*) FROM spans")
        reader.sql("SELECT content FROM messages")
    return seen


@pytest.mark.parametrize("name", ["spans", "parts"])
def test_bits_flipped_anywhere_are_never_silent(store: Path, name: str, groups: None) -> None:
    """`FLIPS=1000` for more than a look."""
    ids = record(store, 6)
    before = contents(store, ids)
    seal(store)
    (path,) = table_files(store, name)
    whole = path.read_bytes()
    footer = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8
    dice = random.Random(11)
    times = int(os.environ.get("FLIPS", "60"))
    spots = [dice.randrange(footer) if number % 2 else dice.randrange(footer, len(whole)) for number in range(times)]
    spots[:3] = 0, 4, len(whole) - 6
    counted: Counter[str] = Counter()
    for number, at in enumerate(spots):
        harmed = bytearray(whole)
        harmed[at] ^= 1 << dice.randrange(8)
        path.write_bytes(harmed)
        try:
            counted += outcome(store, before, numbers=number % 6 == 0)
        except BaseException:
            print(f"byte {at} of {len(whole)} in {name}")
            raise
    path.write_bytes(whole)
    assert outcome(store, before) == {"same": 6}
    assert counted["same"] > counted["gone"], "damage is confined"
    print(f"\n{times} flips in {name}: traces {dict(counted)}")


@pytest.mark.parametrize("name", ["spans", "parts"])
def test_files_cut_at_any_length(store: Path, name: str, groups: None) -> None:
    ids = record(store, 3)
    seal(store)
    ids += record(store, 2, seed=2)
    before = contents(store, ids)
    seal(store)
    path = max(table_files(store, name), key=lambda file: file.stat().st_size)
    whole = path.read_bytes()
    for length in (0, 4, len(whole) // 3, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:length])
        seen = outcome(store, before)
        assert seen["same"] >= 2, "traces in other files are as they were"
        assert seen.total() - seen["same"] <= 3
        assert str(path) in {problem.where for problem in look(store).problems}


@pytest.mark.parametrize("name", ["spans", "parts"])
def test_a_file_that_was_deleted(store: Path, name: str) -> None:
    ids = record(store, 2)
    seal(store)
    ids += record(store, 1, seed=2)
    before = contents(store, ids)
    seal(store)
    max(table_files(store, name), key=lambda file: file.stat().st_size).unlink()
    seen = outcome(store, before)
    assert (seen["same"], seen.total()) == (1, 3)
    mend(store)
    seen = outcome(store, {trace_id: before[trace_id] for trace_id in SpanStore(store).trace_ids()})
    assert seen["same"] == 1


@pytest.mark.parametrize("harm", ["cut", "garbage", "empty"])
def test_a_damaged_log_is_named_and_recording_goes_on(store: Path, harm: str) -> None:
    ids = record(store, 2)
    before = contents(store, ids)
    seal(store)
    last = max((store / "spans" / "_delta_log").glob("*.json"))
    data = last.read_bytes()
    last.write_bytes({"cut": data[: len(data) // 2], "garbage": b"\xff" * 100, "empty": b""}[harm])
    kept = record(store, 1, seed=2)
    try:
        seen = contents(store, ids)
    except escapement.StoreError as error:
        assert str(store / "spans") in str(error)
    else:
        assert seen == before
    with pytest.raises(escapement.StoreError, match="spans"):
        seal(store)
    mend(store)
    assert contents(store, ids) == before
    assert SpanStore(store).load(kept[0]).complete
    seal(store)
    assert look(store).problems == []


def test_a_missing_log_is_named(store: Path) -> None:
    ids = record(store, 2)
    before = contents(store, ids)
    seal(store)
    shutil.rmtree(store / "spans" / "_delta_log")
    with pytest.raises(escapement.EscapementError) as raised:
        contents(store, ids)
    assert isinstance(raised.value, escapement.StoreError)
    with pytest.raises(escapement.StoreError):
        record(store, 1, seed=2)
        seal(store)
    mend(store)
    assert contents(store, ids) == before


def test_a_journal_of_garbage_keeps_no_other_from_being_sealed(store: Path) -> None:
    ids = record(store, 3)
    before = contents(store, ids)
    dice = random.Random(3)
    for number in range(5):
        trace = f"tr_{number:012x}"
        lines = [dice.randbytes(dice.randrange(200)) for _ in range(10)]
        (store / "journal" / f"{trace}-host-1-{number}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (store / "journal" / "tr_00000000000a-host-1-1.jsonl").write_bytes(b"")
    (store / "journal" / "tr_00000000000b-host-1-1.jsonl").mkdir()
    sealed = seal(store)
    assert list(sealed.failed) in ([], ["tr_00000000000b-host-1-1.jsonl"])
    (store / "journal" / "tr_00000000000b-host-1-1.jsonl").rmdir()
    assert contents(store, ids) == before
    assert not [path for path in store.glob("journal/*") if path.name.startswith(tuple(ids))]
    assert len(list((store / "damaged").iterdir())) == 5
