// The same four calls as one would write them with Node's own http and `pg`, on plain tables (../tables.sql). No
// framework, no sessions, no retries; one line a request unless LOG=0.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import pg from "pg";

pg.types.setTypeParser(pg.types.builtins.INT8, Number);
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
const logging = process.env.LOG !== "0";

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// A statement with a name is prepared once a connection.
const READ = { name: "read", text: "SELECT id, title, done, created_by FROM tasks WHERE id = $1" };
const CREATE = {
  name: "create",
  text: "INSERT INTO tasks (id, title, created_by) VALUES ($1, $2, $3) RETURNING id, title, done, created_by",
};
const LOCK = { name: "lock", text: "SELECT id, balance FROM accounts WHERE id = ANY($1) ORDER BY id FOR UPDATE" };
const MOVE = {
  name: "move",
  text: `UPDATE accounts AS a SET balance = a.balance + m.change
    FROM (VALUES ($1::text, -$3::bigint), ($2::text, $3::bigint)) AS m (id, change) WHERE a.id = m.id`,
};

function check(values, ...types) {
  if (!Array.isArray(values) || values.length !== types.length || values.some((value, at) => typeof value !== types[at])) {
    throw new Refused(400, `an array of ${types.join(", ")} is expected`);
  }
  return values;
}

async function transfer(values) {
  const [src, dst, amount] = check(values, "string", "string", "number");
  if (!Number.isSafeInteger(amount) || amount < 1) throw new Refused(400, "an amount is a whole number from 1");
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    const { rows } = await client.query({ ...LOCK, values: [[src, dst]] });
    const held = Object.fromEntries(rows.map((row) => [row.id, row.balance]));
    if (rows.length !== 2) throw new Refused(404, "no such account");
    if (held[src] < amount) throw new Refused(400, "not enough");
    await client.query({ ...MOVE, values: [src, dst, amount] });
    await client.query("COMMIT");
    return { [src]: held[src] - amount, [dst]: held[dst] + amount };
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  } finally {
    client.release();
  }
}

const functions = {
  "/rpc/echo": async (values) => check(values, "string")[0],
  "/rpc/get_task": async (values) => {
    const { rows } = await pool.query({ ...READ, values: check(values, "string") });
    if (!rows.length) throw new Refused(404, "no such task");
    return rows[0];
  },
  "/rpc/create_task": async (values) => {
    const [title] = check(values, "string");
    if (title.length < 1 || title.length > 200) throw new Refused(400, "a title has 1 to 200 characters");
    return (await pool.query({ ...CREATE, values: [randomUUID(), title, "bench"] })).rows[0];
  },
  "/rpc/transfer": transfer,
};

async function answer(request) {
  if (request.url === "/health") return [200, { status: "ok" }];
  const call = functions[request.url];
  if (!call || request.method !== "POST") return [404, { error: "nothing here" }];
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  try {
    return [200, { result: await call(JSON.parse(Buffer.concat(chunks))) }];
  } catch (error) {
    if (error instanceof Refused) return [error.status, { error: error.message }];
    if (error instanceof SyntaxError) return [400, { error: "the body is not JSON" }];
    console.error(error);
    return [500, { error: "internal" }];
  }
}

createServer(async (request, response) => {
  const started = performance.now();
  const [status, value] = await answer(request);
  const body = JSON.stringify(value);
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
  response.end(body);
  if (logging) {
    const ms = Math.round((performance.now() - started) * 100) / 100;
    const time = new Date().toISOString();
    process.stdout.write(`${JSON.stringify({ time, method: request.method, path: request.url, status, ms })}\n`);
  }
}).listen(Number(process.env.PORT), "127.0.0.1");
