// Calls every function of the demo, with types that openapi-typescript has made of its OpenAPI document.

import type { paths } from "./made.js";

type Post<P extends keyof paths> = paths[P] extends { post: infer O } ? O : never;
type Body<P extends keyof paths> =
  Post<P> extends { requestBody?: infer R } ? NonNullable<R> extends { content: { "application/json": infer B } } ? B : never : never;
type Result<P extends keyof paths> =
  Post<P> extends { responses: { 200: { content: { "application/json": { result: infer R } } } } } ? R : never;

const [url, token] = process.argv.slice(2);

async function call<P extends keyof paths>(path: P, body: Body<P>): Promise<Result<P>> {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const response = await fetch(`${url}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json() as { result: Result<P> };
  if (!response.ok) throw new Error(JSON.stringify(answer));
  return answer.result;
}

function check(right: boolean, what: string): void {
  if (!right) throw new Error(what);
}

const task = await call("/call/create_task", { title: "Made by a generator" });
check((await call("/call/toggle_task", { id: task.id })).done === true, "toggle");
check((await call("/call/rename_task", { id: task.id, title: "Renamed" })).title === "Renamed", "rename");
check((await call("/call/get_task", { id: task.id })).created_by === task.created_by, "get");
const tasks = await call("/call/list_tasks", { done: true, limit: 1000 });
check(tasks.some((one) => one.id === task.id), "list");
check(await call("/call/delete_task", { id: task.id }), "delete");
check((await call("/call/open_account", { id: "ts-a", balance: 10 })).balance === 10, "open");
check((await call("/call/open_account", { id: "ts-b" })).balance === 0, "open");
check((await call("/call/transfer", { src: "ts-a", dst: "ts-b", amount: 4 }))["ts-b"] === 4, "transfer");
check(await call("/call/balance", { id: "ts-b" }) === 4, "balance");
const accounts = await call("/call/list_accounts", { limit: 1000 });
check(accounts.some((one) => one.id === "ts-a"), "list_accounts");
check(await call("/call/total", {}) >= 10, "total");
// @ts-expect-error: the document says that it is a text
call("/call/get_task", { id: 5 }).catch(() => console.log("refused"));
