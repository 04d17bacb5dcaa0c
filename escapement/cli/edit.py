"""`escapement edit`: another answer at a step, in a trace to go on from."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from escapement.providers import answer_document, recognise
from escapement.providers.edits import Edit
from escapement.providers.operation import ToolCall
from escapement.store.rows import StepRow
from escapement.words import semconv
from escapement.words.config import resolve
from escapement.words.errors import ConfigError, TraceNotFoundError
from escapement.words.http import content_type


def edit(
    trace: Annotated[str, typer.Argument(metavar="ID", help="Id, a unique start of one, @last, or an exported file.")],
    step: Annotated[int, typer.Option(metavar="N", help="The step whose answer is edited.", show_default=False)],
    text: Annotated[str | None, typer.Option(help="What it says instead; `-` reads it from stdin.")] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(help='A tool that it calls instead, as NAME=JSON: search={"q": "x"}. May be given several times.'),
    ] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="The whole answer, as JSON; `-` reads it from stdin.")
    ] = None,
) -> None:
    """Give a step another answer, in `$EDITOR` or by an option: makes a trace that ends there, to go on from."""
    from escapement.engine import sources
    from escapement.engine.session import Session

    settings = resolve()
    source = sources.find(trace, settings)
    row = source.row.step(step)
    if row is None:
        raise TraceNotFoundError(f"{source.row.trace_id} has no step {step}; it has {len(source.row.steps)} steps")
    given = [option for option in (text, tool, as_json) if option is not None]
    if len(given) > 1:
        raise ConfigError("--text, --tool and --json are different ways of saying the same: give one of them")
    wanted = _given(text, tool, as_json) if given else _by_hand(row)
    if wanted is None:
        typer.echo("escapement: nothing was changed", err=True)
        return
    edited = sources.find(trace, settings, edits={step: wanted})
    whole = edited.row
    session = Session(settings, name=whole.name, tags=whole.tags, metadata=whole.metadata, source=edited)
    session.take_over(step)
    session.close()
    print(session.trace_id)
    typer.echo(
        f"escapement: {session.trace_id} has steps 1 to {step} of {whole.trace_id}, the last one edited. Go on with\n"
        f"  escapement fork {session.trace_id} --at {step + 1} -- CMD…",
        err=True,
    )


def _given(text: str | None, tools: list[str] | None, document: str | None) -> Edit:
    if text is not None:
        return sys.stdin.read() if text == "-" else text
    if tools is not None:
        return [_tool(one) for one in tools]
    assert document is not None
    try:
        data = sys.stdin.buffer.read() if document == "-" else Path(document).read_bytes()
    except OSError as error:
        raise ConfigError(f"--json: {document} cannot be read: {error.strerror or error}") from None
    return _object(data)


def _tool(option: str) -> ToolCall:
    name, equals, arguments = option.partition("=")
    if not (name and equals):
        raise ConfigError(f"--tool takes NAME=JSON, such as search={{}}, not {option!r}")
    return ToolCall(name, arguments)


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"the edited answer is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError("the edited answer is not a JSON object")
    return document


def _by_hand(row: StepRow) -> Edit | None:
    """The whole answer in the user's editor; None where it comes back as it was."""
    attributes = row.attributes
    operation = recognise(str(attributes.get(semconv.METHOD)), str(attributes.get(semconv.PATH)), "-")
    assert operation is not None
    document = answer_document(operation, row.body(), content_type(attributes.get(semconv.RESPONSE_HEADERS)))
    before = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise ConfigError("no editor is set: set EDITOR, or use --text, --tool or --json")
    with tempfile.TemporaryDirectory(prefix="escapement-") as folder:
        path = Path(folder) / f"{row.trace_id}-step-{row.step}.json"
        path.write_bytes(before + b"\n")
        try:
            code = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
        except (OSError, ValueError) as error:
            raise ConfigError(f"the editor {editor!r} cannot be started: {error}") from None
        if code:
            raise ConfigError(f"the editor {editor!r} ended with {code}; nothing was changed")
        after = _object(path.read_bytes())
    return after if after != orjson.loads(before) else None
