// How the gateway is asked. The types of what it answers are in tests/console/types.d.ts: no browser needs them.

export const root = document.documentElement.dataset.root ?? "";

/** What the gateway said no with, or that it did not answer at all. */
export class Problem extends Error {
  /**
   * @param {string} detail what is wrong and what to do
   * @param {{status?: number, code?: string, title?: string, request_id?: string, errors?: {field: string, message: string}[]}} [told]
   * @param {number | null} [retryAfter] seconds
   */
  constructor(detail, told = {}, retryAfter = null) {
    super(detail);
    this.status = told.status ?? 0;
    this.code = told.code ?? "";
    this.title = told.title ?? "";
    this.requestId = told.request_id ?? "";
    this.errors = told.errors ?? [];
    this.retryAfter = retryAfter;
  }
}

/** Read a failure's words from an answer. @param {Response} response @returns {Promise<Problem>} */
export async function problemOf(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  let told = /** @type {any} */ ({});
  try {
    told = await response.json();
  } catch {
    // A proxy's page: its status has to do.
  }
  const detail = told.detail ?? `The gateway answered ${response.status} without a reason; its log has one.`;
  return new Problem(detail, { status: response.status, ...told }, retryAfter);
}

/**
 * Ask the gateway, as the viewer.
 *
 * @param {string} method
 * @param {string} path below the gateway's root
 * @param {unknown} [body] sent as JSON
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response>} its status is below 400
 * @throws {Problem} what it said no with
 */
export async function ask(method, path, body, signal) {
  /** @type {Record<string, string>} */
  const headers = { accept: "application/json" };
  if (method !== "GET") headers["x-switchboard-console"] = "1"; // which a form of another site can't send
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    const sent = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(root + path, { method, headers, body: sent, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem("The gateway does not answer. Is it running, and can this machine reach it?");
  }
  if (!response.ok) {
    const problem = await problemOf(response);
    if (problem.status === 401) dispatchEvent(new CustomEvent("signedout", { detail: problem }));
    throw problem;
  }
  return response;
}

/** Read JSON from the gateway. @param {string} path @returns {Promise<any>} */
export const read = async (path) => (await ask("GET", path)).json();

/**
 * Call a tool, as the viewer.
 *
 * @param {string} server @param {string} tool @param {Record<string, unknown>} [value] its arguments
 * @param {(text: string) => any} [parse]
 * @returns {Promise<any>}
 */
export async function callTool(server, tool, value = {}, parse = JSON.parse) {
  return parse(await (await ask("POST", `/console/tools/${server}/${tool}`, value)).text());
}

/** Read a resource, as the viewer. @param {string} uri @returns {Promise<any>} */
export const readResource = (uri) => read(`/console/resources/read?uri=${encodeURIComponent(uri)}`);

/** @param {unknown} error @returns {Problem} */
export function asProblem(error) {
  if (error instanceof Problem) return error;
  throw error;
}
