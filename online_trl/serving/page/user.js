// Under which id the user's messages and reactions are recorded, and the dialog that tells what is recorded.

import { newUserId } from "./ids.js";

const KEPT_AS = "online-trl.user";

/** Keeps the id, and lets the user see, change and forget it. */
export class UserIdentity {
  #onChange;
  #onForget;
  #dialog = document.getElementById("record");
  #input = document.getElementById("user-id");

  /** `onChange` is called after the id changed, `onForget` before that, if the old one is to be forgotten. */
  constructor({ onChange, onForget }) {
    this.#onChange = onChange;
    this.#onForget = onForget;
    if (!this.id) this.#keep(newUserId());
    this.#listen();
  }

  get id() {
    return localStorage.getItem(KEPT_AS);
  }

  #listen() {
    const on = (id, type, listener) => document.getElementById(id).addEventListener(type, listener);
    on("open-record", "click", () => this.#open());
    on("close-record", "click", () => this.#dialog.close());
    on("forget", "click", () => this.#forget());
    on("user-form", "submit", (event) => this.#use(event));
  }

  #open() {
    this.#input.value = this.id;
    this.#dialog.showModal();
  }

  #use(event) {
    event.preventDefault();
    const id = this.#input.value.trim();
    if (id === this.id) this.#dialog.close();
    else this.#change(id);
  }

  #forget() {
    this.#onForget();
    this.#change(newUserId());
  }

  #change(id) {
    this.#keep(id);
    this.#dialog.close();
    this.#onChange();
  }

  #keep(id) {
    localStorage.setItem(KEPT_AS, id);
  }
}
