"""Does an explanation say what was changed? `python -m benchmarks.mutations [--each N] [--seed N]`; 1 below the bars.

Agents are recorded: a plan, research by calls that know nothing of each other, then a conversation with tools that is
given what was found. Each is replayed strictly with one thing changed, 25 times for each of eight kinds of change, and
the error is held against what was changed: the step at which the replay leaves its trace, the field, and the kind.

A turn left out and a turn put off until after the next look the same where the replay stops: the next turn's question
in place of this one's. Both are among the changes, and the kind of one of them is always missed.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
from rich.console import Console
from rich.table import Table

import escapement
from escapement.words.config import variable
from tests.provider import Provider

_STEPS_AND_FIELDS, _KINDS = 195 / 200, 180 / 200
_AGENTS = 8

_WORDS = [
    "river", "harbour", "winter", "engine", "market", "garden", "signal", "copper",
    "letter", "bridge", "island", "mirror", "budget", "survey", "carbon", "museum",
    "border", "ticket", "planet", "journal", "festival", "railway", "vaccine", "turbine",
    "orchard", "satellite", "archive", "glacier", "pension", "reactor",
]  # fmt: skip
_TASKS = (
    "Write a short report on the {} of the {} and what it means for the {}.",
    "Compare the {} with the {} and say which of them the {} should use.",
    "Find out why the {} failed after the {} was moved to the {}.",
)
_TOPICS = (
    "Collect what is known about the {} and its {} as of {now}.",
    "Which {} did the {} have at {now}? Give numbers and sources.",
    "List three arguments for the {} and three against the {}; state of {now}.",
    "Summarise the history of the {} in the {} up to {now}, in plain words.",
    "Who is responsible for the {} near the {}, and since when? It is {now}.",
)
_TURNS = (
    "Now write the introduction about the {}, two sentences.",
    "Check the part on the {} for mistakes and fix them ({now}).",
    "The {} is missing; look it up and add a paragraph.",
    "Make the paragraph on the {} shorter and clearer.",
    "At {now} the client asked for a table of every {}: add it.",
    "Translate the summary about the {} into simple English.",
    "Finish with a conclusion on the {} and the {}.",
)
_EXTRA = (
    "Is there anything offensive in this? Answer yes or no.",
    "Say hello.",
    "Rate your confidence from one to ten and explain briefly.",
    "Give this conversation a title of at most five words.",
)
_TOOLS = ("search", "read_page", "calculate", "save_note", "ask_colleague")
_MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o4-mini")
_CLOCKS = (
    "2026-11-{:02}T10:{:02}:07Z",
    "{} November 2026",
    "November {}, 2026 10:{:02} AM",
    "10:{:02}:{:02}",
    "17954{:02}3{:02}",
)


@dataclass
class Plan:
    """An agent, as far as it may be changed. Clocks and settings are of one call, or of a turn and all after it."""

    seed: int
    task: str
    topics: list[str]
    turns: list[str]
    notes_apart: bool
    """What was found goes into the conversation as messages of their own, and not in one text."""
    responses: bool
    """Research is done by the Responses API."""
    clock: str
    now: dict[str, str] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)
    temperature: dict[str, float] = field(default_factory=dict)
    tools: dict[str, list[str]] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    """Calls that are made before the one of this name."""


@dataclass
class Log:
    """Where the calls of an agent were: their steps, and the field that says what each asks."""

    steps: dict[str, int] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    count: int = 0


@dataclass(frozen=True)
class Truth:
    """What was changed: the step at which the replay leaves its trace, the field, the kind; and the step left out."""

    kind: str
    step: int
    field: str
    left_out: int = 0


def design(seed: int) -> Plan:
    """An agent."""
    chance = random.Random(seed)

    def fill(text: str) -> str:
        return text.replace("{now}", "\0").format(*chance.sample(_WORDS, 4)).replace("\0", "{now}")

    return Plan(
        seed=seed,
        task=fill(chance.choice(_TASKS)),
        topics=[fill(text) for text in chance.sample(_TOPICS, 4)],
        turns=[fill(text) for text in chance.sample(_TURNS, 6)],
        notes_apart=seed % 2 == 1,
        responses=seed % 4 >= 2,
        clock=chance.choice(_CLOCKS),
    )


def run(plan: Plan, client: openai.OpenAI) -> Log:
    """The agent at work."""
    log = Log()

    def setting(values: dict[str, Any], name: str, otherwise: Any) -> Any:
        turn = int(name[5:]) if name.startswith("turn ") else -1
        earlier = [f"turn {number}" for number in range(turn, -1, -1)]
        return next((values[key] for key in (name, *earlier) if key in values), otherwise)

    def say(name: str, text: str) -> str:
        return text.replace("{now}", setting(plan.now, name, plan.clock.format(22, 14)))

    def call(name: str, place: str, **request: Any) -> Any:
        log.count += 1
        log.steps.setdefault(name, log.count)
        log.fields.setdefault(name, place)
        request |= {"model": setting(plan.model, name, "gpt-4o"), "temperature": setting(plan.temperature, name, 0.2)}
        if "input" in request:
            return client.responses.create(**request).output_text
        return client.chat.completions.create(**request).choices[0].message

    def ask(name: str, system: str, text: str) -> str:
        if plan.responses:
            return str(call(name, "input", instructions=system, input=text))
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        return str(call(name, "messages[1].content", messages=messages).content)

    def look_up(name: str) -> None:
        if name in plan.extra and not name.startswith("turn "):
            ask(f"extra {name}", "You are a careful assistant.", plan.extra[name])

    found = []
    ask("plan", say("plan", "You plan research. Today is {now}."), plan.task)
    for topic in plan.topics:
        name = topic.partition("\t")[0]
        look_up(name)
        found.append(ask(name, "You are a researcher.", say(name, topic.partition("\t")[2])))
    look_up("talk")

    messages: list[Any] = [{"role": "system", "content": say("talk", "You write reports. It is {now}.")}]
    if plan.notes_apart:
        messages += [{"role": "user", "content": f"Note: {note}"} for note in found]
    else:
        messages.append({"role": "user", "content": "\n".join(["Notes:", *(repr(note) for note in found)])})
    log.fields["notes"] = "messages[1]" if plan.notes_apart else "messages[1].content"
    for turn in plan.turns:
        name, _, text = turn.partition("\t")
        for asked in ([plan.extra[name]] if name in plan.extra else []) + [say(name, text)]:
            messages.append({"role": "user", "content": asked})
            place = f"messages[{len(messages) - 1}].content"
            tools = [
                {
                    "type": "function",
                    "function": {"name": tool, "description": f"To {tool}.", "parameters": _PARAMETERS},
                }
                for tool in setting(plan.tools, name, _TOOLS)
            ]
            answer = call(name, place, messages=messages, tools=tools)
            while answer.tool_calls:
                messages.append(answer.model_dump(exclude_none=True))
                messages += [
                    {"role": "tool", "tool_call_id": tool.id, "content": f"{tool.function.name}: done"}
                    for tool in answer.tool_calls
                ]
                answer = call(name, place, messages=messages, tools=tools)
            messages.append({"role": "assistant", "content": answer.content})
    return log


_PARAMETERS = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


# -- changes ---------------------------------------------------------------------------------------------------------

Change = Callable[[Plan, Log, random.Random], Truth]


def changed_word(plan: Plan, log: Log, chance: random.Random) -> Truth:
    where = chance.choice(["plan", "topics", "turns"])
    if where == "plan":
        plan.task = _other_word(plan.task, chance)
        return Truth("changed_prompt", log.steps["plan"], log.fields["plan"])
    texts = getattr(plan, where)
    at = chance.randrange(len(texts))
    name, tab, text = texts[at].partition("\t")
    texts[at] = name + tab + _other_word(text, chance)
    return Truth("changed_prompt", log.steps[name], log.fields[name])


def _other_word(text: str, chance: random.Random) -> str:
    words = text.split()
    at = chance.choice([number for number, word in enumerate(words) if word.strip(".,").isalpha() and len(word) > 3])
    words[at] = chance.choice([word for word in _WORDS if word not in text])
    return " ".join(words)


def new_timestamp(plan: Plan, log: Log, chance: random.Random) -> Truth:
    dated = [text.partition("\t")[0] for text in plan.topics + plan.turns if "{now}" in text]
    name = chance.choice([*dated, "plan", "talk"])
    plan.now[name] = plan.clock.format(chance.randint(23, 28), chance.randint(15, 59))
    if name == "plan":
        return Truth("timestamp", 1, "instructions" if plan.responses else "messages[0].content")
    if name == "talk":
        return Truth("timestamp", log.steps["turn 0"], "messages[0].content")
    return Truth("timestamp", log.steps[name], log.fields[name])


def removed_tool(plan: Plan, log: Log, chance: random.Random) -> Truth:
    name = f"turn {chance.randrange(len(plan.turns))}"
    at = chance.randrange(len(_TOOLS))
    plan.tools[name] = [*_TOOLS[:at], *_TOOLS[at + 1 :]]
    return Truth("removed_tool", log.steps[name], f"tools[{at}]")


def swapped_order(plan: Plan, log: Log, chance: random.Random) -> Truth:
    texts = chance.choice([plan.topics, plan.turns])
    first, second = sorted(chance.sample(range(len(texts)), 2))
    texts[first], texts[second] = texts[second], texts[first]
    if texts is plan.topics:
        place = f"messages[{first + 1}]" if plan.notes_apart else log.fields["notes"]
        return Truth("swapped_order", log.steps["turn 0"], place)
    return Truth("swapped_order", log.steps[f"turn {first}"], log.fields[f"turn {first}"])


def dropped_call(plan: Plan, log: Log, chance: random.Random) -> Truth:
    if chance.random() < 0.5:
        at = chance.randrange(len(plan.topics))
        plan.topics.pop(at)
        place = f"messages[{at + 1}]" if plan.notes_apart else log.fields["notes"]
        return Truth("dropped_call", log.steps["turn 0"] - 1, place, left_out=log.steps[f"topic {at}"])
    at = chance.randrange(len(plan.turns) - 1)
    plan.turns.pop(at)
    name = f"turn {at}"
    return Truth("dropped_call", log.steps[name], log.fields[name], left_out=log.steps[name])


def extra_call(plan: Plan, log: Log, chance: random.Random) -> Truth:
    kind = chance.choice(["again", "new", "turn"])
    if kind == "turn":
        name = f"turn {chance.randrange(len(plan.turns))}"
        plan.extra[name] = chance.choice(_EXTRA)
        return Truth("extra_call", log.steps[name], log.fields[name])
    at = chance.randrange(1, len(plan.topics))
    if kind == "again":
        name, _, text = plan.topics[at].partition("\t")
        plan.topics.insert(at, f"{name}\t{text}")
        return Truth("extra_call", log.steps[name] + 1, "")
    plan.extra[f"topic {at}"] = chance.choice(_EXTRA)
    place = "input" if plan.responses else "messages"
    return Truth("extra_call", log.steps[f"topic {at}"], place)


def other_model(plan: Plan, log: Log, chance: random.Random) -> Truth:
    name = chance.choice(list(log.steps))
    plan.model[name] = chance.choice(_MODELS[1:])
    return Truth("changed_model", log.steps[name], "model")


def other_temperature(plan: Plan, log: Log, chance: random.Random) -> Truth:
    name = chance.choice(list(log.steps))
    plan.temperature[name] = chance.choice([0.0, 0.7, 1.0])
    return Truth("changed_parameter", log.steps[name], "temperature")


CHANGES: tuple[Change, ...] = (
    changed_word, new_timestamp, removed_tool, swapped_order, dropped_call, extra_call, other_model, other_temperature,
)  # fmt: skip


# -- what was said about them ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """One change and what was said about it."""

    change: str
    truth: Truth
    error: escapement.ReplayDivergenceError | None

    @property
    def placed(self) -> bool:
        """Whether step and field are right."""
        error, truth = self.error, self.truth
        if error is None or error.step != truth.step:
            return False
        if truth.left_out and (error.expected or {}).get("step") != truth.left_out:
            return False
        return error.field == truth.field or (
            truth.field != "" and error.field.startswith((f"{truth.field}.", f"{truth.field}["))
        )

    @property
    def named(self) -> bool:
        return self.error is not None and self.error.kind == self.truth.kind


def examine(each: int, seed: int, agents: int = _AGENTS) -> Iterator[Judged]:
    """Record agents, change each in every way, `each` times a way in all, and replay it strictly."""
    with Provider() as provider, openai.OpenAI(api_key="k", base_url=f"{provider.base_url}/v1") as client:
        recorded = []
        for number in range(agents):
            plan = design(seed * 1000 + number)
            plan.topics = [f"topic {at}\t{text}" for at, text in enumerate(plan.topics)]
            plan.turns = [f"turn {at}\t{text}" for at, text in enumerate(plan.turns)]
            with escapement.init("agent") as trace:
                log = run(plan, client)
            recorded.append((plan, log, trace.trace_id))
        sent = provider.count
        chance = random.Random(seed)
        for change in CHANGES:
            for number in range(each):
                plan, log, trace_id = recorded[number % agents]
                mutant = copy.deepcopy(plan)
                truth = change(mutant, log, chance)
                error = None
                with escapement.replay(trace_id, strict_replay=True):
                    try:
                        run(mutant, client)
                    except escapement.ReplayDivergenceError as raised:
                        error = raised
                yield Judged(change.__name__, truth, error)
        assert provider.count == sent, "a strict replay sent something"


def main() -> None:
    """Print the table, and what was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--each", type=int, default=25, help="changes of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--missed", action="store_true", help="show the explanations that were wrong")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        config = {"storage_dir": folder, "sealing": "manual"}
        os.environ |= {variable(name): value for name, value in config.items()}
        judged = list(examine(options.each, options.seed))
    table = Table("change", "of", "step and field", "kind", title="Explanations of divergence")
    for column in table.columns[1:]:
        column.justify = "right"
    for change in CHANGES:
        of = [one for one in judged if one.change == change.__name__]
        table.add_row(change.__name__.replace("_", " "), *_counts(of))
    table.add_section()
    table.add_row("all", *_counts(judged))
    table.add_row("at least", "", *(f"{share * len(judged):.0f}" for share in (_STEPS_AND_FIELDS, _KINDS)))
    console.print(table)
    for one in judged if options.missed else ():
        if not (one.placed and one.named):
            said = (
                f"{one.error.kind} at step {one.error.step} {one.error.field}" if one.error is not None else "nothing"
            )
            print(f"\n{one.change}: {one.truth}\n  said: {said}\n{one.error}")
    placed, named = sum(one.placed for one in judged), sum(one.named for one in judged)
    sys.exit(placed < _STEPS_AND_FIELDS * len(judged) or named < _KINDS * len(judged))


def _counts(judged: list[Judged]) -> tuple[str, str, str]:
    return str(len(judged)), str(sum(one.placed for one in judged)), str(sum(one.named for one in judged))


if __name__ == "__main__":
    main()
