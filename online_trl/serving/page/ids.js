// Ids made in the browser. `crypto.randomUUID` is missing where the page comes over plain HTTP from another machine.

let latest = 0;

/** Returns a new UUIDv7; each sorts after the ones before it. */
export function newId() {
  latest = Math.max(Date.now(), latest + 1);
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  for (let place = 0; place < 6; place++) bytes[place] = Math.floor(latest / 256 ** (5 - place)) % 256;
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return hex(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Returns a new opaque user id, short enough to be read out. */
export function newUserId() {
  return `web-${hex(crypto.getRandomValues(new Uint8Array(6)))}`;
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
