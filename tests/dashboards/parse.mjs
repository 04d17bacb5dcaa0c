// Parses the TraceQL queries that are lines of stdin with Grafana's own grammar; prints, for each, how many errors.
import { parser } from "@grafana/lezer-traceql";

let text = "";
for await (const part of process.stdin) text += part;
for (const query of text.trim().split("\n")) {
  let errors = 0;
  parser.parse(query).iterate({ enter: (node) => { errors += node.type.isError ? 1 : 0; } });
  console.log(errors);
}
