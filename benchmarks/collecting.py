"""How fast `escapement collect` takes spans in, and what it needs for that.

    python -m benchmarks.collecting --seconds 60 --rate 5000

Batches of 500 spans (25 traces of 20, one of them a call of a model with its content) are sent at a rate, as exporters
would; the collector is a process of its own, and puts traces into the store meanwhile. Said are the spans that were
accepted a second, the processor time and the most memory that it took, and whether all of them are in the store. They
are in its journals then: moving 15,000 of those into the tables is not part of it, and takes minutes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from escapement.store.traces import SpanStore

_BATCH, _TRACE = 500, 20


def batch() -> bytes:
    """An `ExportTraceServiceRequest` of traces that nobody sent before."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    now = time.time_ns()
    trace = root = b""
    for number in range(_BATCH):
        span = scope.spans.add(name="work", kind=3, start_time_unix_nano=now + number, end_time_unix_nano=now + 10_000)
        span.span_id = secrets.token_bytes(8)
        if number % _TRACE == 0:
            trace, root = secrets.token_bytes(16), span.span_id
        else:
            span.parent_span_id = root
        span.trace_id = trace
        values = {"http.request.method": "GET", "url.full": "http://example/x", "number": str(number)}
        if number % _TRACE == 1:
            said = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "a word " * 50}]}])
            values = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}
            values |= {"gen_ai.input.messages": said, "gen_ai.output.messages": said.replace("user", "assistant")}
        for key, value in values.items():
            span.attributes.add(key=key).value.string_value = value
    return bytes(request.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=5000, help="spans a second")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "escapement", "collect", "--port", "0", "--grpc-port", "0"]
        surroundings = os.environ | {"ESCAPEMENT_STORAGE_DIR": folder, "ESCAPEMENT_SEALING": "manual"}
        collector = subprocess.Popen(
            command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert collector.stdout is not None
        port = int(collector.stdout.readline().rpartition(":")[2])
        accepted = refused = 0
        connection = http.client.HTTPConnection("127.0.0.1", port)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < given.seconds:
            if accepted > passed * given.rate:
                time.sleep(0.002)
                continue
            connection.request("POST", "/v1/traces", batch(), {"Content-Type": "application/x-protobuf"})
            answer = connection.getresponse()
            answer.read()
            accepted += _BATCH if answer.status == 200 else 0
            refused += answer.status != 200
        took = time.monotonic() - began
        process = Path("/proc", str(collector.pid))
        ticks = [int(part) for part in (process / "stat").read_text().rpartition(")")[2].split()[11:13]]
        found = re.search(r"VmHWM:\s+(\d+)", (process / "status").read_text())
        memory = int(found.group(1)) / 1024 if found is not None else 0.0
        collector.send_signal(signal.SIGTERM)
        collector.communicate()
        traces = len(SpanStore(folder).trace_ids())
    processor = sum(ticks) / os.sysconf("SC_CLK_TCK") / took
    print(f"{accepted / took:,.0f} spans/s accepted for {took:.0f} s, {refused} requests refused")
    print(f"{processor:.2f} of a processor, {memory:.0f} MB at most")
    whole = traces == accepted // _TRACE
    print(f"{traces} traces of {accepted // _TRACE} are in the store")
    sys.exit(not whole or accepted / took < given.rate * 0.99)


if __name__ == "__main__":
    main()
