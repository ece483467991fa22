// PostgreSQL for kontract/cloudflare/database.py: node-postgres over a socket of the Workers runtime.
//
// Python hands over one statement as JSON text and gets one JSON text back, so a statement crosses the border once in
// each direction. What PostgreSQL or the network say comes back as a value: an exception would lose its parts there.
//
// A statement is one message to the server: parse, bind, describe, execute, sync. It costs one network turn, and holds
// no transaction afterwards, so a transaction pooler may give each one to another server. Statements of concurrent
// tasks are sent at once (node-postgres: pipeline) and answered in their order.
//
// src/kontract/cloudflare/postgres.js is made from this file: python javascript/build.py

import { CloudflareSocket } from "pg-cloudflare";
import Client from "pg/lib/client.js";
import Query from "pg/lib/query.js";

// Local to the implicit transaction that a pipeline is until its sync: nothing stays in the session.
const SET_TIMEOUT = "SELECT set_config('statement_timeout', $1, true)";

const INTEGERS = new Set([20, 21, 23]); // int8, int2, int4 (pg_type.oid)

// Sends what belongs to one statement in one piece: each write is a packet of its own here.
class Socket extends CloudflareSocket {
  #held = null;

  cork() {
    this.#held = [];
  }

  uncork() {
    const held = this.#held;
    this.#held = null;
    if (held.length > 0) super.write(Buffer.concat(held));
  }

  write(data, ...others) {
    if (this.#held === null) return super.write(data, ...others);
    this.#held.push(data);
    return true;
  }
}

// One statement. Rows are made into JSON as they arrive: integers as the digits that PostgreSQL sent, which no number
// of JavaScript holds beyond 2^53, and everything else as text.
class Statement extends Query {
  #timeout;
  #integers = null;
  #rows = [];

  constructor({ text, params, timeout }, answer) {
    super({ text, values: params, queryMode: "extended" });
    this.#timeout = timeout;
    this.answer = answer;
    this.callback = () => undefined; // node-postgres asks whether there is one
  }

  prepare(connection) {
    if (this.#timeout !== null) {
      connection.parse({ text: SET_TIMEOUT });
      connection.bind({ values: [String(this.#timeout)] });
      connection.execute(); // not described: its row is not one of ours
    }
    super.prepare(connection);
  }

  handleRowDescription({ fields }) {
    this.#integers = fields.map((field) => INTEGERS.has(field.dataTypeID));
  }

  handleDataRow({ fields }) {
    const integers = this.#integers;
    if (integers === null) return; // the time limit's
    const values = fields.map((value, n) => (value === null || integers[n] ? value : JSON.stringify(value)));
    this.#rows.push(`[${values.map((value) => value ?? "null").join()}]`);
  }

  handleCommandComplete() {}

  handleError(error) {
    this.answer(failure(error));
  }

  handleReadyForQuery() {
    this.answer(`{"rows":[${this.#rows.join()}]}`);
  }
}

function failure(error) {
  const { severity, code, message, detail, constraint } = error;
  // Without a severity it is not PostgreSQL's: whether the statement took effect is not known.
  if (severity === undefined) return lost(message ?? String(error));
  return JSON.stringify({ sqlstate: code, message, detail, constraint });
}

function lost(message) {
  return JSON.stringify({ lost: message || "the connection is lost" });
}

class Connection {
  #client;
  #waiting = []; // statements that were sent, the one that is answered next first
  #timer = null;

  constructor(target) {
    this.#client = connected(target);
    this.#client.catch(() => undefined); // whoever runs a statement is told
  }

  // Run {text, params, timeout, patience}; times in milliseconds. Never rejects.
  async run(request) {
    const statement = JSON.parse(request);
    if (statement.text.includes("\0")) {
      return JSON.stringify({ sqlstate: "22021", message: "a statement with a NUL would end there" });
    }
    let client;
    try {
      client = await this.#client;
    } catch (error) {
      return failure(error);
    }
    return new Promise((resolve) => {
      const query = new Statement(statement, (answer) => {
        const place = this.#waiting.indexOf(query);
        if (place < 0) return; // it was told that the time is over
        this.#waiting.splice(place, 1);
        this.#watch(client);
        resolve(answer);
      });
      query.patience = statement.patience;
      this.#waiting.push(query);
      if (this.#waiting.length === 1) this.#watch(client);
      client.query(query);
    });
  }

  // Say goodbye once every statement is answered. Never rejects.
  async close() {
    try {
      await (await this.#client).end();
    } catch {
      // it is gone already
    }
  }

  // The time of a statement begins when those before it are answered.
  #watch(client) {
    clearTimeout(this.#timer);
    if (this.#waiting.length === 0) return;
    const { patience } = this.#waiting[0];
    this.#timer = setTimeout(() => {
      for (const query of [...this.#waiting]) query.answer(lost(`no answer within ${patience} ms`));
      client.connection.stream.destroy();
    }, patience);
  }
}

// The client after its login. `tls` says what is tried, in this order: with TLS or without.
async function connected({ refused, tls, patience, ...target }) {
  if (refused) throw new Error(refused);
  const until = Date.now() + patience;
  for (const ssl of tls.slice(0, -1)) {
    try {
      return await attempt(target, ssl, until - Date.now());
    } catch {
      // the next one, or its error
    }
  }
  return attempt(target, tls.at(-1), until - Date.now());
}

// The platform says no more than "internal error; reference = ..".
const UNTRUSTED =
  "TLS to the database failed: its certificate is not signed by a public authority, or not for this host name";

async function attempt({ password, ...target }, ssl, patience) {
  const client = new Client({
    ...target,
    ssl,
    pipeline: true,
    stream: () => new Socket(ssl),
    password() {
      if (password === null) throw new Error("the database asks for a password, and DATABASE_URL has none");
      return password;
    },
  });
  client.on("error", () => undefined); // whoever runs a statement is told
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no connection within ${patience} ms`)), patience);
  });
  try {
    await Promise.race([client.connect(), late]);
    return client;
  } catch (error) {
    client.connection.stream.destroy();
    throw ssl && error.message?.startsWith("internal error") ? new Error(UNTRUSTED, { cause: error }) : error;
  } finally {
    clearTimeout(timer);
  }
}

// `text` says what _Target in database.py says; a Hyperdrive binding, where there is one, says where the database is.
export function open(text, binding) {
  const target = JSON.parse(text);
  if (binding) {
    const { host, port, user, database, password } = binding;
    Object.assign(target, { host, port, user, database, password });
  }
  return new Connection(target);
}
