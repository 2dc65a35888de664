"use strict";
const $ = id => document.getElementById(id);
let images = [], classes = [], decisions = {}, tiles = new Map(), undoStack = [], current = null, outline = true;

function classOf(row) {
  return decisions[row.name] ? decisions[row.name].class : row.class;
}

function kept(row) {
  const made = decisions[row.name];
  if (!made) return row.kept;
  return made.decision !== "reject";
}

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

async function ask(path, body) {
  const options = body ? {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)} : {};
  const answer = await fetch(path, options);
  const value = await answer.json().catch(() => ({error: "the server answers with status " + answer.status}));
  if (!answer.ok) throw new Error(value.error || "the server answers with status " + answer.status);
  return value;
}

function describe(row) {
  const made = decisions[row.name];
  const state = !made ? (row.kept ? "kept" : row.reason || "left out")
    : made.decision === "move" ? "moved to " + classes[made.class] : made.decision === "keep" ? "kept by you" : "left out by you";
  return (row.score === null ? "" : row.score.toFixed(2) + " ") + (row.corrected ? "corrected, " : "") + state;
}

function makeTile(row) {
  const tile = document.createElement("button");
  tile.className = "tile";
  tile.dataset.name = row.name;
  const picture = document.createElement("img");
  picture.loading = "lazy";
  picture.alt = "";
  picture.src = "thumbnail/" + encodeURIComponent(row.name);
  tile.append(picture, document.createElement("span"));
  tile.addEventListener("click", () => decide(row, kept(row) ? "reject" : "keep"));
  tile.addEventListener("focus", () => { current = row; });
  tiles.set(row.name, tile);
  return tile;
}

function paint(row) {
  const tile = tiles.get(row.name), made = decisions[row.name];
  tile.className = "tile" + (made ? " " + made.decision : "");
  tile.lastChild.textContent = describe(row);
  tile.title = row.name + ": " + describe(row);
  tile.setAttribute("aria-label", row.name + ", " + classes[classOf(row)] + ", " + describe(row));
}

function shown() {
  const label = Number($("class").value), reason = $("reason").value, sign = $("order").value === "low" ? 1 : -1;
  return images.filter(row => classOf(row) === label && (!reason || row.reason === reason))
    .sort((a, b) => sign * ((a.score ?? -1) - (b.score ?? -1)) || (a.name < b.name ? -1 : 1));
}

function render() {
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.name : null;
  const groups = {kept: [], left: []};
  for (const row of shown()) {
    const tile = tiles.get(row.name) || makeTile(row);
    paint(row);
    groups[kept(row) ? "kept" : "left"].push(tile);
  }
  for (const [id, own] of Object.entries(groups)) {
    $(id).replaceChildren(...own);
    $(id + "-count").textContent = own.length;
  }
  $("undo").disabled = !undoStack.length;
  if (focused && tiles.get(focused).isConnected) tiles.get(focused).focus();
}

async function store(row, decision, target) {
  const answer = await ask("decide", {name: row.name, decision, class: target});
  if (answer.decision === "automatic") delete decisions[row.name];
  else decisions[row.name] = answer;
}

async function decide(row, decision, target = null) {
  const order = visible(), place = order.indexOf(row);
  const before = decisions[row.name] ? {...decisions[row.name]} : {decision: "automatic", class: row.class};
  try {
    await store(row, decision, target);
    undoStack.push({row, before});
    say(row.name + ": " + describe(row));
  } catch (error) {
    say(error.message, true);
  }
  render();
  if (current !== row) return;
  const next = order[place + 1] || order[place - 1] || row;
  if ($("large").open) show(next);
  else if (tiles.get(next.name).isConnected) tiles.get(next.name).focus();
}

async function undo() {
  const last = undoStack.pop();
  if (!last) return;
  try {
    await store(last.row, last.before.decision, last.before.decision === "move" ? last.before.class : null);
    say(last.row.name + ": undone, " + describe(last.row));
  } catch (error) {
    say(error.message, true);
  }
  $("class").value = String(classOf(last.row));
  render();
  if ($("large").open) show(last.row);
  else if (tiles.has(last.row.name) && tiles.get(last.row.name).isConnected) tiles.get(last.row.name).focus();
}

