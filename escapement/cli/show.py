"""`escapement show`: a trace's steps as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from escapement.cli import output
from escapement.cli.overview import Overview, model_of
from escapement.engine import usage
from escapement.engine.lanes import ROOT
from escapement.engine.providers import answer_document, recognise
from escapement.engine.providers.operation import Message
from escapement.store.rows import StepRow, TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.config import resolve
from escapement.words.errors import StoreError


def show(
    trace: Annotated[
        str, typer.Argument(help="Id, a unique start of one, @last, or @-2 for the one before.")
    ] = "@last",
    content: Annotated[bool, typer.Option("--content", "-c", help="With messages, tool calls and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show the steps of a trace: what was asked of which model, how long it took, what it used."""
    store = SpanStore(resolve().storage_dir)
    row = store.load(store.resolve(trace))
    if as_json:
        output.print_json(_document(row, content))
        return
    console = output.console()
    console.print(_head(Overview.of(row)))
    if not row.steps:
        console.print("  no steps were recorded")
    console.print(_tree(row, content))


def _head(overview: Overview) -> Text:
    row = overview.row
    style = output.STATUS_STYLES.get(row.status, "")
    head = Text.assemble((row.trace_id, "bold"), "  ", (output.plain(row.name), "bold"), "  ", (overview.status, style))
    facts = [
        f"{overview.steps} step{'s' if overview.steps != 1 else ''}",
        f"{output.tokens(overview.input_tokens)} → {output.tokens(overview.output_tokens)} tokens",
        output.cost(overview.cost) if overview.cost is not None else "cost unknown",
        output.duration(overview.duration),
        output.moment(row.created),
    ]
    head.append("\n" + " · ".join(facts), "dim")
    if row.parent:
        head.append(f"\nforked from {row.parent}")
    if row.tags:
        head.append(f"\ntags: {output.plain(', '.join(row.tags))}")
    if row.lost:
        head.append(f"\nINCOMPLETE: {row.lost} steps could not be written while it ran", "red")
    if row.damaged:
        head.append(f"\nINCOMPLETE: {row.damaged} damaged lines in its journal were passed over", "red")
    if row.error:
        head.append(f"\n{output.plain(row.error)}", "red")
    return head


def _tree(row: TraceRow, content: bool) -> RenderableType:
    """Steps in order, those of a branch under it. Lines are a table, so that numbers stand under each other."""
    tree = Tree("", hide_root=True, guide_style="dim")
    branches = {ROOT: tree}
    before: dict[str, list[Message]] = {}
    titles = [_title(step) for step in row.steps]
    width = max((len(title) for title in titles), default=0)
    for step, title in zip(row.steps, titles, strict=True):
        parts: list[RenderableType] = [_line(step, title, min(width, 44), len(str(len(row.steps))))]
        if content:
            parts += [Padding(text, (0, 0, 0, 4), expand=False) for text in _content(row, step, before)]
        _branch(tree, branches, step.lane).add(Group(*parts))
    return tree


def _branch(tree: Tree, branches: dict[str, Tree], lane: str) -> Tree:
    if lane not in branches:
        parent, _, name = lane.rpartition("/")
        branches[lane] = _branch(tree, branches, parent).add(Text(name, "cyan")) if parent else tree
    return branches[lane]


def _title(step: StepRow) -> str:
    return output.plain(step.name) or "(gone)"


def _line(step: StepRow, title: str, width: int, digits: int) -> RenderableType:
    attributes = step.attributes
    line = Table.grid(padding=(0, 2))
    line.add_column(no_wrap=True, min_width=digits, justify="right")
    line.add_column(no_wrap=True, min_width=width, overflow="ellipsis", max_width=width)
    line.add_column(no_wrap=True, min_width=8, justify="right")
    line.add_column(no_wrap=True, min_width=13, justify="right")
    line.add_column(no_wrap=True, min_width=7, justify="right")
    line.add_column(overflow="fold")
    asked, said = attributes.get(semconv.USAGE_INPUT_TOKENS), attributes.get(semconv.USAGE_OUTPUT_TOKENS)
    used = f"{output.tokens(asked or 0)} → {output.tokens(said or 0)}" if asked is not None or said is not None else ""
    price = output.cost(usage.cost_of([attributes])) if used else ""
    notes, style = _notes(step)
    line.add_row(str(step.step), escape(title), output.duration(step.duration), used, price, Text(notes, style))
    return line


