import { delay, pause } from "./call.js";
import { KontractError, errorOf, errorOfFetch, report } from "./errors.js";
import { decode } from "./json.js";
import { EventStreamParser } from "./sse.js";

const SILENCE_MS = 45_000; // the server sends something every 15 s: after three times that, nobody is there
const LAST_BACKOFF_MS = 30_000;
const WAITING = 1_000; // changes that an iterator has not taken; beyond it, the server is made to wait

/**
 * The changes of some tables, in the order of their transactions, each once, through lost connections and restarts.
 *
 *     const stream = api.stream(["tasks"], { onTransaction(changes) { ... }, onReset() { ... } });
 *     stream.close();
 *
 * or `for await (const change of api.stream("tasks"))`, which ends with the loop.
 *
 * A change is `{type: "insert" | "update" | "delete", table, id, data, oldData?, txid}`. Options:
 *
 * - `ids`: an array of row ids, for changes of these rows only. `since`: the position to begin after, from `position`;
 *   without it the stream begins now.
 * - `onReady({tables, denied})`: the stream is open. A page that reads tables now and applies all later changes misses
 *   nothing.
 * - `onTransaction(changes, {txid, position})`: all changes of one transaction that concern these tables.
 * - `onEvent(change)`: the same, one by one.
 * - `onReset(reason)`: some changes are no longer available; read the tables again. An iterator gets
 *   `{type: "reset", reason}`.
 * - `onState(state, {error, milliseconds})`: "connecting", "open", "waiting" (for the next attempt in so many
 *   milliseconds, because of the error) or "closed" (for good: by `close()`, or because of the error).
 * - `transport`: "sse" (the default), a response that does not end, or "websocket". Browsers open six connections to an
 *   HTTP/1.1 server, in all tabs together, and each such response takes one; WebSockets are not counted. If no
 *   WebSocket can be opened, the next attempt uses "sse".
 * - `signal`: an AbortSignal that closes it. `silence`: milliseconds without a sign of life after which a connection
 *   counts as lost (45,000).
 */
export class ChangeStream {
  #auth;
  #fetch;
  #how;
  #url;
  #query;
  #unsocketed = false; // no WebSocket could be opened: the next attempt does without
  #closing = new AbortController();
  #hurry = null; // ends a pause before its time
  #pending = []; // changes of a transaction whose end has not come yet
  #failures = 0;
  #retry = 1_000;
  #renewed = false; // the token, since the stream stood last
  #received; // the position to go on from
  #queue = null; // of an iterator: whole transactions
  #queued = 0; // changes in it
  #wake = () => {};

  /** "connecting", "open", "waiting" or "closed". */
  state = "connecting";

  /** The id of the last transaction that was handled, for `since`. An iterator's position moves with its loop. */
  position;

  /** The error that closed the stream, if it was not `close()`. */
  error = null;

  constructor(url, fetch, auth, tables, how) {
    this.#auth = auth;
    this.#fetch = fetch;
    this.#how = how;
    this.position = this.#received = how.since ?? "";
    if (!how.onEvent && !how.onTransaction) this.#queue = []; // an iterator will come
    this.#url = url;
    this.#query = new URLSearchParams(tables.map((table) => ["table", table]));
    for (const id of how.ids ?? []) this.#query.append("id", id);
    if (!["sse", "websocket"].includes(how.transport ?? "sse")) throw new TypeError('transport: "sse" or "websocket"');
    if (how.signal?.aborted) this.#closing.abort();
    how.signal?.addEventListener("abort", () => this.close(), { once: true });
    this.#run();
  }

  /** Ends the stream. */
  close() {
    this.#closing.abort();
  }

