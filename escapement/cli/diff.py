"""`escapement diff`: two traces side by side, step by step, the first difference first."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from escapement.cli import output
from escapement.cli.overview import Overview, model_of
from escapement.engine import kinds, usage
from escapement.engine.comparison import PARTS, Comparison, Pair, compare
from escapement.engine.differences import ABSENT, Difference
from escapement.engine.readings import Reading
from escapement.store.pieces import same_start
from escapement.store.prices import Prices
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.config import resolve

_DIFFERS = 3
_SHOWN = 480  # characters of a text, where not all of it is asked for
_BEFORE = 120
_LINES = 200  # that differ, where not all of them are asked for
_WORDS = 4000  # characters of texts that are compared word by word


def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="Id, a unique start of one, @last, or @-2 …")] = "@-2",
    right: Annotated[str, typer.Argument(metavar="B", help="The trace to compare it with.")] = "@last",
    content: Annotated[
        bool, typer.Option("--content", "-c", help="Every step that differs side by side, all of its text.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Compare two traces (by default the two newest) step by step. Exit code 0: the same, 3: they differ."""
    settings = resolve()
    prices = Prices.of(settings)
    store = SpanStore(settings.storage_dir, prices=prices)
    comparison = compare(*(store.load(store.resolve(trace)) for trace in (left, right)))
    if as_json:
        output.print_json(_document(comparison, prices))
    else:
        _print(output.console(), comparison, prices, content)
    if not comparison.same:
        raise typer.Exit(_DIFFERS)


def _print(console: Console, comparison: Comparison, prices: Prices, content: bool) -> None:
    overviews = [Overview.of(row, prices) for row in (comparison.left, comparison.right)]
    console.print(_side_by_side(console, [(_head(overviews[0]), _head(overviews[1]))]))
    first = comparison.first()
    if first is not None:
        console.print()
        console.print(Text.assemble(("First difference  ", "bold"), _where(first.pair, first.difference, first.kind)))
        console.print(_steps(console, first.pair, prices, content, first.difference))
        console.print()
        console.print(_list(console, comparison, prices, content))
        for pair in comparison.pairs if content else ():
            if not pair.same and pair is not first.pair:
                console.print()
                console.print(_steps(console, pair, prices, content, None))
    console.print()
    console.print(_summary(comparison, overviews))


def _head(overview: Overview) -> Text:
    row = overview.row
    head = Text.assemble((row.trace_id, "bold"), "  ", output.plain(row.name), "  ")
    head.append(overview.status, output.STATUS_STYLES.get(row.status, ""))
    facts = [
        output.amount(overview.steps, "step"),
        f"{output.tokens(overview.tokens)} tokens",
        output.cost(overview.cost),
        output.duration(overview.duration),
    ]
    return head.append(f"\n{' · '.join(facts)}\n{output.moment(row.created)}", "dim")


def _where(pair: Pair, difference: Difference | None, kind: str) -> Text:
    if pair.left is None or pair.right is None:
        reading = pair.left or pair.right
        assert reading is not None
        side = "left" if pair.right is None else "right"
        return Text(f"step {reading.row.step} is only in the {side} trace")
    steps = f"step {pair.left.row.step}"
    if pair.left.row.step != pair.right.row.step:
        steps += f" and step {pair.right.row.step}"
    if difference is None:
        return Text(f"{steps}: the same request, another {' and other '.join(pair.changes)}")
    said = kinds.phrase(kind, difference.path)
    return Text(f"{steps}, {output.plain(difference.path) or 'the body'}" + (f": {said}" if said else ""))


# -- two steps side by side ------------------------------------------------------------------------------------------


def _side_by_side(console: Console, rows: Sequence[tuple[Text, Text]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1), expand=True, width=console.width)
    half = (console.width - 3) // 2
    table.add_column(width=half, overflow="fold")
    table.add_column(width=1)
    table.add_column(width=half, overflow="fold")
    for one, other in rows:
        height = max(len(side.wrap(console, half)) for side in (one, other))
        table.add_row(one, Text("\n".join("│" * height), "dim"), other)
    return table