def _notes(step: StepRow) -> tuple[str, str]:
    attributes = step.attributes
    notes: list[str] = []
    style = ""
    if step.source is not None:
        notes.append(f"from {step.source[0]} step {step.source[1]}")
        style = "dim"
    if semconv.RESPONSE_CHUNKS in attributes:
        notes.append("stream")
    if semconv.ATTEMPTS in attributes:
        notes.append(f"{len(attributes[semconv.ATTEMPTS])} attempts")
    if attributes.get(semconv.RESPONSE_ENDING) == "dropped":
        notes.append("not read to its end")
    if step.end is None:
        notes.append("no answer")
        style = "yellow"
    elif semconv.FAILURE_TYPE in attributes:
        notes.append(f"{attributes[semconv.FAILURE_TYPE]}: {output.plain(attributes.get(semconv.FAILURE_MESSAGE, ''))}")
        style = "red"
    elif attributes.get(semconv.STATUS, 200) >= 400:
        notes.append(f"HTTP {attributes[semconv.STATUS]}")
        style = "red"
    return " · ".join(notes), style


def _content(row: TraceRow, step: StepRow, before: dict[str, list[Message]]) -> list[RenderableType]:
    """Messages that are new since the last step of the same branch, then the answer."""
    asked, said, error = messages(row, step)
    known = before.get(step.lane, [])
    same = 0
    while same < min(len(known), len(asked)) and known[same] == asked[same]:
        same += 1
    before[step.lane] = [*asked, *said]
    lines: list[RenderableType] = []
    if same:
        lines.append(Text(f"… {same} message{'s' if same != 1 else ''} as before", "dim"))
    lines += [_message(message, "blue") for message in asked[same:]]
    lines += [_message(message, "green") for message in said]
    if error:
        lines.append(Text(output.plain(error), "red"))
    return lines


def _message(message: Message, style: str) -> Text:
    text = Text.assemble((f"{output.plain(message.role)}: ", f"bold {style}"), output.plain(message.text.rstrip()))
    for call in message.tool_calls:
        text.append(f"\n  calls {output.plain(call)}" if message.text else f"calls {output.plain(call)}", "magenta")
    return text


def messages(row: TraceRow, step: StepRow) -> tuple[Sequence[Message], Sequence[Message], str]:
    """What a step asked and was told, and the error it got instead."""
    attributes = step.attributes
    operation = recognise(attributes.get(semconv.METHOD, ""), attributes.get(semconv.PATH, ""), "-")
    if operation is None:
        return (), (), ""
    try:
        request = orjson.loads(row.request_body(step) or b"{}")
    except StoreError as error:
        return (), (), str(error)
    except orjson.JSONDecodeError:
        request = {}
    asked = operation.asked(request) if isinstance(request, dict) else []
    headers = attributes.get(semconv.RESPONSE_HEADERS, ())
    content_type = next((value for key, value in headers if key.lower() == "content-type"), "")
    body = step.body()
    if attributes.get(semconv.STATUS, 200) >= 400:
        return asked, (), body.decode("utf-8", "replace")[:2000]
    return asked, operation.said(answer_document(operation, body, content_type)), ""


def _document(row: TraceRow, content: bool) -> dict[str, Any]:
    steps = []
    for step in row.steps:
        attributes = step.attributes
        document: dict[str, Any] = {
            "step": step.step,
            "lane": step.lane,
            "name": step.name,
            "model": model_of(step),
            "status": attributes.get(semconv.STATUS),
            "error": attributes.get(semconv.ERROR_TYPE),
            "start": output.iso(step.start),
            "duration_s": step.duration / 1e9 if step.duration is not None else None,
            "input_tokens": attributes.get(semconv.USAGE_INPUT_TOKENS),
            "output_tokens": attributes.get(semconv.USAGE_OUTPUT_TOKENS),
            "cost_usd": usage.cost_of([attributes]),
            "stream": semconv.RESPONSE_CHUNKS in attributes,
            "fingerprint": step.fingerprint,
            "source": {"trace": step.source[0], "step": step.source[1]} if step.source is not None else None,
        }
        if content:
            asked, said, error = messages(row, step)
            document["asked"] = [_as_json(message) for message in asked]
            document["said"] = [_as_json(message) for message in said]
            document["error_body"] = error or None
        steps.append(document)
    return {"trace": Overview.of(row).as_json(), "steps": steps}


def _as_json(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = {"role": message.role, "text": message.text}
    if message.tool_calls:
        document["tool_calls"] = list(message.tool_calls)
    return document
