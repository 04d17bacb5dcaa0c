"""The matrix of the other SDKs: recorded against a provider that never says the same twice, replayed without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import escapement
from tests.fidelity.cases import ASYNC, SYNC, drive
from tests.fidelity.other_cases import CASES, PACKAGES, Case, opened
from tests.fidelity.snapshot import differences, snapshot
from tests.provider import Provider


def matrix() -> Iterator[Any]:
    for case in CASES:
        for mode in (SYNC, ASYNC):
            yield pytest.param(case, mode, id=f"{case.sdk}-{mode}-{case.name}")


async def outcome(case: Case, mode: str, url: str) -> Any:
    """What the program gets, be it an exception."""
    async with opened(case.sdk, mode, url, **case.settings) as client:
        try:
            return snapshot(await case.program(client))
        except (AssertionError, TypeError, escapement.EscapementError):
            raise
        except Exception as error:  # which one it is, the snapshot says
            return snapshot(error)


@pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # by cohere
@pytest.mark.parametrize(("case", "mode"), list(matrix()))
def test_a_replay_is_the_recording(case: Case, mode: str, store: Path) -> None:
    pytest.importorskip(PACKAGES.get(case.sdk, case.sdk))
    with Provider() as provider:
        with escapement.init(storage_dir=store) as trace:
            live = drive(mode, outcome(case, mode, provider.base_url))
        assert provider.count >= trace.steps > 0, live
        with escapement.init(storage_dir=store):
            other = drive(mode, outcome(case, mode, provider.base_url))
    requests = provider.count
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
        again = drive(mode, outcome(case, mode, provider.base_url))
    assert differences(live, again) == []
    assert provider.count == requests
    assert (replay.hits, replay.misses, replay.calls) == (trace.steps, 0, 0)
    assert case.name.startswith("dropped") or differences(live, other) != []
    if case.name.startswith(("flaky", "refused", "dropped")):
        assert trace.steps == 1, "a call is one step, however often it is tried"


FIRST = {case.sdk: case for case in reversed(CASES)}
"""A plain call of each SDK."""


@pytest.mark.parametrize("mode", [SYNC, ASYNC])
@pytest.mark.parametrize("sdk", FIRST)
def test_what_a_trace_does_not_know_is_said_and_not_sent(sdk: str, mode: str, store: Path) -> None:
    """Through the SDK, whatever it makes of other exceptions."""
    pytest.importorskip(PACKAGES.get(sdk, sdk))
    case = FIRST[sdk]

    async def program(url: str) -> None:
        async with opened(sdk, mode, url, **case.settings) as client:
            await case.program(client)

    with Provider() as provider:
        with escapement.init(storage_dir=store) as trace:
            pass
        with (
            escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay,
            pytest.raises(escapement.ReplayDivergenceError),
        ):
            drive(mode, program(provider.base_url))
    assert (provider.count, replay.misses) == (0, 1)
