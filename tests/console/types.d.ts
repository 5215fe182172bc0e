// What the gateway answers the console, and what its modules hand each other. For the type checker alone: no browser loads it.

interface ServerState {
  id: string;
  name: string;
  state: "ready" | "degraded" | "down" | "unconfigured" | "unknown";
  reason: string | null;
  since: number;
  /** Tools that are off, with the reasons. */
  off: Record<string, string>;
  /** Tools that work in part, with what is missing. */
  limited: Record<string, string>;
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

interface ChartLine {
  name: string;
  /** A class: how it is painted. */
  kind: string;
  filled?: boolean;
  values: (number | null)[];
}

interface ChartData {
  /** Seconds since 1970. */
  from: number;
  /** Seconds. */
  step: number;
  lines: ChartLine[];
  format: (value: number) => string;
  /** Where the lines are orders of magnitude apart. */
  logarithmic?: boolean;
  /** The smallest top of the scale. */
  least?: number;
}

/** A row of the slowest, or of what fails most. */
interface Ranked {
  key: string;
  entry: { server: string; operation: string };
  href: string;
  value: string;
  about: string;
  share: number;
}

/** What can be tried. */
interface Offer {
  kind: "tool" | "resource" | "prompt";
  server: string;
  name: string;
  words: string;
  about: any;
}

/** What a call answered, as it came. */
interface RawAnswer {
  text: string;
  type: string;
  ms: number;
  requestId: string;
}

/** A call, to be written for another client. */
interface MadeCall {
  server: string;
  tool: string;
  value: Record<string, unknown>;
}
