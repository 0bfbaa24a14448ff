"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const note = byId("note");
  const text = note.textContent;
  document.documentElement.classList.add("scripted");
  if (!data.codes.length) {
    wireShortcuts();
    return;
  }

  // Words: start, end (UTF-16) and chunk. Pieces: the elements of the note with where they begin and end.
  const starts = [], ends = [], chunkOf = [];
  for (let i = 0, at = 0; i < data.words.length; i += 2) {
    starts.push(at + data.words[i]);
    at += data.words[i] + data.words[i + 1];
    ends.push(at);
  }
  for (let i = 0; i < data.chunks.length; i += 2) {
    for (let n = 0; n < data.chunks[i + 1]; n++) chunkOf.push(data.chunks[i]);
  }
  const pieces = [], pieceStart = [], pieceEnd = [], pieceWord = [], fixed = [], shown = [], piecesOf = starts.map(() => []);
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

  const state = { i: 0, common: false, hide: data.hide, part: -1 };
  const rows = [...document.querySelectorAll("[data-i]")];
  const percent = (share) => (100 * share).toFixed(1) + " %";
  const many = (n, noun) => n.toLocaleString("en-US") + " " + noun + (n === 1 ? "" : "s");
  const element = (name, className, content) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (content !== undefined) made.textContent = content;
    return made;
  };
  const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

  // One byte per word: 255 * sqrt(score / maximum), decoded when a code is first shown.
  const decoded = new Map();
  function quantised(i) {
    if (!decoded.has(i)) {
      const code = data.codes[i];
      let q = new Uint8Array(starts.length);
      if (code.q && code.at) {
        const at = bytes(code.at), view = new DataView(at.buffer), kept = bytes(code.q);
        for (let n = 0; n < kept.length; n++) q[view.getUint32(4 * n, true)] = kept[n];
      } else if (code.q) q = bytes(code.q);
      decoded.set(i, q);
    }
    return decoded.get(i);
  }
  const share = (i, w) => data.codes[i].max * (quantised(i)[w] / 255) ** 2;
  function levelOf(i, w) {
    let q = quantised(i)[w];
    if (state.common) q = Math.min(255, Math.round(q * Math.sqrt(data.codes[i].max / data.common)));
    return q < state.hide ? 0 : 1 + Math.floor(((q - state.hide) * 8) / (256 - state.hide));
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
    const code = data.codes[state.i], next = fixed.slice();
    const add = (p, name) => { next[p] = next[p] ? next[p] + " " + name : name; };
    for (let w = 0; w < starts.length; w++) {
      const level = levelOf(state.i, w);
      if (!level) continue;
      const clipped = state.common && share(state.i, w) > data.common;
      for (const p of piecesOf[w]) add(p, "a" + level + (clipped ? " clip" : ""));
    }
    for (const [spans, name] of [[code.e, "e"], [code.d, "d"]]) {
      for (const [start, end] of spans) {
        for (let p = firstPiece(start); p < pieces.length && pieceEnd[p] <= end; p++) {
          add(p, name + (pieceStart[p] === start ? ` ${name}0` : "") + (pieceEnd[p] === end ? ` ${name}1` : ""));
        }
      }
    }
    for (let p = 0; p < pieces.length; p++) {
      if (next[p] !== shown[p]) pieces[p].className = shown[p] = next[p];
    }
    paintStrip(code);
    const hidden = data.codes[state.i].max * (state.hide / 255) ** 2;
    byId("hide-value").textContent = percent(state.common ? data.common * (state.hide / 255) ** 2 : hidden);
    byId("scale").setAttribute("aria-pressed", state.common);
    byId("legend").textContent = !code.q
      ? "no attention stored for this code"
      : (state.common ? `darkest = ${percent(data.common)} or more of a code's attention` : `darkest = ${percent(code.max)} of this code's attention`) +
        ` · half of what falls on words is on ${many(code.half, "word")}`;
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

  function paintLists(code) {
    const parts = byId("parts");
    parts.replaceChildren(...code.parts.map(([first, last, peak, sum], n) => {
      const button = element("button", "part"), line = element("span", "text");
      button.type = "button";
      line.append(text.slice(starts[first], starts[peak]),
        element("mark", "a" + levelOf(state.i, peak), text.slice(starts[peak], ends[peak])), text.slice(ends[peak], ends[last]));
      button.append(line, element("span", "where", `chunk ${chunkOf[peak] + 1} · ${percent(sum)} of the attention`));
      button.addEventListener("click", () => goToPart(n));
      const item = element("li");
      item.append(button);
      return item;
    }));
    if (!code.parts.length) parts.append(element("li", "empty", "No words to show for this code."));
    const section = byId("spans");
    section.replaceChildren();
    for (const [spans, name, title] of [[code.e, "e", "Known evidence"], [code.d, "d", "Decoys"]]) {
      if (!spans.length) continue;
      section.append(element("h2", "", title));
      if (name === "e" && code.q) section.append(element("p", "where", `${percent(code.on[0])} of the attention falls on these ${many(code.on[1], "word")}.`));
      const list = element("ul", "spans");
      for (const [start, end, kind] of spans) {
        const item = element("li"), button = element("button", "part");
        button.type = "button";
        button.append(element("span", `text ${name} ${name}0 ${name}1`, text.slice(start, end)), " ", element("span", "where", kind));
        button.addEventListener("click", () => reveal(pieces[firstPiece(start)]));
        item.append(button);
        list.append(item);
      }
      section.append(list);
    }
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
    const heading = byId("name"), tag = rows.find((row) => Number(row.dataset.i) === i).querySelector(".tag").cloneNode(true);
    heading.replaceChildren(tag, " ", element("span", "code", code.code), " ", element("span", "title", code.title));
    byId("probability").textContent = "p " + code.p.toFixed(2);
    byId("threshold").textContent = code.t.toFixed(2);
    paint();
    paintLists(code);
    unmark();
    if (!quiet) {
      byId("live").textContent = `${code.code} ${code.title}, ${code.outcome}, probability ${code.p.toFixed(2)}, ${many(code.parts.length, "snippet")}`;
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
    const code = data.codes[state.i];
    if (!code.parts.length) return;
    state.part = (n + code.parts.length) % code.parts.length;
    document.querySelectorAll("#parts .part").forEach((button, at) => {
      if (at === state.part) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
    });
    document.querySelectorAll("#parts .part")[state.part].scrollIntoView({ block: "nearest" });
    reveal(pieces[piecesOf[code.parts[state.part][2]][0]]);
  }
  function step(by) {
    const open = rows.filter((row) => row.offsetParent !== null);
    if (!open.length) return;
    const at = open.findIndex((row) => Number(row.dataset.i) === state.i);
    select(Number(open[(at + by + open.length) % open.length].dataset.i));
  }

  // The address holds the state: #c=CODE&s=all&t=32
  function remember() {
    const parts = ["c=" + encodeURIComponent(data.codes[state.i].code)];
    if (state.common) parts.push("s=all");
    if (state.hide !== data.hide) parts.push("t=" + state.hide);
    history.replaceState(null, "", "#" + parts.join("&"));
  }
  function recall(quiet) {
    const asked = new URLSearchParams(location.hash.slice(1));
    const i = data.codes.findIndex((code) => code.code === asked.get("c"));
    const hide = Number(asked.get("t"));
    if (asked.get("s") === "all") state.common = true;
    if (hide >= 1 && hide <= 160) state.hide = Math.round(hide);
    byId("hide").value = state.hide;
    const shownFirst = rows.find((row) => row.hasAttribute("aria-current"));
    select(i >= 0 ? i : Number(shownFirst ? shownFirst.dataset.i : 0), quiet && i < 0);
  }

  for (const row of rows) row.addEventListener("click", () => select(Number(row.dataset.i)));
  byId("next-code").addEventListener("click", () => step(1));
  byId("previous-code").addEventListener("click", () => step(-1));
  byId("next-part").addEventListener("click", () => goToPart(state.part + 1));
  byId("previous-part").addEventListener("click", () => goToPart(state.part < 0 ? -1 : state.part - 1));
  byId("scale").addEventListener("click", () => { state.common = !state.common; paint(); remember(); });
  byId("hide").addEventListener("input", (event) => { state.hide = Number(event.target.value); paint(); });
  byId("hide").addEventListener("change", remember);
  byId("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    const details = document.querySelector("details.folded");
    for (const row of rows) {
      const code = data.codes[Number(row.dataset.i)], hay = `${code.outcome} ${code.code} ${code.title}`.toLowerCase();
      row.parentElement.hidden = !wanted.every((part) => hay.includes(part));
    }
    if (details && wanted.length) details.open = !!details.querySelector("li:not([hidden])");
  });
  document.querySelectorAll(".strip a[href]").forEach((cell) => cell.addEventListener("click", (event) => {
    event.preventDefault();
    const target = byId("k" + cell.dataset.k);
    if (target) reveal(target);
  }));
  note.addEventListener("mouseover", (event) => {
    const p = pieces.indexOf(event.target);
    if (p < 0) { byId("readout").textContent = ""; return; }
    const w = pieceWord[p], reason = fixed[p] ? data.reasons[Number(fixed[p].slice(1))] : "";
    byId("readout").textContent = w >= 0
      ? `${text.slice(starts[w], ends[w])} · ${data.codes[state.i].q ? (100 * share(state.i, w)).toFixed(2) + " % · " : ""}chunk ${chunkOf[w] + 1}`
      : reason ? `not seen: ${reason}` : "";
  });
  note.addEventListener("mouseleave", () => { byId("readout").textContent = ""; });
  window.addEventListener("hashchange", () => recall(false));
  wireShortcuts();
  recall(true);

  function wireShortcuts() {
    const help = byId("help"), filter = byId("filter");
    byId("keys").addEventListener("click", () => help.showModal());
    byId("close-help").addEventListener("click", () => help.close());
    byId("print").addEventListener("click", () => window.print());
    document.addEventListener("keydown", (event) => {
      if (help.open) {
        if (event.key === "Escape") { event.preventDefault(); help.close(); }
        return;
      }
      if (event.ctrlKey || event.metaKey || event.altKey || !byId("single-keys").checked) return;
      if (event.target.closest("input[type=search], select, textarea")) {
        if (event.key === "Escape") event.target.blur();
        return;
      }
      if (event.key === "/") { event.preventDefault(); filter.focus(); return; }
      for (const control of document.querySelectorAll("[data-shortcut]")) {
        if (control.dataset.shortcut === event.key) { event.preventDefault(); control.click(); return; }
      }
    });
  }
})();
