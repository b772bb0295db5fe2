// Tables that Markdown makes, on a phone: a row is a block, each cell behind its heading (book.css), as in report/grid.py.
// Without this script a wide table scrolls in its own box.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".bd-article table.table").forEach((table) => {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    const rows = [...table.querySelectorAll("tbody tr")].map((row) => [...row.cells]);
    const cells = rows.flat();
    const long = cells.some((cell) => cell.textContent.trim().length > 30);
    if (heads.length < 3 || (heads.length < 4 && !long)) return;
    table.classList.add("cards");
    rows.forEach((row) => {
      const filled = row.filter((cell) => cell.textContent.trim());
      row.forEach((cell, i) => {
        cell.dataset.label = filled.length > 1 ? heads[i] : ""; // a cell alone heads what follows
        cell.classList.toggle("blank", !filled.includes(cell));
      });
    });
  });
});
