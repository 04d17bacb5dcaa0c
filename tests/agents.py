"""Agents that go in circles, and healthy ones: each a program of real SDK calls, in the protocol of its SDK.

The histories are the programs' own, so that they are the same in every run; what a model would have asked for is
written into them as if it had. The model `echo` says what it is told.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai

Ask = Callable[[list[Any], str], str]
"""A chat call with these messages to this model; its text."""

Agent = Callable[[Ask, int], None]
"""Makes up to so many calls."""

Turn = tuple[str, dict[str, Any], str]
"""A tool, its arguments, and its result."""

_ids = itertools.count(1)


def by_sdk(client: openai.OpenAI) -> Ask:
    """Calls of the OpenAI SDK."""

    def ask(messages: list[Any], model: str) -> str:
        answer = client.with_options(max_retries=0).chat.completions.create(model=model, messages=messages)
        return answer.choices[0].message.content or ""

    return ask


def by_stream(client: openai.OpenAI) -> Ask:
    """Streams of the OpenAI SDK."""

    def ask(messages: list[Any], model: str) -> str:
        chat = client.with_options(max_retries=0).chat
        stream = chat.completions.create(model=model, messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    return ask


def by_http(client: httpx2.Client) -> Ask:
    """Plain requests: the SDK takes 30 ms to check the types of a long history."""

    def ask(messages: list[Any], model: str) -> str:
        asked = {"model": model, "messages": messages}
        answer = client.post("https://api.example.org/v1/chat/completions", json=asked)
        return str(answer.json()["choices"][0]["message"]["content"])

    return ask


def in_memory() -> httpx2.Client:
    """A client whose server says something else every time, without a network."""
    numbers = itertools.count()

    def answer(request: httpx2.Request) -> httpx2.Response:
        message = {"role": "assistant", "content": f"answer {next(numbers)}"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return httpx2.Response(200, json={"id": "x", "model": "gpt-4o", "choices": choices, "usage": usage})

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def restart() -> None:
    """Begin with the first id again: what follows makes the same requests as the last time."""
    global _ids
    _ids = itertools.count(1)


def identifier() -> str:
    """An id that is new every time, as providers give them."""
    return f"call_{next(_ids):06d}abcdef"


def turn(*used: Turn) -> list[dict[str, Any]]:
    """The messages of a turn in which tools were used, as OpenAI's protocol has them."""
    calls = [(identifier(), *use) for use in used]
    asked = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for id, name, arguments, _ in calls
    ]
    results = [{"role": "tool", "tool_call_id": id, "content": result} for id, _, _, result in calls]
    return [{"role": "assistant", "content": None, "tool_calls": asked}, *results]


def converse(ask: Ask, turns: Iterator[list[dict[str, Any]]], calls: int, model: str = "gpt-4o") -> None:
    """One conversation that grows by a turn at a time."""
    messages: list[Any] = [
        {"role": "system", "content": "You are a careful agent. " + "Think before you act. " * 20},
        {"role": "user", "content": "Find out what is wrong with the build, please."},
    ]
    for _ in range(calls):
        ask(messages, model)
        messages += next(turns)


# -- what real incidents show ----------------------------------------------------------------------------------------


def same_call(ask: Ask, calls: int) -> None:
    """The same tool, the same arguments, the same result (but for its times and ids), while the history grows."""
    turns = (
        turn(
            (
                "search",
                {"query": "build log"},
                f'{{"hits": 0, "took": "{number} ms", "request_id": "req_{number:08d}"}}',
            )
        )
        for number in itertools.count()
    )
    converse(ask, turns, calls)


def same_error(ask: Ask, calls: int) -> None:
    turns = (
        turn(("read_file", {"path": "a.txt"}, f"Error: no such file (2026-11-25T10:00:{number % 60:02d}Z)"))
        for number in itertools.count()
    )
    converse(ask, turns, calls)


def back_and_forth(ask: Ask, calls: int) -> None:
    """A-B-A-B: list, read, list, read."""
    uses: itertools.cycle[Turn] = itertools.cycle(
        [("list", {"path": "."}, "a.txt b.txt"), ("read", {"path": "a.txt"}, "nothing")]
    )
    converse(ask, (turn(use) for use in uses), calls)


def retry_storm(ask: Ask, calls: int) -> None:
    """The call fails, the program swallows that and tries again, whatever it is told."""
    for _ in range(calls):
        try:
            ask([{"role": "user", "content": "Once more"}], "error-500")
        except Exception:
            continue


def monologue(ask: Ask, calls: int) -> None:
    """The model says the same again and again, and the program nudges it."""
    messages: list[Any] = [{"role": "user", "content": "Continue."}]
    for _ in range(calls):
        messages += [
            {"role": "assistant", "content": ask(messages, "echo")},
            {"role": "user", "content": "Continue."},
        ]


