const $ = (id) => document.getElementById(id);
const slides = JSON.parse($("data").textContent).slides;
const STEPS = 65535;
// What the page shows, from the template: slides with counts have a truth, new ones have verdicts.
const PANELS = [...document.querySelectorAll("canvas")].map((canvas) => canvas.id);
// Stops of viridis, of a diverging blue-white-red and of cividis: even in lightness, safe for all.
const MAPS = {
  level: ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"],
  difference: ["2166ac", "67a9cf", "d1e5f0", "f7f7f7", "fddbc7", "ef8a62", "b2182b"],
  spread: ["00224e", "35456c", "666970", "948e77", "c8b866", "fee838"],
  verdict: ["0072b2", "d55e00"],
};
const VERDICTS = ["like training", "unlike training"];
const view = { x: 0, y: 0, zoom: 1 };
let slide, values, spot = -1, image = new Image();

// --- values --------------------------------------------------------------------------------------

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** All genes of one packed panel, gene by gene, in steps. */
const unpack = (text) => {
  const raw = new DataView(bytes(text).buffer);
  return Uint16Array.from({ length: raw.byteLength / 2 }, (_, i) => raw.getUint16(2 * i, true));
};

const gene = () => Number($("gene").value);
const method = () => slide.methods[Number($("method").value)];

/** Values of the chosen gene for every spot, or null where the panel has none. */
const levels = (steps, low, high) => {
  if (!steps) return null;
  const n = slide.spots.length, g = gene(), span = high[g] > low[g] ? high[g] - low[g] : 1;
  return Array.from(steps.subarray(g * n, (g + 1) * n), (s) => low[g] + (s / STEPS) * span);
};

function recompute() {
  const chosen = method(), packed = (text) => (text ? (slide.cache[text.slice(0, 64) + text.length] ??= unpack(text)) : null);
  const truth = levels(packed(slide.truth), slide.low, slide.high);
  const prediction = levels(packed(chosen[$("kind").value]), slide.low, slide.high);
  const spread = levels(packed(chosen.spread), slide.top.map(() => 0), slide.top);
  const difference = truth && prediction.map((p, i) => p - truth[i]);
  values = { truth, prediction, spread, difference, verdict: slide.unlike };
}

// --- colours -------------------------------------------------------------------------------------

const mix = (stops, share) => {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(place), stops.length - 2);
  const part = (hex, k) => parseInt(hex.slice(2 * k, 2 * k + 2), 16);
  return `rgb(${[0, 1, 2].map((k) => Math.round(part(stops[i], k) + (place - i) * (part(stops[i + 1], k) - part(stops[i], k)))).join()})`;
};

/** Range and colours of a panel. */
function scale(panel) {
  const g = gene(), [low, high] = slide.ends[g];
  if (panel === "difference") return { low: low - high, high: high - low, stops: MAPS.difference };
  if (panel === "verdict") return { low: 0, high: 1, stops: MAPS.verdict };
  if (panel === "spread") return { low: 0, high: Math.max(slide.top[g], 1e-9), stops: MAPS.spread };
  return { low, high, stops: MAPS.level };
}

// --- drawing -------------------------------------------------------------------------------------

/** Micrometres shown at the left and top edge, and pixels per micrometre, of a canvas. */
function frame(canvas) {
  const { left, top, width } = slide.bounds, scale = (canvas.width / width) * view.zoom;
  return { left: left + view.x, top: top + view.y, scale };
}

function draw() {
  if (!slide) return;
  for (const panel of PANELS) drawPanel(panel, $(panel));
  readout();
}

