// The key that the server may ask for: kept for this tab alone.

const KEPT_AS = "online-trl.key";

/** Holds the key, and asks for one in a dialog. */
export class Keyring {
  #dialog = document.getElementById("key-dialog");
  #input = document.getElementById("key");
  #asking = null;

  constructor() {
    document.getElementById("key-form").addEventListener("submit", (event) => this.#accept(event));
    document.getElementById("cancel-key").addEventListener("click", () => this.#dialog.close());
  }

  get key() {
    return sessionStorage.getItem(KEPT_AS);
  }

  /** Asks for another key than the refused one; returns whether there is one. Callers at the same time share a dialog. */
  async replace(refused) {
    if (this.key !== refused) return true;
    this.#asking ??= this.#ask(refused).finally(() => (this.#asking = null));
    await this.#asking;
    return this.key !== refused;
  }

  #ask(refused) {
    const reason = refused ? "The server does not accept this key. " : "";
    document.getElementById("key-reason").textContent =
      `${reason}Whoever runs the server can give you one. It is kept until you close this tab.`;
    this.#input.value = "";
    this.#dialog.showModal();
    return new Promise((resolve) => this.#dialog.addEventListener("close", resolve, { once: true }));
  }

  #accept(event) {
    event.preventDefault();
    sessionStorage.setItem(KEPT_AS, this.#input.value.trim());
    this.#dialog.close();
  }
}
