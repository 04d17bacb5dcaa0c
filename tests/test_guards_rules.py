"""The rules by themselves: what is alike, what a failed tool looks like, and that nothing grows but a trace."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escapement.engine.guards import masking, recorded
from escapement.engine.guards.loops import Loops
from escapement.engine.guards.masking import alike, arguments, clipped, failed, masked
from escapement.engine.guards.reading import Reader
from escapement.engine.guards.steps import Answered, Asked, Use, Verdict
from escapement.providers import recognise
from escapement.store.pieces import Splitter

# -- masking ---------------------------------------------------------------------------------------------------------

_NOISE = st.one_of(
    st.uuids().map(str),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.integers(1_500_000_000, 1_999_999_999).map(str),
    st.integers(0, 99).map(lambda number: f"attempt {number} of 100"),
    st.from_regex(r"(call|req|toolu)_[0-9]{3}[a-zA-Z0-9]{8,20}", fullmatch=True),
    st.binary(min_size=8, max_size=32).map(bytes.hex).filter(lambda text: any(map(str.isdigit, text))),
)
_WORDS = st.text(st.sampled_from('abc xyz\n.,:;{}"-_/=0123456789T'), max_size=60)


@given(st.lists(st.one_of(_NOISE, _WORDS, st.text(max_size=30)), max_size=8), st.sampled_from(["", " ", "-", ", "]))
def test_masking_twice_is_masking_once(parts: list[str], between: str) -> None:
    text = between.join(parts)
    for ids in (True, False):
        assert masked(masked(text, ids=ids), ids=ids) == masked(text, ids=ids)


@given(st.lists(st.one_of(_NOISE, _WORDS), max_size=6), st.lists(st.one_of(_NOISE, _WORDS), max_size=6))
def test_alike_is_what_is_the_same_once_masked(one: list[str], other: list[str]) -> None:
    """`alike` masks only what differs; where it says yes, masking the whole of both says so, too."""
    left, right = " ".join(one), " ".join(other)
    assert alike(left, left)
    assert alike(left, right) == alike(right, left)
    if alike(left, right):
        assert masked(left) == masked(right)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("job 4ac4a2ae-1b1c-4e0a-9a53-2c1a8c8f6c11 ok", "job 11111111-1b1c-4e0a-9a53-2c1a8c8f6c11 ok", True),
        ("at 2026-11-25T10:00:00Z", "at 2026-11-26T23:59:59.123Z", True),
        ("[10:00:00] no", "[10:00:01] no", True),
        ('{"ts": 1790000000.25}', '{"ts": 1790000001.5}', True),
        ("attempt 1 of 3", "attempt 2 of 3", True),
        ("3 passed in 0.12s", "3 passed in 0.34s", True),
        ("request req_011CSHoEeqs5C35K2UUq", "request req_011CSHoEeqs5C35K2UUr", True),
        ("3 passed in 0.12s", "4 passed in 0.12s", False),
        ("page 3 of 10", "page 4 of 10", False),
        ("item 17", "item 18", False),
        ("progress: 10%", "progress: 20%", False),
        ("build 2026", "build 2027", False),
        ("ok", "no", False),
        ("", "attempt 1", False),
    ],
)
def test_what_is_alike(one: str, other: str, same: bool) -> None:
    assert alike(one, other) is same
    text = "x y z, " * 200
    assert alike(clipped(f"{text}{one} {text}"), clipped(f"{text}{other} {text}")) is same


def test_long_texts_are_compared_by_their_ends_and_a_hash() -> None:
    middle = "".join(f"line {number}\n" for number in range(5000))
    assert len(clipped(middle)) < 4200
    assert alike(clipped("10:00:00 " + middle), clipped("10:00:01 " + middle))
    assert not alike(clipped(middle), clipped(middle.replace("line 2500", "line x")))


def test_arguments_are_compared_without_what_only_says_when() -> None:
    one = arguments('{"b": 1, "a": [2], "request_id": "x", "Timestamp": 1}')
    assert one == arguments('{"a":[2],"b":1,"attempt":7}') == '{"a":[2],"b":1}'
    assert arguments('{"page": 1}') != arguments('{"page": 2}')
    assert arguments("not JSON ") == "not JSON"


@pytest.mark.parametrize(
    ("result", "is_error"),
    [
        ("Error: no such file", True),
        ("[ERROR] refused", True),
        ("FileNotFoundError: a.txt", True),
        ("requests.exceptions.ConnectionError: refused", True),
        ("Traceback (most recent call last):\n", True),
        ("An error occurred while running the tool. Please try again.", True),
        ('{"error": "timeout"}', True),
        ('{"status": "error", "message": "no"}', True),
        ('{"isError": true}', True),
        ('{"success": false}', True),
        ("", False),
        ("No errors were found", False),
        ("Errors: 0", False),
        ("FAILED: 5 failed, 3 passed", False),
        ('{"error": null, "data": [1]}', False),
        ('{"errors": [], "data": 1}', False),
        ('{"ok": true, "error": ""}', False),
        ("def error(): ...", False),
    ],
)
def test_what_a_failed_tool_looks_like(result: str, is_error: bool) -> None:
    assert failed(result) is is_error


# -- rules -----------------------------------------------------------------------------------------------------------


def judge(steps: Iterable[tuple[Asked, Answered | None]], loops: Loops | None = None) -> list[Verdict]:
    """What all rules say of these steps."""
    rules = loops or Loops()
    found: list[Verdict] = []
    for asked, answered in steps:
        found += [*rules.identical(asked), *rules.asked(asked)]
        if answered is not None:
            found += rules.answered(answered)
    return found


def grown(number: int, use: Use, answer: str = "") -> tuple[Asked, Answered]:
    """Step `number` of a conversation that grows by the use of a tool."""
    asked = Asked(number, "main", f"1:{number}", number, number * 100, read=True, after=number - 1, uses=(use,))
    return asked, Answered(number, "main", number, True, answer, 0 if answer else 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["read", "write", "search"]), st.sampled_from(["ok", "", "Error: x"]), st.integers(0, 2)
        ),
        max_size=120,
    )
)
def test_work_that_is_all_distinct_is_never_warned_about(work: list[tuple[str, str, int]]) -> None:
    """Whatever tools say, other arguments are other work; only a tool that keeps failing is another matter."""
    steps = []
    for number, (name, result, lane) in enumerate(work, 1):
        use = Use(name, f'{{"item":{number}}}', result, failed(result))
        asked, answered = grown(number, use)
        steps.append((Asked(number, f"main/{lane}[{number}]", *_rest(asked)), answered))
    assert {verdict.rule for verdict in judge(steps)} <= {"failing_tool"}


def _rest(asked: Asked) -> tuple[Any, ...]:
    return asked[2:]


@given(st.integers(1, 7), st.integers(0, 60), st.booleans())
def test_every_cycle_is_found_however_late_it_begins(length: int, healthy: int, wrong: bool) -> None:
    """After any number of healthy steps, steps that repeat are found, by a rule that fits their number."""
    steps = [grown(number, Use("work", str(number), "ok")) for number in range(1, healthy + 1)]
    loop = [Use(f"tool{index}", "{}", "same", wrong) for index in range(length)]
    steps += [grown(healthy + 1 + number, loop[number % length]) for number in range(length + 30)]
    found = judge(steps)
    first = {verdict.rule: verdict for verdict in reversed(found) if verdict.level == "stop"}
    if length == 1:
        expected = "repeated_error" if wrong else "repeated_tool"
        assert first[expected].steps[0] == healthy + 1
    elif length <= 4:
        assert first["cycle"].steps == tuple(range(healthy + 1, healthy + 3 * length + 1))
    else:
        assert first["growing_input"].count == 10


def test_what_is_kept_does_not_grow_with_the_trace() -> None:
    def size(steps: int) -> int:
        loops = Loops()
        for number in range(1, steps + 1):
            use = Use(f"tool{number}", f'{{"item":{number}}}', f"result {number} " * 20, number % 3 == 0)
            asked, answered = grown(number, use, f"answer {number}")
            judge([(Asked(number, f"main/{number}[0]", *_rest(asked)), answered)], loops)
        return _size(loops)

    enough = 9000  # more than anything is remembered of
    assert size(enough * 2) < size(enough) * 1.05


def _size(thing: object) -> int:
    seen: set[int] = set()
    total = 0
    waiting: list[object] = [thing]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        waiting += gc.get_referents(one)
    return total


def test_what_a_run_reads_does_not_grow_either() -> None:
    def remembered(steps: int) -> int:
        reader, splitter = Reader(), Splitter()
        operation = recognise("POST", "/v1/chat/completions", "openai")
        assert operation is not None
        for step in range(1, steps + 1):
            body = splitter.split(json.dumps({"messages": [{"role": "user", "content": str(step)}]}).encode(), "main")
            reader.request(step, "main", operation, "/v1/chat/completions", body)
            reader.answer(step, {"gen_ai.response.id": str(step)}, ())
        return _size(reader)

    assert remembered(2000) < remembered(1000) * 1.05


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [1, 2, {"role": 3}]}',
        b'{"messages": [{"role": "tool", "content": {"a": 1}}]}',
        b'{"messages": [{"role": "assistant", "tool_calls": [{"function": 7}]}, {"role": "tool"}]}',
        b'{"messages": "text"}',
        b'{"input": null}',
        b'{"model": "x"}',
        b"not JSON",
        b"",
    ],
)
def test_a_body_of_another_shape_is_no_error(body: bytes) -> None:
    operation = recognise("POST", "/v1/chat/completions", "openai")
    found = recorded.asked(
        Reader(), operation, "/v1/chat/completions", Splitter().split(body, "main"),
        step=1, lane="main", fingerprint="1:0", at=0, beside=False,
    )  # fmt: skip
    assert (found.step, found.size) == (1, len(body))
    assert judge([(found, None)]) == []


def test_the_same_at_once_counts_once() -> None:
    """Parallel calls in one turn, and identical requests that are under way together."""
    use = Use("look", "{}", "a room")
    steps = []
    for number in (1, 2):
        asked, answered = grown(number, use)
        rest = list(_rest(asked))
        rest[-2] = (use,) * 8
        steps.append((Asked(number, "main", *rest), answered))
    assert judge(steps) == []
    beside = [(Asked(number, "main", "1:same", beside=number > 1), None) for number in range(1, 30)]
    assert judge(beside) == []


def test_masks_are_compiled_once() -> None:
    assert masking._ALL.groups == masking._PASSING.groups == 0
