"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const byId = (id) => document.getElementById(id);
  const live = byId("live");
  const valueOf = (cell) => (cell.dataset.v === undefined ? cell.textContent : cell.dataset.v);

  for (const table of document.querySelectorAll("table")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const numeric = head.classList.contains("num");
      const before = head.getAttribute("aria-sort");
      const direction = before ? (before === "descending" ? 1 : -1) : (numeric ? -1 : 1);
      const keyed = [...body.rows].map((row, at) => [numeric ? Number(valueOf(row.cells[column])) : valueOf(row.cells[column]), at, row]);
      const collator = new Intl.Collator("en", { numeric: true });
      keyed.sort((a, b) => direction * (numeric ? a[0] - b[0] : collator.compare(a[0], b[0])) || a[1] - b[1]);
      body.append(...keyed.map((entry) => entry[2]));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      live.textContent = `Sorted by ${head.textContent}, ${direction > 0 ? "ascending" : "descending"}`;
    }));
    const input = document.querySelector(`[data-filter="${table.id}"]`);
    const only = document.querySelector(`[data-only="${table.id}"]`);
    const shown = document.querySelector(`[data-shown="${table.id}"]`);
    const hay = new Map([...body.rows].map((row) => [row, (row.cells[0].textContent + " " + row.cells[1].textContent).toLowerCase()]));
    const apply = () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const marked = only && only.getAttribute("aria-pressed") === "true";
      let n = 0;
      for (const [row, words] of hay) {
        row.hidden = !wanted.every((part) => words.includes(part)) || (marked && !row.hasAttribute("data-fp"));
        if (!row.hidden) n++;
      }
      shown.textContent = n === hay.size ? "" : `${n.toLocaleString("en-US")} shown`;
      live.textContent = `${n} rows`;
    };
    input.addEventListener("input", apply);
    if (only) only.addEventListener("click", () => {
      only.setAttribute("aria-pressed", only.getAttribute("aria-pressed") !== "true");
      apply();
    });
  }
})();
