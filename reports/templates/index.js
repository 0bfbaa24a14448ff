"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const byId = (id) => document.getElementById(id);
  const live = byId("live");
  const data = JSON.parse(byId("data").textContent);
  const MOST = 200;
  const collator = new Intl.Collator("en", { numeric: true });
  const tables = new Map();

  for (const name of Object.keys(data)) {
    const table = byId(name), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const kinds = heads.map((head) => head.dataset.kind), names = heads.map((head) => head.textContent);
    const all = data[name].rows, textOf = (row, c) => (kinds[c] === "link" ? row[c][0] : row[c]);
    const hay = all.map((row) => kinds.map((kind, c) => (kind === "num" || kind === "real" ? "" : textOf(row, c))).join(" ").toLowerCase());
    const flags = data[name].flags.map((kept) => new Set(kept));
    const input = document.querySelector(`[data-filter="${name}"]`), shown = document.querySelector(`[data-shown="${name}"]`);
    const buttons = [...document.querySelectorAll(`[data-only="${name}"]`)];
    const pager = document.querySelector(`[data-pager="${name}"]`);
    let order = [...all.keys()], kept = order, page = 0;

    function cell(value, c) {
      const kind = kinds[c], made = document.createElement(kind === "link" ? "th" : "td");
      if (kind === "link") {
        const link = document.createElement("a");
        made.scope = "row";
        if (value[1]) link.href = value[1];
        link.textContent = value[0];
        made.append(link);
      } else if (kind === "text" || kind === "lines") {
        made.textContent = value;
        if (kind === "lines") made.className = kind;
      }
      else {
        made.className = "num" + (value && (names[c] === "FP" || names[c] === "FN") ? " " + names[c] : "");
        made.textContent = value === null ? "–" : kind === "real" ? value.toFixed(2) : value.toLocaleString("en-US");
      }
      return made;
    }
    function draw() {
      body.replaceChildren(...kept.slice(page * MOST, (page + 1) * MOST).map((i) => {
        const row = document.createElement("tr");
        row.append(...all[i].map(cell));
        return row;
      }));
      if (!pager) return;
      const [back, words, on] = pager.children, last = Math.max(0, Math.ceil(kept.length / MOST) - 1);
      pager.hidden = kept.length <= MOST;
      back.disabled = page === 0;
      on.disabled = page === last;
      words.textContent = `${(page * MOST + 1).toLocaleString("en-US")} to ${Math.min(kept.length, (page + 1) * MOST).toLocaleString("en-US")} of ${kept.length.toLocaleString("en-US")}`;
    }
    function apply() {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const on = buttons.filter((one) => one.getAttribute("aria-pressed") === "true").map((one) => flags[Number(one.dataset.flag)]);
      kept = order.filter((i) => wanted.every((part) => hay[i].includes(part)) && on.every((set) => set.has(i)));
      page = 0;
      shown.textContent = kept.length === all.length ? "" : `${kept.length.toLocaleString("en-US")} shown`;
      live.textContent = `${kept.length} rows`;
      draw();
    }
    heads.forEach((head, c) => head.querySelector("button").addEventListener("click", () => {
      const numeric = kinds[c] === "num" || kinds[c] === "real", before = head.getAttribute("aria-sort");
      const direction = before ? (before === "descending" ? 1 : -1) : (numeric ? -1 : 1);
      const value = (i) => (all[i][c] === null ? -Infinity : all[i][c]);
      const compare = numeric ? (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) : (a, b) => collator.compare(textOf(all[a], c), textOf(all[b], c));
      order = [...all.keys()].sort((a, b) => direction * compare(a, b) || a - b);
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      apply();
      live.textContent = `Sorted by ${names[c]}, ${direction > 0 ? "ascending" : "descending"}`;
    }));
    input.addEventListener("input", apply);
    buttons.forEach((one) => one.addEventListener("click", () => {
      one.setAttribute("aria-pressed", one.getAttribute("aria-pressed") !== "true");
      apply();
    }));
    if (pager) {
      pager.children[0].addEventListener("click", () => { page--; draw(); });
      pager.children[2].addEventListener("click", () => { page++; draw(); });
      draw();
    }
    tables.set(name, { input, apply });
  }
  for (const count of document.querySelectorAll("[data-find]")) {
    count.addEventListener("click", () => {
      const { input, apply } = tables.get("t-errors");
      input.value = count.dataset.find;
      apply();
      byId("t-errors-title").scrollIntoView();
    });
  }
})();
