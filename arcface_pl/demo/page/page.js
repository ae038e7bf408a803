// The page: asks the server as something is drawn, and shows its answers.

import { Paper } from "./paper.js";
import { showAngles } from "./angles.js";

const find = (id) => document.getElementById(id);
const paper = new Paper(find("paper"));
const PAUSE = 30; // milliseconds between an answer and the next question: drawing goes before answering
let model = null;
let enrolled = [];
let asking = false;
let wanted = false;

async function call(method, path, body = null) {
  if (body && body.size > model.max_bytes) {
    throw new Error(`The picture has ${body.size} bytes; at most ${model.max_bytes} are accepted.`);
  }
  let response;
  try {
    response = await fetch(path, { method, body });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

// One question at a time: what was drawn meanwhile is in the next one.
async function ask() {
  wanted = true;
  if (asking) return;
  asking = true;
  find("answer").ariaBusy = "true";
  while (wanted) {
    wanted = false;
    if (paper.isEmpty) {
      showNothing();
      continue;
    }
    try {
      const answer = await call("POST", "api/recognize", await paper.picture());
      if (!paper.isEmpty) show(answer);
    } catch (error) {
      if (!paper.isEmpty) showNothing("error", error.message, "");
    }
    await new Promise((done) => setTimeout(done, PAUSE));
  }
  asking = false;
  find("answer").ariaBusy = "false";
}

function show({ decision, classes, enrolled: rows, input }) {
  const angle = `${decision.angle_degrees.toFixed(1)}°`;
  const isClass = decision.kind === "class";
  const place = isClass ? `the class center of ${decision.label}` : `the enrolled ${decision.label}`;
  if (decision.unknown) {
    const limit = isClass ? model.class_threshold_degrees : model.enrolled_threshold_degrees;
    const past = `past ${limit.toFixed(1)}° nothing is believed`;
    say("unknown", "unknown", `The nearest is ${place}, ${angle} away; ${past}.`);
  } else if (decision.guess) {
    say("guess", `${decision.label}?`, `A guess: ${angle} from ${place}. No threshold tells known from unknown.`);
  } else {
    say("known", decision.label, `${angle} from ${place}.`);
  }
  find("input").src = input;
  find("seen").hidden = false;
  const best = (row, kind) => decision.kind === kind && row.label === decision.label;
  const mark = (all, kind) => all.map((row) => ({ ...row, best: best(row, kind), doubted: decision.unknown, guessed: decision.guess }));
  showAngles(find("classes"), mark(classes, "class"), model.class_threshold_degrees);
  showEnrolled(mark(rows, "enrolled"));
}

function showNothing(state = "empty", label = "Nothing drawn yet", reason = "The answer appears here as you draw.") {
  say(state, label, reason);
  find("seen").hidden = true;
  showAngles(find("classes"), model.classes, model.class_threshold_degrees);
  showEnrolled(enrolled);
}

function say(state, label, reason) {
  find("answer").dataset.state = state;
  find("label").textContent = label;
  find("label").classList.toggle("long", label.length > 5);
  find("reason").textContent = reason;
  // Spoken when the pen is lifted, not with each point
  if (!wanted && !paper.isDrawing) find("spoken").textContent = reason ? `${label}: ${reason}` : label;
}

function showEnrolled(rows) {
  showAngles(find("enrolled"), rows, model.enrolled_threshold_degrees, remove);
}

function take(names) {
  enrolled = names.enrolled;
  const more = names.num_enrolled - enrolled.length;
  const limit = model.enrolled_threshold_degrees;
  const notes = [
    enrolled.length && limit !== null ? `Past ${limit.toFixed(1)}°, the dotted line, a name is not believed.` : "",
    more > 0 ? `${more} more are enrolled; of a drawing the nearest are shown.` : "",
  ];
  find("enrolled-note").textContent = notes.join(" ").trim();
}

function tell(message, isWrong = false) {
  find("told").textContent = message;
  find("told").classList.toggle("wrong", isWrong);
}

// Ask for a change of who is enrolled; whether it was made.
async function change(method, name, picture = null) {
  const form = find("enroll");
  form.ariaBusy = "true";
  try {
    take(await call(method, `api/names?name=${encodeURIComponent(name)}`, await picture));
    return true;
  } catch (error) {
    tell(error.message, true);
    return false;
  } finally {
    form.ariaBusy = "false";
  }
}

async function enroll(event) {
  event.preventDefault();
  if (paper.isEmpty) return tell("Nothing is drawn yet: draw what the name is for.", true);
  const name = find("name").value.trim().replace(/\s+/g, " ");
  const sent = paper.version;
  if (!(await change("POST", name, paper.picture()))) return;
  const images = enrolled.find((row) => row.label === name)?.images;
  const more = images === undefined ? `Added to ${name}.` : `${name} has ${images} drawings now.`;
  tell(images === 1 ? `Added the first drawing of ${name}. Draw another one.` : more);
  if (paper.version === sent) paper.clear(); // what was drawn meanwhile is kept
}

async function remove(name) {
  if (await change("DELETE", name)) tell(`${name} is forgotten.`);
  find("name").focus();
  ask();
}

async function begin() {
  try {
    model = await call("GET", "api/model");
  } catch (error) {
    find("answer").ariaBusy = "false";
    return say("error", error.message, "");
  }
  take(model);
  const { num_classes: count, classes, embedding_dim: dims, dataset, class_threshold_degrees: limit } = model;
  const classCount = `${count.toLocaleString("en")} classes${dataset ? ` of ${dataset}` : ""}`;
  find("about").textContent = `${classCount}, embeddings of ${dims} dimensions.`;
  if (count > classes.length) find("classes-heading").textContent = "Angle to the nearest class centers";
  find("classes-note").textContent =
    limit === null
      ? "A longer bar is a smaller angle. The model has no threshold: nothing is called unknown."
      : `A longer bar is a smaller angle. Past ${limit.toFixed(1)}°, the dotted line, a class is not believed.`;
  if (model.style !== "ink") find("hint").textContent = "Drop a picture here, or draw";
  paper.addEventListener("change", () => {
    find("hint").hidden = !paper.isEmpty;
    find("undo").disabled = find("clear").disabled = paper.isEmpty;
    ask();
  });
  ask();
}

find("undo").addEventListener("click", () => paper.undo());
find("clear").addEventListener("click", () => paper.clear());
find("enroll").addEventListener("submit", enroll);
find("file").addEventListener("change", ({ target }) => {
  if (target.files.length) paper.open(target.files[0]);
  target.value = "";
});
document.addEventListener("keydown", (event) => {
  const isUndo = (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z";
  if (!isUndo || event.target.matches("input:not([type=file])") || paper.isEmpty) return;
  event.preventDefault();
  paper.undo();
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) paper.open(event.dataTransfer.files[0]);
});
begin();