function drawPanel(panel, canvas) {
  const ratio = devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  canvas.classList.toggle("zoomed", view.zoom > 1);
  const pen = canvas.getContext("2d"), at = frame(canvas);
  const [l, r, b, t] = slide.extent;
  pen.globalAlpha = panel === "image" ? 1 : 0.25;
  if (image.complete && image.naturalWidth) {
    pen.drawImage(image, (l - at.left) * at.scale, (t - at.top) * at.scale, (r - l) * at.scale, (b - t) * at.scale);
  }
  pen.globalAlpha = 1;
  const shown = values[panel];
  const bar = document.querySelector(`.scale[data-of="${panel}"]`);
  bar.hidden = !shown;
  if (shown) {
    const { low, high, stops } = scale(panel), radius = Math.max((slide.diameter / 2) * at.scale, ratio);
    pen.strokeStyle = "#00000055";
    pen.lineWidth = ratio / 2;
    const colours = Array.from({ length: 256 }, (_, step) => mix(stops, step / 255));
    slide.position.forEach(([x, y], i) => {
      const share = Math.min(Math.max((shown[i] - low) / (high - low), 0), 1);
      const [px, py] = [(x - at.left) * at.scale, (y - at.top) * at.scale];
      if (px < -radius || py < -radius || px > canvas.width + radius || py > canvas.height + radius) return;
      pen.fillStyle = colours[Math.round(255 * share)];
      if (radius < 2 * ratio) { // too small to be told from a square, which is drawn much faster
        pen.fillRect(px - radius, py - radius, 2 * radius, 2 * radius);
        return;
      }
      pen.beginPath();
      pen.arc(px, py, radius, 0, 7);
      pen.fill();
      pen.stroke();
    });
    const [first, middle, last] = bar.children;
    const names = panel === "verdict" ? VERDICTS : [low.toFixed(2), high.toFixed(2)], edge = panel === "verdict" ? " 50%" : "";
    [first.textContent, last.textContent] = names;
    middle.style.background = `linear-gradient(90deg, ${stops.map((s) => `#${s}${edge}`).join()})`;
  } else if (panel === "spread") {
    pen.fillStyle = "#444";
    pen.font = `${13 * ratio}px system-ui, sans-serif`;
    pen.fillText("one prediction only", 12 * ratio, 24 * ratio);
  }
  if (spot >= 0) ring(pen, at, panel);
  if (panel === "image") scaleBar(pen, canvas, at, ratio);
}

