// The picture with its points, its box and the suggestions; what the pointer does to them.
const NEAR = 11; // CSS pixels within which a point or an edge is grabbed
const FRAME = 136, INPUT = 96, CUT = 20; // pixels: the frame, what networks see of it, its border
const MARGIN = 1.5; // of frames around boxes, as `shards build` makes them
const view = part("view"), loupe = part("loupe");
let shown = null; // {name, bitmap, width, height}: the picture, with the size of its original
let suggestions = {}; // by point: {place, pictures}

const colourOf = index => `hsl(${(index * 137.5 + 205) % 360} 85% 58%)`;
const sizeOf = () => ({scale: view.width / shown.width, ratio: view.width / view.clientWidth});

async function fetchPicture(name) {
  const answer = await fetch(`picture?name=${encodeURIComponent(name)}`);
  if (!answer.ok) {
    const found = await answer.json().catch(() => ({}));
    throw new Error(found.error || `${name}: the server answers ${answer.status}.`);
  }
  const bitmap = await createImageBitmap(await answer.blob());
  const [width, height] = ["X-Width", "X-Height"].map(key => Number(answer.headers.get(key)));
  return {name, bitmap, width, height};
}

// The canvas gets as many pixels as the screen shows of it; at most 0.78 of the window's height.
function fitCanvas() {
  const most = Math.max(window.innerHeight * 0.78, 240), room = view.parentElement.clientWidth;
  const width = Math.min(room, most * shown.width / shown.height);
  view.style.width = `${width}px`;
  view.width = Math.round(width * (window.devicePixelRatio || 1));
  view.height = Math.max(1, Math.round(view.width * shown.height / shown.width));
}

// Of a pointer event the place in pixels of the picture; pixel centres are whole numbers.
function placeOf(event) {
  const frame = view.getBoundingClientRect(), border = view.clientLeft;
  const x = (event.clientX - frame.left - border) / view.clientWidth * shown.width - 0.5;
  const y = (event.clientY - frame.top - border) / view.clientHeight * shown.height - 0.5;
  return inside([x, y]);
}

const inside = ([x, y]) =>
  [Math.min(Math.max(x, 0), shown.width - 1), Math.min(Math.max(y, 0), shown.height - 1)];
const onCanvas = ([x, y], scale) => [(x + 0.5) * scale, (y + 0.5) * scale];

// [left, top, side] of what networks see of the picture (data/framing.py).
function seenPart() {
  const {width, height} = shown, box = annotation.boxes[shown.name];
  const margin = Object.keys(annotation.boxes).length ? MARGIN : 1;
  let [x0, y0, x1, y1] = box || [];
  if (!box) {
    const side = Math.min(width, height), isAligned = width === 178 && height === 218;
    [x0, y0] = isAligned ? [0, 30] : [Math.floor((width - side) / 2), Math.floor((height - side) / 2)];
    [x1, y1] = [x0 + side, y0 + side];
  }
  const side = Math.round(margin * Math.max(x1 - x0, y1 - y0)), inset = side * CUT / FRAME;
  return [Math.round((x0 + x1 - side) / 2) + inset, Math.round((y0 + y1 - side) / 2) + inset,
    side * INPUT / FRAME];
}

