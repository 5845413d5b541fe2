// What the page asks of the server.

// A connection that died without a word is given up after this many milliseconds.
const PATIENCE = 30_000;

/** The server could not be reached, or the connection broke. */
export class ConnectionLost extends Error {
  constructor() {
    super("The connection to the server was lost.");
  }
}

/** The server said no; `message` is what it said. */
export class Refusal extends Error {
  constructor(status, { message, code = null }, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may well succeed later. */
  get isPassing() {
    return this.status >= 500 || this.status === 429 || this.status === 408;
  }
}

/** Sends requests, with the key where the server asks for one. */
export class Api {
  #keyring;

  constructor(keyring) {
    this.#keyring = keyring;
  }

  /** Returns once feedback is in the log. */
  async sendFeedback(feedback) {
    const response = await this.#post("v1/feedback", feedback, {}, AbortSignal.timeout(PATIENCE));
    const receipt = await parsed(response);
    // The page of a hotel's network is a reply, too, but no receipt.
    if (receipt?.feedback_id !== feedback.feedback_id) throw new ConnectionLost();
  }

  /**
   * Returns how many answers come, `count`, and what yields them piece by piece: `{index, id, version, text, isLast}`.
   * Where one was asked for, two may come that the server wants to have compared.
   */
  async askForAnswers({ messages, n, user, session, signal }) {
    const body = { model: "default", messages, n, user, stream: true };
    const headers = { "X-Session-Id": session, ...(n === 1 && { "X-Comparison": "welcome" }) };
    const response = await this.#post("v1/chat/completions", body, headers, signal);
    const ids = response.headers.get("X-Interaction-Id").split(/,\s*/);
    return { count: ids.length, pieces: streamedPieces(response.body, ids) };
  }

  async #post(path, body, headers = {}, signal = undefined) {
    for (;;) {
      const key = this.#keyring.key;
      const response = await reach(path, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...headers, ...(key && { Authorization: `Bearer ${key}` }) },
        body: JSON.stringify(body),
        signal,
      });
      if (response.ok) return response;
      const refusal = await refusalOf(response);
      if (response.status !== 401) throw refusal;
      if (!(await this.#keyring.replace(key))) throw refusal;
    }
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw asConnectionLost(error);
  }
}

function asConnectionLost(error) {
  const isLost = error instanceof TypeError || error.name === "TimeoutError";
  return isLost ? new ConnectionLost() : error;
}

async function refusalOf(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const reply = await parsed(response);
  return new Refusal(response.status, reply?.error ?? { message: `HTTP ${response.status}` }, retryAfter);
}

/** Returns the JSON of a response; `null` if it has none, as what a proxy replies in the server's place. */
async function parsed(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw asConnectionLost(error);
  }
}

async function* streamedPieces(body, ids) {
  for await (const data of serverSentEvents(body)) {
    if (data === "[DONE]") return;
    yield* pieces(JSON.parse(data), ids);
  }
  throw new ConnectionLost();
}

function* pieces(chunk, ids) {
  if (chunk.error) throw new Refusal(500, chunk.error);
  for (const { index, delta, finish_reason } of chunk.choices) {
    yield { index, id: ids[index], version: chunk.model, text: delta.content ?? "", isLast: Boolean(finish_reason) };
  }
}

/** Yields the data of each server-sent event of a response body. */
async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) return;
      const events = (buffer + value).split(/\r?\n\r?\n/);
      buffer = events.pop();
      for (const event of events) {
        const data = dataOf(event);
        if (data) yield data;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // of a stream that broke there is nothing left to cancel
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw asConnectionLost(error);
  }
}

function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}
