"use strict";
// The page's state and painting. page_tools.js adds the table, verdicts, saving and keys. Only classes and text change.
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const note = byId("note");
const text = note.textContent;
document.documentElement.classList.add("scripted");

const percent = (share, digits = 1) => (100 * share).toFixed(digits) + " %";
const many = (n, noun) => n.toLocaleString("en-US") + " " + noun + (n === 1 ? "" : "s");
const element = (name, className, content) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
};
const button = (className, content, act) => {
  const made = element("button", className, content);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
};
const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
const methodName = (n) => data.methods[n][0].replaceAll("_", " ");

// Words: start, end (UTF-16), chunk and section. Pieces: the elements of the note with where they begin and end.
const starts = [], ends = [], chunkOf = [], sectionOf = [];
for (let i = 0, at = 0; i < data.words.length; i += 2) {
  starts.push(at + data.words[i]);
  at += data.words[i] + data.words[i + 1];
  ends.push(at);
}
for (let i = 0; i < data.chunks.length; i += 2) for (let n = 0; n < data.chunks[i + 1]; n++) chunkOf.push(data.chunks[i]);
for (let w = 0, s = -1; w < starts.length; w++) {
  while (s + 1 < data.sections.length && data.sections[s + 1][1] <= starts[w]) s++;
  sectionOf.push(s);
}
const pieces = [], pieceStart = [], pieceEnd = [], pieceWord = [], fixed = [], shown = [], piecesOf = starts.map(() => []);
{
  let offset = 0, word = 0;
  for (const node of note.childNodes) {
    const length = node.textContent.length;
    if (node.nodeType === 1) {
      while (word < starts.length && ends[word] <= offset) word++;
      const isWord = node.localName === "i";
      if (isWord) piecesOf[word].push(pieces.length);
      pieceWord.push(isWord ? word : -1);
      pieces.push(node);
      pieceStart.push(offset);
      pieceEnd.push(offset + length);
      fixed.push(node.localName === "u" ? node.className.split(" ")[0] : "");
      shown.push(node.className);
    }
    offset += length;
  }
}
const numberOf = new Map(pieces.map((piece, p) => [piece, p]));

const LAYERS = ["att", "grad", "kw", "ev"];
const state = { i: 0, common: false, hide: data.hide, part: -1, on: new Set(LAYERS), method: 0, diff: false, model: false };
const rows = [...document.querySelectorAll("[data-i]")];
const current = () => data.codes[state.i];

// One byte per word and layer, decoded when a code is first shown: 255 * sqrt(attention / maximum), and for the other
// methods sign * 127 * sqrt(|score| / maximum).
const decoded = new Map();
function unpacked(key, packed, places, signed) {
  if (!decoded.has(key)) {
    let q = signed ? new Int8Array(starts.length) : new Uint8Array(starts.length);
    const kept = packed ? bytes(packed) : null;
    if (kept && places) {
      const at = bytes(places), view = new DataView(at.buffer), values = signed ? new Int8Array(kept.buffer) : kept;
      for (let n = 0; n < kept.length; n++) q[view.getUint32(4 * n, true)] = values[n];
    } else if (kept) q = signed ? new Int8Array(kept.buffer) : kept;
    decoded.set(key, q);
  }
  return decoded.get(key);
}
const quantised = (i) => unpacked(`${i}`, data.codes[i].q, data.codes[i].at);
const layer = (i, n) => {
  const one = (data.codes[i].l || [])[n];
  return unpacked(`${i}:${n}`, one && one.q, one && one.at, true);
};
const share = (i, w) => data.codes[i].max * (quantised(i)[w] / 255) ** 2;
function levelOf(i, w) {
  let q = quantised(i)[w];
  if (state.common) q = Math.min(255, Math.round(q * Math.sqrt(data.codes[i].max / data.common)));
  return q < state.hide ? 0 : 1 + Math.floor(((q - state.hide) * 8) / (256 - state.hide));
}
function lineOf(i, w) {
  const q = 2 * layer(i, state.method)[w], size = Math.abs(q);
  return size < state.hide ? 0 : Math.sign(q) * (1 + Math.floor(((size - state.hide) * 4) / (256 - state.hide)));
}
// Place among the 50 highest words, as 1 for the first down to 0: the difference of two methods' places is shown.
const TOP = 50;
function places(key, values) {
  if (!decoded.has(key)) {
    const order = [...values.keys()].filter((w) => values[w] > 0).sort((a, b) => values[b] - values[a] || a - b);
    const place = new Float32Array(values.length);
    order.slice(0, TOP).forEach((w, rank) => { place[w] = (TOP - rank) / TOP; });
    decoded.set(key, place);
  }
  return decoded.get(key);
}
function firstPiece(at) { // the first piece that begins at or after an offset
  let low = 0, high = pieces.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (pieceStart[middle] < at) low = middle + 1; else high = middle;
  }
  return low;
}

