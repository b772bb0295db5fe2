// What theme and docutils leave unsaid to those who cannot see it: the sidebar's arrows, the entries of the bibliography.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("nav details > summary").forEach((arrow) => {
    const chapter = arrow.closest("li").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages below ${chapter}`);
  });
  // the role that docutils writes is deprecated, and no longer one of a list's entries
  document.querySelectorAll("[role=doc-biblioentry]").forEach((entry) => entry.setAttribute("role", "listitem"));
});