function ring(pen, at) {
  const [x, y] = slide.position[spot], radius = Math.max((slide.diameter / 2) * at.scale, 4) + 2;
  for (const [colour, width] of [["#fff", 4], ["#000", 2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    pen.arc((x - at.left) * at.scale, (y - at.top) * at.scale, radius, 0, 7);
    pen.stroke();
  }
}

function scaleBar(pen, canvas, at, ratio) {
  const wanted = canvas.width / at.scale / 5;
  const length = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000].reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
  const x = 10 * ratio, y = canvas.height - 10 * ratio, text = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
  pen.font = `${12 * ratio}px system-ui, sans-serif`;
  pen.fillStyle = "#ffffffcc";
  pen.fillRect(x - 4 * ratio, y - 20 * ratio, Math.max(length * at.scale, pen.measureText(text).width) + 8 * ratio, 26 * ratio);
  pen.fillStyle = "#000";
  pen.fillRect(x, y, length * at.scale, 3 * ratio);
  pen.fillText(text, x, y - 5 * ratio);
}

// --- words ---------------------------------------------------------------------------------------

function correlation(a, b) {
  const mean = (v) => v.reduce((s, x) => s + x, 0) / v.length, ma = mean(a), mb = mean(b);
  const sum = (f) => a.reduce((s, _, i) => s + f(a[i] - ma, b[i] - mb), 0);
  const scale = Math.sqrt(sum((x) => x * x) * sum((_, y) => y * y));
  return scale > 1e-12 ? sum((x, y) => x * y) / scale : NaN;
}

function readout() {
  const name = slide.genes[gene()], among = `over ${slide.spots.length} spots (${slide.unit})`;
  let whole = `${name}, ${method().name}: `;
  if (values.truth) {
    const r = correlation(values.truth, values.prediction);
    whole += `r = ${Number.isFinite(r) ? r.toFixed(2) : "undefined"} ${among}.`;
  } else {
    const mean = values.prediction.reduce((sum, x) => sum + x, 0) / values.prediction.length;
    whole += `mean ${mean.toFixed(2)} ${among}; ${slide.notes[gene()]}.`;
  }
  const at = (panel) => {
    if (panel === "verdict") return `${VERDICTS[values.verdict[spot]]}`;
    return `${panel} ${values[panel] ? values[panel][spot].toFixed(2) : "–"}`;
  };
  const here = spot < 0 ? " Point at a spot to read it." : ` Spot ${slide.spots[spot]}: ${PANELS.filter((p) => p !== "image").map(at).join(", ")}.`;
  $("readout").textContent = whole + here;
}

// --- choices -------------------------------------------------------------------------------------

function fill(select, names, kept) {
  select.replaceChildren(...names.map(([value, text]) => new Option(text, value)));
  // A menu that leaves no choice is hidden, unless it says what is shown.
  select.parentElement.hidden = names.length < 2 && ["method", "kind"].includes(select.id);
  const found = names.find(([, text]) => text === kept);
  if (found) select.value = found[0];
}

const chosenText = (id) => $(id).selectedOptions[0]?.text;

/** What the page says of a slide: its data, or the file beside the page that holds them. */
const load = (entry) => (entry.source ? loadFile(entry) : Promise.resolve(entry));

/** A script may be loaded from a folder on disk, which `fetch` may not. One slide is kept at a time. */
const loadFile = (entry) => new Promise((done, fail) => {
  const script = document.createElement("script");
  let found;
  window.receive = (data) => { found = data; };
  script.onload = () => { script.remove(); found ? done(found) : fail(new Error()); };
  script.onerror = () => { script.remove(); fail(new Error()); };
  script.src = entry.source;
  document.head.append(script);
});

async function choose() {
  const wanted = $("slide").value, entry = slides[Number(wanted)];
  let found;
  try {
    found = await load(entry);
  } catch {
    $("about").textContent = `${entry.source} cannot be read: the folders of the slides must lie beside this page, as they were made.`;
    return;
  }
  if (wanted === $("slide").value) take(found); // a later choice may have been quicker
}

function take(found) {
  slide = found;
  slide.cache ??= {};
  $("about").textContent = slide.about ?? "";
  const margin = 2.5 * slide.diameter, xs = slide.position.map((p) => p[0]), ys = slide.position.map((p) => p[1]);
  const left = Math.min(...xs) - margin, top = Math.min(...ys) - margin;
  slide.bounds = { left, top, width: Math.max(...xs) + margin - left, height: Math.max(...ys) + margin - top };
  document.body.style.setProperty("--shape", slide.bounds.width / slide.bounds.height);
  fill($("gene"), slide.genes.map((name, i) => [i, name]), chosenText("gene"));
  fill($("method"), slide.methods.map((m, i) => [i, m.name]), chosenText("method"));
  image = new Image();
  image.onload = draw;
  image.src = slide.image;
  spot = -1;
  Object.assign(view, { x: 0, y: 0, zoom: 1 });
  kinds();
}

function kinds() {
  const names = { point: "point estimate", draw: "one draw" };
  fill($("kind"), Object.keys(names).filter((k) => method()[k]).map((k) => [k, names[k]]), chosenText("kind"));
  refresh();
}

function refresh() {
  recompute();
  draw();
}

const step = (id, by) => {
  const select = $(id), many = select.options.length;
  select.selectedIndex = (select.selectedIndex + by + many) % many;
  select.dispatchEvent(new Event("change"));
};

// --- moving --------------------------------------------------------------------------------------

function zoom(by, x = slide.bounds.width / 2, y = slide.bounds.height / 2) {
  const before = view.zoom;
  view.zoom = Math.min(Math.max(before * by, 1), 20);
  // The place under the pointer stays there.
  move(x / before - x / view.zoom, y / before - y / view.zoom);
}

function move(dx, dy) {
  const { width, height } = slide.bounds, room = (size) => size - size / view.zoom;
  view.x = Math.min(Math.max(view.x + dx, 0), room(width));
  view.y = Math.min(Math.max(view.y + dy, 0), room(height));
  draw();
}

/** Micrometres from the left and top edge of the whole frame, as if not zoomed. */
function place(canvas, event) {
  const box = canvas.getBoundingClientRect(), unit = slide.bounds.width / box.width;
  return [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
}

function pick(canvas, event) {
  const [px, py] = place(canvas, event), { left, top } = slide.bounds;
  const x = left + view.x + px / view.zoom, y = top + view.y + py / view.zoom;
  let best = -1, least = slide.diameter * 1.2;
  slide.position.forEach(([sx, sy], i) => {
    const far = Math.hypot(sx - x, sy - y);
    if (far < least) [best, least] = [i, far];
  });
  if (best !== spot) { spot = best; draw(); }
}

/** The nearest spot within 45 degrees of a direction. */
function walk(dx, dy) {
  if (spot < 0) { spot = 0; return show(); }
  const [x, y] = slide.position[spot];
  let best = spot, least = Infinity;
  slide.position.forEach(([sx, sy], i) => {
    const along = (sx - x) * dx + (sy - y) * dy, across = Math.abs((sx - x) * dy) + Math.abs((sy - y) * dx);
    if (along > 0 && across <= along && along + 2 * across < least) [best, least] = [i, along + 2 * across];
  });
  spot = best;
  show();
}

/** Bring the chosen spot into the frame. */
function show() {
  const { left, top, width, height } = slide.bounds, [x, y] = slide.position[spot];
  const shift = (at, from, size) => (at < from || at > from + size ? at - from - size / 2 : 0);
  move(shift(x - left, view.x, width / view.zoom), shift(y - top, view.y, height / view.zoom));
}

const fingers = new Map();

function gestures(canvas) {
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
    pick(canvas, event);
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last) return pick(canvas, event);
    const other = [...fingers.values()].find((f) => f.pointerId !== event.pointerId);
    const apart = (f) => Math.hypot(f.clientX - other.clientX, f.clientY - other.clientY);
    if (other) zoom(apart(event) / Math.max(apart(last), 1), ...place(canvas, other));
    else if (view.zoom > 1) {
      const unit = slide.bounds.width / canvas.getBoundingClientRect().width / view.zoom;
      move((last.clientX - event.clientX) * unit, (last.clientY - event.clientY) * unit);
    }
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => { if (!fingers.size && document.activeElement !== canvas) { spot = -1; draw(); } });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...place(canvas, event));
  }, { passive: false });
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = {
  "[": () => step("gene", -1), "]": () => step("gene", 1), m: () => step("method", 1), d: () => step("kind", 1),
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const arrow = event.target.tagName === "CANVAS" && ARROWS[event.key];
  if (!arrow && !KEYS[event.key]) return;
  event.preventDefault();
  if (arrow) walk(...arrow); else KEYS[event.key]();
});

// --- start ---------------------------------------------------------------------------------------

fill($("slide"), slides.map((s, i) => [i, s.label]));
$("slide").addEventListener("change", choose);
$("method").addEventListener("change", kinds);
for (const id of ["gene", "kind"]) $(id).addEventListener("change", refresh);
$("in").addEventListener("click", () => zoom(1.5));
$("out").addEventListener("click", () => zoom(1 / 1.5));
$("whole").addEventListener("click", () => zoom(0));
for (const panel of PANELS) gestures($(panel));
$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = dark === "dark" ? "light" : "dark";
});
new ResizeObserver(() => draw()).observe($("panels"));
choose();
