// The page: a conversation with one model, or the same questions to two of them side by side.
// Text of people and models is only ever set as text, never as markup.

import * as backend from "./backend.js";
import { own, fillForm, readForm, asRequest, store, recall } from "./settings.js";
import { show, addTurn, finish, speak } from "./view.js";

const $ = (id) => document.getElementById(id);
const state = {
  models: [], view: "chat",
  // one conversation for each view; a turn is {user, replies: [{model, text, ...}]}
  turns: { chat: [], compare: [] },
  settings: recall(), // what is changed of the model's own
  running: null,
};

// there the Option key, which is Alt elsewhere, writes characters
const onMac = /^(Mac|iP)/.test(navigator.platform);

const turns = () => state.turns[state.view];
const chosen = () => state.view === "chat" ? [$("model-a").value] : [$("model-a").value, $("model-b").value];
const facts = (id) => state.models.find((model) => model.id === id);

function notice(text, problem = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("problem", problem);
}

async function begin() {
  $("key-row").hidden = !backend.keyed;
  if (onMac) for (const id of ["new", "export", "open-settings"]) $(id).title = $(id).title.replace(/ \(.*/, "");
  backend.useKey(sessionStorage.getItem("stentor.key") ?? "");
  try {
    state.models = await backend.models(notice);
  } catch (error) {
    notice(error.code === "key" ? "An API key is needed: see Settings." : `${backend.words.none}: ${error.message}`, true);
    return;
  }
  notice("");
  for (const [place, select] of [$("model-a"), $("model-b")].entries()) {
    select.replaceChildren(...state.models.map(({ id }) => new Option(id, id)));
    select.selectedIndex = Math.min(place, state.models.length - 1);
  }
  look();
}

function look() {
  document.body.classList.toggle("compare", state.view === "compare");
  for (const name of ["chat", "compare"]) {
    const on = name === state.view;
    $(`tab-${name}`).setAttribute("aria-selected", on);
    $(`tab-${name}`).tabIndex = on ? 0 : -1;
  }
  $("view").setAttribute("aria-labelledby", `tab-${state.view}`);
  $("second").hidden = state.view !== "compare";
  show($("log"), turns(), state.view);
  if (state.view === "compare" && state.models.length === 1)
    notice(backend.words.alone);
  else notice("");
}

function busy(on) {
  const focused = document.activeElement;
  $("send").hidden = on;
  $("stop").hidden = !on;
  for (const id of ["new", "model-a", "model-b", "tab-chat", "tab-compare"]) $(id).disabled = on;
  // who was on the button that went away goes on at what took its place; nobody else is moved
  if (on && focused === $("send")) $("stop").focus();
  if (!on && [$("stop"), document.body].includes(focused)) $("message").focus();
  if (!on) state.running = null;
}

async function send() {
  const text = $("message").value.trim();
  if (!text || state.running || !state.models.length) return;
  $("message").value = "";
  grow();
  notice("");
  $("spoken").replaceChildren();
  const turn = { user: text, replies: chosen().map((model) => ({ model, text: "" })) };
  turns().push(turn);
  const elements = addTurn($("log"), turn, state.view);
  state.running = new AbortController();
  busy(true);
  await Promise.all(turn.replies.map((reply, place) => answer(turn, place, elements[place])));
  if (turn.replies.every((reply) => reply.problem && !reply.text)) takeBack(turn);
  busy(false);
}

/** Nothing came of a message: it returns to its field, to be changed or sent again. */
function takeBack(turn) {
  turns().pop();
  show($("log"), turns(), state.view);
  $("message").value ||= turn.user;
  grow();
}

async function answer(turn, place, element) {
  const reply = turn.replies[place];
  let first = 0;
  const started = performance.now();
  try {
    const result = await ask(turn, place, (piece) => {
      first ||= performance.now();
      reply.text += piece;
      element.write(reply.text);
    });
    Object.assign(reply, result);
    const seconds = (performance.now() - (first || started)) / 1000;
    // the first token marks the beginning, so it is not among those that the time was for
    if (result.tokens > 1 && seconds > 0) reply.speed = (result.tokens - 1) / seconds;
  } catch (error) {
    if (error.name === "AbortError") reply.reason = "stopped";
    else { reply.reason = "failed"; reply.problem = error.message; notice(error.message, true); }
  }
  finish(element, reply);
  if (!reply.problem) {
    speak($("spoken"), reply, turn.replies.length > 1);
    reply.verdict = await backend.judge(turn.user, reply.text, state.settings.system ?? facts(reply.model).system);
    finish(element, reply);
  }
}

/** Asks with the turns that this model has replied to; tells what was left out of them. */
async function ask(turn, place, onText) {
  const { model } = turn.replies[place];
  const { system } = state.settings;
  const messages = system === undefined ? [] : [{ role: "system", content: system }];
  for (const { user, replies } of turns().filter((t) => t !== turn && usable(t.replies[place], model)))
    messages.push({ role: "user", content: user }, { role: "assistant", content: replies[place].text });
  messages.push({ role: "user", content: turn.user });
  const result = await backend.reply(model, messages, asRequest(state.settings), onText, state.running.signal);
  const { window } = facts(model), used = result.promptTokens + result.tokens;
  if (result.dropped) notice(`The window of ${window} tokens is full: ${result.dropped === 1 ? "the oldest turn was" : `the ${result.dropped} oldest turns were`} left out.`);
  if (result.reason === "length" && used >= window) result.reason = "window";
  $("room").textContent = `${used} of ${window} tokens`;
  return result;
}

const usable = (reply, model) => reply && reply.model === model && !reply.problem;

/** A file with everything; of a chat also as `messages`, which `stentor chat` and training read. */
function save() {
  if (!turns().length) { notice("There is nothing to export yet."); return; }
  const models = state.models.filter(({ id }) => turns().some(({ replies }) => replies.some((reply) => reply.model === id)));
  const kept = { saved: new Date().toISOString(), view: state.view, settings: state.settings, models, turns: turns() };
  if (state.view === "chat") {
    const system = state.settings.system ?? models[0].system;
    kept.messages = system ? [{ role: "system", content: system }] : [];
    for (const { user, replies: [reply] } of turns().filter((turn) => !turn.replies[0].problem))
      kept.messages.push({ role: "user", content: user }, { role: "assistant", content: reply.text });
  }
  const url = URL.createObjectURL(new Blob([JSON.stringify(kept, null, 2)], { type: "application/json" }));
  const link = Object.assign(document.createElement("a"), { href: url, download: `stentor-${state.view}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function restart() {
  if (state.running) return;
  if (turns().length && !confirm("Forget this conversation and begin a new one?")) return;
  state.turns[state.view] = [];
  $("room").textContent = "";
  look();
  $("message").focus();
}

function change(view) {
  if (state.running) return;
  state.view = view;
  look();
}

function grow() {
  const box = $("message");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function openSettings() {
  if (state.models.length) fillForm({ ...own(facts(chosen()[0])), ...state.settings });
  $("key").value = sessionStorage.getItem("stentor.key") ?? "";
  $("settings").showModal();
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("message").addEventListener("input", grow);
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("stop").addEventListener("click", () => state.running?.abort());
$("new").addEventListener("click", restart);
$("export").addEventListener("click", save);
$("open-settings").addEventListener("click", openSettings);
$("defaults").addEventListener("click", () => { if (state.models.length) fillForm(own(facts(chosen()[0]))); });
$("settings").addEventListener("close", async () => {
  if (state.models.length) state.settings = store(readForm(own(facts(chosen()[0]))));
  const key = $("key").value;
  if (key !== (sessionStorage.getItem("stentor.key") ?? "")) {
    sessionStorage.setItem("stentor.key", key);
    await begin();
  }
});
for (const name of ["chat", "compare"]) {
  $(`tab-${name}`).addEventListener("click", () => change(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const other = name === "chat" ? "compare" : "chat";
    change(other);
    $(`tab-${other}`).focus();
  });
}
document.addEventListener("keydown", (event) => {
  // keys in the dialog are the dialog's, and those of an input method its own
  if (event.isComposing || $("settings").open) return;
  if (event.key === "Escape") state.running?.abort();
  if (onMac || !event.altKey || event.ctrlKey || event.metaKey) return;
  const action = { KeyN: restart, KeyE: save, KeyS: openSettings }[event.code];
  if (action) { event.preventDefault(); action(); }
});
begin();
