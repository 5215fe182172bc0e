// Lists the tools of a gateway by every official TypeScript client, which compile the output schemas on the way, and
// compiles the input schemas by their validators, too. Prints the names.
//   node take_schemas.mjs <sdk-http | client-2025 | client-2026> <url>
import { Client as SdkClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as SdkHttp } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { AjvJsonSchemaValidator } from "@modelcontextprotocol/sdk/validation/ajv";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [kind, url] = process.argv.slice(2);
const who = { name: "schemas", version: "1" };
const makers = {
  "sdk-http": () => [new SdkClient(who), new SdkHttp(new URL(url))],
  "client-2025": () => [new Client(who), new StreamableHTTPClientTransport(new URL(url))],
  "client-2026": () => [
    new Client(who, { versionNegotiation: { mode: { pin: "2026-07-28" } } }),
    new StreamableHTTPClientTransport(new URL(url)),
  ],
};
const [client, transport] = makers[kind]();
await client.connect(transport);
const { tools } = await client.listTools();
const validator = new AjvJsonSchemaValidator();
for (const tool of tools) {
  validator.getValidator(tool.outputSchema);
  const refused = validator.getValidator(tool.inputSchema)({ "no such argument": 1 });
  if (refused.valid) throw new Error(`${tool.name} takes anything`);
}
await client.close();
console.log(JSON.stringify(tools.map((tool) => tool.name)));
