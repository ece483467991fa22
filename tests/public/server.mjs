// A server of the tests' own on the loopback: it records what it is asked and answers what a test tells it to.

import { createServer } from "node:http";

/**
 * Starts one. `answer(request, response)` is called for each request, which is `{method, path, headers, body}`; an
 * object that it returns is sent as JSON with its `status` (200) and `headers`. Stopped at the end of the test.
 */
export async function serve(t, answer) {
  const requests = [];
  const sockets = new Set();
  const server = createServer(async (incoming, response) => {
    const chunks = [];
    for await (const chunk of incoming) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const request = {
      method: incoming.method,
      path: incoming.url,
      headers: incoming.headers,
      body,
      text: body.toString(),
    };
    requests.push(request);
    const said = await answer(request, response);
    if (!said) return; // it has answered by itself
    const { status = 200, headers = {}, ...rest } = said;
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end("raw" in rest ? rest.raw : JSON.stringify(rest));
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  return { url: `http://127.0.0.1:${port}`, requests };
}

/** An error as the gateway sends it. */
export function failure(status, error, more = {}) {
  return { status, error, message: `${error} it is`, request_id: "r1", ...more };
}

/** What /auth answers: a session whose token is `name`. */
export function granted(name, expires = 3600) {
  return { token: name, expires_in: expires, refresh_token: `refresh-${name}`, owner: "tenant-1", user: "ann" };
}

/** A promise and the function that keeps it. */
export function later() {
  let resolve;
  const promise = new Promise((keep) => {
    resolve = keep;
  });
  return { promise, resolve };
}
