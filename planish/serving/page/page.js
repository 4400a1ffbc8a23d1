"use strict";
const $ = (id) => document.getElementById(id);
const WATCH_MS = 2000;
let shownUrl = null;
let last = null;

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
  $("frame").hidden = false;
  $("mattered").hidden = true;
  last = file;
  $("hint").textContent = "Another one:";
  const begun = performance.now();
  try {
    const response = await fetch(`${$("model").value}&why=${$("why").checked}`, { method: "POST", body: file });
    const said = await response.json();
    const took = performance.now() - begun;
    if (!response.ok) return say(paragraph(said.error, "error"));
    if (said.why) colour(said.why, said.region);
    say(...said.classes.map(bar), paragraph(`${said.model}, version ${said.version}; ${took.toFixed(0)} ms with the way there and back`, "quiet"));
  } catch (error) {
    say(paragraph("The service does not answer.", "error"));
  }
}

/** Cells that carry the answer in orange, those that speak against it in blue, over the part of the image that the model sees. */
function colour(why, [left, top, width, height]) {
  const canvas = $("mattered");
  const context = canvas.getContext("2d");
  const most = Math.max(0.02, ...why.flat().map(Math.abs));
  context.clearRect(0, 0, canvas.width, canvas.height);
  why.forEach((row, y) =>
    row.forEach((value, x) => {
      context.fillStyle = `rgb(${value > 0 ? "255 140 0" : "40 120 255"} / ${Math.abs(value) / most})`;
      context.fillRect(x, y, 1, 1);
    }),
  );
  for (const [side, share] of Object.entries({ left, top, width, height })) canvas.style[side] = `${100 * share}%`;
  canvas.hidden = false;
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
    const drifted = [...text.matchAll(/^planish_drift\{.*of="([^"]+)".*\} 1\.0$/gm)].map((found) => found[1]);
    $("drift").textContent = [...new Set(drifted)].join(", ") || `none in ${total(text, "planish_drift_images")} images`;
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
$("why").addEventListener("change", () => ask(last));
$("model").addEventListener("change", () => ask(last));
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
