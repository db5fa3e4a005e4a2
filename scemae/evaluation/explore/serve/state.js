// The points of all pictures as the page has them: changes, undo, and saving after each.
const part = id => document.getElementById(id);
const facts = {pictures: [], count: 0, goal: 1}; // of the folder
// points: names. marks: by picture and name [x, y] in pixels of the upright picture, or null where
// it is not seen; no entry: open. boxes: by picture [x0, y0, x1, y1]. Never changed in place.
let annotation = {points: [], marks: {}, boxes: {}};
let version = 0, saving = null, isUnsaved = false;
const past = []; // {annotation, picture}: what undo goes back to
const MOST_UNDONE = 500;

function say(text, isFailure = false) {
  part("status").textContent = text;
  part("status").classList.toggle("failed", isFailure);
}

// The answer of an address as JSON. Throws an Error with one sentence.
async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    throw new Error("The server does not answer: start `scemae explore --serve` again, and open " +
      "the address that it prints. Points up to the last message “Saved” are on the disk.");
  }
  const found = await answer.json().catch(() => ({error: `The server answers ${answer.status}.`}));
  if (!answer.ok) throw new Error(found.error || `The server answers ${answer.status}.`);
  return found;
}

async function load() {
  const found = await ask("state");
  ({version} = found.annotation);
  annotation = {points: found.annotation.points, marks: found.annotation.marks, boxes: found.annotation.boxes};
  Object.assign(facts, {pictures: found.pictures, count: found.count, goal: found.goal});
  return found;
}

const marksOf = name => annotation.marks[name] || {};
const isDone = name => {
  const marks = marksOf(name);
  return annotation.points.length > 0 && annotation.points.every(point => point in marks) &&
    annotation.points.some(point => marks[point]);
};
const isBegun = name => Object.keys(marksOf(name)).length > 0;
const countDone = () => facts.pictures.filter(isDone).length;

// Replace the annotation, and keep the one before for undo. isPart: of a drag that goes on.
function change(next, picture, isPart = false) {
  if (!isPart) {
    past.push({annotation, picture});
    if (past.length > MOST_UNDONE) past.shift();
  }
  annotation = {...annotation, ...next};
}

// One point of a picture: a place, null for not seen, undefined to clear it.
function setMark(picture, point, place, isPart = false) {
  const marks = {...marksOf(picture)};
  if (place === undefined) delete marks[point];
  else marks[point] = place && place.map(value => Math.round(value * 100) / 100);
  change({marks: {...annotation.marks, [picture]: marks}}, picture, isPart);
}

function setBox(picture, box, isPart = false) {
  const boxes = {...annotation.boxes};
  if (box) boxes[picture] = box.map(edge => Math.round(edge * 10) / 10);
  else delete boxes[picture];
  change({boxes}, picture, isPart);
}

// Add a point (was: null), rename it, or delete it (name: null), in all pictures.
function setName(was, name, picture) {
  const points = was === null ? [...annotation.points, name]
    : annotation.points.flatMap(one => (one !== was ? [one] : name === null ? [] : [name]));
  const marks = {};
  for (const [file, each] of Object.entries(annotation.marks)) {
    const renamed = Object.entries(each)
      .flatMap(([one, place]) => (one !== was ? [[one, place]] : name === null ? [] : [[name, place]]));
    marks[file] = Object.fromEntries(renamed);
  }
  change({points, marks}, picture);
}

// Save the newest annotation; those that come while one is sent go together in the next request.
function save() {
  isUnsaved = true;
  saving ||= sendAll().finally(() => { saving = null; });
  return saving;
}

async function sendAll() {
  try {
    while (isUnsaved) {
      isUnsaved = false;
      const body = JSON.stringify({version, ...annotation});
      ({version} = await ask("annotation", {method: "PUT", body}));
    }
    say(`Saved ${new Date().toLocaleTimeString()}.`);
  } catch (error) {
    say(error.message, true);
    try {
      await load(); // the page shows what is on the disk
      past.length = 0;
    } catch {
      isUnsaved = true; // the server is gone: the message says so
    }
  }
}

window.onbeforeunload = event => { if (isUnsaved || saving) event.preventDefault(); };
