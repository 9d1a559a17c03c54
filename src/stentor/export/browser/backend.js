// The page's decoder where there is no server: a worker in this browser. What each export means
// stands in the file of the same name in stentor/serve/page, whose place this one takes.

export const words = {
  none: "The model can't be loaded",
  alone: "This page holds one model. To compare two, use: stentor serve MODEL OTHER",
};
export const keyed = false;
export function useKey() {}

const worker = new Worker(new URL("./decoder.js", import.meta.url), { type: "module" });
const waiting = new Map();
let number = 0, progress = () => {};

worker.onmessage = ({ data }) => {
  if (data.progress !== undefined) return progress(data.progress);
  const call = waiting.get(data.number);
  if (data.piece !== undefined) return call?.onText?.(data.piece);
  waiting.delete(data.number);
  if (data.error) call?.reject(Object.assign(new Error(data.error), { code: data.code ?? "failed" }));
  else call?.resolve(data.result);
};
worker.onerror = (event) => {
  const error = Object.assign(new Error(event.message || "this browser can't start the decoder"), { code: "failed" });
  for (const { reject } of waiting.values()) reject(error);
  waiting.clear();
};

/** Ask the worker to do something: `{do: name, …}`; → {number, result}, the latter a promise. */
function post(what, onText) {
  const call = { onText };
  const result = new Promise((resolve, reject) => Object.assign(call, { resolve, reject }));
  waiting.set(++number, call);
  worker.postMessage({ number, ...what });
  return { number, result };
}

/** For the check that `stentor export` makes of the page. */
export const ask = (what) => post(what).result;

/** Answers when the weights are there; `onProgress` hears of them until then. */
export async function models(onProgress = () => {}) {
  progress = onProgress;
  try {
    return await ask({ do: "models" });
  } finally {
    progress = () => {}; // or it would write over what failed
  }
}

export async function reply(model, messages, settings, onText, signal) {
  const running = post({ do: "reply", messages, settings }, onText);
  const stop = () => worker.postMessage({ do: "stop", of: running.number });
  if (signal?.aborted) stop();
  signal?.addEventListener("abort", stop);
  try {
    const result = await running.result;
    if (signal?.aborted) throw new DOMException("stopped", "AbortError");
    return result;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

export const judge = async () => null;
