// What the page asks of whoever decodes: the one file in which its two homes differ. This one asks
// the server that the page came from. The browser-only export puts a file of the same name in its
// place, which decodes in the browser and has the same exports; no other file of the page may
// fetch anything or suppose that there is a server.
//
//   words     {none, alone}: what the page says where no model can be had (`none`, in front of the
//             reason) and where Compare has only one model to show (`alone`).
//   keyed     whether an API key can be asked for; then Settings has a field for it.
//   useKey(key)  the key from now on, "" for none. Called before `models`, and when it changes.
//   models(onProgress)  → [{id, window, system, defaults}], at least one. `defaults` is
//             {temperature, top_p, repetition_penalty, max_new_tokens}; `system` the model's own
//             system prompt or null. `onProgress(text)` may be called with a line to show while
//             this takes long ("Loading … 40 %"). May be called again.
//   reply(model, messages, settings, onText, signal)
//             streams the reply to `messages`, calling `onText(piece)`; → {reason, tokens,
//             promptTokens, dropped}. `messages` are [{role, content}, …]: a system message first
//             (without text it is none; where it is missing, the model's own is put there), then user and assistant in turn, the user's last.
//             `settings` holds any of temperature, top_p, repetition_penalty, max_tokens, seed;
//             what is not there is the model's own, the seed random; temperature 0 is greedy.
//             `reason`: "stop" or "length". `tokens` counts the stop token too. The oldest turns
//             are dropped whole until min(max_tokens, a quarter of the window) is free; `dropped`
//             says how many. Two replies may be asked for at once. When `signal` aborts, it
//             rejects with an AbortError at the next token.
//   judge(prompt, response, system)  → {outcome, supportive, reason}, the judge's word on a reply,
//             or null where there is no judge.
//
// What fails is an Error with a text for people and a `code`: "key" (an API key is missing or
// wrong), "window" (the last message can't fit; the text has its size), "busy" (try again later),
// or "failed".

export const words = {
  none: "The server can't be reached",
  alone: "One model is served. To compare, start: stentor serve MODEL OTHER",
};
export const keyed = true;

let key = "";

export function useKey(given) { key = given; }

export async function models() {
  const found = await (await call("v1/models")).json();
  return found.data.map(({ id, stentor }) => ({ id, ...stentor }));
}

export async function reply(model, messages, settings, onText, signal) {
  const answer = await call("v1/chat/completions", {
    model, messages, ...settings, truncation: "auto",
    stream: true, stream_options: { include_usage: true },
  }, signal);
  const result = { reason: null, tokens: 0, promptTokens: 0, dropped: 0 };
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw failure(chunk.error.message);
    const choice = chunk.choices[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    if (choice?.finish_reason) result.reason = choice.finish_reason;
    if (chunk.stentor) result.dropped = chunk.stentor.dropped_turns;
    if (chunk.usage) {
      result.tokens = chunk.usage.completion_tokens;
      result.promptTokens = chunk.usage.prompt_tokens;
    }
  }
  if (!result.reason) throw failure("the server ended in the middle of a reply");
  return result;
}

export async function judge(prompt, response, system) {
  try {
    return await (await call("v1/judge", { prompt, response, system: system || null })).json();
  } catch {
    return null;
  }
}

async function call(path, body, signal) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body),
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : failure("the server does not answer; is it running?");
  }
  if (answer.ok) return answer;
  let found = { message: `the server answered ${answer.status}` };
  try { found = (await answer.json()).error; } catch { /* it was no JSON */ }
  const code = found.code === "context_length_exceeded" ? "window"
    : { 401: "key", 429: "busy", 503: "busy" }[answer.status];
  throw failure(found.message, code);
}

function failure(message, code = "failed") {
  return Object.assign(new Error(message), { code });
}

async function* events(body) {
  const reader = body.getReader(), decoder = new TextDecoder();
  let rest = "";
  while (true) {
    let got;
    try {
      got = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : failure("the connection to the server broke");
    }
    if (got.done) return;
    rest += decoder.decode(got.value, { stream: true });
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}
