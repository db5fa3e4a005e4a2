// The page: the picture at hand, its points, and what buttons and keys do.
let chosen = null; // the name of a point
let current = null; // the name of the picture that is, or will be, shown
let drag = null; // what the pointer holds
const STILL = 4; // CSS pixels that the pointer may move in a click
const times = {click: null, saved: null}; // ms, for tests

async function start() {
  if (typeof WebAssembly !== "object") part("webassembly").hidden = false;
  const found = await load();
  showResults(found);
  chosen = annotation.points[0] || null;
  say(countDone() ? "The points of the last time are here again." : annotation.points.length
    ? "Click the first point into the picture." : "Name the points first: such as nose, left ear, right ear.");
  await open(facts.pictures.find(name => !isDone(name)) || facts.pictures[0]);
}

// Show a picture; its first open point is chosen.
async function open(name) {
  if (!name) return;
  current = name;
  try {
    const next = await fetchPicture(name);
    if (current !== name) return; // another one was asked for meanwhile
    shown = next;
  } catch (error) {
    shown = null;
    view.getContext("2d").clearRect(0, 0, view.width, view.height);
    say(error.message, true);
    return show();
  }
  suggestions = {};
  chosen = openPoint() || annotation.points[0] || null;
  fitCanvas();
  show();
  suggest(name);
}

async function suggest(name) {
  if (!part("suggesting").checked || isDone(name) || !facts.pictures.some(one => one !== name && isDone(one))) return;
  try {
    const found = await ask(`suggest?name=${encodeURIComponent(name)}`);
    if (current === name) suggestions = found;
  } catch (error) {
    say(error.message, true);
  }
  show();
}

const openPoint = () => annotation.points.find(point => !(point in marksOf(current)));

function show() {
  const done = countDone();
  part("done-text").textContent = `${done} of ${Math.max(facts.goal, done)} annotated`;
  part("done").max = Math.max(facts.goal, done);
  part("done").value = done;
  showPictures();
  showPoints();
  const guesses = Object.keys(suggestions).filter(point => annotation.points.includes(point) && !(point in marksOf(current)));
  part("accept").disabled = !guesses.length;
  part("undo").disabled = !past.length;
  for (const id of ["hide", "clear"]) part(id).disabled = !chosen || !shown;
  part("box").textContent = annotation.boxes[current] ? "Remove box" : "Add box";
  part("where").textContent = whereText(guesses.length);
  if (!shown) return;
  view.setAttribute("aria-label", `${shown.name}, ${shown.width} by ${shown.height} pixels: click to place ` +
    `${chosen || "a point"}, move it by arrow keys`);
  draw();
}

function whereText(guesses) {
  if (!shown) return "";
  if (!chosen) return "No point yet: add one.";
  const place = marksOf(current)[chosen], guess = suggestions[chosen];
  const more = guesses ? ` ${guesses} suggested; Enter accepts one, A all.` : "";
  if (place) return `${chosen}: ${place[0].toFixed(1)}, ${place[1].toFixed(1)} px.${more}`;
  if (place === null) return `${chosen}: not seen in this picture.${more}`;
  if (guess) return `${chosen}: suggested by a detector of the ${guess.pictures} pictures done that show it.${more}`;
  return `${chosen}: click it in the picture, or X where it is not seen.${more}`;
}

function showPictures() {
  const list = part("picture");
  if (list.options.length !== facts.pictures.length) {
    list.replaceChildren(...facts.pictures.map(name => new Option(name, name)));
  }
  facts.pictures.forEach((name, i) => {
    const text = `${isDone(name) ? "✓ " : isBegun(name) ? "… " : ""}${name}`;
    if (list.options[i].text !== text) list.options[i].text = text;
  });
  list.value = current;
  const more = facts.count - facts.pictures.length;
  list.title = more > 0 ? `${more} further pictures are not listed` : "";
}

function showPoints() {
  const marks = marksOf(current), had = document.activeElement && document.activeElement.dataset.key;
  part("points").replaceChildren(...annotation.points.map((point, index) => {
    const item = document.createElement("li");
    item.innerHTML = '<button type="button" class="choose"><i></i><span class="name"></span><small></small></button>' +
      '<button type="button" title="Rename">✎</button><button type="button" title="Delete">✕</button>';
    const [choose, rename, remove] = item.querySelectorAll("button");
    item.querySelector("i").style.background = colourOf(index);
    item.querySelector(".name").textContent = point;
    item.querySelector(".name").title = point;
    item.querySelector("small").textContent = marks[point] ? "✓" : marks[point] === null ? "not seen" : suggestions[point] ? "suggested" : "";
    choose.setAttribute("aria-pressed", point === chosen);
    rename.setAttribute("aria-label", `Rename ${point}`);
    remove.setAttribute("aria-label", `Delete ${point}`);
    [choose, rename, remove].forEach((button, i) => { button.dataset.key = `${index}-${i}`; });
    choose.onclick = () => { chosen = point; show(); };
    rename.onclick = () => renamePoint(point);
    remove.onclick = () => removePoint(point);
    return item;
  }));
  if (had) part("points").querySelector(`[data-key="${had}"]`)?.focus();
}