  /** Iterates over the changes. Leaving the loop closes the stream; a KontractError ends it. */
  async *[Symbol.asyncIterator]() {
    const queue = (this.#queue ??= []);
    try {
      for (;;) {
        while (queue.length > 0) {
          const { changes, position } = queue.shift();
          this.#queued -= changes.length;
          yield* changes;
          this.position = position;
        }
        if (this.state === "closed") break;
        await new Promise((resolve) => {
          this.#wake = resolve;
        });
      }
      if (this.error) throw this.error;
    } finally {
      this.close();
    }
  }

  async #run() {
    await null; // no handler is called before the caller has this object
    const wakeUp = () => this.#hurry?.abort();
    globalThis.addEventListener?.("online", wakeUp);
    globalThis.document?.addEventListener("visibilitychange", wakeUp);
    try {
      while (!this.#closing.signal.aborted) {
        try {
          this.#become("connecting");
          await this.#connection();
        } catch (error) {
          if (this.#closing.signal.aborted) break;
          if (!recoverable(error)) {
            this.error = error;
            break;
          }
          await this.#wait(error);
        } finally {
          this.#pending = []; // half a transaction: the next connection brings it whole
        }
      }
    } finally {
      globalThis.removeEventListener?.("online", wakeUp);
      globalThis.document?.removeEventListener("visibilitychange", wakeUp);
      this.#become("closed", { error: this.error });
      this.#wake();
    }
  }

  /** Runs one connection to its end, which is always an error. */
  async #connection() {
    const silence = new Silence(this.#how.silence ?? SILENCE_MS);
    const signal = AbortSignal.any([this.#closing.signal, silence.signal]);
    try {
      const token = await this.#auth.token();
      const headers = token === null ? {} : { authorization: `Bearer ${token}` };
      const socketed = this.#how.transport === "websocket" && globalThis.WebSocket && !this.#unsocketed;
      this.#unsocketed = false;
      if (socketed && token !== null) {
        const granted = await this.#answer("/stream/ticket", { method: "POST", headers, signal }, token);
        if (granted !== null) await this.#converse((await granted.json()).ticket, signal, silence, token);
        return;
      }
      headers.accept = "text/event-stream";
      if (this.#received !== "") headers["last-event-id"] = this.#received;
      const response = await this.#answer(`/stream?${this.#query}`, { headers, signal }, token);
      if (response === null) return;
      if (response.status !== 200 || !/^text\/event-stream\b/i.test(response.headers.get("content-type") ?? "")) {
        throw new KontractError("INTERNAL", "the server's answer is not a stream", { status: response.status });
      }
      await this.#read(response.body.getReader(), silence, token);
    } catch (error) {
      if (silence.signal.aborted) throw new KontractError("NETWORK", "the stream is silent", { cause: error });
      throw errorOfFetch(error, this.#closing.signal);
    } finally {
      silence.stop();
    }
  }

  /** Returns a successful response; null if the token was rejected and there is another one. */
  async #answer(path, init, token) {
    const response = await this.#fetch(`${this.#url}${path}`, { ...init, credentials: "omit", cache: "no-store" });
    if (response.status === 401 && token !== null && this.#auth.renewable && !this.#renewed) {
      this.#renewed = true; // once: where a new token is refused, too, another one will be
      await response.body?.cancel();
      await this.#auth.renew(token);
      return null;
    }
    if (!response.ok) throw errorOf(response.status, (name) => response.headers.get(name), await response.text());
    return response;
  }

  /** Takes messages of a WebSocket until its end. A ticket replaces the token, which does not belong in a URL. */
  async #converse(ticket, signal, silence, token) {
    const query = new URLSearchParams([...this.#query, ["ticket", ticket]]);
    if (this.#received !== "") query.set("since", this.#received);
    let opened = false;
    let behind = false;
    let ended = null;
    const parse = (text) => decode(text, this.#how.bigint);
    await hear(`${this.#url.replace(/^http/, "ws")}/stream?${query}`, signal, parse, (message) => {
      opened = true;
      silence.heard();
      if (message.event === "change") this.#pending.push(message.change);
      else if (message.event === "ready") this.#ready({ tables: message.tables, denied: message.denied });
      else if (message.event === "reset") this.#reset(message.reason);
      else if (message.event === "end") ended = message.reason;
      if (message.id !== undefined) this.#deliver(message.id);
      behind = this.#queued > WAITING;
      return !behind; // a slow iterator disconnects and reconnects: a WebSocket cannot be made to wait
    });
    if (signal.aborted) throw signal.reason;
    if (!opened) {
      this.#unsocketed = true;
      throw new KontractError("NETWORK", "a WebSocket to the server cannot be opened");
    }
    if (behind) await this.#room(silence);
    else await this.#over(ended, token);
  }

  async #read(reader, silence, token) {
    let ended = null;
    const handlers = {
      onRetry: (milliseconds) => {
        this.#retry = Math.min(milliseconds, LAST_BACKOFF_MS);
      },
      onId: (id) => this.#closing.signal.aborted || this.#deliver(id),
      onEvent: ({ type, data }) => {
        if (this.#closing.signal.aborted) return;
        if (type === "message") this.#pending.push(decode(data, this.#how.bigint));
        else if (type === "ready") this.#ready(JSON.parse(data));
        else if (type === "reset") this.#reset(JSON.parse(data).reason);
        else if (type === "end") ended = JSON.parse(data).reason;
      },
    };
    const parser = new EventStreamParser(handlers, this.#received);
    for (;;) {
      const { value, done } = await reader.read();
      if (done || this.#closing.signal.aborted) break;
      silence.heard();
      parser.push(value);
      await this.#room(silence);
    }
    await this.#over(ended, token);
  }

  /** Handles the end of a connection: always an error, and perhaps the end of the token. */
  async #over(ended, token) {
    if ((ended === "expired" || ended === "session") && token !== null) await this.#auth.renew(token);
    throw new KontractError("NETWORK", ended ? `the server ended the stream: ${ended}` : "the stream was cut off");
  }

  #ready(answer) {
    this.#failures = 0;
    this.#renewed = false;
    this.#become("open");
    report(this.#how.onReady, answer);
  }

  #reset(reason) {
    this.#pending = [];
    this.#enqueue([{ type: "reset", reason }], this.#received);
    report(this.#how.onReset, reason);
  }

  /** Delivers a transaction, complete with its id. The position moves first: a failed handler does not get it again. */
  #deliver(id) {
    const changes = this.#pending;
    this.#pending = [];
    this.#received = id;
    if (this.#queue === null) this.position = id;
    if (changes.length > 0) report(this.#how.onTransaction, changes, { txid: changes[0].txid, position: id });
    for (const change of changes) report(this.#how.onEvent, change);
    this.#enqueue(changes, id);
  }

  #enqueue(changes, position) {
    if (this.#queue === null) return;
    if (changes.length === 0 && this.#queue.length > 0) this.#queue.at(-1).position = position;
    else this.#queue.push({ changes, position });
    this.#queued += changes.length;
    this.#wake();
  }

  /** Waits for a slow iterator: unread data stays with the server, which may end the stream. */
  async #room(silence) {
    while (this.#queued > WAITING && !this.#closing.signal.aborted) {
      silence.heard();
      await pause(50);
    }
  }

  async #wait(error) {
    this.#failures += 1;
    // The first pause is short and random: after a deployment clients do not reconnect all at once.
    const milliseconds = this.#retry / 2 + delay(error, this.#failures, { first: this.#retry, last: LAST_BACKOFF_MS });
    this.#become("waiting", { error, milliseconds });
    this.#hurry = new AbortController();
    const signal = AbortSignal.any([this.#hurry.signal, this.#closing.signal]);
    await pause(milliseconds, signal).catch(() => {});
    this.#hurry = null;
  }

  #become(state, detail = {}) {
    this.state = state;
    report(this.#how.onState, state, { error: null, milliseconds: 0, ...detail });
  }
}

/** Passes messages to `take` until it returns false, the WebSocket ends, or `signal` aborts. */
function hear(url, signal, parse, take) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    const leave = () => {
      socket.onmessage = socket.onclose = null; // what is still in transit is sent again
      signal.removeEventListener("abort", leave);
      socket.close();
      resolve();
    };
    socket.onmessage = ({ data }) => {
      try {
        if (!take(parse(data))) leave();
      } catch (error) {
        reject(error);
        leave();
      }
    };
    socket.onclose = leave;
    signal.addEventListener("abort", leave, { once: true });
    if (signal.aborted) leave();
  });
}

/** Aborts after a silence. */
class Silence {
  #controller = new AbortController();
  #timer = 0;
  #milliseconds;

  constructor(milliseconds) {
    this.#milliseconds = milliseconds;
    this.heard();
  }

  get signal() {
    return this.#controller.signal;
  }

  heard() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(), this.#milliseconds);
  }

  stop() {
    clearTimeout(this.#timer);
  }
}

/** Whether reconnecting may help: the server repeats a permanent error. */
function recoverable(error) {
  if (!(error instanceof KontractError)) return false;
  return ["NETWORK", "TIMEOUT"].includes(error.code) || error.status === 429 || error.status >= 500;
}
