// The page: pictures in a grid, one point, and its matches in the other pictures.
const model = JSON.parse(document.getElementById("data-model").textContent);
const part = id => document.getElementById(id);
const pictures = new Map(); // by id
let source = null, point = null; // the picture that has the point; x, y in pixels of it
let worker = null, isReady = false, nextId = 1;
const times = {opened: performance.now(), firstResult: null, click: null}; // ms, for tests

function say(text, isFailure = false) {
  part("status").textContent = text;
  part("status").classList.toggle("failed", isFailure);
}

// The bytes of a script element: base64 of gzip.
async function unpack(element) {
  const text = atob(element.textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  element.remove(); // tens of megabytes
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  if (typeof WebAssembly !== "object") {
    return say("This browser has no WebAssembly, which runs the networks; open the page in a " +
      "current Firefox, Chrome, Edge or Safari.", true);
  }
  if (typeof DecompressionStream !== "function" || typeof OffscreenCanvas !== "function") {
    return say("This browser is too old for this page; use one of 2023 or later.", true);
  }
  say("Unpacking the networks.");
  const [matcher, own] = ["code-matcher", "code-worker"].map(id => part(id).textContent);
  const code = [matcher, await unpack(part("data-ort")), own];
  worker = new Worker(URL.createObjectURL(new Blob(code, {type: "text/javascript"})));
  worker.onmessage = ({data}) => receive(data);
  worker.onerror = event => {
    say(`The networks do not start: ${event.message || "the browser refused"}.`, true);
  };
  for (const picture of pictures.values()) compute(picture);
  const heads = [null];
  for (const element of document.querySelectorAll(".data-head")) heads.push(await unpack(element));
  worker.postMessage({
    type: "start", heads, mean: model.mean, std: model.std, choice: chosen(),
    wasm: await unpack(part("data-wasm")), encoder: await unpack(part("data-encoder")),
  });
}

function receive(data) {
  if (data.type === "failed") {
    return say(`The networks stopped: ${data.why}. Reload the page.`, true);
  }
  if (data.type === "ready") {
    isReady = true;
    say(pictures.size ? "Computing features." : "Ready: drop photographs, or use the drawn faces.");
    return;
  }
  const picture = pictures.get(data.id);
  if (!picture || picture.version !== data.version) return;
  if (data.type === "selection") picture.selection = data.selection;
  else picture.maps[data.stride] = data.maps;
  tellProgress();
  show();
}

function tellProgress() {
  const finest = [...pictures.values()].map(strideOf);
  const coarsest = Math.max(...finest.map(stride => stride || Infinity));
  if (coarsest === 2) say("Features of all pictures at stride 2, the finest.");
  else if (coarsest === Infinity) say("Computing features.");
  else say(`Features at stride ${coarsest} pixels; refining. The page can be used meanwhile.`);
}

// The finest stride of a picture's features so far, or null.
const strideOf = picture => [2, 4, 8].find(stride => picture.maps[stride]) || null;

// Features of the picture, from its box as it is now.
function compute(picture) {
  picture.version += 1;
  picture.maps = {};
  picture.selection = null;
  const pixels = boxPixels(picture);
  if (!worker) return; // it computes what is there when it starts
  const job = {type: "picture", id: picture.id, version: picture.version, side: picture.box.side};
  worker.postMessage({...job, pixels}, [pixels.buffer]);
  tellProgress();
}

async function add(file, name) {
  try {
    const picture = await openPicture(file, name);
    picture.id = nextId++;
    pictures.set(picture.id, picture);
    build(picture);
    compute(picture);
    show();
  } catch (error) {
    say(error.message, true);
  }
}

function build(picture) {
  const figure = document.createElement("figure"), {width, height} = picture.bitmap;
  figure.className = "picture";
  figure.innerHTML = '<figcaption><b></b><button type="button">Remove</button></figcaption>' +
    `<div class="views"><canvas class="seen" width="${SHOWN}" height="${SHOWN}" tabindex="0" ` +
    'role="application"></canvas><canvas class="whole" tabindex="0" role="application"></canvas>' +
    '</div><p class="note soft"></p>';
  figure.querySelector("b").textContent = picture.name;
  const remove = figure.querySelector("button");
  remove.setAttribute("aria-label", `Remove ${picture.name}`);
  remove.onclick = () => drop(picture);
  picture.figure = figure;
  picture.note = figure.querySelector(".note");
  picture.seen = figure.querySelector(".seen");
  picture.whole = figure.querySelector(".whole");
  picture.whole.width = 240;
  picture.whole.height = Math.max(1, Math.round(240 * height / width));
  const name = (canvas, what) => canvas.setAttribute("aria-label", `${picture.name}: ${what}`);
  name(picture.seen, "click a point, or move it by arrow keys");
  name(picture.whole, "move the box by arrow keys, resize it by + and -");
  listen(picture);
  part("grid").append(figure);
}

function drop(picture) {
  pictures.delete(picture.id);
  if (worker) worker.postMessage({type: "forget", id: picture.id});
  picture.figure.remove();
  if (source === picture) source = point = null;
  show();
}

function listen(picture) {
  const {seen, whole} = picture;
  seen.onpointerdown = event => {
    const {left, top, width, height} = seen.getBoundingClientRect();
    const at = (place, size) => place / size * INPUT - 0.5;
    setPoint(picture, [at(event.clientX - left, width), at(event.clientY - top, height)]);
  };
  seen.onkeydown = event => {
    const step = arrow(event);
    if (!step) return;
    event.preventDefault();
    const middle = [INPUT / 2, INPUT / 2];
    const from = source === picture ? toCrop(picture.box, point).map(pixelOf) : middle;
    setPoint(picture, [from[0] + step[0], from[1] + step[1]]);
  };
  let grabbed = null;
  whole.onpointerdown = event => {
    const [x, y] = placeOn(whole, picture, event), {left, top, side} = picture.box;
    const isCorner = Math.max(Math.abs(x - left - side), Math.abs(y - top - side)) < side / 8;
    grabbed = {x, y, box: {...picture.box}, isCorner};
    whole.setPointerCapture(event.pointerId);
  };
  whole.onpointermove = event => {
    if (!grabbed) return;
    const [x, y] = placeOn(whole, picture, event), {left, top, side} = grabbed.box;
    const dx = x - grabbed.x, dy = y - grabbed.y;
    if (grabbed.isCorner) fitBox(picture, left, top, side + Math.max(dx, dy));
    else fitBox(picture, left + dx, top + dy, side);
    show();
  };
  whole.onpointerup = whole.onpointercancel = () => {
    if (grabbed) moved(picture);
    grabbed = null;
  };
  whole.onkeydown = event => {
    const step = arrow(event), {left, top, side} = picture.box;
    const unit = Math.max(1, Math.round(side / 50));
    const more = {"+": 1, "=": 1, "-": -1}[event.key];
    if (step) fitBox(picture, left + step[0] * unit, top + step[1] * unit, side);
    else if (more) fitBox(picture, left - more * unit, top - more * unit, side + 2 * more * unit);
    else return;
    event.preventDefault();
    moved(picture);
  };
}

// A direction in pixels for an arrow key, else null.
function arrow(event) {
  const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  const step = steps[event.key];
  return step ? step.map(value => value * (event.shiftKey ? 5 : 1)) : null;
}

function placeOn(canvas, picture, event) {
  const frame = canvas.getBoundingClientRect(), scale = picture.bitmap.width / frame.width;
  return [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
}

// The box was moved: features are computed again once it has come to rest.
function moved(picture) {
  picture.maps = {};
  picture.version += 1;
  clearTimeout(picture.timer);
  picture.timer = setTimeout(() => { compute(picture); }, 120);
  show();
}

// place: x, y in pixels of the picture's crop; kept inside it.
function setPoint(picture, place) {
  const begun = performance.now();
  source = picture;
  point = fromCrop(picture.box, place.map(value => Math.min(Math.max(value, -0.49), INPUT - 0.51)));
  show();
  times.click = performance.now() - begun;
}

function show() {
  const feature = Number(part("features").value), rows = [];
  for (const picture of pictures.values()) {
    drawWhole(picture);
    picture.figure.classList.toggle("source", picture === source);
    rows.push(showOne(picture, feature));
    if (part("clusters").checked) picture.note.textContent += sizesOf(picture);
  }
  part("rows").replaceChildren(...rows.filter(Boolean));
  if (!part("rows").children.length) {
    part("rows").innerHTML = '<tr><td colspan="6" class="soft">No point yet.</td></tr>';
  }
}

function showOne(picture, feature) {
  const [hasTokens, hasClusters] = ["tokens", "clusters"].map(id => part(id).checked);
  const isSource = picture === source, own = strideOf(picture);
  if (!source) {
    drawSeen(picture, {hasTokens, hasClusters});
    picture.note.textContent = own ? `Features at stride ${own}.` : "Features are being computed.";
    return null;
  }
  const place = toCrop(source.box, point), stride = Math.max(own, strideOf(source));
  const maps = [source, picture].map(one => one.maps[stride] && one.maps[stride][feature]);
  const found = maps[0] && maps[1] ? match(maps[0], maps[1], ...place) : null;
  const range = drawSeen(picture, {
    cosines: found && part("heat").checked ? found.cosines : null, hasTokens, hasClusters,
    place: isSource ? place : found && [found.x, found.y], isFound: !isSource,
  });
  const [low, high] = range ? range.map(value => value.toFixed(2)) : [];
  const shades = range ? ` Heat map from ${low} (dark) to ${high} (bright).` : "";
  if (isSource) {
    picture.note.textContent = `The point, ${shown(point)}.${shades}`;
    return row(picture, point, ["", "", stride || "–"]);
  }
  if (!found) {
    picture.note.textContent = "Features are being computed.";
    return null;
  }
  times.firstResult ||= performance.now() - times.opened;
  const answer = fromCrop(picture.box, [found.x, found.y]);
  picture.note.textContent = `Found at ${shown(answer)}, cosine ${found.cosine.toFixed(3)}, ` +
    `returns within ${found.returns.toFixed(1)} px.${shades}`;
  return row(picture, answer, [found.cosine.toFixed(3), found.returns.toFixed(1), stride]);
}

const shown = place => place.map(value => value.toFixed(1)).join(", ");

function row(picture, place, others) {
  const line = document.createElement("tr");
  const texts = [picture.name, ...place.map(value => value.toFixed(1)), ...others];
  for (const [i, text] of texts.entries()) {
    const cell = line.insertCell();
    cell.textContent = text;
    if (i) cell.className = "n";
  }
  return line;
}

async function addExamples() {
  const faces = JSON.parse(part("data-faces").textContent);
  for (const [name, text] of faces) {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    await add(new Blob([bytes], {type: "image/jpeg"}), name);
  }
}

for (const id of ["features", "heat", "tokens", "clusters"]) part(id).onchange = show;
for (const id of ["eta", "count"]) {
  part(id).onchange = () => {
    const choice = chosen();
    if (worker) worker.postMessage({type: "choose", choice});
  };
}
part("examples").onclick = addExamples;
part("files").onchange = async event => {
  for (const file of event.target.files) await add(file, file.name);
  event.target.value = "";
};
document.ondragover = event => { event.preventDefault(); part("grid").classList.add("over"); };
document.ondragleave = () => part("grid").classList.remove("over");
document.ondrop = async event => {
  event.preventDefault();
  part("grid").classList.remove("over");
  for (const file of [...event.dataTransfer.files]) await add(file, file.name);
};
start().catch(error => say(`The page does not start: ${error.message}.`, true));