function paint() {
  const code = current(), next = fixed.slice(), n = starts.length;
  const add = (p, name) => { next[p] = next[p] ? next[p] + " " + name : name; };
  if (state.diff && code.l) {
    const mine = places(`r${state.i}`, quantised(state.i)), theirs = places(`r${state.i}:${state.method}`, layer(state.i, state.method));
    for (let w = 0; w < n; w++) {
      const level = Math.ceil(8 * Math.abs(mine[w] - theirs[w]));
      if (level) for (const p of piecesOf[w]) add(p, (mine[w] > theirs[w] ? "a" : "g") + level);
    }
  } else {
    const fill = state.on.has("att"), line = state.on.has("grad") && code.l;
    for (let w = 0; w < n; w++) {
      const level = fill ? levelOf(state.i, w) : 0, under = line ? lineOf(state.i, w) : 0;
      if (!level && !under) continue;
      const clipped = level && state.common && share(state.i, w) > data.common;
      for (const p of piecesOf[w]) {
        if (level) add(p, "a" + level + (clipped ? " clip" : ""));
        if (under) add(p, (under > 0 ? "p" : "m") + Math.abs(under));
      }
    }
  }
  const boxes = [[state.on.has("kw") ? code.w : [], "w"], [state.on.has("ev") ? code.e : [], "e"], [state.on.has("ev") ? code.d : [], "d"]];
  for (const [spans, name] of boxes) {
    for (const [start, end] of spans) {
      for (let p = firstPiece(start); p < pieces.length && pieceEnd[p] <= end; p++) {
        add(p, name + (name === "w" ? "" : (pieceStart[p] === start ? ` ${name}0` : "") + (pieceEnd[p] === end ? ` ${name}1` : "")));
      }
    }
  }
  for (let p = 0; p < pieces.length; p++) if (next[p] !== shown[p]) pieces[p].className = shown[p] = next[p];
  paintStrip(code);
  paintSections();
  paintLegend(code);
}

function paintLegend(code) {
  const maximum = state.common ? data.common : code.max;
  byId("hide-value").textContent = percent(maximum * (state.hide / 255) ** 2);
  byId("scale").setAttribute("aria-pressed", state.common);
  for (const toggle of document.querySelectorAll("[data-layer]")) toggle.setAttribute("aria-pressed", state.on.has(toggle.dataset.layer));
  if (byId("diff")) byId("diff").setAttribute("aria-pressed", state.diff);
  if (byId("model")) byId("model").setAttribute("aria-pressed", state.model);
  document.documentElement.classList.toggle("diff", state.diff);
  const darkest = state.common ? `darkest = ${percent(data.common)} or more of a code's attention` : `darkest = ${percent(code.max)} of this code's attention`;
  byId("legend").textContent = state.diff && code.l
    ? `amber: ranked higher by attention, blue: by ${methodName(state.method)}, among the ${TOP} highest words of each`
    : !code.q ? "no attention stored for this code" : `${darkest} · half of what falls on words is on ${many(code.half, "word")}`;
}

function paintStrip(code) {
  const top = state.common ? 1 : Math.max(...code.chunk, 0);
  document.querySelectorAll(".strip a").forEach((cell, c) => {
    const value = code.chunk[c] || 0, height = top > 0 ? (100 * value) / top : 0, bar = cell.querySelector("rect");
    bar.setAttribute("y", 100 - height);
    bar.setAttribute("height", height);
    cell.querySelector(".s").textContent = code.chunk.length ? (100 * value).toFixed(0) + "%" : "";
  });
  byId("special").textContent = (100 * code.special).toFixed(0) + "%";
}

function paintSections() {
  const list = document.querySelectorAll("[data-section]");
  if (!list.length) return;
  const sums = new Float64Array(data.sections.length);
  for (let w = 0; w < starts.length; w++) if (sectionOf[w] >= 0) sums[sectionOf[w]] += share(state.i, w);
  const top = Math.max(...sums, 1e-9);
  list.forEach((row) => {
    const s = Number(row.dataset.section);
    row.querySelector("rect.fill").setAttribute("width", (100 * sums[s]) / top);
    row.querySelector(".p").textContent = (100 * sums[s]).toFixed(0) + "%";
  });
}

