"""The calls of the SDKs of Gemini, Mistral, Groq, Together, Cohere and Ollama.

A case is a program as in `cases`. Of Gemini it gets the client or its `aio`; of Mistral, whose async methods have names
of their own, what `_Mistral` makes of the client.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.fidelity.cases import ASYNC, SYNC, drained, each, entered, settle

USER: Any = [{"role": "user", "content": "Grüße: what is the weather like? 🙂"}]
CITY: Any = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
CITY |= {"required": ["city", "days"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": CITY}}
TEXTS = ["one", "zwei", "三"]


class Case(NamedTuple):
    """One kind of call of one SDK. `settings` are options of the client."""

    sdk: str
    name: str
    program: Callable[[Any], Awaitable[Any]]
    settings: dict[str, Any]


CASES: list[Case] = []
PACKAGES = {"gemini": "google.genai", "mistral": "mistralai.client", "cohere_v1": "cohere"}
"""Where the package is not called as the SDK."""


def case(*sdks: str, **settings: Any) -> Callable[[Any], Any]:
    def add(program: Any) -> Any:
        CASES.extend(Case(sdk, program.__name__.removeprefix(f"{sdk}_"), program, settings) for sdk in sdks)
        return program

    return add


class _Mistral:
    """A client whose methods are called alike in both modes: `ask("chat.complete", …)`."""

    def __init__(self, client: Any, suffix: str) -> None:
        self._client = client
        self._suffix = suffix

    def ask(self, method: str, **options: Any) -> Any:
        found = self._client
        for part in f"{method}{self._suffix}".split("."):
            found = getattr(found, part)
        return found(**options)


@asynccontextmanager
async def opened(sdk: str, mode: str, url: str, **settings: Any) -> AsyncIterator[Any]:
    """A client as a user would make it; `url` is the provider's."""
    package = importlib.import_module(PACKAGES.get(sdk, sdk))
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "groq": ("Groq", {"base_url": url}),
        "together": ("Together", {"base_url": f"{url}/v1"}),
        "cohere": ("ClientV2", {"base_url": url}),
        "cohere_v1": ("Client", {"base_url": url}),
        "ollama": ("Client", {"host": url}),
        "gemini": ("Client", {"http_options": {"base_url": url}}),
        "mistral": ("Mistral", {"server_url": url}),
    }
    name, options = kinds[sdk]
    if sdk != "ollama":
        options["api_key"] = "any"
    if mode == ASYNC and sdk not in ("gemini", "mistral"):
        name = f"Async{name}"
    async with _entered(getattr(package, name)(**options, **settings), mode, sdk) as client:
        yield client


@asynccontextmanager
async def _entered(client: Any, mode: str, sdk: str) -> AsyncIterator[Any]:
    if sdk == "gemini":
        with client:
            if mode == SYNC:
                yield client
                return
            async with client.aio as asynchronous:
                yield asynchronous
    elif sdk == "mistral":
        if mode == SYNC:
            with client:
                yield _Mistral(client, "")
        else:
            async with client:
                yield _Mistral(client, "_async")
    elif mode == SYNC and hasattr(client, "__enter__"):
        with client:
            yield client
    else:
        async with entered(client) as made:
            yield made


# -- Gemini ----------------------------------------------------------------------------------------------------------

FLASH = "gemini-2.5-flash"
FUNCTIONS: Any = [{"function_declarations": [{"name": "weather", "parameters_json_schema": CITY}]}]
BY_HAND: Any = {"tools": FUNCTIONS, "automatic_function_calling": {"disable": True}}


@case("gemini")
async def gemini_generate(client: Any) -> Any:
    config = {"system_instruction": "Be brief.", "temperature": 0.5, "thinking_config": {"include_thoughts": True}}
    return await settle(client.models.generate_content(model=FLASH, contents="Grüße 🙂", config=config))


@case("gemini")
async def gemini_generate_again_and_again(client: Any) -> Any:
    return [await settle(client.models.generate_content(model=FLASH, contents="Hi")) for _ in range(3)]


