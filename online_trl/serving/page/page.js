// The page: a conversation with the deployed policy, and what its user says about the answers.

import { Api, ConnectionLost, Refusal } from "./api.js";
import { awaitedAnswer, Conversation } from "./conversation.js";
import { Keyring } from "./keyring.js";
import { Opinions } from "./opinions.js";
import { Outbox } from "./outbox.js";
import { TurnView } from "./turn.js";
import { UserIdentity } from "./user.js";

const byId = (id) => document.getElementById(id);

const api = new Api(new Keyring());
const outbox = new Outbox(api);
const user = new UserIdentity({ onChange: startConversation, onForget: () => outbox.clear() });
const opinions = new Opinions(outbox, () => conversation);
let conversation = Conversation.load(user.id);
let views = [];
let stopping = null;

const actions = {
  ask,
  regenerate,
  copy,
  announce,
  isLast: (turn) => conversation.isLast(turn),
  prefer(turn, index) {
    conversation.prefer(turn, index);
    conversation.save();
  },
};

/** Asks a turn's question and shows the answers while they come. */
async function ask(turn) {
  awaitAnswers(turn, turn.wanted);
  turn.trouble = null;
  conversation.save();
  await answering(turn, viewOf(turn));
  conversation.save();
  keepingTheEndInSight(() => viewOf(turn)?.showAnswers());
  outbox.send();
}

async function answering(turn, view) {
  stopping = new AbortController();
  view.showAnswers();
  showBusy(true);
  say("The model is answering.");
  try {
    await receive(turn, view, stopping.signal);
    say("");
    announce(turn.answers.map((answer) => answer.text).join("\n"));
  } catch (error) {
    say(endEarly(turn, error));
    if (!isExpected(error)) throw error;
  } finally {
    stopping = null;
    showBusy(false);
  }
}

async function receive(turn, view, signal) {
  const { user, session } = conversation;
  const request = { messages: conversation.promptOf(turn), n: turn.wanted, user, session, signal };
  const { count, pieces } = await api.askForAnswers(request);
  if (count !== turn.count) {
    awaitAnswers(turn, count);
    keepingTheEndInSight(() => view.showAnswers());
  }
  for await (const { index, id, version, text, isLast } of pieces) {
    const answer = turn.answers[index];
    Object.assign(answer, { id, version, text: answer.text + text });
    if (isLast) answer.state = "complete";
    keepingTheEndInSight(() => view.grow(index));
  }
  dropWhatNeverCame(turn, view);
}

/** Leaves out the answers that were asked for and not given: not every server gives as many. */
function dropWhatNeverCame(turn, view) {
  const given = turn.answers.filter(({ id }) => id);
  if (given.length === 0 || given.length === turn.count) return;
  turn.answers = given;
  turn.count = given.length;
  keepingTheEndInSight(() => view.showAnswers());
}

/** Makes room in a turn for so many answers. */
function awaitAnswers(turn, count) {
  turn.count = count;
  turn.answers = Array.from({ length: count }, awaitedAnswer);
}

/** Marks the answers that did not come to their end, and returns why in words. */
function endEarly(turn, error) {
  const isStopped = error.name === "AbortError";
  for (const answer of turn.answers) {
    if (answer.state === "coming") answer.state = isStopped && answer.text ? "stopped" : "broken";
  }
  const hint = turn.answers.some(({ text }) => text) ? " What came is shown." : "";
  turn.trouble = isStopped ? "Stopped before there was an answer." : inWords(error) + hint;
  return isStopped ? "Stopped." : "";
}

function isExpected(error) {
  return error.name === "AbortError" || error instanceof ConnectionLost || error instanceof Refusal;
}

function inWords(error) {
  if (error instanceof ConnectionLost) return error.message;
  const said = `The server could not answer: ${error.message.replace(/\.?$/, ".")}`;
  return error.code === "context_length_exceeded" ? `${said} Start a new conversation to go on.` : said;
}

/** Asks again, in place of an answer that is kept among the earlier ones. */
function regenerate(turn) {
  const [answer] = turn.answers;
  opinions.signal(answer, "regenerate");
  turn.earlier.push(answer.text);
  return ask(turn);
}

async function copy(text) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyBySelection(text);
  say("Copied.");
}

// Without HTTPS there is no `navigator.clipboard`.
function copyBySelection(text) {
  const area = Object.assign(document.createElement("textarea"), { value: text, className: "unseen" });
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused.focus();
}

function startConversation() {
  stopping?.abort();
  conversation = new Conversation({ user: user.id });
  conversation.save();
  say("");
  showConversation();
  byId("question").focus();
}

function showConversation() {
  views = conversation.turns.map(makeView);
  byId("conversation").replaceChildren(...views.map((view) => view.element));
  byId("welcome").hidden = views.length > 0;
  byId("user").textContent = conversation.user;
}

function makeView(turn) {
  return new TurnView(turn, opinions, actions);
}

function viewOf(turn) {
  return views.find((view) => view.turn === turn);
}

function addTurn(question, count) {
  const view = makeView(conversation.add(question, count));
  views.push(view);
  byId("conversation").append(view.element);
  byId("welcome").hidden = true;
  for (const earlier of views) earlier.update();
  showTheEnd();
  return ask(view.turn);
}

function submit(event) {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || stopping) return;
  byId("question").value = "";
  addTurn(question, Number(byId("mode").value));
}

function onQuestionKey(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
}

function showBusy(isBusy) {
  const hadFocus = document.activeElement === byId(isBusy ? "send" : "stop");
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
  if (hadFocus) byId(isBusy ? "stop" : "question").focus();
  document.body.classList.toggle("busy", isBusy);
}

function keepingTheEndInSight(change) {
  const page = document.documentElement;
  const wasAtEnd = page.scrollHeight - page.clientHeight - page.scrollTop < 40;
  change();
  if (wasAtEnd) showTheEnd();
}

function showTheEnd() {
  document.documentElement.scrollTop = document.documentElement.scrollHeight;
}

function say(text) {
  byId("status").textContent = text;
}

/** Tells what is only to be heard: what others see where it happens. */
function announce(text) {
  byId("announcer").textContent = text;
}

function showOutbox() {
  for (const view of views) view.update();
  byId("waiting").textContent = outbox.trouble ? waitingInWords(outbox) : "";
}

function waitingInWords({ size, trouble }) {
  const what = size === 1 ? "One reaction waits" : `${size} reactions wait`;
  return `${what} to be sent. ${trouble.message}`;
}

outbox.addEventListener("change", showOutbox);
outbox.addEventListener("refused", ({ detail }) => say(`The server did not take a reaction: ${detail.message}`));
byId("composer").addEventListener("submit", submit);
byId("question").addEventListener("keydown", onQuestionKey);
byId("stop").addEventListener("click", () => stopping?.abort());
byId("new-conversation").addEventListener("click", startConversation);
addEventListener("pagehide", () => conversation.save());
showConversation();
outbox.send();
