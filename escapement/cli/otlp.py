"""`escapement otlp`: what concerns OpenTelemetry collectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from escapement.cli import output
from escapement.store.layout import Layout
from escapement.store.prices import Prices
from escapement.store.traces import SpanStore
from escapement.words.config import Settings, resolve
from escapement.words.errors import ConfigError

if TYPE_CHECKING:
    from escapement_exporters.export.push import Pushed
    from escapement_exporters.otlp.sending import Receiver

app = typer.Typer(help="Send what is recorded to OpenTelemetry collectors.", no_args_is_help=True)


@app.callback()
def otlp() -> None:
    """Send what is recorded to OpenTelemetry collectors."""


@app.command("push")
def push(
    traces: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID]...", help="Ids, unique starts of them, @last, or @-2; none: what waits to be sent."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Send the spans of traces to the collector that is set; without an ID, those that could not be sent before."""
    settings = resolve()
    shown, receiver = _receiver(settings)
    from escapement_exporters.export.push import push_spool, push_trace
    from escapement_exporters.export.spool import Spool

    made: list[tuple[str, Pushed]] = []
    try:
        with output.progress("Sending") as progress:
            if not traces:
                made.append(("", push_spool(Spool(Layout.of(settings.storage_dir)), receiver, progress)))
            prices = Prices.of(settings)
            store = SpanStore(settings.storage_dir, prices=prices)
            for trace_id in [store.resolve(reference) for reference in traces or ()]:
                made.append((trace_id, push_trace(store.load(trace_id), receiver, progress, prices)))
    finally:
        receiver.close()
    if as_json:
        output.print_json({"endpoint": shown, "pushed": [_document(*one) for one in made]})
    for trace_id, pushed in made:
        _say(trace_id, pushed, shown, quiet=as_json)
    if not all(pushed.complete for _, pushed in made):
        raise typer.Exit(1)


def _receiver(settings: Settings) -> tuple[str, Receiver]:
    from escapement_exporters.otlp import endpoint

    to = endpoint.find(settings, "traces")
    if to is None:
        raise ConfigError(
            "there is no collector to send to: set otlp_endpoint (ESCAPEMENT_OTLP_ENDPOINT) or "
            "OTEL_EXPORTER_OTLP_ENDPOINT, such as http://localhost:4318"
        )
    endpoint.check(to)
    from escapement_exporters.otlp.sending import connect

    return to.shown, connect(to, "traces")


def _document(trace_id: str, pushed: Pushed) -> dict[str, Any]:
    names = ("sent", "slimmed", "rejected", "dropped", "left")
    counts: dict[str, Any] = {name: pushed.counted[name] for name in names}
    return ({"trace": trace_id} if trace_id else {}) | counts | ({"reason": pushed.reason} if pushed.reason else {})


def _say(trace_id: str, pushed: Pushed, shown: str, *, quiet: bool) -> None:
    of = f" of {trace_id}" if trace_id else ""
    counted = pushed.counted
    if not quiet:
        if not (trace_id or any(counted.values())):
            print("Nothing waits to be sent.")
        elif counted["sent"]:
            print(f"Sent {output.amount(counted['sent'], 'span')}{of} to {shown}.")
    for what, sentence in (
        ("rejected", "were taken and rejected"),
        ("dropped", "were refused, and will not be sent again"),
        ("left", "could not be sent" + (": push it again" if trace_id else ", and wait")),
    ):
        if counted[what]:
            amount = output.amount(counted[what], "span")
            typer.echo(f"escapement: {amount}{of} {sentence} ({shown}: {pushed.reason})", err=True)
