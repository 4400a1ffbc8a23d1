"use strict";
const WATCH_MS = 2000;
let shownUrl = null;
const SMALL = 200; // pixels; such an image is shown larger than it is
let last = null;
let asked = 0;
const known = new Map(); // models by the address at which they are asked

/** Fetch with the key that was given; where one is needed, ask for it. */
async function call(path, options = {}) {
  const key = String.fromCharCode(...new TextEncoder().encode($("key").value)); // headers are bytes
  const response = await fetch(path, key ? { ...options, headers: { Authorization: `Bearer ${key}` } } : options);
  if (response.status === 401) $("key-form").hidden = false;
  return response;
}

async function listModels() {
  const response = await call("models");
  const found = await response.json();
  if (!response.ok) return say(paragraph(found.error, "error"));
  $("key-form").hidden = true;
  $("model").replaceChildren();
  known.clear();
  for (const model of found.models) {
    const { name, version } = model;
    const option = document.createElement("option");
    option.value = `models/${encodeURIComponent(name)}/predict?version=${encodeURIComponent(version)}`;
    option.textContent = found.models.filter((m) => m.name === name).length > 1 ? `${name}, version ${version}` : name;
    $("model").append(option);
    known.set(option.value, model);
  }
  showOptions();
}

/** What this model may be asked for. */
function showOptions() {
  showExamples();
  for (const name of ["why", "threshold"]) $(`${name}-choice`).hidden = !mayAsk(name);
  document.querySelector("main").classList.toggle("placed", !mayAsk("why")); // more room for the image, in which things are shown
}

/** Commands that ask this service for the chosen model. */
function showExamples() {
  const here = location.href.replace(/[^/]*([?#].*)?$/, "");
  const key = $("key").value ? ' -H "Authorization: Bearer $KEY"' : "";
  const { name, version } = known.get($("model").value);
  $("examples").textContent = [
    `curl${key} --data-binary @photo.jpg '${here}${$("model").value}'`,
    `curl${key} -F file=@photo.jpg '${here}${$("model").value}'`,
    `(echo '{"instances": [{"b64": "'; base64 photo.jpg; echo '"}]}') |`,
    `  curl${key} -d @- '${here}v1/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}:predict'`,
  ].join("\n");
}

function mayAsk(name) {
  return Boolean(known.get($("model").value)?.options.includes(name));
}

/** In place of what was said before. The first parts are read out at once, those in ``details`` are there to be looked through. */
function say(...parts) {
  $("summary").replaceChildren(...parts);
  $("details").replaceChildren();
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
  const value = document.createElement("span");
  const label = document.createElement("span");
  label.textContent = name;
  value.textContent = percent(confidence);
  words.append(label, value);
  row.append(words, track(confidence));
  return row;
}

function track(share) {
  const whole = document.createElement("span");
  whole.className = "track";
  whole.setAttribute("aria-hidden", "true");
  const filled = document.createElement("span");
  filled.style.width = `${100 * share}%`;
  whole.append(filled);
  return whole;
}

async function ask(file) {
  if (!file) return;
  await listed; // an image may be given before the models are known
  if (shownUrl) URL.revokeObjectURL(shownUrl);
  shownUrl = URL.createObjectURL(file);
  const image = $("shown");
  image.onload = () => {
    image.classList.toggle("small", image.naturalWidth < SMALL);
    $("frame").hidden = false;
  };
  image.onerror = () => ($("frame").hidden = true); // of a kind that the service may know, but not the browser
  image.src = shownUrl;
  image.alt = `the image that was given: ${file.name || "from the clipboard"}`;
  showMattered(false);
  hidePlaces();
  last = file;
  const mine = ++asked;
  const model = known.get($("model").value);
  $("hint").textContent = "Another one:";
  const begun = performance.now();
  try {
    const why = mayAsk("why") && $("why").checked ? "&why=true" : "";
    const threshold = mayAsk("threshold") ? `&threshold=${$("threshold").value / 100}` : "";
    const response = await call(`${$("model").value}${why}${threshold}`, { method: "POST", body: file });
    const said = await response.json();
    const took = performance.now() - begun;
    if (mine !== asked) return; // another image was given meanwhile
    if (!response.ok) return say(paragraph(said.error, "error"));
    if (said.why) colour(said.why, said.region);
    const [first, ...more] = said.classes ? [said.classes.map(bar)] : showPlaces(said, model.classes);
    say(...[first].flat());
    $("details").replaceChildren(...more, paragraph(`${said.model}, version ${said.version}; ${took.toFixed(0)} ms, network included`, "quiet"));
  } catch (error) {
    if (mine === asked) say(paragraph("The service does not answer.", "error"));
  }
}

function showMattered(shown) {
  $("mattered").hidden = $("legend").hidden = !shown;
  $("frame").classList.toggle("mattered", shown);
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
  showMattered(true);
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
    const response = await call("metrics");
    if (!response.ok) throw new Error(response.statusText);
    const text = await response.text();
    const now = {
      at: performance.now(),
      count: total(text, "planish_request_seconds_count"),
      seconds: total(text, "planish_request_seconds_sum"),
    };
    $("queued").textContent = total(text, "planish_queued_images");
    $("total").textContent = now.count;
    const drifted = [...text.matchAll(/^planish_drift\{.*of="([^"]+)".*\} 1\.0$/gm)].map((found) => found[1]);
    const compared = total(text, "planish_drift_compared_images");
    const without = compared ? `none in ${compared} images compared` : "nothing compared yet";
    $("drift").textContent = [...new Set(drifted)].join(", ") || without;
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
/** Phones have a camera application; elsewhere the picture is shown here. */
async function openCamera() {
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices) return $("camera").click();
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    $("viewfinder").hidden = false;
    $("take").focus();
  } catch (error) {
    say(paragraph(`The camera cannot be used: ${error.message}.`, "error"));
  }
}

function closeCamera() {
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
  $("viewfinder").hidden = true;
  $("photo").focus();
}

function takePhoto() {
  const video = $("video");
  if (!video.videoWidth) return; // no picture yet
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => ask(new File([blob], "photo.jpg")), "image/jpeg", 0.95);
  closeCamera();
}

$("photo").addEventListener("click", openCamera);
$("take").addEventListener("click", takePhoto);
$("leave").addEventListener("click", closeCamera);
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  await listModels();
  await ask(last);
});
$("why").addEventListener("change", () => ask(last));
$("model").addEventListener("change", () => {
  showOptions();
  ask(last);
});
$("threshold").addEventListener("input", () => ($("threshold-shown").textContent = percent($("threshold").value / 100, 0)));
$("threshold").addEventListener("change", () => ask(last));
const drop = $("drop");
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") ask(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => ask([...event.clipboardData.files].find((f) => f.type.startsWith("image/"))));
const listed = listModels().catch(() => say(paragraph("The service does not answer.", "error")));
watch();
setInterval(watch, WATCH_MS);
