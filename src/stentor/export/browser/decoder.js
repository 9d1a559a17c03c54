// The worker that decodes: ONNX Runtime's WebAssembly, one sequence, keys and values kept from
// one reply to the next, so that a conversation's earlier tokens are computed once.

import * as ort from "./runtime/ort.wasm.min.mjs";
import { Tokenizer } from "./runtime/tokenizers.min.mjs";
import { choose, numbers } from "./sampling.js";
import { Spelling, Template } from "./template.js";

const here = (name) => new URL(name, import.meta.url).href;
const json = async (name) => (await fetched(name)).json();

async function fetched(name) {
  const answer = await fetch(here(name));
  if (!answer.ok) throw new Error(`${name} can't be loaded: ${answer.status} ${answer.statusText}`);
  return answer;
}

ort.env.wasm.wasmPaths = here("./runtime/");
// threads need headers that a plain file server does not send
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

const facts = json("./model/stentor.json");
const ready = load();
ready.catch(() => {}); // told to whoever asks

async function load() {
  const [model, template] = await Promise.all([openModel(), openTemplate()]);
  const { system } = await facts;
  if (system) await model.run(template.ids([{ role: "system", content: system }]));
  return { model, template };
}

async function openTemplate() {
  const [tokenizer, settings] = await Promise.all([json("./model/tokenizer.json"), json("./model/tokenizer_config.json")]);
  return new Template(Tokenizer, tokenizer, settings, await facts);
}

async function openModel() {
  const bytes = await downloaded("./model/model.onnx");
  postMessage({ progress: "Preparing the model …" });
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  return new Model(session, await facts);
}

/** The bytes of a file, with a line for people while they come. */
async function downloaded(name) {
  const answer = await fetched(name);
  const all = Number(answer.headers.get("Content-Length")), parts = [];
  let size = 0, told = -1;
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    const tenth = all ? Math.min(10, Math.floor((10 * size) / all)) : 0;
    if (tenth !== told) postMessage({ progress: all ? `Loading the model … ${10 * tenth} %` : "Loading the model …" });
    told = tenth;
  }
  const bytes = new Uint8Array(size);
  let place = 0;
  for (const part of parts) { bytes.set(part, place); place += part.length; }
  return bytes;
}

class Model {
  constructor(session, { layers, heads, size, vocabulary }) {
    Object.assign(this, { session, heads, size, vocabulary });
    this.names = Array.from({ length: layers }, (_, layer) => [`${layer}.key`, `${layer}.value`]).flat();
    this.forget();
  }

  forget() {
    this.done = []; // the ids whose keys and values are kept
    this.pasts = this.names.map(() => new Float32Array(0));
  }

  /** Logits after the last of `ids`, or, with `every`, after each: what is known is not computed again. */
  async run(ids, every = false) {
    let known = 0;
    if (!every) while (known < this.done.length && known < ids.length - 1 && this.done[known] === ids[known]) known++;
    this.cut(known);
    const count = ids.length - known;
    const whole = (values, ...shape) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
    const feeds = {
      input_ids: whole(ids.slice(known), 1, count),
      attention_mask: whole(new Array(ids.length).fill(1), 1, ids.length),
      position_ids: whole(Array.from({ length: count }, (_, place) => known + place), 1, count),
      num_logits_to_keep: whole([every ? 0 : 1]),
    };
    for (const [place, name] of this.names.entries())
      feeds[`past_key_values.${name}`] = new ort.Tensor("float32", this.pasts[place], [1, this.heads, known, this.size]);
    const found = await this.session.run(feeds);
    this.pasts = this.names.map((name) => found[`present.${name}`].data);
    this.done = [...ids];
    return found.logits.data;
  }

  /** Keep the first `count` places of the cache; a tensor is (1, heads, places, size). */
  cut(count) {
    const had = this.done.length;
    if (count === had) return;
    this.pasts = this.pasts.map((past) => {
      const kept = new Float32Array(this.heads * count * this.size);
      for (let head = 0; head < this.heads; head++) {
        const start = head * had * this.size;
        kept.set(past.subarray(start, start + count * this.size), head * count * this.size);
      }
      return kept;
    });
    this.done = this.done.slice(0, count);
  }
}

