"use strict";
(() => {
  const tip = document.getElementById("tip");
  const said = document.getElementById("said");

  const showTip = (point) => {
    tip.textContent = point.dataset.tip;
    tip.hidden = false;
    const mark = point.getBoundingClientRect(), box = tip.getBoundingClientRect();
    const left = mark.left + mark.width / 2 - box.width / 2;
    const above = mark.top - box.height - 10;
    tip.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - box.width - 8))}px`;
    tip.style.top = `${above > 8 ? above : mark.bottom + 10}px`;
  };
  const hideTip = () => { tip.hidden = true; };
  for (const point of document.querySelectorAll("[data-tip]")) {
    point.addEventListener("pointerenter", () => showTip(point));
    point.addEventListener("focus", () => showTip(point));
    point.addEventListener("pointerleave", hideTip);
    point.addEventListener("blur", hideTip);
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  document.addEventListener("scroll", hideTip, { passive: true });

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    for (const button of table.querySelectorAll(".sort")) {
      button.addEventListener("click", () => {
        const heading = button.closest("th");
        const column = [...heading.parentNode.children].indexOf(heading);
        const up = heading.getAttribute("aria-sort") !== "ascending";
        for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => {
          const cell = row.children[column];
          return cell ? cell.dataset.value ?? cell.textContent.trim() : "";
        };
        const compare = button.dataset.sort === "number" ? (a, b) => a - b : (a, b) => a.localeCompare(b);
        // What was not measured stays at the end, whichever way the rest is sorted.
        const rows = [...body.rows].sort((a, b) => {
          const x = value(a), y = value(b);
          if (x === "" || y === "") return (x === "") - (y === "");
          return up ? compare(x, y) : compare(y, x);
        });
        body.append(...rows);
        said.textContent = `sorted by ${button.textContent}, ${up ? "ascending" : "descending"}`;
      });
    }
  }

  const toggle = document.getElementById("toggle-stopped");
  const stopped = [...document.querySelectorAll("#candidate-table tbody tr")].filter((row) => ["screened", "trained"].includes(row.dataset.stage));
  const showStopped = (show) => {
    for (const row of stopped) row.hidden = !show;
    toggle.setAttribute("aria-pressed", String(show));
    toggle.textContent = show ? "Hide those stopped early" : `Show the ${stopped.length} stopped early`;
  };
  if (stopped.length > 3) {
    toggle.parentElement.hidden = false;
    showStopped(false);
    toggle.addEventListener("click", () => showStopped(stopped[0].hidden));
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
      } catch {
        // Without clipboard access (an old browser, a page from a file): select the text, so that one key press copies it.
        const range = document.createRange();
        range.selectNodeContents(source);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        said.textContent = "selected";
        return;
      }
      button.textContent = "Copied";
      said.textContent = "copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
