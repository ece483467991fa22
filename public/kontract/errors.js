/**
 * The error of a call: the server's answer, or why there was no answer.
 *
 * - `code`: the server's, for example "NOT_FOUND", or "NETWORK" (no connection), "TIMEOUT" (no answer in time),
 *   "UNSUPPORTED" (the browser lacks something), "RAYSTREAM" (the server is not the trusted one), "UNSAFE_INTEGER"
 *   (the answer has an integer that a number cannot hold).
 * - `message`: a sentence for people.
 * - `status`: of HTTP, 0 if there was no answer. `requestId`: the id of the request in the server's log.
 * - `details`: an object with some codes; for "CONFLICT" it has function, table, key and attempts.
 */
export class KontractError extends Error {
  constructor(code, message, { status = 0, requestId = "", details = null, retryAfter = 0, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "KontractError";
    this.code = code;
    this.status = status;
    this.requestId = requestId;
    this.details = details;
    this.retryAfter = retryAfter;
  }
}

const OF_STATUS = {
  401: "UNAUTHORIZED",
  403: "FORBIDDEN",
  404: "NOT_FOUND",
  413: "PAYLOAD_TOO_LARGE",
  429: "RATE_LIMITED",
};

/**
 * Returns the error of a failed request: `status`, `header(name)` and the body as text. A body that is not from the
 * server comes from a proxy in between.
 */
export function errorOf(status, header, text) {
  const retryAfter = Number(header("retry-after")) || 0;
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = null;
  }
  if (typeof body?.error === "string") {
    const requestId = body.request_id ?? header("x-request-id") ?? "";
    return new KontractError(body.error, body.message ?? body.error, {
      status,
      requestId,
      details: body.details ?? null,
      retryAfter,
    });
  }
  const gone = status >= 502; // 502 and 504 of a proxy, 52x of Cloudflare
  const code = OF_STATUS[status] ?? (gone ? "UNAVAILABLE" : "INTERNAL");
  const message = gone ? "the server does not answer at the moment" : `the server answered with status ${status}`;
  return new KontractError(code, message, { status, requestId: header("x-request-id") ?? "", retryAfter });
}

/** Returns the error of a fetch that threw. Aborts by the caller's own signal are passed on unchanged. */
export function errorOfFetch(error, signal) {
  if (error instanceof KontractError) return error;
  if (signal?.aborted) return signal.reason;
  if (error?.name === "TimeoutError")
    return new KontractError("TIMEOUT", "the server did not answer in time", { cause: error });
  return new KontractError("NETWORK", "the server cannot be reached", { cause: error });
}

/** Calls a handler of the page. Its exceptions are reported, but fail neither a call nor a stream. */
export function report(handler, ...values) {
  try {
    handler?.(...values);
  } catch (error) {
    globalThis.reportError ? reportError(error) : console.error(error);
  }
}
