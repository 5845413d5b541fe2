// The conversation of this tab: what was asked, what was answered, and what was said about it. It outlives a reload.

import { newId } from "./ids.js";

const KEPT_AS = "online-trl.conversation";

/**
 * A turn is a question and its answers; the conversation goes on from the answer number `best`. The user asked for
 * `wanted` answers and got `count`: now and then the server gives two in place of one, to have them compared. What the
 * user said about an answer, or about all answers of a turn, is in its `said`, by kind of feedback.
 */
export class Conversation {
  constructor({ user, session = newId(), turns = [] }) {
    this.user = user;
    this.session = session;
    this.turns = turns;
  }

  /** Returns the conversation that was going on in this tab, or a new one. */
  static load(user) {
    const kept = JSON.parse(sessionStorage.getItem(KEPT_AS));
    if (kept?.user !== user) return new Conversation({ user });
    for (const answer of kept.turns.flatMap((turn) => turn.answers)) {
      if (answer.state === "coming") answer.state = "broken";
    }
    return new Conversation(kept);
  }

  save() {
    sessionStorage.setItem(KEPT_AS, JSON.stringify(this));
  }

  /** Appends a turn and returns it. */
  add(question, count) {
    const turn = { question, wanted: count, count, answers: [], earlier: [], best: 0, said: {} };
    this.turns.push(turn);
    return turn;
  }

  isLast(turn) {
    return turn === this.turns.at(-1);
  }

  /** Lets the conversation go on from an answer, unless it already went on from another. */
  prefer(turn, index) {
    if (this.isLast(turn)) turn.best = index;
  }

  /** Returns the messages that ask a turn's question. */
  promptOf(turn) {
    const before = this.turns.slice(0, this.turns.indexOf(turn));
    return [...before.flatMap(exchange), { role: "user", content: turn.question }];
  }
}

/** Returns an answer of which nothing has come yet. */
export function awaitedAnswer() {
  return { id: null, version: null, text: "", state: "coming", said: {} };
}

// A question that got no answer is none that the next one builds on.
function exchange({ question, answers, best }) {
  const text = answers[best]?.text;
  if (!text) return [];
  return [
    { role: "user", content: question },
    { role: "assistant", content: text },
  ];
}
