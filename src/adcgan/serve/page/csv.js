// The table as 'adcgan score' writes it, decided by the budget on the page.

/** @returns {string} CSV with a header and a row for each item */
export function toCsv(items, components, anomalous) {
  const lines = [["path", "score", "p_value", "anomalous", ...components, "error"]];
  for (const { name, row, error } of items) {
    if (row) {
      const parts = components.map((key) => row.components[key] ?? "");
      lines.push([name, row.score, row.p_value, anomalous(row) ? 1 : 0, ...parts, ""]);
    } else {
      lines.push([name, "", "", "", ...components.map(() => ""), error]);
    }
  }
  return lines.map((cells) => cells.map(cell).join(",") + "\n").join("");
}

function cell(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Hand the user a file. */
export function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
