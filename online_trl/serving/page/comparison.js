// Two answers to one question: which is better?

import { fromTemplate, press } from "./elements.js";

/** Lets the user choose between the two answers of a turn. */
export class Comparison {
  #turn;
  #opinions;
  #prefer;

  /** `prefer` is called with the number of the answer that the conversation goes on from. */
  constructor(turn, opinions, prefer) {
    this.#turn = turn;
    this.#opinions = opinions;
    this.#prefer = prefer;
    this.element = fromTemplate("comparison-template");
    this.element.querySelector(".unasked").hidden = turn.wanted === 2;
    for (const button of this.#buttons) button.addEventListener("click", () => this.#choose(button.dataset.choice));
    this.update();
  }

  update() {
    const chosen = this.#turn.said.comparison?.value;
    for (const button of this.#buttons) press(button, button.dataset.choice === chosen);
    this.element.querySelector(".said").textContent = this.#opinions.fate(this.#turn);
  }

  #choose(choice) {
    const ids = this.#turn.answers.map((answer) => answer.id);
    this.#opinions.toggle(this.#turn, "comparison", ids, choice);
    this.#prefer(this.#turn.said.comparison?.value === "second" ? 1 : 0);
    this.update();
  }

  get #buttons() {
    return this.element.querySelectorAll("[data-choice]");
  }
}
