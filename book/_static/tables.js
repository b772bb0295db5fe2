// Tables that Markdown makes, on a phone: a row is a block, each cell behind its heading (book.css), as in report/grid.py.
// Without this script a wide table scrolls in its own box.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".bd-article table.table").forEach((table) => {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    const cells = [...table.querySelectorAll("tbody td")];
    const long = cells.some((cell) => cell.textContent.trim().length > 30);
    if (heads.length < 3 || (heads.length < 4 && !long)) return;
    table.classList.add("cards");
    cells.forEach((cell, i) => { cell.dataset.label = heads[i % heads.length]; });
  });
});
