// A provider whose every answer is random: aimock speaks the protocols, this decides what is said.
//
// Two rounds of tool calls (two calls, then one), then an answer. Prints its address when it listens, and stops, for
// good, on SIGTERM. `GET /__aimock/journal` lists the requests that reached it.
import { createRequire } from "node:module";

const { LLMock } = createRequire(process.argv[2])("@copilotkit/aimock"); // installed beside the file that is named

const WORDS = "amber birch cobalt dune ember fjord garnet hazel indigo juniper kelp larch maple nectar ochre pine".split(" ");

const number = (below) => Math.floor(Math.random() * below);
const word = () => `${WORDS[number(WORDS.length)]}-${number(1e6)}`;
const sentence = () => Array.from({ length: 8 }, word).join(" ");

/** Any value that a JSON schema allows. */
function valueOf(schema, root = schema) {
  if (schema.$ref) return valueOf(root.$defs[schema.$ref.split("/").pop()], root);
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return schema.enum[number(schema.enum.length)];
  if (schema.anyOf) return valueOf(schema.anyOf[0], root);
  switch (schema.type) {
    case "object": {
      const members = Object.entries(schema.properties ?? {});
      return Object.fromEntries(members.map(([name, member]) => [name, valueOf(member, root)]));
    }
    case "array":
      return [valueOf(schema.items, root), valueOf(schema.items, root)];
    case "integer":
      return number(1000);
    case "number":
      return number(1e6) / 1000;
    case "boolean":
      return Math.random() < 0.5;
    default:
      return word();
  }
}

const call = (tool) => ({
  name: tool.function.name,
  arguments: JSON.stringify(valueOf(tool.function.parameters ?? { type: "object" })),
});

/** How often the model has spoken already; calls made side by side may have become messages of their own. */
const turns = (messages) =>
  messages.filter(({ role }, at) => role === "assistant" && messages[at - 1]?.role !== "assistant").length;

const textOf = ({ content }) =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");

/** What smolagents' CodeAgent and DSPy ask for: tools called in text. Nothing for anybody else. */
function inText(messages) {
  const said = messages.map(textOf).join("\n");
  const turn = turns(messages);
  if (said.includes("final_answer(") && said.includes("<code>")) {
    const code = turn < 2 ? `print(weather("${word()}", ${number(7)}))` : `final_answer("${sentence()}")`;
    return `Thought: ${sentence()}\n<code>\n${code}\n</code>`;
  }
  const asked = said.slice(said.lastIndexOf("Respond with the corresponding output fields"));
  const fields = [...asked.matchAll(/`\[\[ ## (\w+) ## \]\]`/g)].map((found) => found[1]);
  if (!fields.includes("completed")) return undefined;
  const seen = new Set(said.match(/\[\[ ## observation_\d+ ## \]\]/g)).size;
  const values = {
    next_tool_name: seen < 2 ? "weather" : "finish",
    next_tool_args: seen < 2 ? JSON.stringify({ city: word(), day: number(7) }) : "{}",
  };
  const blocks = fields.filter((field) => field !== "completed").map((field) => `[[ ## ${field} ## ]]\n${values[field] ?? sentence()}\n`);
  return [...blocks, "[[ ## completed ## ]]"].join("\n");
}

function answer({ messages, tools = [], response_format: format }) {
  const turn = turns(messages);
  // Some tools look things up, or hand over; the others are how a typed answer is given.
  const looks = tools.find((tool) => /^(weather|transfer_to_)/.test(tool.function.name));
  const typed = tools.find((tool) => tool !== looks);
  if (looks && turn < 2) {
    const twice = turn === 0 && Object.keys(looks.function.parameters?.properties ?? {}).length;
    return { toolCalls: twice ? [call(looks), call(looks)] : [call(looks)] };
  }
  if (typed) return { toolCalls: [call(typed)] };
  if (format?.json_schema) return { content: JSON.stringify(valueOf(format.json_schema.schema)) };
  return { content: inText(messages) ?? sentence() };
}

function usage() {
  return { prompt_tokens: number(1000), completion_tokens: number(1000) };
}

const provider = new LLMock({ host: "127.0.0.1", port: 0, chunkSize: 9 });
provider.on({}, (request) => ({ ...answer(request), usage: usage() }));
await provider.start();
process.on("SIGTERM", () => process.exit(0));
console.log(provider.url);