/** Draws tokens until one ends the reply; `onToken(id)` may answer false to stop. */
async function generate({ model, template }, ids, settings, onToken) {
  const most = Math.min(settings.max_tokens, (await facts).window - ids.length);
  const random = numbers(settings.seed ?? Math.floor(Math.random() * 4294967296));
  const seen = new Set(ids), all = [...ids], drawn = [];
  while (true) {
    const token = choose(await model.run(all), seen, settings, random);
    drawn.push(token);
    if (template.stops.has(token)) return { drawn, reason: "stop" };
    if (onToken && !(await onToken(token))) return { drawn, reason: "stopped" };
    if (drawn.length >= most) return { drawn, reason: "length" };
    seen.add(token);
    all.push(token);
  }
}

/** Ids of the latest turns that leave room for a reply, and how many turns were left out. */
function fitting(template, messages, window, most) {
  const system = messages.filter(({ role, content }) => role === "system" && content);
  const turns = messages.filter(({ role }) => role !== "system");
  const room = window - Math.min(most, Math.floor(window / 4));
  for (let dropped = 0; ; dropped++) {
    const ids = template.ids([...system, ...turns.slice(2 * dropped)]);
    if (ids.length <= room) return { ids, dropped };
    if (2 * dropped < turns.length - 1) continue;
    if (ids.length < window) return { ids, dropped };
    throw Object.assign(new Error(`the conversation has ${ids.length} tokens, but the model's window is ${window} and a reply needs room; shorten it`), { code: "window" });
  }
}

const stopped = new Set();
// lets the messages of the page in: a worker that only awaits its own work hears no "stop"
const channel = new MessageChannel(); // a timer would wait 4 ms a token
const breathe = () => new Promise((resolve) => { channel.port1.onmessage = resolve; channel.port2.postMessage(0); });

const deeds = {
  async models() {
    const { name, window, system, defaults } = await facts;
    await ready;
    return [{ id: name, window, system: system || null, defaults }];
  },

  async reply({ messages, settings, number }) {
    const { defaults, system, window } = await facts;
    const opened = await ready;
    const wanted = { ...defaults, max_tokens: defaults.max_new_tokens, ...settings };
    const own = messages.some(({ role }) => role === "system") ? [] : [{ role: "system", content: system }];
    const { ids, dropped } = fitting(opened.template, [...own, ...messages], window, wanted.max_tokens);
    const spelling = new Spelling(opened.template);
    const give = (piece) => piece && postMessage({ number, piece });
    const { drawn, reason } = await generate(opened, ids, wanted, async (token) => {
      give(spelling.add(token));
      await breathe();
      return !stopped.has(number);
    });
    give(spelling.end());
    return { reason, tokens: drawn.length, promptTokens: ids.length, dropped };
  },

  // what `stentor export` asks to prove that this is the same model
  async ids({ messages }) { return (await ready).template.ids(messages); },

  async logits({ ids, to }) {
    const { model } = await ready;
    model.forget();
    await fetch(here(to), { method: "POST", body: await model.run(ids, true) });
    model.forget();
  },

  async greedy({ prompts, count }) {
    const opened = await ready, settings = { temperature: 0, top_p: 1, repetition_penalty: 1, max_tokens: count };
    const replies = [];
    for (const ids of prompts) replies.push((await generate(opened, ids, settings)).drawn);
    return replies;
  },
};

// one after another: there is one cache
let turn = Promise.resolve();
onmessage = ({ data }) => {
  if (data.do === "stop") { stopped.add(data.of); return; }
  const work = async () => {
    try {
      postMessage({ number: data.number, result: await deeds[data.do](data) });
    } catch (error) {
      postMessage({ number: data.number, error: error.message, code: error.code });
    }
    stopped.delete(data.number);
  };
  turn = data.do === "models" ? (work(), turn) : turn.then(work);
};
