"""Cutting bodies: joined pieces are the body, incremental cutting is full cutting, and a conversation stays linear."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from escapement.store import pieces
from escapement.store.pieces import Delta, Splitter, join

# Slow machines are no finding.
settings.register_profile("escapement", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("escapement")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
messages = st.lists(st.dictionaries(st.text(max_size=8), documents, max_size=3), max_size=8)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Request bodies with long arrays in any place, in any layout, some of them of no known shape."""
    fields: dict[str, Any] = draw(st.dictionaries(st.text(max_size=6), documents, max_size=3))
    for name in draw(st.lists(st.sampled_from(sorted(pieces.ARRAYS)), unique=True, max_size=3)):
        fields[name] = draw(messages)
    if draw(st.booleans()):
        fields["padding"] = "x" * 3000  # past what is kept whole
    layout: dict[str, Any] = draw(
        st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
    )
    return json.dumps(fields, **layout).encode("utf-8", "surrogatepass")


def keep(splitter: Splitter, raw: bytes, lane: str, step: int, kept: dict[str, bytes]) -> Delta:
    delta, new = splitter.describe(splitter.split(raw, lane), lane, step)
    assert not kept.keys() & new.keys(), "a piece was given out twice"
    kept.update(new)
    return delta


def rebuild(deltas: dict[int, Delta], step: int, kept: dict[str, bytes]) -> bytes:
    chain: list[Delta] = []
    while step:
        chain.append(deltas[step])
        step = deltas[step].base
    ids: list[str] = []
    for delta in reversed(chain):
        ids = delta.apply(ids)
    return join(ids, kept)


@given(st.lists(st.tuples(bodies() | st.binary(max_size=40), st.sampled_from("ab")), max_size=6))
def test_any_bodies_come_back_byte_for_byte(raws: list[tuple[bytes, str]]) -> None:
    splitter, kept, deltas = Splitter(), dict[str, bytes](), dict[int, Delta]()
    for step, (raw, lane) in enumerate(raws, 1):
        deltas[step] = keep(splitter, raw, lane, step, kept)
    for step, (raw, _) in enumerate(raws, 1):
        assert rebuild(deltas, step, kept) == raw


edits = st.lists(
    st.tuples(
        st.sampled_from(["append", "pop", "change", "insert", "tool", "field", "repeat"]), st.integers(0, 50), documents
    ),
    max_size=10,
)


@given(messages, edits, st.booleans(), st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 2}]))
def test_a_conversation_cut_step_by_step_is_cut_as_from_nothing(
    first: list[dict[str, Any]], changes: list[tuple[str, int, Any]], ascii_only: bool, layout: dict[str, Any]
) -> None:
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "system", "content": "s" * 2500}, *first],
        "temperature": 0.5,
        "tools": [{"n": 1}],
    }
    splitter, kept, deltas, raws = Splitter(), dict[str, bytes](), dict[int, Delta](), dict[int, bytes]()
    for step, (what, where, value) in enumerate([("repeat", 0, None), *changes], 1):
        if what == "append":
            body["messages"].append({"role": "user", "content": value})
        elif what == "pop" and body["messages"]:
            body["messages"].pop(where % len(body["messages"]))
        elif what == "change" and body["messages"]:
            body["messages"][where % len(body["messages"])] = {"changed": value}
        elif what == "insert":
            body["messages"].insert(where % (len(body["messages"]) + 1), {"inserted": value})
        elif what == "tool":
            body["tools"].append({"tool": value})
        elif what == "field":
            body[f"field{where}"] = value
        raw = json.dumps(body, ensure_ascii=ascii_only, **layout).encode("utf-8", "surrogatepass")
        raws[step] = raw
        cut = splitter.split(raw, "main")
        assert cut.canonical() == Splitter().split(raw, "main").canonical()
        assert b"".join(raw[a:b] for a, b in zip([0, *cut.ends], cut.ends, strict=False)) == raw
        deltas[step] = keep(splitter, raw, "main", step, kept)
    for step, raw in raws.items():
        assert rebuild(deltas, step, kept) == raw


@given(bodies())
def test_short_and_long_bodies_have_one_canonical_form(raw: bytes) -> None:
    whole, cut = pieces._whole(raw, None), pieces._cut(raw + b" " * 2100, None)
    if whole is not None and cut.parsed:
        assert whole.canonical() == cut.canonical()


@given(bodies(), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_count(raw: bytes, random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffled(item)) for key, item in value.items()]
            random.shuffle(items)
            return dict(items)
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return
    other = json.dumps(shuffled(document)).encode()
    assert Splitter().split(raw, "").canonical() == Splitter().split(other, "").canonical()


@given(messages, st.integers(0, 20), documents)
def test_a_change_counts(first: list[dict[str, Any]], where: int, value: Any) -> None:
    changed = list(first)
    if changed:
        changed[where % len(changed)] = {"v": value}
    else:
        changed.append({"v": value})
    one, other = (json.dumps({"messages": m, "pad": "x" * 3000}).encode() for m in (first, changed))
    same = orjson.dumps(first, option=orjson.OPT_SORT_KEYS) == orjson.dumps(changed, option=orjson.OPT_SORT_KEYS)
    assert (Splitter().split(one, "").canonical() == Splitter().split(other, "").canonical()) == same


def test_a_growing_conversation_is_kept_once() -> None:
    splitter, kept, deltas = Splitter(), dict[str, bytes](), dict[int, Delta]()
    history: list[dict[str, str]] = []
    sizes = {}
    described = 0
    for step in range(1, 401):
        history += [
            {"role": "user", "content": f"{step} " + "a" * 600},
            {"role": "assistant", "content": f"{step} " + "b" * 600},
        ]
        raw = json.dumps({"model": "m", "messages": history, "tools": [{"name": "t" * 300}]}).encode()
        deltas[step] = keep(splitter, raw, "main", step, kept)
        described += len(orjson.dumps(deltas[step]))
        sizes[step] = sum(map(len, kept.values())) + described
        if step % 100 == 0:
            assert rebuild(deltas, step, kept) == raw
    assert sizes[400] < 2.1 * sizes[200]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[1, 2]",
        b"not json",
        b"\xff\xfe{}",
        b'{"messages": [{"a": 1}',
        b'{"messages": [{"a": 1}]} trailing',
        b'{"messages": [{"a": 1}], "messages": [{"a": 2}]}',
        b'{"messages": [{"a": 1} {"b": 2}]}',
        b'{"n": 123456789012345678901234567890}',
        b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_what_is_no_plain_object_is_kept_whole(raw: bytes) -> None:
    for padded in (raw, raw + b" " * 3000):
        kept: dict[str, bytes] = {}
        delta = keep(Splitter(), padded, "main", 1, kept)
        assert join(delta.apply([]), kept) == padded


def test_after_a_loss_bodies_are_described_from_nothing() -> None:
    splitter = Splitter()
    raws = [json.dumps({"messages": [{"n": n, "t": "x" * 3000} for n in range(count)]}).encode() for count in (3, 4, 5)]
    keep(splitter, raws[0], "main", 1, {})
    keep(splitter, raws[1], "main", 2, {})
    splitter.reset()
    kept: dict[str, bytes] = {}
    delta = keep(splitter, raws[2], "main", 3, kept)
    assert delta.base == 0
    assert join(delta.apply([]), kept) == raws[2]