@case("gemini")
async def gemini_two_models(client: Any) -> Any:
    """The same body: only the path tells them apart."""
    models = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-2.5-flash")
    return [await settle(client.models.generate_content(model=model, contents="Hi")) for model in models]


@case("gemini")
async def gemini_tools(client: Any) -> Any:
    first = await settle(client.models.generate_content(model=FLASH, contents="Rain?", config=BY_HAND))
    asked = first.candidates[0].content
    results = [
        {"function_response": {"id": call.id, "name": call.name, "response": {"result": "rain"}}}
        for call in first.function_calls
    ]
    contents = [{"role": "user", "parts": [{"text": "Rain?"}]}, asked, {"role": "user", "parts": results}]
    return [first, await settle(client.models.generate_content(model=FLASH, contents=contents, config=BY_HAND))]


@case("gemini")
async def gemini_automatic_tools(client: Any) -> Any:
    def weather(city: str, days: int) -> str:
        """Weather of the next days."""
        return f"rain in {city} for {days} days"

    return await settle(client.models.generate_content(model=FLASH, contents="Rain?", config={"tools": [weather]}))


@case("gemini")
async def gemini_structured(client: Any) -> Any:
    config = {"response_mime_type": "application/json", "response_json_schema": CITY}
    return await settle(client.models.generate_content(model=FLASH, contents="Where?", config=config))


@case("gemini")
async def gemini_stream(client: Any) -> Any:
    config = {"thinking_config": {"include_thoughts": True}}
    return await drained(
        await settle(client.models.generate_content_stream(model=FLASH, contents="Grüße 🙂", config=config))
    )


@case("gemini")
async def gemini_stream_tools(client: Any) -> Any:
    return await drained(
        await settle(client.models.generate_content_stream(model=FLASH, contents="Rain?", config=BY_HAND))
    )


@case("gemini")
async def gemini_stream_error(client: Any) -> Any:
    return await drained(await settle(client.models.generate_content_stream(model="stream-error", contents="Hi")))


@case("gemini")
async def gemini_chat(client: Any) -> Any:
    chat = client.chats.create(model=FLASH)
    return [await settle(chat.send_message(text)) for text in ("One", "Two")] + [chat.get_history()]


@case("gemini")
async def gemini_embed(client: Any) -> Any:
    config = {"output_dimensionality": 4}
    return await settle(client.models.embed_content(model="gemini-embedding-001", contents=TEXTS, config=config))


@case("gemini")
async def gemini_count_tokens(client: Any) -> Any:
    return await settle(client.models.count_tokens(model=FLASH, contents="How many?"))


@case("gemini")
async def gemini_error_400(client: Any) -> Any:
    return await settle(client.models.generate_content(model="error-400", contents="Hi"))


@case("gemini")
async def gemini_error_429(client: Any) -> Any:
    return await settle(client.models.generate_content(model="error-429", contents="Hi"))


@case("gemini")
async def gemini_stream_error_503(client: Any) -> Any:
    return await drained(await settle(client.models.generate_content_stream(model="error-503", contents="Hi")))


@case("gemini")
async def gemini_dropped(client: Any) -> Any:
    return await settle(client.models.generate_content(model="drop", contents="Hi"))


PATIENT: Any = {"http_options": {"retry_options": {"attempts": 3, "initial_delay": 0.01, "max_delay": 0.02}}}
"""Options of a request that is tried again, at once."""


@case("gemini")
async def gemini_flaky_503(client: Any) -> Any:
    return await settle(client.models.generate_content(model="flaky-503-2", contents="Hi", config=PATIENT))


@case("gemini")
async def gemini_flaky_drop(client: Any) -> Any:
    return await settle(client.models.generate_content(model="flaky-drop", contents="Hi", config=PATIENT))


@case("gemini")
async def gemini_flaky_stream(client: Any) -> Any:
    return await drained(
        await settle(client.models.generate_content_stream(model="flaky-429", contents="Hi", config=PATIENT))
    )


