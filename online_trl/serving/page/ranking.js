// Several answers to one question, in the user's order.

import { fromTemplate, press } from "./elements.js";

/** Lets the user put the answers of a turn in order; each is moved by buttons, arrow keys or dragging. */
export class Ranking {
  #turn;
  #opinions;
  #actions;
  #places;
  #dragged = null;

  /**
   * `views` are the answers' views, in the elements of which each gets its place; `actions` has `prefer(index)` and
   * `announce(text)`.
   */
  constructor(turn, views, opinions, actions) {
    this.#turn = turn;
    this.#opinions = opinions;
    this.#actions = actions;
    this.#places = views.map((view, index) => this.#makePlace(view, index));
    this.element = fromTemplate("ranking-template");
    this.#do("record").addEventListener("click", () => this.#record());
    this.#do("take-back").addEventListener("click", () => this.#takeBack());
    this.#arrange(turn.said.ranking?.value ?? views.map((_, index) => index + 1));
  }

  update() {
    const recorded = this.#turn.said.ranking?.value;
    const ranks = this.#ranks();
    this.#places.forEach((place, position) => this.#showPlace(place, position, ranks[place.index]));
    this.#do("record").textContent = recorded ? "Record the new order" : "Record this order";
    // Disabled outright, it would lose the focus when it is pressed.
    this.#do("record").setAttribute("aria-disabled", String(isSame(recorded, ranks)));
    this.#do("take-back").hidden = !recorded;
    this.element.querySelector(".said").textContent = this.#opinions.fate(this.#turn);
  }

  #makePlace(view, index) {
    const name = view.element.getAttribute("aria-label");
    const place = { index, name, view, isTied: false, bar: fromTemplate("place-template") };
    const button = (selector) => place.bar.querySelector(selector);
    button(".handle").setAttribute("aria-label", `Move ${name} with the arrow keys, or drag it`);
    button(".up").setAttribute("aria-label", `Move ${name} up`);
    button(".lower").setAttribute("aria-label", `Move ${name} down`);
    button(".tie").setAttribute("aria-label", `${name}: as good as the one above`);
    button(".up").addEventListener("click", () => this.#moveBy(place, -1, ".up"));
    button(".lower").addEventListener("click", () => this.#moveBy(place, 1, ".lower"));
    button(".tie").addEventListener("click", () => this.#toggleTie(place));
    button(".handle").addEventListener("keydown", (event) => this.#onKey(event, place));
    this.#makeDraggable(place, button(".handle"));
    view.element.prepend(place.bar);
    return place;
  }

  #makeDraggable(place, handle) {
    const { element } = place.view;
    handle.addEventListener("dragstart", (event) => {
      this.#dragged = place;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setDragImage(element, 0, 0);
    });
    handle.addEventListener("dragend", () => (this.#dragged = null));
    element.addEventListener("dragover", (event) => {
      if (this.#dragged) event.preventDefault();
    });
    element.addEventListener("drop", (event) => {
      if (!this.#dragged) return;
      event.preventDefault();
      this.#move(this.#dragged, this.#places.indexOf(place));
    });
  }

  #onKey(event, place) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.#moveBy(place, step, ".handle");
  }

  #moveBy(place, step, focused) {
    const position = this.#places.indexOf(place) + step;
    if (position < 0 || position >= this.#places.length) return;
    this.#move(place, position);
    // The button that was pressed may be gone at the top or the bottom.
    const button = place.bar.querySelector(focused);
    (button.disabled ? place.bar.querySelector(".handle") : button).focus();
  }

  #move(place, position) {
    this.#places.splice(this.#places.indexOf(place), 1);
    this.#places.splice(position, 0, place);
    this.#places[0].isTied = false;
    this.#layOut();
    this.#actions.announce(`${place.name} is now at place ${position + 1} of ${this.#places.length}.`);
  }

  #toggleTie(place) {
    place.isTied = !place.isTied;
    this.update();
  }

  #arrange(ranks) {
    this.#places.sort((one, other) => ranks[one.index] - ranks[other.index]);
    this.#places.forEach((place, position) => {
      const above = this.#places[position - 1];
      place.isTied = Boolean(above) && ranks[above.index] === ranks[place.index];
    });
    this.#layOut();
  }

  #layOut() {
    const parent = this.#places[0].view.element.parentElement;
    parent?.append(...this.#places.map((place) => place.view.element));
    this.update();
  }

  #showPlace(place, position, rank) {
    const isFirst = position === 0;
    place.bar.querySelector(".rank").textContent = `${rank}.`;
    place.bar.querySelector(".up").disabled = isFirst;
    place.bar.querySelector(".lower").disabled = position === this.#places.length - 1;
    place.bar.querySelector(".tie").hidden = isFirst;
    press(place.bar.querySelector(".tie"), place.isTied);
  }

  /** Returns the rank of each answer, 1 is best, in the order in which the answers came. */
  #ranks() {
    const ranks = [];
    let rank = 0;
    for (const place of this.#places) {
      if (!place.isTied) rank += 1;
      ranks[place.index] = rank;
    }
    return ranks;
  }

  #record() {
    const ranks = this.#ranks();
    if (isSame(this.#turn.said.ranking?.value, ranks)) return;
    const ids = this.#turn.answers.map((answer) => answer.id);
    this.#opinions.say(this.#turn, "ranking", ids, ranks);
    this.#actions.prefer(this.#places[0].index);
    this.update();
  }

  #takeBack() {
    this.#opinions.takeBack(this.#turn, "ranking");
    this.#actions.prefer(0);
    this.update();
    this.#do("record").focus();
  }

  #do(name) {
    return this.element.querySelector(`[data-do=${name}]`);
  }
}

function isSame(recorded, ranks) {
  return JSON.stringify(recorded) === JSON.stringify(ranks);
}
