// Cards of token strips (lib/report/strips.py): one row at a time, chosen by radio buttons; values read out under it.
// Without this script all rows stand below each other, each token with its value as title.
"use strict";

function choose(card, rows, number) {
  const names = rows.map((row) => row.querySelector(".name").textContent.replace(/ \(.*$/s, ""));
  const box = document.createElement("fieldset");
  box.className = "choose";
  box.append(Object.assign(document.createElement("legend"), { textContent: "Show" }));
  const show = (wanted) => rows.forEach((row, i) => { row.hidden = wanted !== "all" && i !== wanted; });
  [...names, "all"].forEach((name, i) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: `strips-${number}`, checked: i === 0 });
    input.addEventListener("change", () => show(i < rows.length ? i : "all"));
    label.append(input, ` ${name}`);
    box.append(label);
  });
  rows[0].before(box);
  show(0);
}

function read(card) {
  const said = document.createElement("output");
  said.className = "said";
  if (card.querySelector(".tokens")) said.textContent = "Point at a token, or step with the arrow keys, to read its value.";
  const say = (token, on) => {
    card.querySelectorAll(".at").forEach((other) => other.classList.remove("at"));
    if (!token) return;
    if (on) token.classList.add("at");
    said.textContent = `${token.textContent.trim() || "␣"} : ${token.dataset.value}`;
  };
  card.querySelectorAll(".strip").forEach((strip) => {
    const tokens = [...strip.querySelectorAll("span[title]")];
    if (!tokens.length) return;
    tokens.forEach((token) => { token.dataset.value = token.title; token.removeAttribute("title"); });
    let at = -1;
    strip.tabIndex = 0;
    strip.setAttribute("role", "group");
    strip.setAttribute("aria-label", strip.previousElementSibling.textContent);
    strip.addEventListener("pointerover", (event) => say(event.target.closest("[data-value]"), true));
    strip.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -tokens.length, End: tokens.length }[event.key];
      if (!step) return;
      event.preventDefault();
      at = Math.min(Math.max(at + step, 0), tokens.length - 1);
      say(tokens[at], true);
    });
    strip.addEventListener("blur", () => say(null));
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
