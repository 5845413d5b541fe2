// What the user says about answers, as rows of feedback. A change of mind supersedes what was said before.

import { newId } from "./ids.js";

/** Hands what is said to the outbox, and remembers it with what it is about: an answer or a turn. */
export class Opinions {
  #outbox;
  #conversation;
  #underway = new Map();

  /** `conversation` returns the one that is going on. */
  constructor(outbox, conversation) {
    this.#outbox = outbox;
    this.#conversation = conversation;
    outbox.addEventListener("refused", ({ detail }) => this.#undo(detail));
  }

  /** Says something of a kind for the first time, or something else than before. */
  say(subject, kind, interactionIds, value) {
    const id = this.#send(kind, interactionIds, value, subject.said[kind]?.id);
    this.#remember(subject, kind, id, { id, value, interactionIds }, "Recorded.");
  }

  /** Takes back what was said of a kind. */
  takeBack(subject, kind) {
    const { id: supersedes, interactionIds } = subject.said[kind];
    const id = this.#send(kind, interactionIds, null, supersedes);
    this.#remember(subject, kind, id, undefined, "Taken back.");
  }

  /** Says it, or takes it back if it is what was said before. */
  toggle(subject, kind, interactionIds, value) {
    const before = subject.said[kind];
    const isSame = before && JSON.stringify(before.value) === JSON.stringify(value);
    if (isSame) this.takeBack(subject, kind);
    else this.say(subject, kind, interactionIds, value);
  }

  /** Tells that the user did something that speaks for or against an answer. */
  signal(answer, name) {
    this.#send("implicit", [answer.id], name);
  }

  /** Returns what became of the last statement about a subject, in words. */
  fate({ last }) {
    if (!last) return "";
    if (!this.#outbox.has(last.id)) return last.outcome;
    return this.#outbox.trouble ? "Not sent yet; it is kept and sent as soon as that works." : "Sending …";
  }

  #send(kind, interactionIds, value, supersedes = null) {
    const { user, session } = this.#conversation();
    const id = newId();
    this.#outbox.add({
      feedback_id: id,
      idempotency_key: id,
      kind,
      interaction_ids: interactionIds,
      value,
      user_id: user,
      session_id: session,
      source: kind === "implicit" ? "implicit" : "human",
      supersedes,
    });
    return id;
  }

  #remember(subject, kind, id, statement, outcome) {
    this.#underway.set(id, { subject, kind, before: subject.said[kind] });
    subject.said[kind] = statement;
    subject.last = { id, outcome };
    this.#conversation().save();
  }

  #undo({ id, message }) {
    if (!this.#underway.has(id)) return;
    const { subject, kind, before } = this.#underway.get(id);
    subject.said[kind] = before;
    subject.last = { id, outcome: `The server did not take it: ${message}` };
    this.#conversation().save();
  }
}
