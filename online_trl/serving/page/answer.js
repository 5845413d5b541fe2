// One answer: its text, and what can be said about it alone.

import { fromTemplate, press } from "./elements.js";

/** Shows an answer; `name` tells it from the others of its turn. */
export class AnswerView {
  #text;
  #version;

  constructor(answer, name) {
    this.answer = answer;
    this.element = fromTemplate("answer-template");
    this.element.setAttribute("aria-label", name);
    this.element.querySelector(".name").textContent = name;
    this.#version = this.element.querySelector(".version");
    this.#text = this.element.querySelector(".text");
    this.update();
  }

  /** Shows whether the conversation goes on from this one of several answers. */
  markBest(isBest) {
    this.element.querySelector(".best").hidden = !isBest;
    this.element.classList.toggle("passed", !isBest);
  }

  update() {
    const { text, version, state } = this.answer;
    const isComing = state === "coming";
    this.element.hidden = state === "broken" && !text;
    this.element.setAttribute("aria-busy", String(isComing));
    this.#text.textContent = text || (isComing ? "…" : "(an empty answer)");
    this.#text.classList.toggle("soft", !text);
    this.#version.textContent = [version, STATE_IN_WORDS[state]].filter(Boolean).join(", ");
  }
}

const STATE_IN_WORDS = { stopped: "stopped by you", broken: "incomplete" };

/** Lets the user react to one answer. */
export class Reactions {
  #answer;
  #opinions;
  #actions;

  /** `actions` has `regenerate()`, `canRegenerate()` and `copy(text)`. */
  constructor(answer, opinions, actions) {
    this.#answer = answer;
    this.#opinions = opinions;
    this.#actions = actions;
    this.element = fromTemplate("reactions-template");
    this.element.addEventListener("click", (event) => this.#onClick(event.target.closest("button")));
    this.#form.addEventListener("submit", (event) => this.#recordRewrite(event));
    this.update();
  }

  update() {
    const { binary, rating, correction } = this.#answer.said;
    for (const button of this.#all("[data-thumb]")) press(button, binary?.value === isUp(button));
    for (const button of this.#all("[data-score]")) press(button, rating?.value.score === scoreOf(button));
    this.#one(".own").hidden = !correction;
    this.#one(".own .text").textContent = correction?.value ?? "";
    this.#one("[data-do=take-back]").hidden = !correction;
    this.#one("[data-do=regenerate]").hidden = !this.#actions.canRegenerate();
    this.#one(".said").textContent = this.#opinions.fate(this.#answer);
  }

  #onClick(button) {
    if (!button) return;
    if (button.dataset.thumb) this.#toggle("binary", isUp(button));
    else if (button.dataset.score) this.#toggle("rating", { score: scoreOf(button), low: 1, high: 5 });
    else this.#do[button.dataset.do]?.();
  }

  #do = {
    rewrite: () => this.#openForm(this.#form.hidden),
    cancel: () => this.#openForm(false),
    "take-back": () => this.#takeBackRewrite(),
    regenerate: () => this.#actions.regenerate(),
    copy: () => this.#copy(),
  };

  #toggle(kind, value) {
    this.#opinions.toggle(this.#answer, kind, [this.#answer.id], value);
    this.update();
  }

  #openForm(isOpen) {
    const opener = this.#one("[data-do=rewrite]");
    this.#form.hidden = !isOpen;
    opener.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) return opener.focus();
    this.#rewrite.value = this.#answer.said.correction?.value ?? this.#answer.text;
    this.#rewrite.setCustomValidity("");
    return this.#rewrite.focus();
  }

  #recordRewrite(event) {
    event.preventDefault();
    const { correction } = this.#answer.said;
    const text = this.#rewrite.value.trim();
    if (text !== (correction?.value ?? this.#answer.text.trim())) {
      this.#opinions.say(this.#answer, "correction", [this.#answer.id], text);
    }
    this.#openForm(false);
    this.update();
  }

  #takeBackRewrite() {
    this.#opinions.takeBack(this.#answer, "correction");
    this.#openForm(false);
    this.update();
  }

  async #copy() {
    await this.#actions.copy(this.#answer.text);
    if (this.#answer.isCopied) return;
    this.#answer.isCopied = true;
    this.#opinions.signal(this.#answer, "copy");
  }

  get #form() {
    return this.#one(".rewrite");
  }

  get #rewrite() {
    return this.#one(".rewrite textarea");
  }

  #one(selector) {
    return this.element.querySelector(selector);
  }

  #all(selector) {
    return this.element.querySelectorAll(selector);
  }
}

function isUp(button) {
  return button.dataset.thumb === "up";
}

function scoreOf(button) {
  return Number(button.dataset.score);
}
