"""Which endpoint a request is for, and the whole response it gets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from . import (
    anthropic,
    bedrock,
    chat,
    cohere,
    completions,
    gemini,
    media,
    mistral,
    ollama,
    openai,
    openrouter,
    responses,
    words,
)
from .anthropic_files import AnthropicFiles
from .conversations import Conversations
from .encoding import chosen, encoded
from .exchange import Answer, Answered, Blob, Dialect, Json, Question, ReceivedRequest, Refused, Reply
from .faults import Faults, spoiled
from .files import Files
from .google_kept import GoogleFiles, Interactions
from .threads import Threads
from .vector_stores import VectorStores


@dataclass(frozen=True)
class _Route:
    """An endpoint, known by how the path ends, whatever comes before; `header` must have been sent."""

    method: str
    tail: str
    dialect: Dialect
    reply: Callable[[Question], Reply]
    header: str = ""

    def takes(self, request: ReceivedRequest) -> bool:
        return request.method == self.method and (not self.header or self.header in request.headers)


class Routes:
    """Answers requests; it remembers which of them have met their fault, and conversations held."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._faults = Faults()
        # The more particular a path, the earlier it stands: the first that fits is taken.
        self._routes = (
            *_kept_by_google(Interactions(), GoogleFiles()),
            *_kept_by_anthropic(AnthropicFiles()),
            *_kept_by_openai(Files(), VectorStores()),
            *_talks(Conversations()),
            _Route("POST", "/api/v1/chat/completions", openrouter.DIALECT, openrouter.answer),
            _Route("GET", "/api/v1/generation", openrouter.DIALECT, openrouter.generation),
            _Route("POST", "/chat/completions", openai.DIALECT, chat.answer),
            _Route("POST", "/(?:fim|agents)/completions", openai.DIALECT, chat.answer),
            _Route("POST", "/completions", openai.DIALECT, completions.answer),
            _Route("POST", "/embeddings", openai.DIALECT, openai.embeddings),
            _Route("POST", "/moderations", openai.DIALECT, openai.moderations),
            _Route("POST", "/messages", anthropic.DIALECT, Threads().messages),
            _Route("POST", "/messages/count_tokens", anthropic.DIALECT, anthropic.count_tokens),
            _Route("POST", "/images/(?:generations|edits|variations)", openai.DIALECT, media.images),
            _Route("POST", "/audio/speech", openai.DIALECT, media.speech),
            _Route("POST", "/audio/(?:transcriptions|translations)", openai.DIALECT, media.transcription),
            _Route("POST", "/model/([^/]+)/invoke(?:-with-response-stream)?", bedrock.DIALECT, bedrock.messages),
            _Route("POST", "/models/count-tokens:rawPredict", anthropic.DIALECT, anthropic.count_tokens),
            _Route("POST", "/models/([^/]+):(?:r|streamR)awPredict", anthropic.DIALECT, anthropic.messages),
            _Route("POST", "/models/([^/]+):(?:g|streamG)enerateContent", gemini.DIALECT, gemini.answer),
            _Route("POST", "/models/([^/]+):embedContent", gemini.DIALECT, gemini.embed),
            _Route("POST", "/models/([^/]+):batchEmbedContents", gemini.DIALECT, gemini.batch_embed),
            _Route("POST", "/models/([^/]+):countTokens", gemini.DIALECT, gemini.count_tokens),
            _Route("POST", "/v2/chat", cohere.DIALECT, cohere.answer),
            _Route("POST", "/v1/chat", cohere.FIRST, cohere.first_answer),
            _Route("POST", "/v[12]/embed", cohere.DIALECT, cohere.embed),
            _Route("POST", "/v2/rerank", cohere.DIALECT, cohere.rerank),
            _Route("POST", "/v1/rerank", cohere.DIALECT, cohere.together_rerank),
            _Route("POST", "/conversations(?:/([^/]+))?", openai.DIALECT, mistral.conversation),
            _Route("POST", "/ocr", openai.DIALECT, mistral.ocr),
            _Route("POST", "/classifications", openai.DIALECT, mistral.classify),
            _Route("POST", "/api/chat", ollama.DIALECT, ollama.chat),
            _Route("POST", "/api/generate", ollama.DIALECT, ollama.generate),
            _Route("POST", "/api/embed", ollama.DIALECT, ollama.embed),
            _Route("POST", "/api/embeddings", ollama.DIALECT, ollama.embeddings),
            _Route("POST", "/api/show", ollama.DIALECT, ollama.show),
            # Both providers list models on the same path.
            _Route("GET", "/models", anthropic.DIALECT, anthropic.models, header="anthropic-version"),
            _Route("GET", "/models/([^/]+)", anthropic.DIALECT, anthropic.model, header="anthropic-version"),
            _Route("GET", "/models", openai.DIALECT, openai.models),
            _Route("GET", "/models/([^/]+)", openai.DIALECT, openai.model),
        )

    def answer(self, request: ReceivedRequest) -> Answer:
        for route in self._routes:
            match = re.search(route.tail + "/?$", request.path)
            if match and route.takes(request):
                question = Question(request, unquote(match.groups("")[-1]) if match.groups() else "")
                try:
                    return self._answer(route, question)
                except Refused as refused:
                    return self._failure(route.dialect, refused)
        return self._failure(openai.DIALECT, Refused(404, "unknown_url"))

    def _answer(self, route: _Route, question: Question) -> Answer:
        self._faults.strike(question)
        reply = route.reply(question)
        headers = route.dialect.headers()
        if isinstance(reply, list):
            headers |= {"content-type": route.dialect.media_type, "cache-control": "no-cache"}
            answer = Answer(headers=headers, events=reply, delay=self._latency)
        elif isinstance(reply, Blob):
            headers |= {"content-type": reply.media_type}
            answer = Answer(headers=headers, body=reply.body, events=list(reply.pieces) or None, delay=self._latency)
        else:
            headers |= {"content-type": "application/json"}
            if isinstance(reply, Answered):
                headers, reply = headers | reply.headers, reply.body
            answer = Answer(headers=headers, body=_encoded(reply), delay=self._latency)
        return encoded(spoiled(answer, question, route.dialect), chosen(question))

    def _failure(self, dialect: Dialect, refused: Refused) -> Answer:
        again = refused.status == 429 or refused.status >= 500
        headers = dialect.headers() | {"content-type": "application/json"}
        if dialect is anthropic.DIALECT:
            headers["x-should-retry"] = "true" if again else "false"
        if again:
            # Live only a 429 says how long to wait; here the other ones do too, so that no test has to.
            headers["retry-after-ms"] = "10"
        body = _encoded(dialect.failure(refused.status, refused.code))
        return Answer(refused.status, headers, body, delay=self._latency)


