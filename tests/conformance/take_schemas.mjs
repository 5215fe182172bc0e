// Lists the tools of a gateway by every official TypeScript client, which compile the output schemas on the way, and
// compiles the input schemas by their validators, too. Prints the names.
//   node take_schemas.mjs <sdk-http | client-2025 | client-2026> <url>
import { connected } from "./clients.mjs";
import { AjvJsonSchemaValidator } from "@modelcontextprotocol/sdk/validation/ajv";

const [kind, url] = process.argv.slice(2);
const client = await connected(kind, url);
const { tools } = await client.listTools();
const validator = new AjvJsonSchemaValidator();
for (const tool of tools) {
  validator.getValidator(tool.outputSchema);
  const refused = validator.getValidator(tool.inputSchema)({ "no such argument": 1 });
  if (refused.valid) throw new Error(`${tool.name} takes anything`);
}
await client.close();
console.log(JSON.stringify(tools.map((tool) => tool.name)));
