// The official TypeScript clients, by the names that the tests give them.
import { Client as SdkClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as SdkHttp } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { WebSocketClientTransport } from "@modelcontextprotocol/sdk/client/websocket.js";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

/** Connect a client: sdk-http, sdk-websocket, client-2025 or client-2026. */
export async function connected(kind, url) {
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
  return client;
}
