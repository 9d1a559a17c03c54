// Turns as elements. `addTurn` returns one handle for each reply: {box, said, facts, write}.

const OUTCOMES = {
  answer: "answer", partial: "partial refusal", refuse: "refusal", silent: "silent",
  degenerate: "degenerate", unscored: "unscored",
};

const ENDS = {
  length: "cut at the limit of new tokens", window: "ended at the window's edge",
  stopped: "stopped by you", failed: "failed",
};

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

export function show(log, turns, view) {
  log.replaceChildren();
  if (!turns.length) {
    const text = view === "chat" ? "Ask something. The model is small: it answers in a sentence or two, and is often wrong."
      : "Ask once, and two models answer side by side.";
    log.append(make("li", "empty", text));
    return;
  }
  for (const turn of turns) {
    const handles = addTurn(log, turn, view);
    turn.replies.forEach((reply, place) => finish(handles[place], reply));
  }
}

export function addTurn(log, turn, view) {
  log.querySelector(".empty")?.remove();
  const item = make("li", "turn");
  const user = make("div", "user");
  user.append(make("span", "hidden", "You: "), make("div", "said", turn.user));
  const replies = make("div", "replies");
  const handles = turn.replies.map((reply) => {
    const box = make("article", "reply writing");
    if (view === "compare") box.append(make("h3", "", reply.model));
    else box.append(make("span", "hidden", `${reply.model}: `));
    const said = make("div", "said"), facts = make("div", "facts");
    box.append(said, facts);
    replies.append(box);
    const write = (text) => { said.textContent = text; follow(log); };
    return { box, said, facts, write };
  });
  item.append(user, make("div", "gap"), replies);
  log.append(item);
  follow(log, true);
  return handles;
}

/** The reply as it stands, and what is known of it: silence is shown as what it is. */
export function finish({ box, said, facts }, reply) {
  box.classList.remove("writing");
  const silent = !reply.text.trim() && !reply.problem;
  said.classList.toggle("silent", silent);
  said.textContent = silent ? "[no output]" : reply.text || `[${reply.problem}]`;
  facts.replaceChildren();
  const { verdict } = reply;
  if (verdict) {
    const badge = make("button", `badge ${verdict.outcome}`, OUTCOMES[verdict.outcome] ?? verdict.outcome);
    const why = make("span", "why", `The judge says: ${verdict.reason}`);
    Object.assign(badge, { type: "button", title: "Why the judge says so", ariaExpanded: "false" });
    why.hidden = true;
    badge.addEventListener("click", () => {
      why.hidden = !why.hidden;
      badge.ariaExpanded = String(!why.hidden);
    });
    facts.append(badge, why);
    if (verdict.supportive) facts.append(make("span", "supportive", "supportive"));
  }
  const ended = ENDS[reply.reason];
  if (ended) facts.append(make("span", "", ended));
  if (reply.tokens) facts.append(make("span", "", `${reply.tokens} tokens`));
  if (reply.speed) facts.append(make("span", "", `${reply.speed.toFixed(reply.speed < 10 ? 1 : 0)} tokens/s`));
  follow(box.closest("ol"));
}

/** Tells a screen reader a whole reply, once, and not its pieces; the other of two stays. */
export function speak(region, reply, named) {
  const text = reply.text.trim() || "no output";
  region.append(make("p", "", named ? `${reply.model}: ${text}` : text));
}

function follow(log, always = false) {
  const pane = log.closest("main");
  if (always || pane.scrollHeight - pane.scrollTop - pane.clientHeight < 120) pane.scrollTop = pane.scrollHeight;
}
