"use strict";
const $ = (id) => document.getElementById(id);
// What was found, and where: boxes, masks and maps over the image, and a list of it all beside.

// the colours of the report's pictures: people with any kind of colour vision tell the first ones apart (M. Okabe and K. Ito, 2008)
const PALETTE = [
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167], [150, 150, 150],
  [255, 200, 90], [150, 215, 255], [90, 210, 175], [160, 150, 30], [90, 160, 220], [255, 150, 80], [235, 170, 205], [220, 220, 220],
];
const BACKGROUND = /^_*(background|void|nothing|other)_*$/i; // such a class stays clear
const SIDE = 1200; // pixels of the longer side of what is painted
const CROWDED = 12; // objects, above which the boxes bear only numbers
const LINES = 6; // by which a name may move down from its box
const EDGED = 200; // pixels of the shorter side, below which masks have no edge
const VEIL = { usual: 120, chosen: 150, other: 40 }; // how much a mask covers, of 255

let places = null; // what is shown now: things, the size of the canvas, which one is chosen

/** Show the things of an answer, and return what to say of them: the summary, then the list. */
function showPlaces(said, classes) {
  const objects = said.objects ?? said.regions;
  const scale = Math.min(1, SIDE / Math.max(said.width, said.height));
  const [width, height] = [said.width, said.height].map((side) => Math.max(1, Math.round(side * scale)));
  const things = objects.map((object, index) => ({
    ...object,
    number: index + 1,
    colour: PALETTE[Math.max(0, classes.indexOf(object.class)) % PALETTE.length],
    clear: !object.box && BACKGROUND.test(object.class),
    segments: object.mask ? segmentsOf(object.mask, width, height) : null,
  }));
  places = { things, width, height, kept: null, pointed: null };
  const boxes = things.filter((thing) => thing.box).map(boxOf).reverse(); // the surest above the others
  $("boxes").replaceChildren(...boxes.map((box) => box[0]), ...boxes.map((box) => box[1]));
  const list = document.createElement("ol");
  list.className = "things";
  list.setAttribute("aria-label", "what was found");
  list.append(...things.map(said.objects ? objectItem : regionItem));
  $("overlay-choice").hidden = !things.length;
  paint();
  spread();
  return [said.objects ? summaryOfObjects(things) : summaryOfRegions(things), list];
}

function hidePlaces() {
  places = null;
  $("boxes").replaceChildren();
  $("masks").hidden = $("overlay-choice").hidden = true;
}

/** Vertical runs of a mask, as triples of column, first row and row behind the last, in pixels of a canvas that is no larger. */
function segmentsOf({ size: [rows, columns], counts }, width, height) {
  const columnOf = new Int32Array(columns).fill(-1); // of the canvas; not each of the image's is painted
  for (let x = 0; x < width; x++) columnOf[Math.min(columns - 1, Math.floor(((x + 0.5) * columns) / width))] = x;
  const rowOf = (row) => Math.min(height, Math.max(0, Math.ceil((row * height) / rows - 0.5)));
  const segments = [];
  let place = 0;
  runsOf(counts).forEach((length, index) => {
    const end = place + length;
    if (index % 2)
      for (let column = Math.floor(place / rows); column * rows < end; column++) {
        const [first, last] = [rowOf(Math.max(place - column * rows, 0)), rowOf(Math.min(end - column * rows, rows))];
        if (columnOf[column] >= 0 && last > first) segments.push(columnOf[column], first, last);
      }
    place = end;
  });
  return segments;
}

/** COCO's compressed run lengths: five bits a letter, from the fourth number on the difference from the one before the last. */
function runsOf(counts) {
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let [value, shift, letter] = [0, 0, 0];
    do {
      letter = counts.charCodeAt(at++) - 48;
      value += (letter & 31) * 2 ** shift;
      shift += 5;
    } while (letter & 32);
    if (letter & 16) value -= 2 ** shift;
    runs.push(runs.length > 2 ? value + runs.at(-2) : value);
  }
  return runs;
}

/** Masks, and which box stands out. */
function paint() {
  const { things, width, height, kept, pointed } = places;
  const chosen = pointed ?? kept;
  const shown = $("overlay").checked;
  $("boxes").hidden = !shown;
  for (const thing of things) {
    for (const element of thing.elements ?? []) {
      element.classList.toggle("chosen", thing === chosen);
      element.classList.toggle("other", chosen !== null && thing !== chosen);
    }
    thing.button.setAttribute("aria-pressed", String(thing === kept));
  }
  const canvas = $("masks");
  canvas.hidden = !shown || !things.some((thing) => thing.segments);
  if (canvas.hidden) return;
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const owners = new Uint16Array(width * height); // number of the thing that a pixel is of
  const order = [...things].reverse(); // the surest lies above the others, what is chosen above all
  if (chosen) order.push(chosen);
  for (const { segments, clear, number } of order) {
    if (!segments || (clear && number !== chosen?.number)) continue;
    for (let i = 0; i < segments.length; i += 3)
      for (let row = segments[i + 1]; row < segments[i + 2]; row++) owners[row * width + segments[i]] = number;
  }
  const image = context.createImageData(width, height);
  const pixels = new DataView(image.data.buffer);
  const edged = Math.min(width, height) >= EDGED;
  owners.forEach((number, place) => {
    if (!number) return;
    const thing = things[number - 1];
    const edge = edged && [1, -1, width, -width].some((step) => owners[place + step] !== number);
    const cover = chosen === null ? VEIL.usual : thing === chosen ? VEIL.chosen : VEIL.other;
    const [red, green, blue] = thing.colour;
    pixels.setUint32(4 * place, ((red << 24) | (green << 16) | (blue << 8) | (edge ? Math.min(255, 2 * cover) : cover)) >>> 0);
  });
  context.putImageData(image, 0, 0);
}