def _kept_by_openai(files: Files, stores: VectorStores) -> Iterator[_Route]:
    for method, tail, reply in (
        ("POST", "/vector_stores", stores.create),
        ("GET", "/vector_stores", stores.list),
        ("GET", "/vector_stores/([^/]+)", stores.retrieve),
        ("POST", "/vector_stores/([^/]+)", stores.update),
        ("DELETE", "/vector_stores/([^/]+)", stores.delete),
        ("POST", "/vector_stores/([^/]+)/search", stores.search),
        ("POST", "/vector_stores/([^/]+)/files", stores.add),
        ("GET", "/vector_stores/([^/]+)/files", stores.files),
        ("GET", "/vector_stores/[^/]+/files/([^/]+)", stores.file),
        ("DELETE", "/vector_stores/[^/]+/files/([^/]+)", stores.remove),
        ("GET", "/vector_stores/[^/]+/files/([^/]+)/content", stores.content),
        ("POST", "/vector_stores/([^/]+)/file_batches", stores.batch),
        ("GET", "/vector_stores/[^/]+/file_batches/([^/]+)", stores.polled_batch),
        ("POST", "/uploads", files.upload),
        ("POST", "/uploads/([^/]+)/parts", files.part),
        ("POST", "/uploads/([^/]+)/complete", files.complete),
        ("POST", "/uploads/([^/]+)/cancel", files.cancel_upload),
        ("POST", "/batches", files.batch),
        ("GET", "/batches", files.batches),
        ("GET", "/batches/([^/]+)", files.polled_batch),
        ("POST", "/batches/([^/]+)/cancel", files.cancel_batch),
        ("POST", "/files", files.create),
        ("GET", "/files", files.list),
        ("GET", "/files/([^/]+)", files.retrieve),
        ("GET", "/files/([^/]+)/content", files.content),
        ("DELETE", "/files/([^/]+)", files.delete),
    ):
        yield _Route(method, tail, openai.DIALECT, reply)