const sectionName = (s) => (s >= 0 && data.sections[s][0] ? data.sections[s][0].replace(/:\s*$/, "") : "");
const cuesIn = (code, part) => [...new Set(code.cues.filter((cue) => cue[2] >= starts[part[0]] && cue[3] <= ends[part[1]]).map((cue) => cue[0]))];
function partText(part, level) {
  const line = element("span", "text"), [first, last, peak] = part;
  line.append(text.slice(starts[first], starts[peak]), element("mark", "a" + level, text.slice(starts[peak], ends[peak])), text.slice(ends[peak], ends[last]));
  return line;
}
function partWhere(part) {
  const [, , peak, section, , , by] = part;
  const name = sectionName(section), words = [];
  if (name) words.push(name);
  words.push(`chunk ${chunkOf[peak] + 1}`, `${percent(by[0][1])} of the attention`);
  for (let n = 1; n < by.length; n++) words.push(`${methodName(n - 1)} rank ${by[n][0]}`);
  return words.join(" · ");
}
function tags(names) {
  return names.map((name) => element("span", "cue", name.replaceAll("_", " ")));
}

function paintLists(code) {
  byId("parts").replaceChildren(...code.parts.slice(0, code.listed).map((part, n) => {
    const item = element("li"), made = button("part", undefined, () => goToPart(n));
    made.append(...tags(cuesIn(code, part)), partText(part, levelOf(state.i, part[2])), element("span", "where", partWhere(part)));
    item.append(made);
    return item;
  }));
  if (!code.listed) byId("parts").append(element("li", "empty", "No words to show for this code."));
  byId("cues").replaceChildren(...cueItems(code));
  byId("cues-head").hidden = !code.cues.length && !code.weak;
  paintTerms(code);
  const section = byId("spans");
  section.replaceChildren();
  for (const [spans, name, title] of [[code.e, "e", "Known evidence"], [code.d, "d", "Decoys"]]) {
    if (!spans.length) continue;
    section.append(element("h2", "", title));
    if (name === "e" && code.q) section.append(element("p", "where", `${percent(code.on[0])} of the attention, on ${many(code.on[1], "word")}.`));
    const list = element("ul", "spans");
    for (const [start, end, kind] of spans) {
      const item = element("li"), made = button("part", undefined, () => reveal(pieces[firstPiece(start)]));
      made.append(element("span", `text ${name} ${name}0 ${name}1`, text.slice(start, end)), " ", element("span", "where", kind));
      item.append(made);
      list.append(item);
    }
    section.append(list);
  }
}
function paintTerms(code) { // the terms of the description that were found, each with its places
  const places = new Map(), section = byId("terms"), list = element("ul", "spans");
  for (const [start, , term] of code.w) places.set(term, [...(places.get(term) || []), start]);
  for (const [term, found] of [...places].sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1))) {
    const item = element("li");
    let next = 0;
    const made = button("part", undefined, () => { reveal(pieces[firstPiece(found[next])]); next = (next + 1) % found.length; });
    made.append(element("span", "w", term), " ", element("span", "where", many(found.length, "place")));
    item.append(made);
    list.append(item);
  }
  section.replaceChildren();
  if (!places.size) return;
  section.append(element("h2", "", "Words of the description"));
  if (code.q) section.append(element("p", "where", `${percent(code.won[0])} of the attention, on ${many(code.won[1], "word")}.`));
  section.append(list);
}
function cueItems(code) {
  const items = code.cues.map(([kind, says, start, end]) => {
    const item = element("li"), matched = start >= 0 ? text.slice(start, end) : "";
    const made = start >= 0 ? button("part", undefined, () => reveal(pieces[Math.min(firstPiece(start), pieces.length - 1)])) : element("div", "part");
    made.append(...tags([kind]), element("span", "says", says));
    if (matched) made.append(" ", element("q", "", matched));
    item.append(made);
    return item;
  });
  if (code.weak) {
    const item = element("li"), made = element("div", "part");
    made.append(...tags(["weak"]), element("span", "says", "rightly predicted, with neither a description word nor evidence in the strongest passages"));
    item.append(made);
    items.push(item);
  }
  return items;
}

