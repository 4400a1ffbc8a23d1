"use strict";
const $ = (id) => document.getElementById(id);
const WATCH_MS = 2000;
let shownUrl = null;

async function listModels() {
  const found = await (await fetch("models")).json();
  for (const { name, version } of found.models) {
    const option = document.createElement("option");
    option.value = `models/${encodeURIComponent(name)}/predict?version=${encodeURIComponent(version)}`;
    option.textContent = found.models.filter((m) => m.name === name).length > 1 ? `${name}, version ${version}` : name;
    $("model").append(option);
  }
}

function say(...parts) {
  $("answer").replaceChildren(...parts);
}

function paragraph(text, kind) {
  const p = document.createElement("p");
  p.textContent = text;
  p.className = kind;
  return p;
}

function bar({ name, confidence }) {
  const row = document.createElement("div");
  row.className = "class";
  const words = document.createElement("div");
  const percent = document.createElement("span");
  const label = document.createElement("span");
  label.textContent = name;
  percent.textContent = `${(100 * confidence).toFixed(1)} %`;
  words.append(label, percent);
  const track = document.createElement("div");
  track.className = "track";
  track.setAttribute("aria-hidden", "true");
  const filled = document.createElement("span");
  filled.style.width = `${100 * confidence}%`;
  track.append(filled);
  row.append(words, track);
  return row;
}

async function ask(file) {
  if (!file) return;
  if (shownUrl) URL.revokeObjectURL(shownUrl);
  shownUrl = URL.createObjectURL(file);
  const image = $("shown");
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 100);
  image.src = shownUrl;
  image.alt = `the image that was given: ${file.name || "from the clipboard"}`;
  image.hidden = false;
  $("hint").textContent = "Another one:";
  const begun = performance.now();
  try {
    const response = await fetch($("model").value, { method: "POST", body: file });
    const said = await response.json();
    const took = performance.now() - begun;
    if (!response.ok) return say(paragraph(said.error, "error"));
    say(...said.classes.map(bar), paragraph(`${said.model}, version ${said.version}; ${took.toFixed(0)} ms with the way there and back`, "quiet"));
  } catch (error) {
    say(paragraph("The service does not answer.", "error"));
  }
}

/** Sum of all samples of one name in Prometheus' text. */
function total(text, name) {
  let sum = 0;
  for (const line of text.split("\n")) if (line.startsWith(`${name}{`)) sum += Number(line.slice(line.lastIndexOf(" ")));
  return sum;
}

let before = null;
async function watch() {
  try {
    const text = await (await fetch("metrics")).text();
    const now = {
      at: performance.now(),
      count: total(text, "planish_request_seconds_count"),
      seconds: total(text, "planish_request_seconds_sum"),
    };
    $("queued").textContent = total(text, "planish_queued_images");
    $("total").textContent = now.count;
    if (before) {
      const fresh = now.count - before.count;
      $("rate").textContent = ((1000 * fresh) / (now.at - before.at)).toFixed(1);
      $("latency").textContent = fresh ? `${((1000 * (now.seconds - before.seconds)) / fresh).toFixed(1)} ms` : "–";
    }
    before = now;
  } catch (error) {
    $("rate").textContent = "no answer";
  }
}

for (const id of ["file", "camera"]) {
  $(id).addEventListener("change", (event) => {
    ask(event.target.files[0]);
    event.target.value = "";
  });
}
const drop = $("drop");
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") ask(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => ask([...event.clipboardData.files].find((f) => f.type.startsWith("image/"))));
listModels().catch(() => say(paragraph("The service does not answer.", "error")));
watch();
setInterval(watch, WATCH_MS);
