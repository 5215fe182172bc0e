// What every official TypeScript client does here: list, call a tool, read a resource, meet a failure. Prints JSON.
//   node list_and_call.mjs <sdk-http | sdk-websocket | client-2025 | client-2026> <url>
import { Client as SdkClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as SdkHttp } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { WebSocketClientTransport } from "@modelcontextprotocol/sdk/client/websocket.js";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [kind, url] = process.argv.slice(2);
const who = { name: "conformance", version: "1" };
const makers = {
  "sdk-http": () => [new SdkClient(who), new SdkHttp(new URL(url))],
  "sdk-websocket": () => [new SdkClient(who), new WebSocketClientTransport(new URL(url))],
  "client-2025": () => [new Client(who), new StreamableHTTPClientTransport(new URL(url))],
  "client-2026": () => [
    new Client(who, { versionNegotiation: { mode: { pin: "2026-07-28" } } }),
    new StreamableHTTPClientTransport(new URL(url)),
  ],
};
const [client, transport] = makers[kind]();
await client.connect(transport);
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
