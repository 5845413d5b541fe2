// One turn: the question, its answers, and how the user reacts to them.

import { AnswerView, Reactions } from "./answer.js";
import { Comparison } from "./comparison.js";
import { fromTemplate } from "./elements.js";
import { Ranking } from "./ranking.js";

const NAMES = ["Answer A", "Answer B", "Answer C", "Answer D"];

/** Shows a turn. */
export class TurnView {
  #opinions;
  #actions;
  #answers = [];
  #reaction = null;

  /** `actions` has `ask(turn)`, `regenerate(turn)`, `isLast(turn)`, `prefer(turn, index)`, `copy(text)`, `announce(text)`. */
  constructor(turn, opinions, actions) {
    this.turn = turn;
    this.#opinions = opinions;
    this.#actions = actions;
    this.element = fromTemplate("turn-template");
    this.#one(".words").textContent = turn.question;
    this.#one(".ask-again").addEventListener("click", () => this.#again(actions.ask));
    this.showAnswers();
  }

  /** Shows the turn's answers anew. */
  showAnswers() {
    const { answers, count } = this.turn;
    this.#answers = answers.map((answer, index) => new AnswerView(answer, count === 1 ? "Answer" : NAMES[index]));
    this.#one(".answers").className = `answers ${count === 2 ? "beside" : "stacked"}`;
    this.#one(".answers").replaceChildren(...this.#answers.map((view) => view.element));
    this.#reaction = null;
    this.#one(".reaction").replaceChildren();
    this.#showEarlier();
    this.#offerReaction();
    this.#showTrouble();
  }

  /** Shows what an answer grew by. */
  grow(index) {
    this.#answers[index].update();
  }

  /** Shows what became of what was said. */
  update() {
    this.#reaction?.update();
    this.#one(".ask-again").hidden = !this.#actions.isLast(this.turn);
  }

  #showEarlier() {
    const { earlier } = this.turn;
    const items = earlier.map((text) => Object.assign(document.createElement("li"), { textContent: text, dir: "auto" }));
    this.#one(".earlier").hidden = earlier.length === 0;
    this.#one(".earlier summary").textContent = earlier.length === 1 ? "Earlier answer" : `${earlier.length} earlier answers`;
    this.#one(".earlier ol").replaceChildren(...items);
  }

  #offerReaction() {
    const { answers, count } = this.turn;
    const isAnswered = answers.length > 0 && answers.every(({ id, state }) => id && STATES_TO_JUDGE.has(state));
    if (!isAnswered) return;
    this.#reaction = this.#makeReaction(count);
    this.#markBest();
    this.#one(".reaction").append(this.#reaction.element);
  }

  #markBest() {
    const { best, count } = this.turn;
    if (count > 1) this.#answers.forEach((view, index) => view.markBest(index === best));
  }

  #makeReaction(count) {
    const { turn } = this;
    const prefer = (index) => {
      this.#actions.prefer(turn, index);
      this.#markBest();
    };
    if (count === 2) return new Comparison(turn, this.#opinions, prefer);
    if (count > 2) return new Ranking(turn, this.#answers, this.#opinions, { ...this.#actions, prefer });
    return new Reactions(turn.answers[0], this.#opinions, {
      copy: this.#actions.copy,
      canRegenerate: () => this.#actions.isLast(turn),
      regenerate: () => this.#again(this.#actions.regenerate),
    });
  }

  // The button that was pressed goes away; what has the focus instead is the turn.
  #again(ask) {
    this.element.focus({ preventScroll: true });
    ask(this.turn);
  }

  #showTrouble() {
    const isBroken = this.turn.answers.some(({ state }) => state === "broken");
    this.#one(".trouble").hidden = !isBroken;
    this.#one(".problem").textContent = isBroken ? (this.turn.trouble ?? "The answer did not come to its end.") : "";
  }

  #one(selector) {
    return this.element.querySelector(selector);
  }
}

const STATES_TO_JUDGE = new Set(["complete", "stopped"]);