def _steps(console: Console, pair: Pair, prices: Prices, content: bool, difference: Difference | None) -> Table:
    sides = (pair.left, pair.right)
    rows = [tuple(_title(side, prices) for side in sides)]
    texts = [{} if side is None else _texts(side) for side in sides]
    shown = [part for part in PARTS if part in pair.changes or not (pair.left and pair.right)]
    for part in shown:
        one, other = (text.get(part, "") for text in texts)
        if one or other:
            rows.append(_marked(part, one, other, content))
    if difference is not None and not set(shown) & set(PARTS[:4]):
        one, other = (_value(value) for value in (difference.recorded, difference.requested))
        rows.append(_marked(difference.path or "body", one, other, content))
    return _side_by_side(console, [(one, other) for one, other in rows])


def _title(reading: Reading | None, prices: Prices) -> Text:
    if reading is None:
        return Text("(no such step)", "dim")
    row = reading.row
    return Text.assemble((f"step {row.step}  {output.plain(row.name)}", "bold"), (f"\n{_used(reading, prices)}", "dim"))


def _used(reading: Reading, prices: Prices) -> str:
    asked, said = _tokens(reading)
    used = [output.duration(reading.row.duration)]
    if asked is not None or said is not None:
        used = [f"{asked or 0} → {said or 0} tokens", output.cost(_cost(reading, prices)), *used]
    return " · ".join(used)


def _texts(reading: Reading) -> dict[str, str]:
    """What a step holds of each part, as text."""
    return {
        "model": reading.model,
        "parameters": _value(reading.fields) if reading.fields else "",
        "tools": "\n".join(_value(tool) for tool in reading.tools),
        "prompt": "\n".join(reading.prompt),
        "answer": "\n".join(reading.answer) or reading.raw,
        "tool calls": "\n".join(reading.calls),
        "error": reading.error,
    }


def _value(value: Any) -> str:
    if value is ABSENT:
        return "(nothing)"
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _marked(part: str, one: str, other: str, content: bool) -> tuple[Text, Text]:
    """Two texts from a little before they part, what only one of them has in colour."""
    if not content:
        start = max(0, same_start(one, other) - _BEFORE)
        one, other = (_cut(text, start) for text in (one, other))
    sides = Text(f"{part}: ", "bold red"), Text(f"{part}: ", "bold green")
    mine, theirs = (_words(output.plain(text)) for text in (one, other))
    if len(one) + len(other) > _WORDS:
        sides[0].append("".join(mine), "")
        sides[1].append("".join(theirs), "")
        return sides
    for change, a, b, c, d in SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        sides[0].append("".join(mine[a:b]), "" if change == "equal" else "red")
        sides[1].append("".join(theirs[c:d]), "" if change == "equal" else "green")
    return sides


def _cut(text: str, start: int) -> str:
    end = start + _SHOWN
    return ("…" if start else "") + text[start:end] + (f"… ({len(text) - end} more)" if len(text) > end else "")


def _words(text: str) -> list[str]:
    words: list[str] = []
    for line in text.splitlines(keepends=True):
        words += [word for part in line.split(" ") for word in (part, " ")][:-1]
    return [word for word in words if word]


# -- all steps, a line each ------------------------------------------------------------------------------------------


def _list(console: Console, comparison: Comparison, prices: Prices, every: bool) -> Table:
    """A line a pair that differs, those that are the same counted. Wide terminals see what it used more or less."""
    wide = console.width >= 110
    numbers = len(str(max(len(comparison.left.steps), len(comparison.right.steps))))
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", width=console.width)
    table.add_column("A", justify="right", width=max(numbers, 2), no_wrap=True)
    table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("B", justify="right", width=max(numbers, 2), no_wrap=True)
    table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("DIFFERS IN", max_width=24, overflow="fold")
    for title in ("TOKENS", "COST", "TIME") if wide else ():
        table.add_column(title, justify="right", no_wrap=True)
    differing = [at for at, pair in enumerate(comparison.pairs) if not pair.same]
    shown = differing if every else differing[:_LINES]
    before = -1
    for at in [*shown, *([len(comparison.pairs)] if shown == differing else ())]:
        if at - before > 1:
            table.add_row("", Text(f"… {output.amount(at - before - 1, 'step')} the same", "dim"))
        if at < len(comparison.pairs):
            pair = comparison.pairs[at]
            table.add_row(*_line(pair), *(_more(pair, prices) if wide else ()))
        before = at
    if shown != differing:
        table.add_row("", Text(f"… {len(differing) - len(shown)} more that differ (--content)", "dim"))
    return table


