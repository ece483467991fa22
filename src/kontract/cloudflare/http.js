// Requests and responses for kontract/cloudflare/http.py. A property of an object of the runtime that Python asks for
// crosses the border twice, and each header several times: here a head crosses once, as JSON text.

export function head(request) {
  return JSON.stringify([request.method, request.url, Object.fromEntries(request.headers)]);
}

// The body as one Uint8Array, read until it ends or has more than `atMost` bytes, whatever Content-Length said;
// undefined when it was cut off: the caller has left, or its chunks are none.
export async function body(request, atMost) {
  if (!request.body) return new Uint8Array();
  const reader = request.body.getReader();
  const chunks = [];
  let size = 0;
  try {
    while (size <= atMost) {
      const { done, value } = await reader.read();
      if (done) return joined(chunks, size);
      chunks.push(value);
      size += value.length;
    }
  } catch {
    return undefined;
  }
  await reader.cancel();
  return joined(chunks, size);
}

function joined(chunks, size) {
  if (chunks.length === 1) return chunks[0];
  const whole = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

// `head`: status and headers as JSON text; `body`: a string, a Uint8Array, a stream, or nothing.
export function response(head, body) {
  const [status, headers] = JSON.parse(head);
  return new Response(body ?? null, { status, headers });
}
