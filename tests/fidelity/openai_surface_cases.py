"""The rest of the OpenAI API: images, sound, files, jobs that are polled, vector stores, conversations."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from tests.fidelity.cases import drained, each, entered, is_async, settle
from tests.fidelity.openai_cases import TALK, openai_case

PICTURE = ("picture.png", b"\x89PNG\r\n\x1a\n\x00\xff\r\n--x\r\n", "image/png")
SOUND = ("sound.mp3", b"ID3\x04\x00\x00\xff\xfb" * 9, "audio/mpeg")
TEXT = ("notes.txt", "Grüße 🙂\r\n".encode(), "text/plain")
SOON: Any = {"poll_interval_ms": 1}


def written(path: str) -> bytes:
    return Path(path).read_bytes()


# -- images ----------------------------------------------------------------------------------------------------------


@openai_case()
async def images(client: Any) -> Any:
    return await settle(client.images.generate(model="gpt-image-1", prompt="a clock", n=2))


@openai_case()
async def images_by_address(client: Any) -> Any:
    return await settle(client.images.generate(model="dall-e-3", prompt="a clock", response_format="url"))


@openai_case()
async def images_stream(client: Any) -> Any:
    options: Any = {"stream": True, "partial_images": 1}
    return await drained(await settle(client.images.generate(model="gpt-image-1", prompt="a clock", **options)))


@openai_case()
async def images_edit(client: Any) -> Any:
    pictures = [PICTURE, ("second.png", io.BytesIO(b"\x89PNG"), "image/png")]
    return await settle(client.images.edit(model="gpt-image-1", image=pictures, mask=PICTURE, prompt="no hands"))


@openai_case()
async def images_edit_stream(client: Any) -> Any:
    asked: Any = {"model": "gpt-image-1", "image": PICTURE, "prompt": "no hands", "stream": True}
    return await drained(await settle(client.images.edit(**asked)))


@openai_case()
async def images_variation(client: Any) -> Any:
    return await settle(client.images.create_variation(image=PICTURE, n=2, response_format="url"))


# -- sound -----------------------------------------------------------------------------------------------------------

SAY: Any = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Good morning"}


@openai_case()
async def speech(client: Any) -> Any:
    said = await settle(client.audio.speech.create(**SAY))
    return [said, await settle(said.read()) if not isinstance(said.content, bytes) else said.content]


@openai_case()
async def speech_into_a_file(client: Any) -> Any:
    said = await settle(client.audio.speech.create(**SAY))
    said.write_to_file("said.mp3")
    return written("said.mp3")


for reading in ("iter_bytes", "read"):

    @openai_case(f"speech_streaming_response_{reading}")
    async def speech_streaming_response(client: Any, reading: str = reading) -> Any:
        async with entered(client.audio.speech.with_streaming_response.create(**SAY)) as response:
            sound = getattr(response, reading)()
            return [await drained(sound) if reading == "iter_bytes" else await settle(sound), response]


@openai_case()
async def speech_streamed_into_a_file(client: Any) -> Any:
    async with entered(client.audio.speech.with_streaming_response.create(**SAY)) as response:
        await settle(response.stream_to_file("said.mp3"))
        return [written("said.mp3"), response]


@openai_case()
async def speech_in_pieces_of_a_size(client: Any) -> Any:
    async with entered(client.audio.speech.with_streaming_response.create(**SAY)) as response:
        return await drained(response.iter_bytes(100))


@openai_case()
async def speech_as_events(client: Any) -> Any:
    streaming = client.audio.speech.with_streaming_response
    async with entered(streaming.create(**SAY, stream_format="sse")) as response:
        return await drained(response.iter_lines())


@openai_case()
async def speech_refused(client: Any) -> Any:
    return await settle(client.audio.speech.create(**{**SAY, "model": "error-404"}))


@openai_case()
async def speech_dropped(client: Any) -> Any:
    streaming = client.audio.speech.with_streaming_response
    async with entered(streaming.create(**{**SAY, "model": "drop-midstream"})) as response:
        return [await drained(response.iter_bytes()), response]


for form in ("json", "text", "srt", "verbose_json"):

    @openai_case(f"transcription_{form}")
    async def transcription(client: Any, form: Any = form) -> Any:
        asked: Any = {"file": SOUND, "model": "whisper-1", "response_format": form}
        return await settle(client.audio.transcriptions.create(**asked))


@openai_case()
async def transcription_stream(client: Any) -> Any:
    asked: Any = {"file": SOUND, "model": "gpt-4o-transcribe", "stream": True}
    return await drained(await settle(client.audio.transcriptions.create(**asked)))


@openai_case()
async def transcription_of_a_path(client: Any) -> Any:
    return await settle(client.audio.transcriptions.create(file=Path(__file__), model="whisper-1"))


@openai_case()
async def transcription_raw_tried_again(client: Any) -> Any:
    """A form whose boundary is new at each attempt."""
    raw = client.audio.transcriptions.with_raw_response
    response = await settle(raw.create(file=SOUND, model="flaky-429"))
    return [response, response.parse()]


@openai_case()
async def translation(client: Any) -> Any:
    return await settle(client.audio.translations.create(file=SOUND, model="whisper-1"))


# -- files, uploads, batches -----------------------------------------------------------------------------------------


@openai_case()
async def files(client: Any) -> Any:
    made = [await settle(client.files.create(file=TEXT, purpose="user_data")) for _ in range(3)]
    first = await settle(client.files.list(limit=2))
    rest = await drained(client.files.list(limit=2))
    again = await settle(client.files.retrieve(made[0].id))
    content = await settle(client.files.content(made[1].id))
    gone = await settle(client.files.delete(made[0].id))
    try:
        error = await settle(client.files.retrieve(made[0].id))
    except Exception as caught:  # which one it is, the snapshot says
        error = caught
    return [made, first, rest, again, content, content.content, gone, error]


@openai_case()
async def files_streamed(client: Any) -> Any:
    made = await settle(client.files.create(file=TEXT, purpose="user_data"))
    async with entered(client.files.with_streaming_response.content(made.id)) as response:
        return [await drained(response.iter_lines()), response]


@openai_case(needs="files.wait_for_processing")
async def files_waited_for(client: Any) -> Any:
    made = await settle(client.files.create(file=TEXT, purpose="user_data"))
    return await settle(client.files.wait_for_processing(made.id, poll_interval=0.001))


@openai_case()
async def uploads(client: Any) -> Any:
    asked: Any = {"bytes": 8, "filename": "x.txt", "mime_type": "text/plain", "purpose": "user_data"}
    upload = await settle(client.uploads.create(**asked))
    parts = [await settle(client.uploads.parts.create(upload.id, data=data)) for data in (b"\r\n--\xff", b"rest")]
    done = await settle(client.uploads.complete(upload.id, part_ids=[part.id for part in parts]))
    content = await settle(client.files.content(done.file.id))
    other = await settle(client.uploads.create(**asked))
    return [upload, parts, done, content.content, await settle(client.uploads.cancel(other.id))]


@openai_case(needs="uploads.upload_file_chunked")
async def uploads_in_chunks(client: Any) -> Any:
    asked: Any = {"filename": "x.txt", "mime_type": "text/plain", "purpose": "user_data", "bytes": 20, "part_size": 7}
    return await settle(client.uploads.upload_file_chunked(file=b"0123456789" * 2, **asked))


@openai_case()
async def batches(client: Any) -> Any:
    """Polled thirteen times: the same request each time, and another answer."""
    lines = [json.dumps({"custom_id": name, "method": "POST", "body": {}}) for name in ("one", "zwei")]
    given = await settle(client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch"))
    asked: Any = {"input_file_id": given.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    told = [await settle(client.batches.create(**asked))]
    while told[-1].status != "completed":
        told.append(await settle(client.batches.retrieve(told[0].id)))
    assert len(told) == 14
    output = await settle(client.files.content(told[-1].output_file_id))
    other = await settle(client.batches.create(**{**asked, "metadata": {"n": "2"}}))
    cancelled = await settle(client.batches.cancel(other.id))
    return [told, output.text, cancelled, await drained(client.batches.list(limit=1))]


# -- vector stores ---------------------------------------------------------------------------------------------------


@openai_case(needs="vector_stores")
async def vector_stores(client: Any) -> Any:
    store = await settle(client.vector_stores.create(name="notes", metadata={"for": "test"}))
    file = await settle(client.files.create(file=TEXT, purpose="assistants"))
    added = await settle(client.vector_stores.files.create_and_poll(vector_store_id=store.id, file_id=file.id, **SOON))
    assert added.status == "completed"
    found = await settle(client.vector_stores.search(store.id, query="where?"))
    listed = await drained(client.vector_stores.files.list(store.id))
    content = await settle(client.vector_stores.files.content(file.id, vector_store_id=store.id))
    changed = await settle(client.vector_stores.update(store.id, name="other"))
    gone = [await settle(client.vector_stores.files.delete(file.id, vector_store_id=store.id))]
    told = [store, file, added, found, [item async for item in each(found)], listed, content, changed]
    stores = [await settle(client.vector_stores.retrieve(store.id)), await drained(client.vector_stores.list())]
    return [told, stores, gone, await settle(client.vector_stores.delete(store.id))]


@openai_case(needs="vector_stores")
async def vector_store_upload_and_poll(client: Any) -> Any:
    store = await settle(client.vector_stores.create())
    return await settle(client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=TEXT, **SOON))


@openai_case(needs="vector_stores")
async def vector_store_batch(client: Any) -> Any:
    """Several files are sent at once. (With a sync client the SDK puts them in the order of addresses in memory.)"""
    store = await settle(client.vector_stores.create())
    names = ("one", "two", "three", "four") if is_async(client) else ("one",)
    texts = [(f"{name}.txt", name.encode(), "text/plain") for name in names]
    batches = client.vector_stores.file_batches
    batch = await settle(batches.upload_and_poll(store.id, files=texts, **SOON))
    assert batch.status == "completed"
    return batch


# -- conversations, responses that are kept --------------------------------------------------------------------------


@openai_case(needs="conversations")
async def conversations(client: Any) -> Any:
    talk = await settle(client.conversations.create(items=[{"type": "message", "role": "user", "content": "Hi"}]))
    items = [{"type": "message", "role": "user", "content": text} for text in ("one", "two")]
    added = await settle(client.conversations.items.create(talk.id, items=items))
    answer = await settle(client.responses.create(**TALK, conversation=talk.id))
    listed = await drained(client.conversations.items.list(talk.id, limit=2))
    one = await settle(client.conversations.items.retrieve(added.data[0].id, conversation_id=talk.id))
    less = await settle(client.conversations.items.delete(added.data[0].id, conversation_id=talk.id))
    changed = await settle(client.conversations.update(talk.id, metadata={"n": "1"}))
    again = await settle(client.conversations.retrieve(talk.id))
    return [talk, added, answer, listed, one, less, changed, again, await settle(client.conversations.delete(talk.id))]


@openai_case()
async def responses_in_the_background(client: Any) -> Any:
    told = [await settle(client.responses.create(**TALK, background=True))]
    while told[-1].status in ("queued", "in_progress"):
        told.append(await settle(client.responses.retrieve(told[0].id)))
    assert len(told) == 14
    items = await drained(client.responses.input_items.list(told[0].id))
    return [told, items, await settle(client.responses.delete(told[0].id))]


@openai_case()
async def responses_cancelled(client: Any) -> Any:
    response = await settle(client.responses.create(**TALK, background=True))
    return await settle(client.responses.cancel(response.id))


@openai_case(needs="responses.input_tokens")
async def responses_input_tokens(client: Any) -> Any:
    return await settle(client.responses.input_tokens.count(**TALK))
