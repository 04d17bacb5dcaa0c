"""What all guards together cost a call: `python -m benchmarks.guards [--quick]`.

A conversation that grows by a tool call and its result (1.25 KB) at every step, at its tenth step and at its
thousandth: CPU time of this process for the two things that a run asks its guards, before a request is sent and after
its answer is there. Cutting the request into pieces is not part of it: recording does that anyway. The noise is the
ratio of two halves of the same measurements.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from rich.console import Console
from rich.table import Table

from escapement.engine import usage
from escapement.engine.guards import Guards
from escapement.providers import answer_document, recognise
from escapement.store.pieces import Body, Splitter
from escapement.store.prices import Prices
from escapement.words import semconv
from escapement.words.config import resolve
from escapement.words.http import Request

_BAR = 50.0
_PATH = "/v1/chat/completions"
_ORIGIN = httpx.URL("https://api.openai.com")
_PRICES = Prices()  # looked up once a model
_AROUND = 10  # steps that are measured together
_BUDGETS: dict[str, Any] = {"max_calls": 10**6, "max_tokens": 10**9, "max_cost": 1e6, "max_duration": "30d"}


@dataclass(frozen=True, slots=True)
class Step:
    body: Body
    document: dict[str, Any]
    asked: dict[str, Any]
    answered: dict[str, Any]


def conversation(length: int) -> list[Step]:
    """Steps of a healthy agent: every call of a tool is another one, and so is what it says."""
    chance = random.Random(7)
    words = [f"{chance.choice('bdfgklmnprst')}{chance.choice('aeiou')}{number % 10}x" for number in range(200)]

    def text(size: int) -> str:
        said = ""
        while len(said) < size:
            said += chance.choice(words) + " "
        return said

    messages: list[Any] = [{"role": "system", "content": text(2000)}, {"role": "user", "content": text(300)}]
    splitter = Splitter()
    steps = []
    operation = recognise("POST", _PATH, "openai")
    assert operation is not None
    for number in range(1, length + 1):
        raw = orjson.dumps({"model": "gpt-4o", "messages": messages})
        function = {"name": "search", "arguments": orjson.dumps({"query": text(60), "page": number}).decode()}
        said = {
            "role": "assistant",
            "content": text(100),
            "tool_calls": [{"id": f"call_{number:020d}", "type": "function", "function": function}],
        }
        choice = {"index": 0, "message": said, "finish_reason": "tool_calls"}
        answer = orjson.dumps({"id": f"chatcmpl-{number}", "model": "gpt-4o", "choices": [choice]})
        document = dict(answer_document(operation, answer, "application/json"))
        asked = {semconv.STEP: number, semconv.LANE: "main", semconv.PROVIDER_NAME: "openai"}
        asked[semconv.FINGERPRINT] = f"1:{number}"
        asked[semconv.REQUEST_MODEL] = "gpt-4o"
        answered = {semconv.STATUS: 200, semconv.RESPONSE_ID: f"chatcmpl-{number}", semconv.RESPONSE_MODEL: "gpt-4o"}
        answered |= {semconv.USAGE_INPUT_TOKENS: len(raw) // 4, semconv.USAGE_OUTPUT_TOKENS: 50}
        steps.append(Step(splitter.split(raw, "main"), document, asked, answered))
        messages += [said, {"role": "tool", "tool_call_id": f"call_{number:020d}", "content": text(1000)}]
    return steps


def measure(steps: list[Step], **settings: Any) -> dict[int, float]:
    """Microseconds of CPU time a call around the tenth step, and at the end."""
    guards = Guards(resolve(None, settings), _PRICES, _say, None)
    operation = recognise("POST", _PATH, "openai")
    assert operation is not None
    windows = {10: 0, len(steps): 0}
    for number, step in enumerate(steps, 1):
        request = Request("POST", _ORIGIN, _PATH, "", (), step.body.raw)
        use = usage.use_of(step.asked, step.answered, time.time_ns())  # which the run itself has made
        began = time.process_time_ns()
        error = guards.asked(number, "main", f"1:{number}", request, operation, step.body, None, "tr_0")
        guards.sent(f"1:{number}")
        guards.answered(step.asked, step.answered, operation, step.document, use)
        spent = time.process_time_ns() - began
        assert error is None
        assert not guards.broken
        for end in windows:
            if end - _AROUND < number <= end:
                windows[end] += spent
    return {end: spent / _AROUND / 1000 for end, spent in windows.items()}


def _say(message: str) -> None:
    raise AssertionError(f"a healthy run was warned about: {message}")


def main() -> None:
    """Print the table. A busy machine is no defect: times are for people to judge."""
    quick = "--quick" in sys.argv
    length, rounds = (200, 10) if quick else (1000, 40)
    steps = conversation(length)
    measure(steps, **_BUDGETS)  # prices are loaded
    table = Table(
        box=None, pad_edge=False, header_style="bold", title="All guards, CPU time a call", title_justify="left"
    )
    for title in ("GUARDS", "STEP", "MEDIAN", "QUARTILES", "NOISE", "BAR"):
        table.add_column(title, justify="left" if title == "GUARDS" else "right")
    for name, settings in (("by default", {}), ("and all budgets", _BUDGETS)):
        found = [measure(steps, **settings) for _ in range(rounds)]
        for end in (10, length):
            values = [one[end] for one in found]
            low, middle, high = statistics.quantiles(values, n=4)
            noise = statistics.median(values[::2]) / statistics.median(values[1::2])
            bar = f"{_BAR:.0f} µs{' missed' if middle > _BAR else ''}"
            table.add_row(name, f"{end:,}", f"{middle:.1f} µs", f"{low:.1f}-{high:.1f}", f"{noise:.3f}", bar)
    Console().print(table)


if __name__ == "__main__":
    main()
