// Cards of token strips (lib/report/strips.py): one row at a time, chosen by radio buttons, by method first where there are
// several, all at first where they are few; values read out under it.
// Without this script all rows stand below each other, each token with its value as title.
"use strict";

function choose(card, rows, number) {
  const of = (row) => row.closest(".of")?.dataset.of;  // none: the same for every method
  const asked = { Method: of, Show: (row) => row.querySelector(".name").textContent.replace(/ \(.*$/s, "") };
  const chosen = {}, boxes = {};
  const show = () => {
    rows.forEach((row) => {
      row.hidden = Object.keys(chosen).some((what) => ![undefined, chosen[what]].includes(asked[what](row)) && chosen[what] !== "all");
    });
    if (boxes.Method) boxes.Method.disabled = !rows.some((row) => of(row) && !row.hidden);
  };
  for (const what of Object.keys(asked)) {
    const names = [...new Set(rows.map(asked[what]))].filter(Boolean);
    if (!names.length) continue;
    const first = chosen[what] = rows.length > 6 || boxes.Method ? names[0] : "all";
    const box = boxes[what] = document.createElement("fieldset");
    box.className = "choose";
    box.append(Object.assign(document.createElement("legend"), { textContent: what }));
    [...names, "all"].forEach((name) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: `strips-${number}-${what}`, checked: name === first });
      input.addEventListener("change", () => { chosen[what] = name; show(); });
      label.append(input, ` ${name}`);
      box.append(label);
    });
    (rows[0].closest(".of") ?? rows[0]).before(box);
  }
  show();
}

function read(card) {
  const said = document.createElement("output");
  said.className = "said";
  if (card.querySelector(".tokens")) said.textContent = "Point at a token, or step with the arrow keys, to read its value.";
  let at = -1;  // the token that was read last, in whichever row
  const tokensOf = (strip) => [...strip.querySelectorAll("[data-value]")];
  const say = (token) => {
    card.querySelectorAll(".at").forEach((other) => other.classList.remove("at"));
    if (!token) return;
    at = tokensOf(token.parentElement).indexOf(token);
    token.classList.add("at");
    said.textContent = `${token.textContent.trim() || "␣"} : ${token.dataset.value}`;
  };
  card.querySelectorAll(".strip").forEach((strip) => {
    const tokens = [...strip.querySelectorAll("span[title]")];
    if (!tokens.length) return;
    tokens.forEach((token) => { token.dataset.value = token.title; token.removeAttribute("title"); });
    strip.tabIndex = 0;
    strip.setAttribute("role", "group");
    const of = strip.closest(".of")?.dataset.of;
    strip.setAttribute("aria-label", (of ? `${of}: ` : "") + strip.previousElementSibling.textContent);
    strip.addEventListener("pointerover", (event) => say(event.target.closest("[data-value]")));
    strip.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -tokens.length, End: tokens.length }[event.key];
      if (!step) return;
      event.preventDefault();
      say(tokens[Math.min(Math.max(at + step, 0), tokens.length - 1)]);
    });
    strip.addEventListener("blur", () => say(null));
  });
  card.addEventListener("change", () => {  // another row is shown: the same token's value there
    const shown = card.querySelector(".row.tokens:not([hidden]) .strip");
    if (at >= 0 && shown) say(tokensOf(shown)[at]);
  });
  card.append(said);
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".strips").forEach((card, number) => {
    const rows = [...card.querySelectorAll(".row.tokens")];
    const text = (row) => row.querySelector(".strip").textContent;
    if (rows.length > 1 && rows.every((row) => text(row) === text(rows[0]))) choose(card, rows, number);
    read(card);
  });
});
