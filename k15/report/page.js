"use strict";
// Two conveniences; the page is complete without them: a theme button, and values under the pointer.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : preferred.matches);
  const label = () => { button.textContent = isDark() ? "light theme" : "dark theme"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  preferred.addEventListener("change", label);
  label();

  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const figure = svg.closest("figure");
    const cursor = svg.querySelector(".cursor");
    const readout = figure.querySelector(".readout");
    const names = Array.from(figure.querySelectorAll("thead th"), (cell) => cell.textContent);
    const rows = Array.from(figure.querySelectorAll("tbody tr[data-x]"));
    if (!rows.length || !cursor) continue;
    const places = rows.map((row) => Number(row.dataset.x));
    svg.addEventListener("pointermove", (event) => {
      const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
      let best = 0;
      places.forEach((place, i) => { if (Math.abs(place - x) < Math.abs(places[best] - x)) best = i; });
      const cells = Array.from(rows[best].cells, (cell) => cell.textContent);
      readout.textContent = cells.map((text, i) => (text ? `${names[i]} ${text}` : "")).filter(Boolean).join(" · ");
      cursor.setAttribute("x1", places[best]);
      cursor.setAttribute("x2", places[best]);
      cursor.classList.add("on");
    });
    svg.addEventListener("pointerleave", () => { readout.textContent = ""; cursor.classList.remove("on"); });
  }
})();