// After each change: show it, save it, and perhaps fit again. before: so many were annotated.
async function changed(before) {
  show();
  const begun = performance.now(), isMore = countDone() > before && countDone() > 1;
  await save();
  times.saved = performance.now() - begun;
  show(); // where it was refused, the points are those on the disk
  if (isMore && part("auto").checked && !part("start-fit").disabled) startFit(false);
}

function place(point, at, isStep = false) {
  const before = countDone();
  setMark(current, point, at);
  if (!isStep) chosen = openPoint() || point;
  changed(before);
}

function renamePoint(point) {
  const name = (prompt(`New name of ${point}:`, point) || "").trim();
  if (!name || name === point || isTaken(name, point)) return;
  setName(point, name, current);
  if (chosen === point) chosen = name;
  changed(countDone());
}

function removePoint(point) {
  const used = facts.pictures.filter(name => marksOf(name)[point]).length;
  if (used && !confirm(`Delete ${point}, which is placed in ${used} pictures?`)) return;
  setName(point, null, current);
  if (chosen === point) chosen = openPoint() || annotation.points[0] || null;
  changed(countDone());
}

// Two points of one name are refused; case, spaces and signs tell no names apart.
function isTaken(name, but = null) {
  const plain = text => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "") || text;
  const other = annotation.points.find(one => one !== but && plain(one) === plain(name));
  if (other) say(`There is a point ${other} already; give each point a name of its own.`, true);
  return Boolean(other);
}

function undo() {
  const last = past.pop();
  if (!last) return;
  annotation = last.annotation;
  if (!annotation.points.includes(chosen)) chosen = annotation.points[0] || null;
  changed(countDone());
  if (last.picture !== current) open(last.picture);
}

function accept(points) {
  const marks = {...marksOf(current)}, before = countDone();
  const taken = points.filter(point => suggestions[point] && annotation.points.includes(point) && !(point in marks));
  if (!taken.length) return;
  for (const point of taken) marks[point] = suggestions[point].place;
  change({marks: {...annotation.marks, [current]: marks}}, current);
  chosen = openPoint() || chosen;
  changed(before);
}

function toggleBox() {
  if (!shown) return;
  const {width, height} = shown, has = annotation.boxes[current];
  setBox(current, has ? null : [width * 0.1, height * 0.1, width * 0.9, height * 0.9]);
  changed(countDone());
}

function step(by) {
  const at = facts.pictures.indexOf(current), count = facts.pictures.length;
  open(facts.pictures[(at + by + count) % count]);
}

function nextOpen() {
  const at = facts.pictures.indexOf(current) + 1;
  const order = [...facts.pictures.slice(at), ...facts.pictures.slice(0, at)];
  open(order.find(name => !isDone(name)));
}

function choose(by) {
  const count = annotation.points.length, at = annotation.points.indexOf(chosen);
  if (count) chosen = annotation.points[(at + by + count) % count];
  show();
}

// A press beside another point places the chosen one where that is open; only a drag moves the other.
view.onpointerdown = event => {
  if (!shown || event.button) return;
  view.focus();
  view.setPointerCapture(event.pointerId);
  drag = {...grabbed(event), from: [event.clientX, event.clientY]};
};
view.onpointermove = event => {
  if (!shown || !drag) return;
  const far = Math.hypot(event.clientX - drag.from[0], event.clientY - drag.from[1]);
  if (far < STILL && !drag.isMoved) return;
  if (drag.point) {
    chosen = drag.point;
    setMark(current, drag.point, placeOf(event), drag.isMoved);
  } else if (drag.box) setBox(current, movedBox(drag, placeOf(event)), drag.isMoved);
  else return;
  drag.isMoved = true;
  show();
};
view.onpointerup = event => {
  const begun = performance.now(), held = drag;
  drag = null;
  if (!held || !shown) return;
  if (held.isMoved) changed(countDone());
  else if (held.point && held.point !== chosen && chosen in marksOf(current)) {
    chosen = held.point;
    show();
  } else if (chosen) place(chosen, placeOf(event));
  else say("Name a point first, then click it.", true);
  times.click = performance.now() - begun;
};
view.onpointercancel = () => {
  if (drag && drag.isMoved) changed(countDone());
  drag = null;
};

part("add").onsubmit = event => {
  event.preventDefault();
  const name = part("name").value.trim();
  if (!name || isTaken(name)) return;
  setName(null, name, current);
  chosen = chosen && !(chosen in marksOf(current)) ? chosen : name;
  part("name").value = "";
  changed(countDone());
};
part("previous").onclick = () => step(-1);
part("next").onclick = () => step(1);
part("picture").onchange = event => open(event.target.value);
part("hide").onclick = KEYS.x;
part("clear").onclick = KEYS.Delete;
part("undo").onclick = undo;
part("box").onclick = toggleBox;
part("accept").onclick = KEYS.a;
part("suggesting").onchange = () => { suggestions = {}; show(); suggest(current); };
part("start-fit").onclick = () => startFit(false);
part("start-curve").onclick = () => startFit(true);
part("cancel").onclick = () => order("cancel");
part("build").onclick = () => order("shards");
part("keep").onclick = async () => {
  try {
    say((await ask("regressor", {method: "POST"})).said);
  } catch (error) {
    say(error.message, true);
  }
};
window.onresize = () => {
  if (shown) { fitCanvas(); draw(); }
  showCurve(lastCurve);
};
start().catch(error => say(error.message, true));
