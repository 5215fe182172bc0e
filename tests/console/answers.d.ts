// What the gateway answers the console, for the type checker alone: no browser loads it.

interface ServerState {
  id: string;
  name: string;
  state: "ready" | "degraded" | "down" | "unconfigured" | "unknown";
  reason: string | null;
  since: number;
  /** Tools that are off or limited, with the reasons. */
  off: Record<string, string>;
}

interface Series {
  /** Seconds. */
  step: number;
  from: number;
  /** In each step; the last one has only begun. */
  calls: number[];
  errors: number[];
  p50: (number | null)[];
  p95: (number | null)[];
  p99: (number | null)[];
}

/** What is known of a call at any time. */
interface Call {
  id: string;
  server: string;
  operation: string;
  face: string;
  principal: string;
  customer: string | null;
  client: string;
}

interface RunningCall extends Call {
  started: number;
  can_cancel: boolean;
}

interface EndedCall extends Call {
  request_id: string;
  outcome: string;
  ms: number;
  ended: number;
}

interface Stage {
  name: string;
  ms: number;
  over?: boolean;
}

interface OpenedCall extends Call {
  request_id: string;
  outcome?: string | null;
  ms?: number | null;
  started?: number;
  ended?: number | null;
  can_cancel?: boolean;
  stages?: Stage[];
  log?: string[];
}

interface Snapshot {
  at: number;
  version: string;
  servers: ServerState[];
  rate: { calls: number; errors: number };
  p95: number | null;
  series: Series;
  slowest: { server: string; operation: string; calls: number; p95: number }[];
  failing: { server: string; operation: string; calls: number; errors: number; outcome: string }[];
  running: RunningCall[];
}

interface Hello {
  viewer: { principal: string; roles: string[]; customer: string | null };
  may: { act: boolean; metrics: boolean; keys: boolean; settings: boolean };
  /** Where somebody has signed in. */
  session?: { ends: number } | null;
  /** Where callers reach the gateway, if the policy says so. */
  url?: string | null;
}

/** JSON Schema as our tools have it. */
type Schema = Record<string, any>;

interface Offered {
  server: string;
  name: string;
  title?: string;
  description?: string;
  policy?: string | null;
}

interface ToolInfo extends Offered {
  read_only: boolean;
  destructive?: boolean;
  input_schema: Schema;
  example: Record<string, unknown> | null;
}

interface ResourceInfo extends Offered {
  template: string;
}

interface PromptInfo extends Offered {
  arguments?: { name: string; description?: string; required?: boolean }[];
  failed?: boolean;
}

interface KafkaMessage {
  topic: string;
  partition: number;
  offset: number;
  timestamp: string | null;
  key: string | null;
  value: unknown;
  headers: Record<string, unknown>;
}

/** An article that was found. */
interface Hit extends Record<string, unknown> {
  id: number;
  slug: string;
  title: string;
  score: number;
  fit?: number;
  snippet: string;
  tags: string[];
  language: string;
  matched_by?: string | string[];
}

interface AccessKey {
  id: string;
  roles: string[];
  tenant: string | null;
  customer: string | null;
  created: number;
  ends: number | null;
  state: "good" | "revoked" | "expired";
}

interface AccessRole {
  name: string;
  place: string;
  allow?: string[];
  deny?: string[];
  limit?: string;
  limits?: Record<string, string>;
  bound?: string;
  rules: Record<string, Record<string, unknown>>;
}

interface Access {
  asked: boolean;
  may_change: boolean;
  roles: AccessRole[];
  keys: AccessKey[] | null;
  total: number | null;
  reason: string | null;
}

interface Setting {
  name: string;
  value: unknown;
  hidden: boolean;
  source: string;
  about: string;
}

/** How a client is told of the gateway. */
interface Config {
  client: string;
  title: string;
  place: string;
  text: string;
}

interface Connecting {
  url: string;
  websocket_url: string;
  configs: Config[];
  guides: { name: string; title: string }[];
}
