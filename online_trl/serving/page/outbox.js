// Feedback on its way to the server. It is kept in localStorage until the server has it; sending it twice is one row,
// because it carries its own id.

import { Refusal } from "./api.js";

const PREFIX = "online-trl.outbox.";
const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 60_000;
// The server records an answer that was stopped a moment after the connection is gone.
const UNKNOWN_FOR_A_MOMENT = 60_000;

/**
 * Sends feedback in the order in which it was given, again and again until the server replies.
 *
 * Events: `change` when something was sent or could not be, `refused` with `{id, message}` when the server will not
 * have it.
 */
export class Outbox extends EventTarget {
  #api;
  #pause = FIRST_PAUSE;
  #timer = null;
  #sending = null;

  /** Why what is waiting could not be sent; `null` while nothing is known to be in the way. */
  trouble = null;

  constructor(api) {
    super();
    this.#api = api;
    addEventListener("online", () => this.send());
    // Another tab sends what this one left, and the other way round.
    addEventListener("storage", () => this.#tell());
  }

  /** Number of statements that the server does not have yet. */
  get size() {
    return waitingKeys().length;
  }

  /** Whether a statement is still waiting. */
  has(id) {
    return localStorage.getItem(PREFIX + id) !== null;
  }

  /** Takes a statement; its `feedback_id` is also its idempotency key. */
  add(feedback) {
    localStorage.setItem(PREFIX + feedback.feedback_id, JSON.stringify({ since: Date.now(), feedback }));
    this.send();
  }

  /** Drops what is not sent yet. */
  clear() {
    for (const key of waitingKeys()) localStorage.removeItem(key);
    this.#tell();
  }

  /** Sends what is waiting. */
  async send() {
    if (this.#sending) {
      await this.#sending;
      if (this.trouble) return;
    }
    clearTimeout(this.#timer);
    this.#sending ??= this.#sendAll().finally(() => (this.#sending = null));
    await this.#sending;
  }

  async #sendAll() {
    this.trouble = null;
    for (const key of waitingKeys()) {
      if (!(await this.#sendOne(key))) return;
    }
    this.#pause = FIRST_PAUSE;
  }

  async #sendOne(key) {
    // Another tab may have been faster.
    const entry = JSON.parse(localStorage.getItem(key));
    if (entry === null) return true;
    try {
      await this.#api.sendFeedback(entry.feedback);
      localStorage.removeItem(key);
    } catch (error) {
      return this.#onFailure(key, entry, error);
    }
    this.#tell();
    return true;
  }

  #onFailure(key, { since, feedback }, error) {
    if (!isFinal(error, since)) {
      this.trouble = error;
      if (error.status !== 401) this.#sendLater(error.retryAfter);
      this.#tell();
      return error.status === 404;
    }
    localStorage.removeItem(key);
    this.dispatchEvent(new CustomEvent("refused", { detail: { id: feedback.feedback_id, message: error.message } }));
    this.#tell();
    return true;
  }

  #sendLater(seconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.send(), seconds ? seconds * 1_000 : this.#pause);
    this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE);
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

function isFinal(error, since) {
  if (!(error instanceof Refusal) || error.isPassing || error.status === 401) return false;
  return error.status !== 404 || Date.now() - since > UNKNOWN_FOR_A_MOMENT;
}

function waitingKeys() {
  return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)).sort();
}