@case("gemini")
async def gemini_refused_again_and_again(client: Any) -> Any:
    return await settle(client.models.generate_content(model="error-503", contents="Hi", config=PATIENT))


@case("gemini")
async def gemini_dropped_again_and_again(client: Any) -> Any:
    return await settle(client.models.generate_content(model="drop", contents="Hi", config=PATIENT))


ASKED: Any = {"model": FLASH, "input": "Grüße 🙂"}
WEATHER: Any = {"type": "function", "name": "weather", "description": "Weather", "parameters": CITY}


@case("gemini")
async def gemini_interaction(client: Any) -> Any:
    return await settle(client.interactions.create(**ASKED, system_instruction="Be brief."))


@case("gemini")
async def gemini_interaction_tools(client: Any) -> Any:
    first = await settle(client.interactions.create(**ASKED, tools=[WEATHER]))
    results = [
        {"type": "function_result", "call_id": step.id, "name": step.name, "result": "rain"}
        for step in first.steps
        if step.type == "function_call"
    ]
    asked = {**ASKED, "input": results, "previous_interaction_id": first.id}
    return [first, await settle(client.interactions.create(**asked, tools=[WEATHER]))]


@case("gemini")
async def gemini_interaction_stream(client: Any) -> Any:
    return await drained(await settle(client.interactions.create(**ASKED, stream=True)))


@case("gemini")
async def gemini_interaction_stream_tools(client: Any) -> Any:
    return await drained(await settle(client.interactions.create(**ASKED, stream=True, tools=[WEATHER])))


@case("gemini")
async def gemini_interaction_in_the_background(client: Any) -> Any:
    seen = [await settle(client.interactions.create(**ASKED, background=True))]
    while seen[-1].status == "in_progress":
        seen.append(await settle(client.interactions.get(seen[-1].id)))
    return [*seen, await settle(client.interactions.delete(seen[-1].id))]


@case("gemini")
async def gemini_flaky_interaction(client: Any) -> Any:
    return await settle(client.interactions.create(**ASKED | {"model": "flaky-503"}))


@case("gemini")
async def gemini_refused_interaction(client: Any) -> Any:
    return await settle(client.interactions.create(**ASKED | {"model": "error-400"}))


@case("gemini")
async def gemini_files(client: Any) -> Any:
    config = {"mime_type": "text/plain", "display_name": "notes"}
    file = await settle(client.files.upload(file=io.BytesIO(b"Notes \x00\xff" * 2_000_000), config=config))
    told = [file, await settle(client.files.get(name=file.name))]
    content = await settle(client.files.download(file=file.name))
    listed = [kept async for kept in each(await settle(client.files.list()))]
    return [*told, content, listed, await settle(client.files.delete(name=file.name))]


# -- Mistral ---------------------------------------------------------------------------------------------------------

LARGE: Any = {"model": "mistral-large-latest"}


@case("mistral")
async def mistral_chat(client: Any) -> Any:
    return await settle(client.ask("chat.complete", **LARGE, messages=USER, temperature=0.3))


@case("mistral")
async def mistral_tools(client: Any) -> Any:
    first = await settle(client.ask("chat.complete", **LARGE, messages=USER, tools=[TOOL]))
    message = first.choices[0].message
    told = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    messages = [*USER, message, *told]
    return [first, await settle(client.ask("chat.complete", **LARGE, messages=messages, tools=[TOOL]))]


@case("mistral")
async def mistral_stream(client: Any) -> Any:
    async with entered(await settle(client.ask("chat.stream", **LARGE, messages=USER))) as events:
        return await drained(events)


@case("mistral")
async def mistral_stream_tools(client: Any) -> Any:
    async with entered(await settle(client.ask("chat.stream", **LARGE, messages=USER, tools=[TOOL]))) as events:
        return await drained(events)


@case("mistral")
async def mistral_fim(client: Any) -> Any:
    return await settle(client.ask("fim.complete", model="codestral-latest", prompt="def f(", suffix="return x"))


