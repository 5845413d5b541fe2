// Small things that every view does with elements.

/** Returns a new copy of the one element in a template. */
export function fromTemplate(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** Marks a toggle button as pressed or not. */
export function press(button, isPressed) {
  button.setAttribute("aria-pressed", String(isPressed));
}
