// What somebody would write by hand for the same two calls: one Durable Object call and one SELECT, connecting to the
// database while the object answers. No sessions, no retries, no log line.
import { DurableObject, WorkerEntrypoint } from "cloudflare:workers";
import { Client } from "pg";

const TASK = `SELECT id, data FROM tbl_tasks_5f0c1d
  WHERE id = $1 AND _txid <= $2 AND (_deleted_txid IS NULL OR _deleted_txid > $2)`;

export class Coordinator extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS head (txid INTEGER NOT NULL)");
    const rows = ctx.storage.sql.exec("SELECT txid FROM head").toArray();
    this.txid = rows.length ? rows[0].txid : 1_000_000_000;
  }

  begin(text) {
    const { call } = JSON.parse(text);
    return JSON.stringify({ call, snapshot: this.txid });
  }
}

class Invalid extends Error {}

async function argument(request) {
  let values;
  try {
    values = await request.json();
  } catch {
    throw new Invalid("the body is not JSON");
  }
  if (!Array.isArray(values) || values.length !== 1 || typeof values[0] !== "string") {
    throw new Invalid("one string is expected");
  }
  return values[0];
}

async function getTask(id, env, ctx) {
  const client = new Client({ connectionString: env.HYPERDRIVE.connectionString });
  const stub = env.COORDINATOR.get(env.COORDINATOR.idFromName("tenant-1"));
  try {
    const [began] = await Promise.all([
      stub.begin(JSON.stringify({ call: crypto.randomUUID() })),
      client.connect(),
    ]);
    const { rows } = await client.query(TASK, [id, JSON.parse(began).snapshot]);
    return rows.length ? { id: rows[0].id, ...rows[0].data } : null;
  } finally {
    ctx.waitUntil(client.end());
  }
}

export default class extends WorkerEntrypoint {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    try {
      if (pathname === "/health") return Response.json({ status: "ok" });
      if (request.method !== "POST") return Response.json({ error: "use POST" }, { status: 405 });
      if (pathname === "/rpc/echo") return Response.json({ result: await argument(request) });
      if (pathname === "/rpc/get_task") {
        const task = await getTask(await argument(request), this.env, this.ctx);
        if (task === null) return Response.json({ error: "no such task" }, { status: 404 });
        return Response.json({ result: task });
      }
      return Response.json({ error: "nothing here" }, { status: 404 });
    } catch (error) {
      if (error instanceof Invalid) return Response.json({ error: error.message }, { status: 400 });
      throw error;
    }
  }
}