@case("mistral")
async def mistral_agent(client: Any) -> Any:
    return await settle(client.ask("agents.complete", agent_id="ag_1", messages=USER))


@case("mistral")
async def mistral_conversation(client: Any) -> Any:
    first = await settle(client.ask("beta.conversations.start", **LARGE, inputs="Rain?", tools=[TOOL]))
    results = [
        {"type": "function.result", "tool_call_id": output.tool_call_id, "result": "rain"} for output in first.outputs
    ]
    more = {"conversation_id": first.conversation_id, "inputs": results}
    return [first, await settle(client.ask("beta.conversations.append", **more))]


@case("mistral")
async def mistral_conversation_stream(client: Any) -> Any:
    stream = await settle(client.ask("beta.conversations.start_stream", **LARGE, inputs="Hi"))
    async with entered(stream) as events:
        return await drained(events)


@case("mistral")
async def mistral_embed(client: Any) -> Any:
    return await settle(client.ask("embeddings.create", model="mistral-embed", inputs=TEXTS))


@case("mistral")
async def mistral_ocr(client: Any) -> Any:
    document = {"type": "document_url", "document_url": "https://example.org/a.pdf"}
    return await settle(client.ask("ocr.process", model="mistral-ocr-latest", document=document))


@case("mistral")
async def mistral_moderation(client: Any) -> Any:
    return await settle(client.ask("classifiers.moderate", model="mistral-moderation-latest", inputs=TEXTS))


@case("mistral")
async def mistral_transcription(client: Any) -> Any:
    sound = {"file_name": "a.mp3", "content": b"\x00\xff\r\n--sound"}
    return await settle(client.ask("audio.transcriptions.complete", model="voxtral-mini-latest", file=sound))


@case("mistral")
async def mistral_error_422(client: Any) -> Any:
    return await settle(client.ask("chat.complete", model="error-422", messages=USER))


@case("mistral")
async def mistral_error_500(client: Any) -> Any:
    return await settle(client.ask("chat.complete", model="error-500", messages=USER))


def _tried(seconds: float = 5) -> Any:
    """Options of a request that is tried again, at once."""
    from mistralai.client.utils import BackoffStrategy, RetryConfig

    return RetryConfig("backoff", BackoffStrategy(10, 20, 1.5, int(seconds * 1000), 1), True)


@case("mistral")
async def mistral_flaky_500(client: Any) -> Any:
    return await settle(client.ask("chat.complete", model="flaky-500-2", messages=USER, retries=_tried()))


@case("mistral")
async def mistral_flaky_drop(client: Any) -> Any:
    return await settle(client.ask("chat.complete", model="flaky-drop", messages=USER, retries=_tried()))


@case("mistral")
async def mistral_flaky_stream(client: Any) -> Any:
    asked = client.ask("chat.stream", model="flaky-429", messages=USER, retries=_tried())
    async with entered(await settle(asked)) as events:
        return await drained(events)


@case("mistral")
async def mistral_refused_again_and_again(client: Any) -> Any:
    return await settle(client.ask("chat.complete", model="error-500", messages=USER, retries=_tried(0.1)))


@case("mistral")
async def mistral_dropped_again_and_again(client: Any) -> Any:
    return await settle(client.ask("chat.complete", model="drop", messages=USER, retries=_tried(0.1)))


@case("mistral")
async def mistral_dropped(client: Any) -> Any:
    return await settle(client.ask("chat.complete", model="drop", messages=USER))


# -- Groq and Together -----------------------------------------------------------------------------------------------

LLAMA: Any = {"model": "llama-3.3-70b", "messages": USER}


@case("groq", "together")
async def chat(client: Any) -> Any:
    return await settle(client.chat.completions.create(**LLAMA, temperature=0.2))


@case("groq", "together")
async def tools(client: Any) -> Any:
    first = await settle(client.chat.completions.create(**LLAMA, tools=[TOOL]))
    message = first.choices[0].message
    told = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    messages = [*USER, message.model_dump(include={"role", "content", "tool_calls"}), *told]
    return [first, await settle(client.chat.completions.create(**LLAMA | {"messages": messages}, tools=[TOOL]))]


