// The table of methods, numbers and curves, verdicts, saving, printing, keys.
const verdicts = new Map();
let unsaved = false;

function paintTools(code) {
  paintNumbers(code);
  paintCurve(code);
  paintVerdict(code);
  if (byId("table").open) paintTable(code);
}

const twoDecimals = (value) => (Math.round(100 * value) / 100 || 0).toFixed(2).replace("-", "−"); // no minus before zero

function paintNumbers(code) {
  const table = byId("numbers"), head = element("tr"), body = element("tbody");
  const lines = code.nums.filter(([, , values]) => values.some(([, value]) => value !== null));
  const missing = code.nums.filter((line) => !lines.includes(line)).map(([measure]) => measure.replaceAll("_", " "));
  byId("numbers-head").hidden = !code.nums.length;
  table.hidden = !lines.length;
  byId("undefined").textContent = missing.length ? `Not defined for this code: ${missing.join(", ")}.` : "";
  if (!lines.length) return;
  const column = (method) => {
    const cell = element("th", "num tall");
    cell.append(element("span", "", method.replaceAll("_", " ")));
    return cell;
  };
  head.append(element("th", "", "measure"), ...lines[0][2].map(([method]) => column(method)));
  head.querySelectorAll("th").forEach((cell) => { cell.scope = "col"; });
  for (const [measure, up, values] of lines) {
    const line = element("tr"), name = element("th", "", `${measure.replaceAll("_", " ")} ${up ? "↑" : "↓"}`);
    name.scope = "row";
    line.append(name, ...values.map(([, value]) => element("td", "num", value === null ? "–" : twoDecimals(value))));
    body.append(line);
  }
  const top = element("thead");
  top.append(head);
  table.replaceChildren(element("caption", "visually-hidden", "Measures of this code, method by method"), top, body);
}

