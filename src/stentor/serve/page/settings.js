// The settings: form ↔ plain object ↔ fields of a request. They are kept for the tab only.

const NUMBERS = ["temperature", "top_p", "repetition_penalty", "max_tokens", "seed"];
const field = (name) => document.getElementById(name);

export function fillForm(settings) {
  field("system").value = settings.system ?? "";
  field("greedy").checked = Boolean(settings.greedy);
  for (const name of NUMBERS) field(name).value = settings[name] ?? "";
  dim();
}

export function readForm() {
  const settings = { system: field("system").value.trim(), greedy: field("greedy").checked };
  for (const name of NUMBERS) {
    const { value, min, max } = field(name);
    if (value === "" || Number.isNaN(Number(value))) { settings[name] = ""; continue; }
    let number = Number(value);
    if (min !== "") number = Math.max(Number(min), number);
    if (max !== "") number = Math.min(Number(max), number);
    settings[name] = name === "seed" || name === "max_tokens" ? Math.trunc(number) : number;
  }
  return settings;
}

/** The fields of an API request; what is left empty is the model's own. */
export function asRequest(settings) {
  const fields = {};
  for (const name of NUMBERS) if (settings[name] !== "" && settings[name] != null) fields[name] = settings[name];
  if (settings.greedy) Object.assign(fields, { temperature: 0, top_p: 1, repetition_penalty: 1 });
  return fields;
}

export function store(settings) {
  sessionStorage.setItem("stentor.settings", JSON.stringify(settings));
  return settings;
}

export function recall() {
  try { return JSON.parse(sessionStorage.getItem("stentor.settings")); } catch { return null; }
}

function dim() {
  for (const name of ["temperature", "top_p", "repetition_penalty", "seed"]) field(name).disabled = field("greedy").checked;
}
field("greedy").addEventListener("change", dim);
