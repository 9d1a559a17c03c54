// From logits to the next token: repetition penalty, temperature, top-p, in the order and with
// the rules of stentor/generate/sampling.py.

/** Numbers in [0, 1) that a seed repeats (mulberry32); the server's seeds give other ones. */
export function numbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** The next token for `logits`, which it changes; `seen` is the set of tokens that occurred. */
export function choose(logits, seen, { temperature, top_p, repetition_penalty }, random) {
  if (repetition_penalty !== 1)
    for (const token of seen)
      logits[token] = logits[token] > 0 ? logits[token] / repetition_penalty : logits[token] * repetition_penalty;
  return temperature === 0 ? likeliest(logits) : draw(logits, temperature, top_p, random);
}

function likeliest(logits) {
  let best = 0;
  for (let token = 1; token < logits.length; token++) if (logits[token] > logits[best]) best = token;
  return best;
}

function draw(logits, temperature, topP, random) {
  const largest = logits[likeliest(logits)];
  const shares = Float64Array.from(logits, (value) => Math.exp((value - largest) / temperature));
  const all = shares.reduce((sum, share) => sum + share, 0);
  // all tokens below this share together hold less than what top-p leaves out: not worth sorting
  const least = topP < 1 ? ((1 - topP) * all) / shares.length : 0;
  const order = [];
  for (let token = 0; token < shares.length; token++) if (shares[token] >= least) order.push(token);
  order.sort((a, b) => shares[b] - shares[a]);
  const kept = [];
  let before = 0;
  for (const token of order) { // one stays while what comes before it is below top-p
    if (kept.length && topP < 1 && before / all >= topP) break;
    kept.push(token);
    before += shares[token];
  }
  let left = random() * before;
  for (const token of kept) if ((left -= shares[token]) < 0) return token;
  return kept.at(-1);
}
