// The arrows of the sidebar, which the theme leaves without a name for those who cannot see them.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("nav details > summary").forEach((arrow) => {
    const chapter = arrow.closest("li").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages below ${chapter}`);
  });
});