function select(i, quiet) {
  const code = data.codes[i];
  state.i = i;
  state.part = -1;
  for (const row of rows) {
    if (Number(row.dataset.i) === i) {
      row.setAttribute("aria-current", "true");
      if (row.closest("details")) row.closest("details").open = true;
      if (!quiet) row.scrollIntoView({ block: "nearest" });
    } else row.removeAttribute("aria-current");
  }
  const tag = rows.find((row) => Number(row.dataset.i) === i).querySelector(".tag").cloneNode(true);
  byId("name").replaceChildren(tag, " ", element("span", "code", code.code), " ", element("span", "title", code.title));
  byId("probability").textContent = "p " + code.shown[0];
  byId("threshold").textContent = code.shown[1];
  paint();
  paintLists(code);
  paintTools(code);
  unmark();
  if (!quiet) {
    byId("live").textContent = `${code.code} ${code.title}, ${code.outcome}, probability ${code.shown[0]}, ${many(code.listed, "snippet")}, ${many(code.cues.length, "cue")}`;
    remember();
  }
}
function unmark() { note.querySelectorAll(".at").forEach((marked) => marked.classList.remove("at")); }
function reveal(piece) {
  unmark();
  if (!piece) return;
  piece.classList.add("at");
  piece.scrollIntoView({ block: "center" });
}
function goToPart(n) {
  const code = current();
  if (!code.listed) return;
  state.part = (n + code.listed) % code.listed;
  document.querySelectorAll("#parts .part").forEach((made, at) => {
    if (at === state.part) made.setAttribute("aria-current", "true"); else made.removeAttribute("aria-current");
  });
  document.querySelectorAll("#parts .part")[state.part].scrollIntoView({ block: "nearest" });
  reveal(pieces[piecesOf[code.parts[state.part][2]][0]]);
  remember();
}
function step(by) {
  const open = rows.filter((row) => row.offsetParent !== null);
  if (!open.length) return;
  const at = open.findIndex((row) => Number(row.dataset.i) === state.i);
  select(Number(open[(at + by + open.length) % open.length].dataset.i));
}

// The address holds the state: c code, l layers, m method, s=all scale, v=diff, o=model, t hide below, e snippet.
function remember() {
  const parts = ["c=" + encodeURIComponent(current().code)];
  if (state.on.size < LAYERS.length) parts.push("l=" + LAYERS.filter((name) => state.on.has(name)).join(","));
  if (state.method) parts.push("m=" + encodeURIComponent(data.methods[state.method][0]));
  if (state.common) parts.push("s=all");
  if (state.diff) parts.push("v=diff");
  if (state.model) parts.push("o=model");
  if (state.hide !== data.hide) parts.push("t=" + state.hide);
  if (state.part >= 0) parts.push("e=" + (state.part + 1));
  try {
    history.replaceState(null, "", "#" + parts.join("&"));
  } catch { /* a sandboxed frame in a notebook has no address of its own to change */ }
}
function recall(quiet) {
  const asked = new URLSearchParams(location.hash.slice(1));
  const i = data.codes.findIndex((code) => code.code === asked.get("c"));
  const hide = Number(asked.get("t")), method = data.methods.findIndex(([name]) => name === asked.get("m"));
  if (asked.has("l")) state.on = new Set(asked.get("l").split(",").filter((name) => LAYERS.includes(name)));
  if (asked.get("s") === "all") state.common = true;
  if (asked.get("v") === "diff" && data.methods.length) state.diff = true;
  if (method >= 0) state.method = method;
  if (byId("method")) byId("method").value = state.method;
  if (hide >= 1 && hide <= 160) state.hide = Math.round(hide);
  byId("hide").value = state.hide;
  if (asked.get("o") === "model" && data.reordered && !state.model) reorder();
  const shownFirst = rows.find((row) => row.hasAttribute("aria-current"));
  select(i >= 0 ? i : Number(shownFirst ? shownFirst.dataset.i : 0), quiet && i < 0);
  const part = Number(asked.get("e"));
  if (part >= 1 && part <= current().listed) goToPart(part - 1);
}

// Model order: the sections as the model read them. Nodes move; going back restores the note.
const original = [...note.childNodes];
function reorder() {
  state.model = !state.model;
  if (!state.model) { note.replaceChildren(...original); return; }
  const groups = data.sections.map(() => []);
  let at = 0, s = 0;
  for (const node of original) {
    while (s + 1 < data.sections.length && data.sections[s + 1][1] <= at) s++;
    groups[s].push(node);
    at += node.textContent.length;
  }
  const order = [...groups.keys()].sort((a, b) => (data.sections[a][3] < 0 ? a + 1e6 : data.sections[a][3]) - (data.sections[b][3] < 0 ? b + 1e6 : data.sections[b][3]));
  note.replaceChildren(...order.flatMap((g) => groups[g]));
}
