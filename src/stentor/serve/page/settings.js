// The settings: form ↔ changes ↔ fields of a request. Only what differs from the model's own is
// kept (for the tab, not longer), so that each of two compared models goes by its own otherwise.

const NUMBERS = ["temperature", "top_p", "repetition_penalty", "max_tokens", "seed"];
const WHOLE = ["max_tokens", "seed"];
const field = (name) => document.getElementById(name);

/** The settings that a model brings, and its window, which bounds them. */
export function own({ system, defaults, window }) {
  return { system: system ?? "", greedy: false, seed: "", ...defaults, max_tokens: defaults.max_new_tokens, window };
}

export function fillForm(settings) {
  field("max_tokens").max = settings.window;
  field("system").value = settings.system;
  field("greedy").checked = settings.greedy;
  for (const name of NUMBERS) field(name).value = settings[name];
  dim();
}

/** What the form says otherwise than `settings`, which may lie beyond its bounds and stay there. */
export function readForm(settings) {
  const read = { system: field("system").value.trim(), greedy: field("greedy").checked };
  for (const name of NUMBERS) {
    const { value, min, max } = field(name);
    let number = Number(value);
    if (value === "" || Number.isNaN(number) || number === settings[name]) continue;
    if (min !== "") number = Math.max(Number(min), number);
    if (max !== "") number = Math.min(Number(max), number);
    read[name] = WHOLE.includes(name) ? Math.trunc(number) : number;
  }
  // a text field has line feeds only
  const system = settings.system.replace(/\r\n?/g, "\n").trim();
  const differs = ([name, value]) => value !== (name === "system" ? system : settings[name]);
  return Object.fromEntries(Object.entries(read).filter(differs));
}

/** The numbers that a reply is asked for with. */
export function asRequest(changes) {
  const fields = {};
  for (const name of NUMBERS) if (name in changes) fields[name] = changes[name];
  if (changes.greedy) Object.assign(fields, { temperature: 0, top_p: 1, repetition_penalty: 1 });
  return fields;
}

export function store(changes) {
  sessionStorage.setItem("stentor.settings", JSON.stringify(changes));
  return changes;
}

export function recall() {
  try { return JSON.parse(sessionStorage.getItem("stentor.settings")) ?? {}; } catch { return {}; }
}

function dim() {
  for (const name of ["temperature", "top_p", "repetition_penalty", "seed"]) field(name).disabled = field("greedy").checked;
}
field("greedy").addEventListener("change", dim);
