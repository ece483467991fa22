// A server of the tests' own on the loopback: it records what it is asked and answers what a test tells it to.

import { createHash } from "node:crypto";
import { createServer } from "node:http";

/**
 * Starts one. `answer(request, response)` is called for each request, which is `{method, path, headers, body}`; an
 * object that it returns is sent as JSON with its `status` (200) and `headers`. Stopped at the end of the test.
 */
export async function serve(t, answer, upgrade = null) {
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
  if (upgrade) server.on("upgrade", upgrade);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  return { url: `http://127.0.0.1:${port}`, requests };
}

/**
 * Starts a server like `serve` that takes WebSockets as well: `converse(number, request, peer)` plays connection
 * `number`, counted from 1. `peer` has `send(...messages)` for JSON, `sendText(text)`, `end()` and `gone`, a promise; `converse` returns
 * false to refuse. No more of the protocol (RFC 6455) than that needs.
 */
export async function serveSockets(t, answer, converse) {
  let number = 0;
  const upgrades = [];
  const upgrade = (incoming, socket) => {
    const request = { path: incoming.url, headers: incoming.headers };
    upgrades.push(request);
    const peer = {
      send: (...messages) => socket.write(Buffer.concat(messages.map((one) => textFrame(JSON.stringify(one))))),
      sendText: (text) => socket.write(textFrame(text)),
      end: () => socket.end(Buffer.from([0x88, 0])),
      gone: new Promise((resolve) => socket.on("close", resolve)),
    };
    socket.on("error", () => {});
    socket.on("data", (frame) => (frame[0] & 15) === 8 && peer.end()); // of what a client says, its goodbye alone
    const key = incoming.headers["sec-websocket-key"];
    const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
    socket.cork();
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        `Sec-WebSocket-Accept: ${accept.digest("base64")}\r\n\r\n`,
    );
    if (converse((number += 1), request, peer) === false) socket.destroy();
    else socket.uncork();
  };
  const { url, requests } = await serve(t, answer, upgrade);
  return { url, requests, upgrades };
}

function textFrame(text) {
  const data = Buffer.from(text);
  const head = data.length < 126 ? [data.length] : [126, data.length >> 8, data.length & 255];
  return Buffer.concat([Buffer.from([0x81, ...head]), data]);
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
