// What the page asks of whoever decodes. The browser-only export replaces this file by one that
// decodes in the browser and exports the same three functions.

let key = "";

export function useKey(given) { key = given; }

async function call(path, body, signal) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body),
  });
  if (answer.ok) return answer;
  let message = `the server answered ${answer.status}`;
  try { message = (await answer.json()).error.message; } catch { /* it was no JSON */ }
  throw Object.assign(new Error(message), { status: answer.status });
}

/** [{id, window, system, defaults: {temperature, top_p, repetition_penalty, max_new_tokens}}] */
export async function models() {
  const found = await (await call("v1/models")).json();
  return found.data.map(({ id, stentor }) => ({ id, ...stentor }));
}

/** Streams a reply: `onText(piece)`; resolves to {reason, tokens, promptTokens}. */
export async function reply(model, messages, settings, onText, signal) {
  const answer = await call("v1/chat/completions", {
    model, messages, ...settings, stream: true, stream_options: { include_usage: true },
  }, signal);
  const result = { reason: null, tokens: 0, promptTokens: 0 };
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    const choice = chunk.choices[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    if (choice?.finish_reason) result.reason = choice.finish_reason;
    if (chunk.usage) {
      result.tokens = chunk.usage.completion_tokens;
      result.promptTokens = chunk.usage.prompt_tokens;
    }
  }
  return result;
}

/** {outcome, supportive, reason}, or null where there is no judge. */
export async function judge(prompt, response, system) {
  try {
    return await (await call("v1/judge", { prompt, response, system: system || null })).json();
  } catch {
    return null;
  }
}

async function* events(body) {
  const reader = body.getReader(), decoder = new TextDecoder();
  let rest = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}
