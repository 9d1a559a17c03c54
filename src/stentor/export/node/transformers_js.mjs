// Answers one JSON line with one JSON line, from a folder opened by transformers.js:
// node transformers_js.mjs MODULES FOLDER DTYPE

import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { createInterface } from "node:readline";

const [modules, folder, dtype] = process.argv.slice(2);
const library = createRequire(join(modules, "of.js"))("@huggingface/transformers");
library.env.allowRemoteModels = false;
library.env.localModelPath = dirname(folder);

const name = basename(folder);
const tokenizer = await library.AutoTokenizer.from_pretrained(name);
const model = await library.AutoModelForCausalLM.from_pretrained(name, { dtype });

function inputs(rows) {
  const ids = new library.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);
  return { input_ids: ids, attention_mask: library.ones_like(ids) };
}

const deeds = {
  begin: () => ({ version: library.env.version }),
  ids: ({ messages }) => tokenizer.apply_chat_template(messages, { return_tensor: false, return_dict: false, add_generation_prompt: false }),
  async logits({ ids, to }) {
    const { logits } = await model(inputs([ids]));
    writeFileSync(to, new Uint8Array(Float32Array.from(logits.data).buffer));
    return null;
  },
  async greedy({ prompts, count }) {
    const replies = [];
    for (const ids of prompts) {
      const whole = await model.generate({ ...inputs([ids]), max_new_tokens: count, do_sample: false, repetition_penalty: 1 });
      replies.push(whole.tolist()[0].slice(ids.length).map(Number));
    }
    return replies;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  let answer;
  try { answer = { result: await deeds[asked.do](asked) }; } catch (error) { answer = { error: String(error.message ?? error) }; }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
