"use strict";
// Sorting: the first click on a heading of numbers brings the largest to the top, a second turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.querySelectorAll("th")];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const rows = [...body.rows];
      const value = (row) => row.cells[column].dataset.value;
      const numeric = rows.every((row) => value(row) !== "" && Number.isFinite(Number(value(row))));
      const was = heading.getAttribute("aria-sort");
      const order = was ? (was === "descending" ? "ascending" : "descending") : numeric && column ? "descending" : "ascending";
      const sign = order === "ascending" ? 1 : -1;
      rows.sort((a, b) => sign * (numeric ? value(a) - value(b) : value(a).localeCompare(value(b))));
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      body.append(...rows);
    });
  });
}
