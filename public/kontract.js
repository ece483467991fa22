// The client of a Kontract backend for browsers, Node, Deno and Bun: one ES module with its parts beside it. There is
// nothing to install and nothing to build.
//
//   import { connect } from "./kontract.js";
//
//   const api = connect({ anonymous: true });
//   const task = await api.create_task("Buy milk");
//   for await (const change of api.stream("tasks")) console.log(change);

import { CallInfo, delay, exchange, keyForOneCall, parseServerTiming, pause, repeatable } from "./kontract/call.js";
import { KontractError, errorOf, report } from "./kontract/errors.js";
import { decode, encode } from "./kontract/json.js";
import { Auth, browserStorage, memoryStorage } from "./kontract/session.js";
import { ChangeStream } from "./kontract/stream.js";

export { KontractError, browserStorage, memoryStorage, parseServerTiming };

const ATTEMPTS = 5;
const TIMEOUT_MS = 30_000;
const BACKOFF = { first: 100, last: 5_000 }; // milliseconds, doubled each time and jittered over their full length

/**
 * Returns a client: `await api.create_task("Buy milk")` calls the backend function of that name. It also has
 * `api.call`, `api.stream` and `api.auth`; call a function with one of these names with `api.call`.
 *
 * - `url`: of the backend (default: the page's own origin).
 * - `token`: a token from elsewhere. Without it, sessions come from `api.auth`, or automatically with
 *   `anonymous: true`.
 * - `storage`: where the session is stored: `memoryStorage()` (the default), `browserStorage(...)`, or an object with
 *   `load()`, `save(session)` and optionally `exclusive(work)`, all of which may be asynchronous.
 * - `secure`: calls go through raystream, encrypted on top of TLS, to the holder of `serverKey` (base64url) or, without
 *   one, of the key that the server names at `/.well-known/kontract`. Needs X25519 in WebCrypto.
 * - `onCall(info)`: called after each call: see `CallInfo`.
 * - `attempts`, `timeout`: the most attempts of a call (5), and the milliseconds for each attempt (30,000).
 * - `defaults`: a Map from function names to the defaults for arguments that are `undefined` before a later one;
 *   `kontract generate ts` makes it. Without it they are sent as null.
 * - `bigint`: integers beyond 2^53, which a number cannot hold, become BigInt. Without it they are a KontractError
 *   with the code "UNSAFE_INTEGER", in calls and streams. A BigInt is always sent as an integer.
 * - `fetch`, `backoff`: another implementation, other pauses.
 */
export function connect(options = {}) {
  const client = new Client(options);
  const own = {
    url: client.url,
    auth: client.auth,
    call: (name, args, how) => client.call(name, args, how),
    stream: (tables, how) => client.stream(tables, how),
  };
  return new Proxy(own, {
    get(target, name) {
      // A client is not a promise, although `await` asks for `then`; and symbols are not backend functions.
      if (typeof name !== "string" || name === "then" || Object.hasOwn(target, name)) return target[name];
      return async (...args) => client.call(name, given(args, options.defaults?.get(name)));
    },
  });
}

/** Returns the arguments up to the last one that was passed; omitted ones before it get the function's defaults. */
function given(args, defaults) {
  const count = args.findLastIndex((one) => one !== undefined) + 1;
  return Array.from({ length: count }, (_, at) => {
    if (args[at] !== undefined) return args[at];
    if (defaults !== undefined && defaults[at] === undefined) {
      throw new TypeError(`argument ${at + 1} is required when a later one is passed`);
    }
    return defaults?.[at] ?? null;
  });
}

class Client {
  #fetch;
  #options;
  #sealed = null; // a promise of the raystream transport

  constructor(options) {
    this.#options = options;
    this.#fetch = options.fetch ?? ((...args) => globalThis.fetch(...args));
    this.url = String(options.url ?? globalThis.location?.origin ?? "").replace(/\/+$/, "");
    if (options.serverKey && !options.secure) throw new TypeError("serverKey needs secure: true");
    if (!/^https?:\/\//.test(this.url)) throw new TypeError("connect() needs the url of the backend");
    this.auth = new Auth({
      url: this.url,
      fetch: this.#fetch,
      storage: options.storage ?? memoryStorage(),
      anonymous: options.anonymous ?? false,
      token: options.token,
    });
  }

  /**
   * Calls a backend function with an array of arguments; returns its result, or throws a KontractError.
   *
   * A call that lost a conflict, or got no answer, is retried with growing pauses. It has an idempotency key, so it is
   * applied only once. `idempotencyKey`: your own, to repeat the call yourself, even after a reload (the server
   * remembers it for 24 hours); null for none: then a call that may have been applied is not retried. `signal`,
   * `timeout` and `attempts`: of this call.
   */
  async call(name, args = [], { idempotencyKey = keyForOneCall(), signal, timeout, attempts } = {}) {
    if (!Array.isArray(args)) throw new TypeError("pass the arguments of a call as an array");
    const headers = { "content-type": "application/json" };
    if (idempotencyKey !== null) headers["idempotency-key"] = idempotencyKey;
    const request = {
      name,
      headers,
      body: encode(args),
      timeout: timeout ?? this.#options.timeout ?? TIMEOUT_MS,
    };
    const info = new CallInfo(name, args);
    const started = performance.now();
    try {
      const most = attempts ?? this.#options.attempts ?? ATTEMPTS;
      for (;;) {
        info.tries += 1;
        try {
          return await this.#once(request, signal, info);
        } catch (error) {
          if (info.tries >= most || !repeatable(error, idempotencyKey !== null)) throw error;
          await pause(delay(error, info.tries, this.#options.backoff ?? BACKOFF), signal);
        }
      }
    } catch (error) {
      info.error = error;
      throw error;
    } finally {
      info.milliseconds = performance.now() - started;
      report(this.#options.onCall, info);
    }
  }

  /** See ChangeStream. */
  stream(tables, how = {}) {
    const { bigint } = this.#options;
    return new ChangeStream(this.url, this.#fetch, this.auth, [tables].flat(), { bigint, ...how });
  }

  async #once(request, signal, info) {
    const transport = this.#options.secure ? await this.#raystream() : this.#plain;
    const token = await this.auth.token();
    const answer = await transport(request, token, signal);
    info.take(answer);
    if (answer.status === 401 && token !== null && this.auth.renewable && !request.renewed) {
      request.renewed = true; // once: where a new token is refused, too, another one will be
      await this.auth.renew(token);
      return this.#once(request, signal, info);
    }
    if (answer.status < 200 || answer.status > 299) throw errorOf(answer.status, answer.header, answer.text);
    return answer.text === "" ? null : decode(answer.text, this.#options.bigint).result;
  }

  #plain = async ({ name, headers, body, timeout }, token, signal) => {
    const sent = token === null ? headers : { ...headers, authorization: `Bearer ${token}` };
    const url = `${this.url}/rpc/${encodeURIComponent(name)}`;
    return exchange(this.#fetch, url, { method: "POST", headers: sent, body }, timeout, signal);
  };

  #raystream() {
    this.#sealed ??= import("./kontract/raystream.js")
      .then(({ transport }) =>
        transport(this.url, this.#options.serverKey ?? null, (url, init, timeout, signal) =>
          exchange(this.#fetch, url, init, timeout, signal, "bytes"),
        ),
      )
      .catch((error) => {
        this.#sealed = null;
        throw error;
      });
    return this.#sealed;
  }
}
