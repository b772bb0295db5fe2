// Figures (lib/report/lines.py): the nearest point of a named line, read out beside the pointer; arrow keys step along.
// Without this script each line has its name and last value as a title, and the figure's csv has them all.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function readable(plate, svg) {
  const lines = [...svg.querySelectorAll("[data-line]")].map((group) => {
    const [name, units, points] = JSON.parse(group.dataset.line);
    group.querySelector("title").remove();
    return { name, units, points };
  });
  const ring = document.createElementNS(SVG, "circle");
  Object.entries({ r: 5, fill: "none", stroke: "currentColor", "stroke-width": 1.5, visibility: "hidden" })
    .forEach(([name, value]) => ring.setAttribute(name, value));
  svg.append(ring);
  const tip = Object.assign(document.createElement("output"), { className: "tip", hidden: true });
  plate.append(tip);
  let at = [0, -1];

  const hide = () => { tip.hidden = true; ring.setAttribute("visibility", "hidden"); };
  const show = (i, j) => {
    const { name, units, points } = lines[i];
    const [x, y, ...values] = points[j];
    at = [i, j];
    const told = values.map((value, k) => (value === name ? "" : `${units[k]} ${value}`.trim())).filter(Boolean);
    tip.textContent = `${name}: ${told.join(", ")}`;
    tip.hidden = false;
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    ring.setAttribute("visibility", "visible");
    const spot = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
    const box = plate.getBoundingClientRect();
    const left = Math.min(Math.max(spot.x - box.left - tip.offsetWidth / 2, 0), box.width - tip.offsetWidth);
    tip.style.left = `${left + plate.scrollLeft}px`; // a phone scrolls a wide figure within its frame
    tip.style.top = `${spot.y - box.top + 12}px`;
  };

  svg.addEventListener("pointermove", (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let [best, near] = [null, 20]; // points of the drawing
    lines.forEach(({ points }, i) => points.forEach(([px, py], j) => {
      const far = Math.hypot(px - x, py - y);
      if (far < near) [best, near] = [[i, j], far];
    }));
    if (best) show(...best); else hide();
  });
  svg.addEventListener("pointerleave", hide);
  svg.tabIndex = 0;
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const [along, across] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] || [];
    if (event.key === "Escape") hide();
    if (along === undefined) return;
    event.preventDefault();
    const i = (at[0] + across + lines.length) % lines.length;
    show(i, Math.min(Math.max(at[1] + along, 0), lines[i].points.length - 1));
  });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".plate").forEach((plate) => {
    plate.querySelectorAll("svg:has([data-line])").forEach((svg) => readable(plate, svg));
  });
});
