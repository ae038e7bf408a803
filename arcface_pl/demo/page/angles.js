// A table of bars: one row a class or name, from 180 degrees at the left to 0 at the right.

// rows: [{label, angle_degrees or none, images or none, best, doubted, guessed}]; threshold in degrees or null;
// remove: called with a row's label by its button, where there is one.
export function showAngles(table, rows, threshold, remove = null) {
  table.hidden = !rows.length;
  table.classList.toggle("threshold", threshold !== null);
  if (threshold !== null) table.style.setProperty("--threshold", nearness(threshold));
  // The same rows stay, so that their bars move and the focus is kept.
  const labels = JSON.stringify(rows.map((row) => row.label));
  if (table.dataset.labels !== labels) {
    table.dataset.labels = labels;
    const body = document.createElement("tbody");
    body.append(...rows.map((row) => newRow(row, remove)));
    table.replaceChildren(body, scale(remove !== null));
  }
  rows.forEach((row, index) => update(table.tBodies[0].rows[index], row));
}

function nearness(degrees) {
  return (180 - degrees) / 180;
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function newRow(row, remove) {
  const name = element("span", "", row.label);
  name.title = row.label;
  const head = element("th", "", name);
  head.scope = "row";
  const track = element("td", "track", element("div", "", element("i", "")));
  track.ariaHidden = "true";
  const made = element("tr", "", head, track, element("td", "number"));
  if (remove) {
    const button = element("button", "", "×");
    button.type = "button";
    button.ariaLabel = button.title = `Remove ${row.label}`;
    button.addEventListener("click", () => remove(row.label));
    made.append(element("td", "off", button));
  }
  return made;
}

function update(made, row) {
  const isMeasured = row.angle_degrees !== undefined;
  made.classList.toggle("best", Boolean(row.best));
  made.classList.toggle("doubted", Boolean(row.doubted));
  made.classList.toggle("guessed", Boolean(row.guessed));
  made.querySelector("i").style.setProperty("--near", isMeasured ? nearness(row.angle_degrees) : 0);
  const drawings = row.images === 1 ? "1 drawing" : `${row.images} drawings`;
  const number = isMeasured ? `${row.angle_degrees.toFixed(1)}°` : row.images ? drawings : "";
  made.querySelector(".number").textContent = number;
}

function scale(hasButtons) {
  const ends = element("div", "ends", ...["180°", "90°", "0°"].map((end) => element("span", "", end)));
  const row = element("tr", "", element("td", ""), element("td", "", ends), element("td", ""));
  if (hasButtons) row.append(element("td", ""));
  const foot = element("tfoot", "", row);
  foot.ariaHidden = "true";
  return foot;
}
