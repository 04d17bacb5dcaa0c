"""One tool on the common work, in its own environment: `python -m benchmarks.peer NAME` prints one JSON line.

Whole blocks are measured, opening and closing included: some tools write at the end, some load at the start.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.paired import compare, cpu

Block = Callable[[Path], AbstractContextManager[Any]]


def _escapement() -> tuple[Block, Block]:
    import escapement

    def record(folder: Path) -> AbstractContextManager[Any]:
        return escapement.init("peer", storage_dir=folder, loop_detection_enabled=False)

    def replay(folder: Path) -> AbstractContextManager[Any]:
        return escapement.replay("@last", storage_dir=folder, strict_replay=True, loop_detection_enabled=False)

    return record, replay


def _vcrpy() -> tuple[Block, Block]:
    import vcr  # type: ignore[import-not-found]

    on = ["method", "scheme", "host", "port", "path", "query", "body"]

    def cassette(folder: Path, mode: str) -> AbstractContextManager[Any]:
        cassettes = vcr.VCR(serializer="json", match_on=on, record_mode=mode)
        block: AbstractContextManager[Any] = cassettes.use_cassette(str(folder / "cassette.json"))
        return block

    return lambda folder: cassette(folder, "new_episodes"), lambda folder: cassette(folder, "none")


def _cassetter() -> tuple[Block, Block]:
    import cassetter  # type: ignore[import-not-found]

    def cassette(folder: Path, mode: str) -> AbstractContextManager[Any]:
        block: AbstractContextManager[Any] = cassetter.use_cassette(
            folder / "cassette.yaml", record_mode=mode, match_on=["method", "uri", "body"]
        )
        return block

    return lambda folder: cassette(folder, "new_episodes"), lambda folder: cassette(folder, "none")


def _agent_rewind() -> tuple[Block, Block]:
    import rewind  # type: ignore[import-not-found]

    rewind.auto_patch()
    return lambda folder: rewind.record(str(folder / "run.rewind")), lambda folder: rewind.replay(
        str(folder / "run.rewind")
    )


TOOLS: dict[str, Callable[[], tuple[Block, Block]]] = {
    "escapement": _escapement,
    "vcrpy": _vcrpy,
    "cassetter": _cassetter,
    "agent-rewind": _agent_rewind,
}


def measure(name: str, rounds: int) -> dict[str, Any]:
    record, replay = TOOLS[name]()
    result: dict[str, Any] = {"tool": name}
    with work.server() as url, tempfile.TemporaryDirectory() as temporary:
        # The recorded host must be the replayed one for tools that count it: both clients go to the server's address,
        # the floor's over a transport in memory.
        live, floor = work.live_client(url), work.floor_client(url)
        for kind, calls, repeat in (("200 calls", 200, rounds), ("grow", 50, max(2, rounds // 2))):

            def program(client: Any, kind: str = kind) -> Any:
                return work.Small(client) if kind == "200 calls" else work.Conversation(client, 0)

            folder = Path(temporary) / "store"

            def recorded(calls: int, folder: Path = folder, program: Any = program) -> float:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                made = program(live)
                return cpu(lambda: _in(record(folder), made, calls), 1)

            def plain(calls: int, program: Any = program) -> float:
                return cpu(program(live), calls)

            def replayed(calls: int, folder: Path = folder, program: Any = program) -> float:
                made = program(floor)
                return cpu(lambda: _in(replay(folder), made, calls), 1)

            def bare(calls: int, program: Any = program) -> float:
                return cpu(program(floor), calls)

            recording = compare(plain, recorded, calls=calls, rounds=repeat)
            recorded(calls)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            replaying = compare(bare, replayed, calls=calls, rounds=repeat)
            result[kind] = {
                "record": recording.value,
                "record_noise": recording.noise,
                "replay": replaying.value,
                "replay_noise": replaying.noise,
                "kilobytes": size / 1000,
            }
    return result


def _in(block: AbstractContextManager[Any], program: Callable[[], None], calls: int) -> None:
    with block:
        for _ in range(calls):
            program()


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
