import { KontractError, errorOfFetch } from "./errors.js";

const MAX_RETRY_AFTER_S = 30;

// Errors that may be retried. After the first three nothing was applied; after the others the outcome is unknown, so
// they are retried only with an idempotency key, under which the server applies a call once.
const NOT_APPLIED = new Set(["CONFLICT", "BUSY", "DEADLINE_EXCEEDED"]);
const NOT_KNOWN = new Set(["UNAVAILABLE", "COMMIT_UNKNOWN", "NETWORK", "TIMEOUT"]);

/**
 * Figures of a call. `txid`: of its commit, null if it wrote nothing. `attempts`: how often the server ran the
 * function; `tries`: how often the client sent the request. `roundTrips`: `{coordinator, database}`, counts. `timing`:
 * the server's `Server-Timing` header by name, each `{dur, desc}` in milliseconds. `milliseconds`: the total, measured
 * here. `error`: why it failed, or null. `replayed`: the answer is from an earlier call with the same idempotency key.
 * `sealed`: it went through raystream.
 */
export class CallInfo {
  status = 0;
  requestId = "";
  txid = null;
  attempts = 0;
  tries = 0;
  roundTrips = { coordinator: 0, database: 0 };
  timing = {};
  milliseconds = 0;
  replayed = false;
  sealed = false;
  error = null;

  constructor(name, args) {
    this.name = name;
    this.args = args;
  }

  take({ status, header, sealed = false }) {
    this.status = status;
    this.sealed = sealed;
    this.requestId = header("x-request-id") ?? "";
    const txid = header("x-kontract-txid");
    this.txid = txid === null ? null : Number(txid);
    this.replayed = header("idempotency-replayed") === "true";
    const timing = (this.timing = parseServerTiming(header("server-timing") ?? ""));
    this.attempts += Number.parseInt(timing.attempts?.desc ?? "", 10) || 0;
    this.roundTrips.coordinator += Number.parseInt(timing.coord?.desc ?? "", 10) || 0;
    this.roundTrips.database += Number.parseInt(timing.db?.desc ?? "", 10) || 0;
  }
}

/** Parses a `Server-Timing` header (W3C): an object by name of `{dur, desc}`, each if present. */
export function parseServerTiming(header) {
  const metrics = {};
  const word = /[!#$%&'*+.^_`|~\w-]+/y;
  const value = /\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([!#$%&'*+.^_`|~\w-]*))/y;
  const at = (pattern, index) => {
    pattern.lastIndex = index;
    return pattern.exec(header);
  };
  let index = 0;
  const skip = (characters) => {
    while (index < header.length && characters.includes(header[index])) index += 1;
  };
  while (index < header.length) {
    skip(" \t,");
    const name = at(word, index);
    if (name === null) break;
    index = word.lastIndex;
    const metric = (metrics[name[0]] ??= {});
    for (skip(" \t"); header[index] === ";"; skip(" \t")) {
      index += 1;
      skip(" \t");
      const key = at(word, index);
      if (key === null) break;
      index = word.lastIndex;
      const found = at(value, index);
      if (found !== null) index = value.lastIndex;
      const text = found?.[1]?.replace(/\\(.)/g, "$1") ?? found?.[2] ?? "";
      if (key[0] === "dur") metric.dur ??= Number(text) || 0;
      if (key[0] === "desc") metric.desc ??= text;
    }
    while (index < header.length && header[index] !== ",") index += 1; // what cannot be read ends with the comma
  }
  return metrics;
}

/**
 * Returns a new idempotency key for one call: "auto-" tells the server so, which then need not store the answer of a
 * read. (crypto.randomUUID exists only on pages served over TLS.)
 */
export function keyForOneCall() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `auto-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** Sends an HTTP request: returns `{status, header(name), text | bytes}`; throws a KontractError without an answer. */
export async function exchange(fetch, url, init, timeout, signal, kind = "text") {
  const limit = AbortSignal.timeout(timeout);
  try {
    const response = await fetch(url, {
      ...init,
      credentials: "omit",
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    const header = (name) => response.headers.get(name);
    const { status } = response;
    if (kind === "text") return { status, header, text: await response.text() };
    return { status, header, bytes: new Uint8Array(await response.arrayBuffer()) };
  } catch (error) {
    throw errorOfFetch(error, signal);
  }
}

export function repeatable(error, hasKey) {
  return error instanceof KontractError && (NOT_APPLIED.has(error.code) || (hasKey && NOT_KNOWN.has(error.code)));
}

export function delay(error, tries, { first, last }) {
  const backoff = Math.random() * Math.min(last, first * 2 ** (tries - 1));
  return Math.max(backoff, Math.min(error.retryAfter, MAX_RETRY_AFTER_S) * 1000);
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}