def silence(ask: Ask, calls: int) -> None:
    """Empty answers, and the program asks again."""
    messages: list[Any] = [{"role": "user", "content": "Are you there?"}, {"role": "user", "content": ""}]
    for number in range(calls):
        ask(messages, "echo")
        messages.insert(0, {"role": "user", "content": f"Attempt {number}"})


def ping_pong(ask: Ask, calls: int) -> None:
    """Two agents that hand the task to each other."""
    histories: list[list[Any]] = [[{"role": "system", "content": f"You are agent {name}"}] for name in "AB"]
    said = ["Please ask B, it is not mine.", "Please ask A, it is not mine."]
    for number in range(calls):
        own = number % 2
        histories[own].append({"role": "user", "content": said[1 - own]})
        ask(histories[own], "gpt-4o")
        histories[own].append({"role": "assistant", "content": said[own]})


def broken_tool(ask: Ask, calls: int) -> None:
    """One tool fails whatever it is given."""
    turns = (
        turn(("fetch", {"url": f"https://example.org/{number}"}, f'{{"error": "no route to host {number}"}}'))
        for number in itertools.count()
    )
    converse(ask, turns, calls)


def long_way_round(ask: Ask, calls: int) -> None:
    """Seven things done in turn, over and over: too long to be seen as a cycle, but nothing in it is new."""
    turns = (turn(("read", {"path": f"{number % 7}.txt"}, f"file {number % 7}")) for number in itertools.count())
    converse(ask, turns, calls)


def only_the_time_differs(ask: Ask, calls: int) -> None:
    """The same question in a conversation of its own each time; only the clock in the prompt has moved."""
    for number in range(calls):
        system = f"It is 2026-11-25T10:{number % 60:02d}:00Z."
        ask([{"role": "system", "content": system}, {"role": "user", "content": "Is there any news?"}], "gpt-4o")


# -- healthy ones ----------------------------------------------------------------------------------------------------


def pages(ask: Ask, calls: int) -> None:
    """A list read page by page, most of them empty but for their number."""
    turns = (
        turn(("list_items", {"page": number}, json.dumps({"page": number, "items": []})))
        for number in itertools.count()
    )
    converse(ask, turns, calls)


def editing(ask: Ask, calls: int) -> None:
    """One file edited again and again, with other content; the tool always says the same."""
    turns = (turn(("write", {"path": "a.py", "text": f"x = {number}"}, "ok")) for number in itertools.count())
    converse(ask, turns, calls)


def testing(ask: Ask, calls: int) -> None:
    """An edit, a test run with another outcome, and now and then a look at the same file."""
    turns = itertools.chain.from_iterable(
        (
            turn(("edit", {"path": "a.py", "old": f"{number}", "new": f"{number + 1}"}, "The file was edited.")),
            turn(("run_tests", {}, f"FAILED: {97 - number % 90} failed, {number} passed in 0.{number % 10}s")),
            turn(("read", {"path": "b.py"}, "def unchanged(): ...")),
        )
        for number in itertools.count()
    )
    converse(ask, turns, calls)


def same_tests(ask: Ask, calls: int) -> None:
    """After each edit the tests pass, in the same words."""
    turns = itertools.chain.from_iterable(
        (
            turn(("edit", {"path": "a.py", "line": number}, "The file was edited.")),
            turn(("run_tests", {}, "12 passed in 0.31s")),
        )
        for number in itertools.count()
    )
    converse(ask, turns, calls)


def many_at_once(ask: Ask, calls: int) -> None:
    """Parallel calls of tools in one turn, some of them the same."""
    turns = (
        turn(
            ("clock", {}, "12:00:00"),
            ("clock", {}, "12:00:00"),
            ("clock", {}, "12:00:01"),
            ("fetch", {"id": number}, f"item {number}"),
        )
        for number in itertools.count()
    )
    converse(ask, turns, calls)


def one_by_one(ask: Ask, calls: int) -> None:
    """A conversation of its own for each of many things, all answered alike."""
    for number in range(calls):
        ask([{"role": "user", "content": f"Is letter {number} spam? yes or no"}], "gpt-4o")


def chatting(ask: Ask, calls: int) -> None:
    """Somebody asks other things all the time, and the answers are short and alike."""
    messages: list[Any] = []
    for number in range(calls):
        messages.append({"role": "user", "content": f"Is {number} a number?"})
        ask(messages, "gpt-4o")
        messages.append({"role": "assistant", "content": "Yes."})


def waiting(sleep: Callable[[float], None]) -> Agent:
    """A job is looked at until it is done; the tool waits a while before it answers."""

    def agent(ask: Ask, calls: int) -> None:
        def turns() -> Iterator[list[dict[str, Any]]]:
            while True:
                sleep(10)
                yield turn(("job", {"id": 7}, "pending"))

        converse(ask, turns(), calls)

    return agent


def polling(ask: Ask, calls: int) -> None:
    """The same without any wait: a loop, unless the tool is known to be one that polls."""
    converse(ask, (turn(("job_status", {"id": 7}, "pending")) for _ in itertools.count()), calls)
