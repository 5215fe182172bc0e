// What every official TypeScript client does here: list, call a tool, read a resource, meet a failure. Prints JSON.
//   node list_and_call.mjs <sdk-http | sdk-websocket | client-2025 | client-2026> <url>
import { connected } from "./clients.mjs";

const [kind, url] = process.argv.slice(2);
const client = await connected(kind, url);
const progress = [];
const report = {
  tools: (await client.listTools()).tools.map((tool) => tool.name),
  result: await client.callTool({ name: "get_time", arguments: { zone: "CET" } }),
  failure: await client.callTool({ name: "get_time", arguments: { zone: "Atlantis" } }),
  resources: (await client.listResources()).resources.map((resource) => resource.uri),
  templates: (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate),
  read: await client.readResource({ uri: "clock://zones/UTC" }),
};
const options = { onprogress: (update) => progress.push(update.progress) };
const tick = { name: "tick", arguments: { ticks: 3 } };
await (kind.startsWith("sdk") ? client.callTool(tick, undefined, options) : client.callTool(tick, options));
await client.close();
console.log(JSON.stringify({ ...report, progress }));