def _talks(talks: Conversations) -> Iterator[_Route]:
    for method, tail, reply in (
        ("POST", "/responses", talks.respond),
        ("POST", "/responses/input_tokens", responses.input_tokens),
        ("GET", "/responses/([^/]+)", talks.response),
        ("DELETE", "/responses/([^/]+)", talks.forget),
        ("POST", "/responses/([^/]+)/cancel", talks.cancel),
        ("GET", "/responses/([^/]+)/input_items", talks.input_items),
        ("POST", "/conversations", talks.create),
        ("GET", "/conversations/([^/]+)", talks.retrieve),
        ("POST", "/conversations/([^/]+)", talks.update),
        ("DELETE", "/conversations/([^/]+)", talks.delete),
        ("POST", "/conversations/([^/]+)/items", talks.add_items),
        ("GET", "/conversations/([^/]+)/items", talks.items),
        ("GET", "/conversations/[^/]+/items/([^/]+)", talks.item),
        ("DELETE", "/conversations/[^/]+/items/([^/]+)", talks.delete_item),
    ):
        # Mistral has conversations on the same path.
        header = "x-stainless-lang" if tail.startswith("/conversations") else ""
        yield _Route(method, tail, responses.DIALECT, reply, header)


def _kept_by_google(interactions: Interactions, files: GoogleFiles) -> Iterator[_Route]:
    for method, tail, reply in (
        ("POST", "/interactions", interactions.create),
        ("GET", "/interactions/([^/]+)", interactions.retrieve),
        ("DELETE", "/interactions/([^/]+)", interactions.delete),
        ("POST", "/upload/v1(?:beta)?/files", files.begin),
        ("GET", "/v1(?:beta)?/files", files.list),
        ("GET", "/v1(?:beta)?/files/([^/:]+)", files.retrieve),
        ("GET", "/v1(?:beta)?/files/([^/:]+):download", files.download),
        ("DELETE", "/v1(?:beta)?/files/([^/:]+)", files.delete),
    ):
        yield _Route(method, tail, gemini.DIALECT, reply, header="x-goog-api-key")
    # What is uploaded goes to an address that was given out, and says no more who sends it.
    yield _Route("POST", "/upload/v1(?:beta)?/files", gemini.DIALECT, files.send, header="x-goog-upload-offset")


def _kept_by_anthropic(files: AnthropicFiles) -> Iterator[_Route]:
    for method, tail, reply in (
        ("POST", "/messages/batches", files.batch),
        ("GET", "/messages/batches", files.batches),
        ("GET", "/messages/batches/([^/]+)", files.polled_batch),
        ("DELETE", "/messages/batches/([^/]+)", files.delete_batch),
        ("GET", "/messages/batches/([^/]+)/results", files.results),
        ("POST", "/messages/batches/([^/]+)/cancel", files.cancel_batch),
        ("POST", "/files", files.upload),
        ("GET", "/files", files.list),
        ("GET", "/files/([^/]+)", files.metadata),
        ("GET", "/files/([^/]+)/content", files.download),
        ("DELETE", "/files/([^/]+)", files.delete),
    ):
        yield _Route(method, tail, anthropic.DIALECT, reply, header="anthropic-version")


def _encoded(data: Json) -> bytes:
    # Live bodies come indented or compact, escaped or not, and so do these.
    indent = 2 if words.chance(0.5) else None
    return json.dumps(data, ensure_ascii=words.chance(0.3), indent=indent).encode()