@case("groq", "together")
async def stream(client: Any) -> Any:
    return await drained(await settle(client.chat.completions.create(**LLAMA, stream=True)))


@case("groq", "together")
async def stream_tools(client: Any) -> Any:
    return await drained(await settle(client.chat.completions.create(**LLAMA, stream=True, tools=[TOOL])))


@case("groq", "together")
async def raw(client: Any) -> Any:
    response = await settle(client.chat.completions.with_raw_response.create(**LLAMA))
    return [response, await settle(response.parse())]


@case("groq", "together")
async def embed(client: Any) -> Any:
    return await settle(client.embeddings.create(model="nomic-embed", input=TEXTS))


@case("groq")
async def models(client: Any) -> Any:
    return await settle(client.models.list())


@case("groq", "together")
async def speech(client: Any) -> Any:
    answer = await settle(client.audio.speech.create(model="orpheus", input="Hello", voice="tara"))
    return await settle(answer.read())


@case("groq", "together")
async def transcription(client: Any) -> Any:
    sound = ("a.mp3", b"\x00\xff\r\n--sound")
    return await settle(client.audio.transcriptions.create(model="openai/whisper-large-v3", file=sound))


@case("groq", "together", max_retries=0)
async def error_429(client: Any) -> Any:
    return await settle(client.chat.completions.create(**LLAMA | {"model": "error-429"}))


@case("groq", "together")
async def flaky_500(client: Any) -> Any:
    response = await settle(client.chat.completions.with_raw_response.create(**LLAMA | {"model": "flaky-500"}))
    return [response, await settle(response.parse())]


@case("groq", "together", max_retries=0)
async def dropped(client: Any) -> Any:
    return await settle(client.chat.completions.create(**LLAMA | {"model": "drop"}))


@case("together")
async def completion(client: Any) -> Any:
    return await settle(client.completions.create(model="llama-3.3-70b", prompt="Once"))


@case("together")
async def image(client: Any) -> Any:
    return await settle(client.images.generate(model="flux", prompt="A clock", response_format="base64"))


@case("together")
async def together_rerank(client: Any) -> Any:
    return await settle(client.rerank.create(model="rerank-1", query="clocks", documents=TEXTS))


# -- Cohere ----------------------------------------------------------------------------------------------------------

COMMAND: Any = {"model": "command-a-03-2025", "messages": USER}


@case("cohere")
async def cohere_chat(client: Any) -> Any:
    return await settle(client.chat(**COMMAND, temperature=0.2, p=0.9))


@case("cohere")
async def cohere_thinking(client: Any) -> Any:
    return await settle(client.chat(**COMMAND, thinking={"type": "enabled"}))


@case("cohere")
async def cohere_tools(client: Any) -> Any:
    first = await settle(client.chat(**COMMAND, tools=[TOOL]))
    told = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in first.message.tool_calls]
    messages = [*USER, first.message, *told]
    return [first, await settle(client.chat(**COMMAND | {"messages": messages}, tools=[TOOL]))]


@case("cohere")
async def cohere_stream(client: Any) -> Any:
    return await drained(client.chat_stream(**COMMAND, thinking={"type": "enabled"}))


@case("cohere")
async def cohere_stream_tools(client: Any) -> Any:
    return await drained(client.chat_stream(**COMMAND, tools=[TOOL]))


@case("cohere")
async def cohere_embed(client: Any) -> Any:
    options: Any = {"input_type": "search_query", "embedding_types": ["float", "int8"], "output_dimension": 4}
    return await settle(client.embed(model="embed-v4.0", texts=TEXTS, **options))


@case("cohere")
async def cohere_rerank(client: Any) -> Any:
    return await settle(client.rerank(model="rerank-v3.5", query="clocks", documents=TEXTS, top_n=2))


@case("cohere")
async def cohere_error_400(client: Any) -> Any:
    return await settle(client.chat(**COMMAND | {"model": "error-400"}))


