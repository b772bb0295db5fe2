// The map by any two of its axes (lib/report/axes.py): which row, what runs across and down, what of the others.
// Every number stands in the page already. Without this script the figure and the table beside it have the cells.
"use strict";

function chosen(box, number) {
  const { rows, axes, grounds, cells } = JSON.parse(box.dataset.map);
  const at = new Map(cells.map((cell) => [cell.slice(0, 1 + axes.length).join(), cell.slice(1 + axes.length)]));
  const make = (tag, content, props = {}) => {
    const made = Object.assign(document.createElement(tag), props);
    made.append(...[content].flat());
    return made;
  };
  const name = (axis) => axes[axis][0];
  const menu = (title, options, value, changed) => {
    const select = make("select", options.map(([key, text]) => make("option", text, { value: key })));
    select.value = value;
    select.setAttribute("aria-label", title);
    select.addEventListener("change", () => { changed(Number(select.value)); draw(); });
    return make("label", [`${title} `, select]);
  };

  let row = 0;
  const shown = { across: axes.length - 1, down: 0 };
  const held = axes.map(() => -1);
  const choices = make("fieldset", make("legend", "Gain"), { className: "choose" });
  rows.forEach((text, i) => {
    const input = make("input", [], { type: "radio", name: `axes-${number}`, checked: i === row });
    input.addEventListener("change", () => { row = i; draw(); });
    choices.append(make("label", [input, ` ${text}`]));
  });
  const places = Object.keys(shown).map((place) => menu(place, axes.map((axis, i) => [i, axis[0]]), shown[place], (axis) => {
    const other = place === "across" ? "down" : "across";
    if (shown[other] === axis) shown[other] = shown[place];
    shown[place] = axis;
  }));
  const others = axes.map(([title, levels], axis) =>
    menu(title, [[-1, "averaged over"], ...levels.map((level, i) => [i, level])], -1, (level) => { held[axis] = level; }));
  const said = make("output", [], { id: `axes-said-${number}` });
  const sheet = document.createElement("table");
  sheet.setAttribute("aria-labelledby", said.id);

  const cell = (values) => {
    const where = axes.map((_, axis) => (axis in values ? values[axis] : held[axis]));
    const [gain, low, high, verdict] = at.get([row, ...where].join()) || [];
    if (gain === undefined) return make("td", "no run");
    const between = low ? `${low} to\u00a0${high}` : "one seed";
    const made = make("td", [make("span", gain), make("small", between)], { className: /^(ahead|behind)$/.test(grounds[verdict][0]) ? "clear" : "" });
    [, made.style.background] = grounds[verdict];
    return made;
  };

  function draw() {
    places.forEach((label, i) => { label.lastChild.value = Object.values(shown)[i]; });
    const rest = axes.map((_, axis) => axis).filter((axis) => !Object.values(shown).includes(axis));
    others.forEach((label, axis) => { label.hidden = !rest.includes(axis); });
    const told = rest.map((axis) => (held[axis] < 0 ? `averaged over ${name(axis)}` : `${name(axis)} ${axes[axis][1][held[axis]]}`));
    said.textContent = `${rows[row]}: true return in credit with its 95% interval; ${told.join("; ")}.`;
    const [across, down] = [axes[shown.across], axes[shown.down]];
    const head = make("thead", [
      make("tr", [make("th", down[0], { rowSpan: 2, scope: "col" }), make("th", across[0], { colSpan: across[1].length, scope: "colgroup" })]),
      make("tr", across[1].map((level) => make("th", level, { scope: "col" }))),
    ]);
    const body = make("tbody", down[1].map((level, j) => make("tr", [
      make("th", level, { scope: "row" }),
      ...across[1].map((_, i) => cell({ [shown.across]: i, [shown.down]: j })),
    ])));
    sheet.replaceChildren(head, body);
  }

  box.prepend(choices, make("div", [...places, ...others], { className: "choose" }), said, sheet);
  box.hidden = false;
  draw();
}

document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".axes").forEach(chosen));
