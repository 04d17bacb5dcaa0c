"""`escapement show`: a trace's steps as a tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

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
from escapement.providers import request_document
from escapement.providers.operation import Message
from escapement.store.messages import answered, new_since, operation_of
from escapement.store.prices import Prices
from escapement.store.rows import StepRow, TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.config import resolve
from escapement.words.errors import StoreError
from escapement.words.http import content_type


def show(
    trace: Annotated[
        str, typer.Argument(help="Id, a unique start of one, @last, or @-2 for the one before.")
    ] = "@last",
    content: Annotated[bool, typer.Option("--content", "-c", help="With messages, tool calls and errors.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the steps as they end, until the run does.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; with --follow, one a line for each step.")
    ] = False,
) -> None:
    """Show the steps of a trace: what was asked of which model, how long it took, what it used."""
    settings = resolve()
    prices = Prices.of(settings)
    store = SpanStore(settings.storage_dir, prices=prices)
    row = store.load(store.resolve(trace))
    if follow:
        _follow(store, row, content, as_json, prices)
        return
    if as_json:
        output.print_json(_document(row, content, prices))
        return
    console = output.console()
    console.print(_head(Overview.of(row, prices)))
    if not row.steps:
        console.print("  no steps were recorded")
    console.print(_tree(row, content, prices))


def _follow(store: SpanStore, row: TraceRow, content: bool, as_json: bool, prices: Prices) -> None:
    """Steps in the order in which they end: a line each, that names its branch in place of a tree."""
    console = output.console()
    if not as_json:
        console.print(Text.assemble((row.trace_id, "bold"), "  ", (output.plain(row.name), "bold")))
    before: dict[str, list[Message]] = {}
    for step in store.follow(row.trace_id):
        if content:  # of a step with its trace: the request is put together from those before it
            row, step = _within(store, row, step)
        if as_json:
            output.print_json_lines([_step_document(row, step, content, prices)])
            continue
        console.print(_line(step, prices, _title(step), 20, 3, branch=True))
        for text in _content(row, step, before) if content else ():
            console.print(Padding(text, (0, 0, 0, 5), expand=False))
    if not as_json:
        console.print(_facts(Overview.of(store.load(row.trace_id), prices), status=True))


def _within(store: SpanStore, row: TraceRow, step: StepRow) -> tuple[TraceRow, StepRow]:
    for loaded in (row, store.load(row.trace_id)):
        known = loaded.step(step.step)
        if known is not None and (known.end is not None or known.source is not None):
            return loaded, known
    return row, step


def _head(overview: Overview) -> Text:
    row = overview.row
    style = output.STATUS_STYLES.get(row.status, "")
    head = Text.assemble((row.trace_id, "bold"), "  ", (output.plain(row.name), "bold"), "  ", (overview.status, style))
    return head.append("\n").append_text(_facts(overview))


def _facts(overview: Overview, status: bool = False) -> Text:
    row = overview.row
    facts = [
        *([overview.status] if status else ()),
        f"{overview.steps} step{'s' if overview.steps != 1 else ''}",
        f"{output.tokens(overview.input_tokens)} → {output.tokens(overview.output_tokens)} tokens",
        output.cost(overview.cost) if overview.cost is not None else "cost unknown",
        output.duration(overview.duration),
        output.moment(row.created),
    ]
    head = Text(" · ".join(facts), "dim")
    if row.parent:
        at = f", live from step {overview.forked_at} on" if overview.forked_at else ""
        head.append(f"\nforked from {row.parent}{at}")
    if row.tags:
        head.append(f"\ntags: {output.plain(', '.join(row.tags))}")
    if row.lost:
        head.append(f"\nINCOMPLETE: {row.lost} steps could not be written while it ran", "red")
    if row.damaged:
        head.append(f"\nINCOMPLETE: {row.damaged} damaged lines in its journal were passed over", "red")
    if row.error:
        head.append(f"\n{output.plain(row.error)}", "red")
    return head


def _tree(row: TraceRow, content: bool, prices: Prices) -> RenderableType:
    """Steps in order, those of a branch under it. Lines are a table, so that numbers stand under each other."""
    tree = Tree("", hide_root=True, guide_style="dim")
    branches = {ROOT: tree}
    frames: dict[str, Tree] = {}
    before: dict[str, list[Message]] = {}
    width = max((len(_title(step)) for step in row.steps), default=0)
    for item in _in_order(row):
        if isinstance(item, StepRow):
            line = _line(item, prices, _title(item), min(width, 44), len(str(len(row.steps))))
            said = _content(row, item, before) if content else ()
            parts = [line, *(Padding(text, (0, 0, 0, 4), expand=False) for text in said)]
            (frames.get(item.parent_span_id) or _branch(tree, branches, item.lane)).add(Group(*parts))
        else:
            frames[item["span_id"]] = frames.get(item.get("parent") or "", tree).add(_frame(item, content))
    return tree


def _in_order(row: TraceRow) -> list[StepRow | Mapping[str, Any]]:
    """Steps, and the frames (chains, tools, …) that they lie in, each frame before what is in it."""
    frames = [span for span in row.spans if span.get("scope") == semconv.SCOPE]
    if not frames:
        return list(row.steps)
    keyed: list[tuple[tuple[int, int, int], StepRow | Mapping[str, Any]]]
    keyed = [((span.get("start") or 0, 0, 0), span) for span in frames]
    keyed += [((step.start, 1, step.step), step) for step in row.steps]
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]


def _frame(span: Mapping[str, Any], content: bool) -> RenderableType:
    attributes = span["attributes"]
    start = span.get("start")
    line = Text.assemble(
        (output.plain(span["name"]), "cyan"), f"  {output.duration(span['end'] - start if start else None)}"
    )
    if span.get("status") == "ERROR":
        line.append(f"  {attributes.get(semconv.ERROR_TYPE)}: {output.plain(span.get('description') or '')}", "red")
    if content:
        for name in (semconv.TOOL_CALL_ARGUMENTS, semconv.RETRIEVAL_QUERY_TEXT, semconv.TOOL_CALL_RESULT):
            if name in attributes:
                line.append(f"\n    {name.rpartition('.')[2]}: {output.plain(str(attributes[name]))}")
    return line


def _branch(tree: Tree, branches: dict[str, Tree], lane: str) -> Tree:
    missing: list[str] = []
    while lane and lane not in branches:  # a lane of an imported trace may be as deep as somebody liked
        missing.append(lane)
        lane = lane.rpartition("/")[0]
    branch = branches.get(lane, tree)
    for below in reversed(missing):
        parent, _, name = below.rpartition("/")
        branch = branches[below] = branch.add(Text(output.plain(name), "cyan")) if parent else tree
    return branch


def _title(step: StepRow) -> str:
    return output.plain(step.name) or "(gone)"


def _line(step: StepRow, prices: Prices, title: str, width: int, digits: int, branch: bool = False) -> RenderableType:
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
    price = output.cost(usage.cost_of(attributes, step.start, prices)) if used else ""
    notes, style = _notes(step)
    if branch and step.lane != ROOT:
        notes = " · ".join(part for part in (step.lane.removeprefix(f"{ROOT}/"), notes) if part)
    line.add_row(str(step.step), escape(title), output.duration(step.duration), used, price, Text(notes, style))
    return line


def _notes(step: StepRow) -> tuple[str, str]:
    attributes = step.attributes
    notes: list[str] = []
    style = ""
    if step.source is not None:
        notes.append(f"from {step.source[0]} step {step.source[1]}")
        style = "dim"
    if semconv.EDITED in attributes:
        notes.append(f"EDITED, of {attributes[semconv.SERVED_FROM][0]} step {attributes[semconv.SERVED_FROM][1]}")
        style = "magenta"
    if semconv.REBUILT in attributes:
        notes.append("rebuilt")
        style = "magenta"
    if semconv.RESPONSE_CHUNKS in attributes:
        notes.append("stream")
    if semconv.ATTEMPTS in attributes:
        notes.append(f"{len(attributes[semconv.ATTEMPTS])} attempts")
    if attributes.get(semconv.RESPONSE_ENDING) == "dropped":
        notes.append("not read to its end")
    if step.end is None or "response" in attributes.get(semconv.REBUILT, ()):
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
    new = new_since(before.get(step.lane, ()), asked)
    same = len(asked) - len(new)
    before[step.lane] = [*asked, *said]
    lines: list[RenderableType] = []
    if same:
        lines.append(Text(f"… {same} message{'s' if same != 1 else ''} as before", "dim"))
    lines += [_message(message, "blue") for message in new]
    lines += [_message(message, "green") for message in said]
    if missing := step.attributes.get(semconv.REBUILT):
        lines.append(Text(f"rebuilt without {', '.join(output.plain(name) for name in missing)}", "dim"))
    if error:
        lines.append(Text(output.plain(error), "red"))
    return lines


def _message(message: Message, style: str) -> Text:
    text = Text.assemble((f"{output.plain(message.role)}: ", f"bold {style}"), output.plain(message.shown.rstrip()))
    for call in message.tool_calls:
        text.append(
            f"\n  calls {output.plain(str(call))}" if message.shown else f"calls {output.plain(str(call))}", "magenta"
        )
    return text


def messages(row: TraceRow, step: StepRow) -> tuple[Sequence[Message], Sequence[Message], str]:
    """What a step asked and was told, and the error it got instead."""
    attributes = step.attributes
    operation = operation_of(step)
    if operation is None:
        return (), (), ""
    try:
        request = request_document(row.request_body(step), content_type(attributes.get(semconv.REQUEST_HEADERS)))
    except StoreError as error:
        return (), (), str(error)
    asked = operation.asked(request)
    body = step.body()
    if attributes.get(semconv.STATUS, 200) >= 400:
        return asked, (), body.decode("utf-8", "replace")[:2000]
    return asked, answered(step, operation), ""


def _document(row: TraceRow, content: bool, prices: Prices) -> dict[str, Any]:
    steps = [_step_document(row, step, content, prices) for step in row.steps]
    return {"trace": Overview.of(row, prices).as_json(), "steps": steps}


def _step_document(row: TraceRow, step: StepRow, content: bool, prices: Prices) -> dict[str, Any]:
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
        "cost_usd": usage.cost_of(attributes, step.start, prices),
        "stream": semconv.RESPONSE_CHUNKS in attributes,
        "fingerprint": step.fingerprint,
        "edited": semconv.EDITED in attributes,
        "rebuilt": attributes.get(semconv.REBUILT),
        "source": {"trace": step.source[0], "step": step.source[1]} if step.source is not None else None,
    }
    if content:
        asked, said, error = messages(row, step)
        document["asked"] = [_as_json(message) for message in asked]
        document["said"] = [_as_json(message) for message in said]
        document["error_body"] = error or None
    return document


def _as_json(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = {"role": message.role, "text": message.shown}
    if message.tool_calls:
        document["tool_calls"] = [str(call) for call in message.tool_calls]
    return document