@case("cohere")
async def cohere_error_429(client: Any) -> Any:
    return await settle(client.chat(**COMMAND | {"model": "error-429"}, request_options={"max_retries": 0}))


@case("cohere")
async def cohere_stream_error_500(client: Any) -> Any:
    return await drained(client.chat_stream(**COMMAND | {"model": "error-500"}, request_options={"max_retries": 0}))


@case("cohere")
async def cohere_flaky_429(client: Any) -> Any:
    return await settle(client.chat(**COMMAND | {"model": "flaky-429"}))


@case("cohere")
async def cohere_dropped(client: Any) -> Any:
    return await settle(client.chat(**COMMAND | {"model": "drop"}, request_options={"max_retries": 0}))


@case("cohere_v1")
async def cohere_v1_chat(client: Any) -> Any:
    history = [{"role": "USER", "message": "Hi"}, {"role": "CHATBOT", "message": "Hello"}]
    options: Any = {"model": "command-r", "preamble": "Be brief.", "chat_history": history}
    return await settle(client.chat(message="Grüße 🙂", **options))


@case("cohere_v1")
async def cohere_v1_stream(client: Any) -> Any:
    return await drained(client.chat_stream(message="Grüße 🙂", model="command-r"))


# -- Ollama ----------------------------------------------------------------------------------------------------------

QWEN: Any = {"model": "qwen3", "messages": USER}


@case("ollama")
async def ollama_chat(client: Any) -> Any:
    return await settle(client.chat(**QWEN, options={"temperature": 0.1, "num_predict": 50}))


@case("ollama")
async def ollama_tools(client: Any) -> Any:
    first = await settle(client.chat(**QWEN, tools=[TOOL], think=True))
    told = [{"role": "tool", "tool_name": call.function.name, "content": "rain"} for call in first.message.tool_calls]
    return [first, await settle(client.chat(model="qwen3", messages=[*USER, first.message, *told], tools=[TOOL]))]


@case("ollama")
async def ollama_structured(client: Any) -> Any:
    return await settle(client.chat(**QWEN, format=CITY))


@case("ollama")
async def ollama_stream(client: Any) -> Any:
    return await drained(await settle(client.chat(**QWEN, stream=True, think=True)))


@case("ollama")
async def ollama_stream_tools(client: Any) -> Any:
    return await drained(await settle(client.chat(**QWEN, stream=True, tools=[TOOL])))


@case("ollama")
async def ollama_stream_error(client: Any) -> Any:
    return await drained(await settle(client.chat(**QWEN | {"model": "stream-error"}, stream=True)))


@case("ollama")
async def ollama_stream_broken_off(client: Any) -> Any:
    return await drained(await settle(client.chat(**QWEN | {"model": "drop-midstream"}, stream=True)))


@case("ollama")
async def ollama_generate(client: Any) -> Any:
    return await settle(client.generate(model="qwen3", prompt="Once", system="Be brief."))


@case("ollama")
async def ollama_generate_stream(client: Any) -> Any:
    return await drained(await settle(client.generate(model="qwen3", prompt="Once", stream=True)))


@case("ollama")
async def ollama_embed(client: Any) -> Any:
    return await settle(client.embed(model="nomic", input=TEXTS))


@case("ollama")
async def ollama_embeddings(client: Any) -> Any:
    return await settle(client.embeddings(model="nomic", prompt="one"))


@case("ollama")
async def ollama_show(client: Any) -> Any:
    return await settle(client.show("qwen3"))


@case("ollama")
async def ollama_error_404(client: Any) -> Any:
    return await settle(client.chat(**QWEN | {"model": "error-404"}))


@case("ollama")
async def ollama_stream_error_500(client: Any) -> Any:
    return await drained(await settle(client.chat(**QWEN | {"model": "error-500"}, stream=True)))


@case("ollama")
async def ollama_dropped(client: Any) -> Any:
    return await settle(client.chat(**QWEN | {"model": "drop"}))
