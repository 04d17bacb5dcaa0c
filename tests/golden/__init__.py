"""Stores of every format, as they were written, and what has to be read out of them for ever.

`python -m tests.golden format-2` makes the one of the current format, once: a store that was released is never made again.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

from escapement.store.traces import SpanStore

HERE = Path(__file__).parent


def describe(root: Path) -> list[dict[str, Any]]:
    """All that a store says, with a hash in place of every body."""
    store = SpanStore(root)
    described = []
    for trace_id in sorted(store.trace_ids()):
        row = store.load(trace_id)
        described.append(
            {
                "trace": row.trace_id,
                "name": row.name,
                "tags": list(row.tags),
                "metadata": dict(row.metadata),
                "mode": row.mode,
                "parent": row.parent,
                "status": row.status,
                "created": row.created,
                "ended": row.ended,
                "error": row.error,
                "complete": row.complete,
                "steps": [_step(row, step) for step in row.steps],
                "spans": [span["name"] for span in row.spans],
            }
        )
    return described


def _step(row: Any, step: Any) -> dict[str, Any]:
    response = step.response()
    return {
        "step": step.step,
        "lane": step.lane,
        "fingerprint": step.fingerprint,
        "name": step.name,
        "start": step.start,
        "end": step.end,
        "span": step.span_id,
        "source": list(step.source) if step.source else None,
        "request": blake2b(row.request_body(step), digest_size=16).hexdigest(),
        "status": response.status if response else None,
        "headers": [list(header) for header in response.headers] if response else None,
        "body": blake2b(response.body, digest_size=16).hexdigest() if response else None,
        "chunks": [[chunk.size, chunk.at] for chunk in response.chunks] if response else None,
        "failure": [response.failure.type, response.failure.message] if response and response.failure else None,
    }


def record(root: Path) -> None:
    """The runs of a golden store: plain, a stream, an error, a failed run, a fork, a long conversation, threads."""
    import anthropic
    import openai

    import escapement
    from tests.provider import Provider

    def ask(client: Any, text: str, **more: Any) -> Any:
        return client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}], **more)

    with Provider() as provider:
        client = openai.OpenAI(api_key="not-a-key", base_url=f"{provider.base_url}/v1", max_retries=0)
        claude = anthropic.Anthropic(api_key="not-a-key", base_url=provider.base_url)
        with escapement.init("plain", tags=["a", "b"], metadata={"user": 7}, storage_dir=root) as plain:
            ask(client, "Grüße an alle")
            for _ in ask(client, "as a stream", stream=True):
                pass
            claude.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
        try:
            with escapement.init("failed", storage_dir=root):
                ask(client, "one")
                raise ValueError("as it happens")
        except ValueError:
            pass
        with escapement.init("long", storage_dir=root):
            messages: list[Any] = [{"role": "system", "content": "Be brief. " * 300}]
            for number in range(8):
                messages.append({"role": "user", "content": f"question {number}"})
                answer = client.chat.completions.create(model="gpt-4o", messages=messages)
                messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        with escapement.replay(plain.trace_id, storage_dir=root):
            ask(client, "Grüße an alle")
            escapement.fork()
            ask(client, "something else")


def make(folder: Path) -> None:
    """Record a golden store, one half of it sealed where this version seals, and write down what it says."""
    root = folder / "store"
    record(root)
    try:
        from escapement.store import layout, sealing
    except ImportError:
        pass  # format 1
    else:
        with sealing.upkeep(layout.create(root)):
            sealing.seal(layout.create(root), grace=0)
        record(root)
    for leftover in (".gitignore", "lock", "views.sql"):
        (root / leftover).unlink(missing_ok=True)
    (folder / "expected.json").write_text(json.dumps(describe(root), indent=1, ensure_ascii=False) + "\n")