/** A frame in the image, and its name, which stays within the image. */
function boxOf(thing) {
  const [left, top, right, bottom] = thing.shares;
  const frame = text("div", "", "box");
  placed(frame, { left, top, width: right - left, height: bottom - top });
  frame.style.borderColor = css(thing.colour);
  const said = places.things.length > CROWDED ? thing.number : `${thing.number} ${thing.class} ${percent(thing.confidence, 0)}`;
  const tag = text("span", said, "tag");
  placed(tag, top < 0.08 ? { top } : { bottom: 1 - top });
  placed(tag, left > 0.6 ? { right: 1 - right, maxWidth: right } : { left, maxWidth: 1 - left });
  colourTag(tag, thing.colour);
  thing.elements = [frame, tag];
  return thing.elements;
}

/** Names that would lie on those of surer things move down, line by line. */
function spread() {
  const taken = [];
  for (const { elements } of places?.things.filter((thing) => thing.elements) ?? []) {
    const tag = elements[1];
    tag.style.transform = "";
    const { left, right, top, bottom } = tag.getBoundingClientRect();
    const hit = (lines) =>
      taken.some((one) => one.left < right && left < one.right && one.top < bottom + lines * (bottom - top) - 1 && one.bottom > top + lines * (bottom - top) + 1);
    let lines = 0;
    while (lines < LINES && hit(lines)) lines++;
    if (lines === LINES) lines = 0;
    tag.style.transform = `translateY(${100 * lines}%)`;
    taken.push({ left, right, top: top + lines * (bottom - top), bottom: bottom + lines * (bottom - top) });
  }
}

function placed(element, sides) {
  for (const [side, share] of Object.entries(sides)) element.style[side] = `${100 * share}%`;
}

function objectItem(thing) {
  const [left, top, right, bottom] = thing.box;
  const where = placeInWords(thing.shares);
  return item(thing, thing.number, percent(thing.confidence), `${where}, ${Math.round(right - left)} × ${Math.round(bottom - top)} pixels`);
}

function regionItem(thing) {
  return item(thing, "", percent(thing.share), `${percent(thing.confidence)} sure`, thing.share);
}

/** A line of the list: a button, by which its thing stands out in the image. */
function item(thing, number, value, more, share) {
  const button = (thing.button = document.createElement("button"));
  button.type = "button";
  button.className = "thing";
  const swatch = text("span", number, "swatch");
  if (thing.clear) swatch.classList.add("clear");
  else colourTag(swatch, thing.colour);
  button.append(swatch, text("span", thing.class, "name"), text("span", value, "value"));
  if (share !== undefined) button.append(track(share));
  button.append(text("span", more, "more quiet"));
  const point = (pointed) => () => places?.things.includes(thing) && ((places.pointed = pointed), paint());
  for (const event of ["mouseenter", "focus"]) button.addEventListener(event, point(thing));
  for (const event of ["mouseleave", "blur"]) button.addEventListener(event, point(null));
  button.addEventListener("click", () => {
    places.kept = places.kept === thing ? null : thing;
    paint();
  });
  const line = document.createElement("li");
  line.append(button);
  return line;
}

function summaryOfObjects(things) {
  const counts = new Map();
  for (const thing of things) counts.set(thing.class, (counts.get(thing.class) ?? 0) + 1);
  const words = [...counts].map(([name, count]) => `${count} ${name}`).join(", ");
  return paragraph(things.length ? `Found: ${words}.` : "Nothing was found of which the model is so sure.", "summary");
}

function summaryOfRegions(things) {
  return paragraph(things.map((thing) => `${thing.class} ${percent(thing.share, 0)}`).slice(0, 3).join(", ") + " of the image.", "summary");
}

function placeInWords([left, top, right, bottom]) {
  const third = (middle, words) => words[Math.min(2, Math.floor(3 * middle))];
  const across = third((left + right) / 2, ["left", "", "right"]);
  const down = third((top + bottom) / 2, ["upper", "", "lower"]);
  return [down, across].filter(Boolean).join(" ") || "middle";
}

function text(kind, content, className) {
  const element = document.createElement(kind);
  element.textContent = content;
  element.className = className;
  return element;
}

function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}

function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/** Black or white on a colour, whichever is read more easily. */
function colourTag(element, colour) {
  const [red, green, blue] = colour.map((value) => (value / 255) ** 2.2);
  element.style.background = css(colour);
  element.style.color = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#000" : "#fff";
}

new ResizeObserver(spread).observe($("boxes"));
$("overlay").addEventListener("change", () => places && paint());