const drawn = (name, attributes, content) => {
  const made = document.createElementNS(document.querySelector("svg").namespaceURI, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (content !== undefined) made.textContent = content;
  return made;
};
function paintCurve(code) {
  const figure = byId("curve");
  figure.hidden = !code.cv.length;
  figure.replaceChildren();
  if (!code.cv.length) return;
  const svg = drawn("svg", { viewBox: "0 0 280 130", role: "img", "aria-label": "Probability while words are removed" });
  const x = (v) => 26 + 246 * v, y = (v) => 112 - 104 * v;
  for (const v of [0, 0.5, 1]) {
    svg.append(drawn("path", { class: "grid", d: `M26 ${y(v)}H272` }), drawn("text", { x: 22, y: y(v) + 3, class: "tick end" }, v));
    svg.append(drawn("text", { x: x(v), y: 125, class: v === 1 ? "tick end" : "tick" }, `${100 * v} %`));
  }
  svg.append(drawn("path", { class: "limit", d: `M26 ${y(code.t)}H272` }));
  code.cv.forEach(([, xs, ys], n) => svg.append(drawn("path", { class: `line c${n}`, d: "M" + xs.map((v, k) => `${x(v).toFixed(1)} ${y(ys[k]).toFixed(1)}`).join("L") })));
  const words = element("figcaption", "where");
  words.append("Probability while words are removed, best first. Thin line: threshold; right end: all words masked.");
  const keys = element("ul", "keys");
  keys.append(...code.cv.map(([method], n) => {
    const item = element("li"), sample = drawn("svg", { viewBox: "0 0 28 6", "aria-hidden": "true" });
    sample.append(drawn("path", { class: `line c${n}`, d: "M0 3H28" }));
    item.append(sample, " ", method.replaceAll("_", " "));
    return item;
  }));
  figure.append(svg, keys, words);
}

function paintVerdict(code) {
  const known = verdicts.get(code.code) || {};
  for (const choice of document.querySelectorAll("[name=verdict]")) choice.checked = choice.value === known.verdict;
  byId("comment").value = known.comment || "";
  byId("confirmed").replaceChildren(...[...new Set(code.cues.map(([kind]) => kind))].map((kind) => {
    const label = element("label"), box = element("input");
    box.type = "checkbox";
    box.value = kind;
    box.checked = (known.cues || []).includes(kind);
    box.addEventListener("change", judge);
    label.append(box, " ", kind.replaceAll("_", " "));
    return label;
  }));
  byId("confirmed-head").hidden = !code.cues.length;
}
function judge() {
  const code = current(), chosen = document.querySelector("[name=verdict]:checked");
  verdicts.set(code.code, {
    hadm_id: data.hadm, code: code.code, outcome: code.outcome, probability: code.p, verdict: chosen ? chosen.value : "",
    cues_shown: [...new Set(code.cues.map(([kind]) => kind))],
    cues: [...document.querySelectorAll("#confirmed input:checked")].map((box) => box.value), comment: byId("comment").value,
  });
  unsaved = true;
  byId("judged").textContent = `${many(verdicts.size, "code")} judged, not saved yet`;
}

function paintTable(code) {
  const table = byId("passages"), head = element("tr"), body = element("tbody");
  const columns = ["#", "passage", "section", "chunk", "attention", ...data.methods.map((_, n) => methodName(n)), "description", "evidence", "cues"];
  head.append(...columns.map((name) => { const cell = element("th", "", name); cell.scope = "col"; return cell; }));
  code.parts.forEach((part, n) => {
    const line = element("tr"), where = element("td");
    where.append(button("part", undefined, () => { byId("table").close(); reveal(pieces[piecesOf[part[2]][0]]); }));
    where.firstChild.append(partText(part, levelOf(state.i, part[2])));
    line.append(element("td", "num", n + 1), where, element("td", "", sectionName(part[3])), element("td", "num", chunkOf[part[2]] + 1));
    for (const [rank, sum] of part[6]) line.append(element("td", "num", `${rank} · ${percent(sum)}`));
    line.append(element("td", "", part[4] ? "yes" : ""), element("td", "", part[5] ? "yes" : ""), element("td", "", cuesIn(code, part).join(", ").replaceAll("_", " ")));
    body.append(line);
  });
  const top = element("thead");
  top.append(head);
  table.replaceChildren(top, body);
  byId("overlap").textContent = code.overlap.map((value, n) => `${(100 * value).toFixed(0)} % of attention's 20 highest words are among the 20 highest of ${methodName(n)}.`).join(" ");
}

function save(name, kind, content) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([content], { type: kind }));
  link.download = name.replace(/[^A-Za-z0-9._-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
// What is shown of the code, word by word; offsets count characters (code points) of the note, as the tables do.
function table(code) {
  const point = new Uint32Array(text.length + 1);
  for (let at = 0, n = 0; at <= text.length; at++) {
    point[at] = n;
    if (at < text.length && !(text.charCodeAt(at) >= 0xd800 && text.charCodeAt(at) <= 0xdbff)) n++;
  }
  const marked = (spans) => { const at = new Map(); for (const [start, end, says] of spans) for (let c = start; c < end; c++) if (!at.has(c)) at.set(c, says); return at; };
  const over = (map, w) => { for (let c = starts[w]; c < ends[w]; c++) if (map.has(c)) return map.get(c); return ""; };
  const keyword = marked(code.w), evidence = marked(code.e), cue = marked(code.cues.filter((c) => c[2] >= 0).map(([kind, , start, end]) => [start, end, kind]));
  return starts.map((start, w) => {
    const line = { word: text.slice(start, ends[w]), start: point[start], end: point[ends[w]], section: sectionName(sectionOf[w]), chunk: chunkOf[w] + 1, attention: Number(share(state.i, w).toPrecision(4)) };
    data.methods.forEach(([name], n) => {
      const q = layer(state.i, n)[w], most = code.l && code.l[n] ? code.l[n].max : 0;
      line[name] = Number((Math.sign(q) * most * (q / 127) ** 2).toPrecision(4));
    });
    return Object.assign(line, { keyword: over(keyword, w), evidence: over(evidence, w), cue: over(cue, w) });
  });
}
function saveCode(kind) {
  const code = current(), lines = table(code), name = `${data.hadm}-${code.code}`;
  if (kind === "json") {
    const said = { hadm_id: data.hadm, code: code.code, title: code.title, outcome: code.outcome, probability: code.p, threshold: code.t, logit: code.logit, special_share: code.special,
      precision: "scores in 255 steps of the square root of the largest; exact values are in the explanation tables", cues: code.cues.map(([kind, says]) => ({ kind, says })), words: lines };
    save(`${name}.json`, "application/json", JSON.stringify(said, null, 1));
    return;
  }
  const quoted = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const names = Object.keys(lines[0] || { word: "" });
  save(`${name}.csv`, "text/csv", [names.join(","), ...lines.map((line) => names.map((key) => quoted(line[key])).join(","))].join("\n") + "\n");
}
function saveVerdicts() {
  const reviewer = byId("reviewer").value.trim();
  if (!verdicts.size || !reviewer) {
    byId("judged").textContent = verdicts.size ? "Give your name or initials first" : "Judge a code first";
    (verdicts.size ? byId("reviewer") : byId("verdict").querySelector("input")).focus();
    return;
  }
  save(`verdicts-${data.hadm}-${reviewer}.json`, "application/json", JSON.stringify({ format: 1, reviewer, model: data.model, verdicts: [...verdicts.values()] }, null, 1));
  unsaved = false;
  byId("judged").textContent = `${many(verdicts.size, "code")} judged and saved`;
}

function printAll(outcome) {
  const made = element("section", "printed"), chosen = data.codes.filter((code) => code.outcome === outcome);
  for (const code of chosen) {
    const part = element("section"), list = element("ol");
    part.append(element("h2", "", `${code.outcome} ${code.code} ${code.title} · p ${code.shown[0]}, threshold ${code.shown[1]}`));
    for (const row of code.parts.slice(0, code.listed)) {
      const item = element("li");
      item.append(...tags(cuesIn(code, row)), partText(row, 6), element("span", "where", partWhere(row)));
      list.append(item);
    }
    const cues = element("ul");
    cues.append(...cueItems(code));
    part.append(list, cues);
    made.append(part);
  }
  document.body.append(made);
  document.documentElement.classList.add("print-all");
  const clear = () => { made.remove(); document.documentElement.classList.remove("print-all"); };
  window.addEventListener("afterprint", clear, { once: true });
  window.print();
}

function filterRows() {
  const wanted = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean), details = document.querySelector("details.folded");
  const off = [...document.querySelectorAll("[data-outcome]")].filter((box) => !box.checked).map((box) => box.dataset.outcome);
  for (const row of rows) {
    const code = data.codes[Number(row.dataset.i)];
    const hay = `${code.outcome} ${code.code} ${code.title} ${code.cues.map(([kind]) => kind.replaceAll("_", " ")).join(" ")} ${code.weak ? "weak" : ""}`.toLowerCase();
    row.parentElement.hidden = off.includes(code.outcome) || !wanted.every((part) => hay.includes(part));
  }
  if (details && wanted.length) details.open = !!details.querySelector("li:not([hidden])");
}
function sortRows(by) {
  const number = (row) => Number(row.dataset.i), code = (row) => data.codes[number(row)];
  const orders = {
    outcome: (a, b) => number(a) - number(b), code: (a, b) => (code(a).code < code(b).code ? -1 : 1),
    probability: (a, b) => code(b).p - code(a).p || number(a) - number(b), cues: (a, b) => code(b).cues.length - code(a).cues.length || number(a) - number(b),
  };
  for (const list of document.querySelectorAll(".codes .list")) {
    list.append(...[...list.querySelectorAll("[data-i]")].sort(orders[by]).map((row) => row.parentElement));
  }
  rows.sort((a, b) => (a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1));
}

function wireCodes() {
  for (const row of rows) row.addEventListener("click", () => select(Number(row.dataset.i)));
  byId("next-code").addEventListener("click", () => step(1));
  byId("previous-code").addEventListener("click", () => step(-1));
  byId("next-part").addEventListener("click", () => goToPart(state.part + 1));
  byId("previous-part").addEventListener("click", () => goToPart(state.part < 0 ? -1 : state.part - 1));
  byId("filter").addEventListener("input", filterRows);
  byId("sort").addEventListener("change", (event) => sortRows(event.target.value));
  for (const box of document.querySelectorAll("[data-outcome]")) box.addEventListener("change", filterRows);
  for (const row of document.querySelectorAll("[data-section]")) row.addEventListener("click", () => reveal(pieces[firstPiece(data.sections[Number(row.dataset.section)][1])]));
}
function wireView() {
  byId("scale").addEventListener("click", () => { state.common = !state.common; paint(); remember(); });
  byId("hide").addEventListener("input", (event) => { state.hide = Number(event.target.value); paint(); });
  byId("hide").addEventListener("change", remember);
  for (const toggle of document.querySelectorAll("[data-layer]")) {
    toggle.addEventListener("click", () => {
      const name = toggle.dataset.layer;
      if (state.on.has(name)) state.on.delete(name); else state.on.add(name);
      paint();
      remember();
    });
  }
  if (byId("method")) byId("method").addEventListener("change", (event) => { state.method = Number(event.target.value); paint(); remember(); });
  if (byId("diff")) byId("diff").addEventListener("click", () => { state.diff = !state.diff; paint(); remember(); });
  if (byId("model")) byId("model").addEventListener("click", () => { reorder(); paint(); remember(); });
  const cells = [...document.querySelectorAll(".strip a[href]")];
  let jumped = -1;
  const jump = (cell) => { jumped = cells.indexOf(cell); reveal(byId("k" + cell.dataset.k)); };
  cells.forEach((cell) => cell.addEventListener("click", (event) => { event.preventDefault(); jump(cell); }));
  byId("chunk").addEventListener("click", () => { if (cells.length) jump(cells[(jumped + 1) % cells.length]); });
  note.addEventListener("mouseover", (event) => { byId("readout").textContent = readout(event.target); });
  note.addEventListener("mouseleave", () => { byId("readout").textContent = ""; });
}
function readout(target) {
  const p = numberOf.has(target) ? numberOf.get(target) : -1;
  if (p < 0) return "";
  const w = pieceWord[p], code = current(), term = code.w.find(([start, end]) => start <= pieceStart[p] && pieceEnd[p] <= end);
  if (w < 0) return fixed[p] ? `not seen: ${data.reasons[Number(fixed[p].slice(1))]}` : "";
  const words = [text.slice(starts[w], ends[w])];
  if (code.q) words.push(percent(share(state.i, w), 2));
  words.push(`chunk ${chunkOf[w] + 1}`);
  if (code.l) {
    const q = layer(state.i, state.method)[w];
    words.push(`${methodName(state.method)} ${q < 0 ? "−" : "+"}${((q / 127) ** 2 * 100).toFixed(1)} % of its largest`);
  }
  if (term) words.push(term[2]);
  return words.join(" · ");
}
function wireTools() {
  for (const field of document.querySelectorAll("[name=verdict]")) field.addEventListener("change", judge);
  byId("comment").addEventListener("input", judge);
  byId("save-verdicts").addEventListener("click", saveVerdicts);
  byId("save-json").addEventListener("click", () => saveCode("json"));
  byId("save-csv").addEventListener("click", () => saveCode("csv"));
  byId("print-all").addEventListener("click", () => printAll("FP"));
  byId("go-verdict").addEventListener("click", () => { byId("verdict").open = true; byId("verdict").querySelector("input").focus(); });
  byId("compare").addEventListener("click", () => { paintTable(current()); showDialog("table"); });
  byId("close-table").addEventListener("click", () => byId("table").close());
  window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
}
// The focus goes to the button that closes. An autofocus attribute would do it too, but browsers also try it while the
// page loads, and complain where the reader was faster, or in a frame.
function showDialog(id) {
  byId(id).showModal();
  byId("close-" + id).focus();
}
function wireShortcuts() {
  const filter = byId("filter");
  byId("keys").addEventListener("click", () => showDialog("help"));
  byId("close-help").addEventListener("click", () => byId("help").close());
  byId("print").addEventListener("click", () => window.print());
  document.addEventListener("keydown", (event) => {
    const open = document.querySelector("dialog[open]");
    if (open) {
      if (event.key === "Escape") { event.preventDefault(); open.close(); }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !byId("single-keys").checked) return;
    if (event.target.closest("input:not([type=checkbox]):not([type=radio]):not([type=range]), select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "/") { event.preventDefault(); filter.focus(); return; }
    for (const control of document.querySelectorAll("[data-shortcut]")) {
      if (control.dataset.shortcut === event.key && !control.disabled) { event.preventDefault(); control.click(); return; }
    }
  });
}

wireShortcuts();
if (data.codes.length) {
  wireCodes();
  wireView();
  wireTools();
  window.addEventListener("hashchange", () => recall(false));
  recall(true);
}
