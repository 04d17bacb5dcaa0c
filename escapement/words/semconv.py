"""Every attribute name that Escapement writes, in one place.

`gen_ai.*` follows the OpenTelemetry GenAI semantic conventions, which moved to their own repository
(open-telemetry/semantic-conventions-genai) in 2026 and are still "Development"; the names here are those of
`VERSION`, and for metrics those of `opentelemetry-util-genai` 1.3. `escapement.*` is ours, and is what a replay is made
from.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "88eccb155ca7"
"""Commit of the GenAI conventions that the names below were taken from; they have no releases yet."""

FETCH_RESPONSE: Final = "fetch_response"
"""The operation that fetches a response that was made before."""

SCOPE: Final = "escapement"
"""Name of the instrumentation scope of our spans."""

# --- OpenTelemetry, general -----------------------------------------------------------------------------------------
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

# --- OpenTelemetry GenAI --------------------------------------------------------------------------------------------
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
OUTPUT_TYPE: Final = "gen_ai.output.type"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
REQUEST_ENCODING_FORMATS: Final = "gen_ai.request.encoding_formats"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
REQUEST_PREVIOUS_RESPONSE_ID: Final = "gen_ai.request.previous_response.id"
REQUEST_REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE: Final = "gen_ai.usage.cache_write.input_tokens"
USAGE_REASONING: Final = "gen_ai.usage.reasoning.output_tokens"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOKEN_TYPE: Final = "gen_ai.token.type"
CLIENT_TOKEN_USAGE: Final = "gen_ai.client.token.usage"
"""Metrics from here on."""
CLIENT_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
CLIENT_TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
AGENT_NAME: Final = "gen_ai.agent.name"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_DESCRIPTION: Final = "gen_ai.tool.description"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"
RETRIEVAL_QUERY_TEXT: Final = "gen_ai.retrieval.query.text"
EMBEDDINGS_DIMENSION_COUNT: Final = "gen_ai.embeddings.dimension.count"

OPENAI_REQUEST_SERVICE_TIER: Final = "openai.request.service_tier"
OPENAI_RESPONSE_SERVICE_TIER: Final = "openai.response.service_tier"
OPENAI_SYSTEM_FINGERPRINT: Final = "openai.response.system_fingerprint"

DOUBLES: Final = frozenset({REQUEST_TEMPERATURE, REQUEST_TOP_P, REQUEST_FREQUENCY_PENALTY, REQUEST_PRESENCE_PENALTY})
"""Numbers that are doubles however a program writes them."""
INTEGERS: Final = frozenset(
    {REQUEST_MAX_TOKENS, REQUEST_SEED, REQUEST_TOP_K, REQUEST_CHOICE_COUNT, EMBEDDINGS_DIMENSION_COUNT}
)
"""Numbers that are whole however a program writes them (Gemini's documentation has a `topK` of 40.0)."""

# --- Escapement -----------------------------------------------------------------------------------------------------
TRACE_ID: Final = "escapement.trace.id"
TRACE_NAME: Final = "escapement.trace.name"
STEP: Final = "escapement.step"
LANE: Final = "escapement.lane"
MODE: Final = "escapement.mode"
FINGERPRINT: Final = "escapement.fingerprint"
EXACT: Final = "escapement.request.exact"
"""Hash of the request byte for byte, for short ones: a replay that meets it again need not parse it."""
METHOD: Final = "escapement.request.method"
PATH: Final = "escapement.request.path"
QUERY: Final = "escapement.request.query"
REQUEST_HEADERS: Final = "escapement.request.headers"
REQUEST_BODY: Final = "escapement.request.body"
"""`{base, keep, add, suffix}`: the body as pieces, described as a change of the body of step `base`."""
REQUEST_BYTES: Final = "escapement.request.size"
STATUS: Final = "escapement.response.status"
REASON: Final = "escapement.response.reason"
HTTP_VERSION: Final = "escapement.response.http_version"
RESPONSE_HEADERS: Final = "escapement.response.headers"
RESPONSE_BODY: Final = "escapement.response.body"
RESPONSE_BODY_BASE64: Final = "escapement.response.body.base64"
RESPONSE_CHUNKS: Final = "escapement.response.chunks"
"""`[[size, microseconds since the request], …]`: where the body was cut on the wire."""
RESPONSE_REDIRECTS: Final = "escapement.response.redirects"
"""`[[status, headers], …]` of the redirects that were followed on the way to the answer."""
RESPONSE_ENDING: Final = "escapement.response.ending"
RESPONSE_ELAPSED: Final = "escapement.response.elapsed"
RESPONSE_BYTES: Final = "escapement.response.size"
RESPONSE_WIRE: Final = "escapement.response.wire"
"""Bytes received, where they are not as many as the (decoded) body has."""
RESPONSE_ENCODED: Final = "escapement.response.encoded"
"""The chunks of a compressed body as they were received, in base64 with a dot between them: for programs that undo the
compression themselves."""
RESPONSE_HASH: Final = "escapement.response.hash"
USAGE_COST: Final = "escapement.usage.cost"
"""US dollars that a call cost, where the answer says it."""
EDITED: Final = "escapement.response.edited"
"""Whether somebody edited the answer. What it says of tokens is then about the answer that was recorded."""
REBUILT: Final = "escapement.rebuilt"
"""Of a step that was made from a span of others: what that did not hold, by name (`response.headers`)."""
DIVERGENCE: Final = "escapement.divergence"
"""Of a call that went live because the replayed trace held no answer for it: `kind` (or `reason`) of the error."""
TOOLS_CALLED: Final = "escapement.tools.called"
"""The names of the tools that an answer asks for."""
TOOLS_FAILED: Final = "escapement.tools.failed"
"""The names of the tools whose results are errors, of those that a request is the first to tell."""
SERVED_FROM: Final = "escapement.served_from"
"""`[trace id, step]`: of a step of an imported fork, where its answer first was."""
ATTEMPTS: Final = "escapement.attempts"
FAILURE_TYPE: Final = "escapement.failure.type"
FAILURE_MESSAGE: Final = "escapement.failure.message"
FAILURE_CAUSES: Final = "escapement.failure.causes"
FAILURE_SENDING: Final = "escapement.failure.sending"
"""Whether the request was not out yet when it failed: no connection, no more of it taken."""
RAISED: Final = "escapement.failure.raised"
"""The exception that the SDK made of the failure, as `package.Class`."""

TRACE_STATUS: Final = "escapement.trace.status"
"""What only telemetry has, from here on; a recording has what it follows from."""
CALL_COST: Final = "escapement.call.cost"
"""US dollars that a live call cost, at the prices of the day it is told."""
CALL_SAVED: Final = "escapement.call.saved"
"""US dollars that a served call did not cost again."""
CALL_FAILED: Final = "escapement.call.failed"
"""1 of a live call that failed, 0 of others: for languages that know means, but not how to divide."""
TOOL_CALLS: Final = "escapement.tool.calls"
"""How many tools an answer asks for, and how many a request says that they failed. Metrics of these names, too."""
TOOL_FAILURES: Final = "escapement.tool.failures"

METRIC_COST: Final = "escapement.client.cost"
"""US dollars for live calls. Calls whose price is not known are not in it. Metrics from here on."""
METRIC_RUN_COST: Final = "escapement.run.cost"
METRIC_SAVED: Final = "escapement.replay.saved"
METRIC_LOOPS: Final = "escapement.guard.kills"
METRIC_DIVERGENCES: Final = "escapement.replay.divergences"
METRIC_HITS: Final = "escapement.replay.hits"
METRIC_MISSES: Final = "escapement.replay.misses"

STRUCTURED: Final = frozenset({REQUEST_HEADERS, RESPONSE_HEADERS, RESPONSE_REDIRECTS, FAILURE_CAUSES})
"""What the journal holds as JSON values; attributes of a span hold it as JSON text."""

_OF_ANSWER: Final = (
    "escapement.response.", "escapement.failure.", "gen_ai.response.", "gen_ai.usage.", "openai.response.",
)  # fmt: skip


def is_of_answer(name: str) -> bool:
    """Whether an attribute of a step is known with its answer, and not before."""
    return name.startswith(_OF_ANSWER) or name in (ERROR_TYPE, ATTEMPTS, TOOLS_CALLED)


PAYLOAD: Final = frozenset(
    {
        REQUEST_BODY, RESPONSE_BODY, RESPONSE_BODY_BASE64, RESPONSE_CHUNKS, RESPONSE_ENCODED, ATTEMPTS,
        TOOL_CALL_ARGUMENTS, TOOL_CALL_RESULT, RETRIEVAL_QUERY_TEXT,
    }
)  # fmt: skip
"""What a slim copy of a span (to the application's own provider) leaves out."""