def _line(pair: Pair) -> list[Text]:
    cells = []
    for side, style in ((pair.left, "red"), (pair.right, "green")):
        if side is None:
            cells += [Text("–", "dim"), Text("")]
            continue
        said = side.error or " ".join((*side.answer, *side.calls))
        cells += [Text(str(side.row.step)), Text(" ".join(output.plain(said).split()) or side.row.name, style)]
    alone = "only in A" if pair.right is None else "only in B" if pair.left is None else ""
    return [*cells, Text(alone or ", ".join(pair.changes), "yellow")]


def _more(pair: Pair, prices: Prices) -> list[str]:
    """What the right step used more than the left one."""
    if pair.left is None or pair.right is None:
        return ["", "", ""]
    sums = [sum(count or 0 for count in _tokens(side)) for side in (pair.left, pair.right)]
    costs = [_cost(side, prices) for side in (pair.left, pair.right)]
    times = [side.row.duration for side in (pair.left, pair.right)]
    return [
        f"{sums[1] - sums[0]:+d}",
        f"{costs[1] - costs[0]:+.4f}" if costs[0] is not None and costs[1] is not None else "–",
        f"{(times[1] - times[0]) / 1e9:+.2f} s" if times[0] is not None and times[1] is not None else "–",
    ]


def _tokens(reading: Reading) -> tuple[int | None, int | None]:
    attributes = reading.row.attributes
    return attributes.get(semconv.USAGE_INPUT_TOKENS), attributes.get(semconv.USAGE_OUTPUT_TOKENS)


def _cost(reading: Reading, prices: Prices) -> float | None:
    return usage.cost_of(reading.row.attributes, reading.row.start, prices)


def _summary(comparison: Comparison, overviews: Sequence[Overview]) -> Text:
    counts = comparison.counts()
    if comparison.same:
        return Text(f"No differences in {output.amount(len(comparison.pairs), 'step')}.", "green")
    facts = [f"{counts['same']} the same", f"{counts['changed']} differ"]
    parts = [f"{part} {counts[part]}" for part in PARTS if counts[part]]
    if parts:
        facts[-1] += f" ({', '.join(parts)})"
    facts += [f"{counts[f'only {side}']} only in {name}" for side, name in (("left", "A"), ("right", "B"))]
    one, other = overviews
    used = f"tokens {output.tokens(one.tokens)} → {output.tokens(other.tokens)}"
    used += f" · cost {output.cost(one.cost)} → {output.cost(other.cost)}"
    used += f" · time {output.duration(one.duration)} → {output.duration(other.duration)}"
    return Text(" · ".join(facts), "bold").append(f"\n{used}", "not bold")


# -- for programs ----------------------------------------------------------------------------------------------------


def _document(comparison: Comparison, prices: Prices) -> dict[str, Any]:
    first = comparison.first()
    found: dict[str, Any] | None = None
    if first is not None:
        found = {**_numbers(first.pair), "kind": first.kind or None, "field": None, "left": None, "right": None}
        if first.difference is not None:
            values = (first.difference.recorded, first.difference.requested)
            left, right = (None if value is ABSENT else value for value in values)
            found |= {"field": first.difference.path, "left": left, "right": right}
    return {
        "left": Overview.of(comparison.left, prices).as_json(),
        "right": Overview.of(comparison.right, prices).as_json(),
        "same": comparison.same,
        "first": found,
        "summary": {key.replace(" ", "_"): count for key, count in comparison.counts().items()},
        "steps": [
            {
                **_numbers(pair),
                "changes": [part.replace(" ", "_") for part in pair.changes],
                "left": _side(pair.left, pair, prices),
                "right": _side(pair.right, pair, prices),
            }
            for pair in comparison.pairs
        ],
    }


def _numbers(pair: Pair) -> dict[str, int | None]:
    sides = {"left_step": pair.left, "right_step": pair.right}
    return {name: reading.row.step if reading is not None else None for name, reading in sides.items()}


def _side(reading: Reading | None, pair: Pair, prices: Prices) -> dict[str, Any] | None:
    """What a step used, and what it holds where that differs."""
    if reading is None:
        return None
    asked, said = _tokens(reading)
    texts = _texts(reading)
    return {
        "name": reading.row.name,
        "lane": reading.row.lane,
        "model": model_of(reading.row),
        "input_tokens": asked,
        "output_tokens": said,
        "cost_usd": _cost(reading, prices),
        "duration_s": reading.row.duration / 1e9 if reading.row.duration is not None else None,
        **{part.replace(" ", "_"): texts[part] for part in pair.changes if part != "model"},
    }