function visible() {
  const rows = new Map(images.map(row => [row.name, row]));
  return [...document.querySelectorAll(".tile")].map(tile => rows.get(tile.dataset.name));
}

function show(row) {
  current = row;
  $("large-image").src = "view/" + encodeURIComponent(row.name) + (outline ? "" : "?outline=0");
  $("large-image").alt = row.name;
  $("large-text").textContent = row.name + ", " + classes[classOf(row)] + ": " + describe(row);
  if (!$("large").open) $("large").showModal();
}

function step(by) {
  const order = visible();
  if (!order.length) return;
  const place = order.indexOf(current);
  const next = order[place < 0 ? 0 : Math.min(Math.max(place + by, 0), order.length - 1)];
  if ($("large").open) show(next);
  else tiles.get(next.name).focus();
}

function columns() {
  const tile = document.querySelector(".tile");
  return tile ? getComputedStyle(tile.parentElement).gridTemplateColumns.split(" ").length : 1;
}

function openMove() {
  $("target").replaceChildren(...classes.slice(1).map((name, place) => new Option(name, place + 1))
    .filter(option => Number(option.value) !== current.class));
  $("move").returnValue = "";
  $("move").showModal();
}

$("move").addEventListener("close", () => {
  if ($("move").returnValue === "move") decide(current, "move", Number($("target").value));
});

const acts = {
  keep: () => decide(current, "keep"), reject: () => decide(current, "reject"), automatic: () => decide(current, "automatic"),
  move: openMove, outline: () => { outline = !outline; if ($("large").open) show(current); }, previous: () => step(-1), next: () => step(1),
  close: () => { $("large").close(); if (current && tiles.get(current.name).isConnected) tiles.get(current.name).focus(); },
};

document.querySelectorAll("[data-act]").forEach(button => button.addEventListener("click", () => acts[button.dataset.act]()));
$("undo").addEventListener("click", undo);
for (const id of ["class", "order"]) $(id).addEventListener("change", () => { current = null; render(); });
$("reason").addEventListener("change", render);

document.addEventListener("keydown", event => {
  if (event.ctrlKey && event.key === "z") { event.preventDefault(); undo(); return; }
  if (event.ctrlKey || event.altKey || event.metaKey || $("move").open || event.target.tagName === "SELECT") return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const free = {u: undo, ArrowRight: () => step(1), ArrowLeft: () => step(-1),
    ArrowDown: () => step($("large").open ? 1 : columns()), ArrowUp: () => step(-($("large").open ? 1 : columns()))};
  const own = {k: acts.keep, r: acts.reject, a: acts.automatic, o: acts.outline, m: acts.move, Enter: () => show(current)};
  const act = free[key] || (current && own[key]);
  if (!act || (key === "Enter" && !(event.target.classList && event.target.classList.contains("tile")))) return;
  event.preventDefault();
  act();
});

async function refresh() {
  try {
    const now = await ask("changes");
    if (JSON.stringify(now) !== JSON.stringify(decisions)) { decisions = now; render(); }
  } catch (error) { /* the server has ended; a decision would say so */ }
}

async function start() {
  const all = await ask("images");
  ({classes, images, decisions} = all);
  const counts = new Map();
  images.forEach(row => counts.set(row.class, (counts.get(row.class) || 0) + 1));
  $("class").replaceChildren(...classes.map((name, place) => [name, place]).slice(1)
    .filter(([, place]) => counts.has(place)).map(([name, place]) => new Option(name + " (" + counts.get(place) + ")", place)));
  const reasons = [...new Set(images.map(row => row.reason).filter(Boolean))].sort();
  $("reason").append(...reasons.map(text => new Option(text, text)));
  render();
  setInterval(refresh, 2000);
}

start().catch(error => say(error.message, true));