function draw() {
  if (!shown) return;
  const context = view.getContext("2d"), {scale, ratio} = sizeOf();
  context.imageSmoothingQuality = "high";
  context.drawImage(shown.bitmap, 0, 0, view.width, view.height);
  const rectangle = (box, dash) => {
    for (const [colour, width] of [["#000", 3], ["#fff", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.setLineDash(dash.map(length => length * ratio));
      context.strokeRect(...box.map(value => value * scale));
    }
    context.setLineDash([]);
  };
  rectangle([...seenPart(), seenPart()[2]], [6, 5]);
  const box = annotation.boxes[shown.name];
  if (box) {
    rectangle([box[0], box[1], box[2] - box[0], box[3] - box[1]], []);
    context.fillStyle = "#fff";
    for (const [x, y] of cornersOf(box)) {
      context.fillRect(x * scale - 4 * ratio, y * scale - 4 * ratio, 8 * ratio, 8 * ratio);
    }
  }
  const marks = marksOf(shown.name);
  annotation.points.forEach((point, index) => {
    const place = marks[point], guess = suggestions[point];
    if (place) drawPoint(context, onCanvas(place, scale), index, ratio, point === chosen);
    else if (guess && !(point in marks)) {
      context.globalAlpha = 0.65;
      drawPoint(context, onCanvas(guess.place, scale), index, ratio, point === chosen, true);
      context.globalAlpha = 1;
    }
  });
  drawLoupe();
}

function drawPoint(context, [x, y], index, ratio, isChosen, isGuess = false) {
  const radius = (isChosen ? 8 : 6) * ratio;
  context.setLineDash(isGuess ? [3 * ratio, 3 * ratio] : []);
  for (const [colour, width] of [["#000", 4.5], [colourOf(index), 2.5]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.lineWidth = width * ratio;
    context.stroke();
  }
  context.setLineDash([]);
  context.fillStyle = "#fff";
  context.fillRect(x - ratio, y - ratio, 2 * ratio, 2 * ratio);
  if (annotation.points.length > 30 && !isChosen) return;
  const text = isChosen ? annotation.points[index] : String(index + 1);
  context.font = `${(isChosen ? 600 : 400)} ${12 * ratio}px system-ui, sans-serif`;
  context.lineWidth = 3 * ratio;
  context.strokeStyle = "#000";
  const isRight = x + radius + 4 * ratio + context.measureText(text).width > view.width;
  const left = isRight ? x - radius - 4 * ratio - context.measureText(text).width : x + radius + 4 * ratio;
  context.strokeText(text, left, y - radius);
  context.fillText(text, left, y - radius);
}

// What is around the chosen point, or around its suggestion, four times as large as on the canvas.
function drawLoupe() {
  const place = marksOf(shown.name)[chosen] || (suggestions[chosen] || {}).place;
  const context = loupe.getContext("2d");
  context.clearRect(0, 0, loupe.width, loupe.height);
  loupe.hidden = !place;
  if (!place) return;
  const zoom = 4 * view.clientWidth / shown.width, from = shown.bitmap.width / shown.width;
  const width = loupe.width / zoom, height = loupe.height / zoom;
  const [x, y] = [place[0] + 0.5 - width / 2, place[1] + 0.5 - height / 2];
  context.imageSmoothingEnabled = zoom * 1 / from < 3;
  context.drawImage(shown.bitmap, x * from, y * from, width * from, height * from,
    0, 0, loupe.width, loupe.height);
  const [middle, centre] = [loupe.width / 2, loupe.height / 2];
  for (const [colour, thick] of [["#000", 3], ["#fff", 1]]) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(middle + 5 * dx, centre + 5 * dy);
      context.lineTo(middle + 16 * dx, centre + 16 * dy);
    }
    context.stroke();
  }
}

const cornersOf = ([x0, y0, x1, y1]) => [[x0, y0], [x1, y0], [x0, y1], [x1, y1]];

// What is under the pointer: a point, a suggestion, a corner or an edge of the box; or null.
function grabbed(event) {
  const [x, y] = placeOf(event), reach = NEAR * shown.width / view.clientWidth;
  const marks = marksOf(shown.name), distance = ([a, b]) => Math.hypot(a - x, b - y);
  let best = null;
  for (const point of annotation.points) {
    const isGuess = !(point in marks) && suggestions[point];
    const place = isGuess ? suggestions[point].place : marks[point];
    // the chosen point is easier to grab than those around it
    const far = place ? distance(place) * (point === chosen ? 0.7 : 1) : Infinity;
    if (far < reach && (!best || far < best.far)) best = {point, far};
  }
  if (best) return best;
  const box = annotation.boxes[shown.name];
  if (!box) return null;
  const [left, top, right, bottom] = box.map((edge, i) => Math.abs((i % 2 ? y : x) + 0.5 - edge) < reach);
  const isWithin = x > box[0] - reach && x < box[2] + reach && y > box[1] - reach && y < box[3] + reach;
  if (!isWithin || !(left || right || top || bottom)) return null;
  const isCorner = (left || right) && (top || bottom);
  const edges = isCorner ? [left, top, right && !left, bottom && !top] : [true, true, true, true];
  return {edges, box, start: [x, y]};
}

// A box with the grabbed edges moved; the whole box where an edge is dragged away from corners.
function movedBox({edges, box, start}, [x, y]) {
  const delta = [x - start[0], y - start[1]];
  const moved = box.map((edge, i) => (edges[i] ? edge + delta[i % 2] : edge));
  const [x0, x1] = [Math.min(moved[0], moved[2]), Math.max(moved[0], moved[2])];
  const [y0, y1] = [Math.min(moved[1], moved[3]), Math.max(moved[1], moved[3])];
  const within = (value, most) => Math.min(Math.max(value, 0), most);
  const kept = [within(x0, shown.width - 32), within(y0, shown.height - 32)];
  return [...kept, Math.max(within(x1, shown.width), kept[0] + 32),
    Math.max(within(y1, shown.height), kept[1] + 32)];
}
