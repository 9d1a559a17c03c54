// Conversation → ids and ids → text, as stentor/chat.py does it: every text is encoded alone
// between control pieces, so a text that spells one stays text.

export class Template {
  constructor(Tokenizer, tokenizer, settings, { begin, marks, stops, controls }) {
    const added = tokenizer.added_tokens.filter((token) => !token.special);
    this.texts = new Tokenizer({ ...tokenizer, added_tokens: added }, settings);
    Object.assign(this, { begin, marks, stops: new Set(stops), hidden: new Set([...stops, ...controls]) });
    this.bytes = new Set();
    for (const [piece, id] of Object.entries(tokenizer.model.vocab)) if (/^<0x..>$/.test(piece)) this.bytes.add(id);
  }

  segment(text) {
    return text ? this.texts.encode(text, { add_special_tokens: false }).ids : [];
  }

  ids(messages) {
    const ids = [...this.begin];
    for (const { role, content } of messages) {
      if (role === "assistant") ids.push(...this.segment(content), [...this.stops][0]);
      else ids.push(this.marks[role][0], ...this.segment(content), this.marks[role][1]);
    }
    return ids;
  }

  text(ids) {
    const visible = ids.filter((id) => !this.hidden.has(id));
    return visible.length ? this.texts.decode(visible) : "";
  }
}

/** Pieces of a reply's text that never change once given out. */
export class Spelling {
  constructor(template) { Object.assign(this, { template, ids: [], given: "" }); }

  add(id) {
    this.ids.push(id);
    const text = this.template.text(this.ids);
    // the middle of a character made of several bytes, or what may yet become one
    return text.endsWith("\ufffd") || this.template.bytes.has(id) ? "" : this.give(text);
  }

  end() { return this.give(this.template.text(this.ids)); }

  give(text) {
    const piece = text.slice(this.given.length);
    this.given = text;
    return piece;
  }
}
