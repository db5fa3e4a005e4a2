// One picture of the page: its pixels, its box (a square of it, in whole pixels), its two canvases.
const SIDE = 136, CUT = 20; // the frame, and what is cut off each side of it
const SHOWN = 480; // pixels of the canvas that shows the crop
const LARGEST = 100e6, SMALLEST = 32; // pixels of a picture; of a side

// The file as a picture that is upright, its colours as stored. Throws an Error with one sentence.
async function openPicture(file, name) {
  let bitmap;
  try {
    const as = {imageOrientation: "from-image", colorSpaceConversion: "none"};
    bitmap = await createImageBitmap(file, as);
  } catch (error) {
    throw new Error(`${name}: the browser cannot read it as a picture; save it as JPEG, PNG or ` +
      "WebP.");
  }
  const {width, height} = bitmap;
  if (width * height > LARGEST || Math.min(width, height) < SMALLEST) {
    throw new Error(`${name}: found ${width}x${height} pixels, ${SMALLEST} each way and at most ` +
      "100 million in all were needed; resize it.");
  }
  return {name, bitmap, box: firstBox(width, height), version: 0, maps: {}, selection: null};
}

// The largest centred square, or the frame of an aligned CelebA picture (scemae/data/geometry.py).
function firstBox(width, height) {
  if (width === 178 && height === 218) return {left: 0, top: 30, side: 178};
  const side = Math.min(width, height);
  return {left: Math.floor((width - side) / 2), top: Math.floor((height - side) / 2), side};
}

// A point of the picture in pixels of the crop, and back; pixel centres are whole numbers.
function toCrop(box, [x, y]) {
  const factor = SIDE / box.side;
  return [(x - box.left + 0.5) * factor - 0.5 - CUT, (y - box.top + 0.5) * factor - 0.5 - CUT];
}
function fromCrop(box, [x, y]) {
  const factor = box.side / SIDE;
  return [(x + CUT + 0.5) * factor - 0.5 + box.left, (y + CUT + 0.5) * factor - 0.5 + box.top];
}

// The box's pixels as RGBA; black outside the picture, white where it is transparent.
function boxPixels(picture) {
  const {left, top, side} = picture.box, canvas = new OffscreenCanvas(side, side);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.fillRect(0, 0, side, side);
  context.fillStyle = "#fff";
  context.fillRect(-left, -top, picture.bitmap.width, picture.bitmap.height);
  context.drawImage(picture.bitmap, -left, -top);
  return context.getImageData(0, 0, side, side).data;
}

// A box moved and resized so that it still shows some of the picture.
function fitBox(picture, left, top, side) {
  const {width, height} = picture.bitmap;
  side = Math.round(Math.min(Math.max(side, SMALLEST), 2 * Math.max(width, height)));
  const within = (place, size) => {
    return Math.round(Math.min(Math.max(place, SMALLEST - side), size - SMALLEST));
  };
  picture.box = {left: within(left, width), top: within(top, height), side};
}

// The crop with heat map, selected tokens and a mark; place: x, y of the crop, or null.
function drawSeen(picture, {cosines, hasTokens, hasClusters, place, isFound}) {
  const context = picture.seen.getContext("2d"), {box, bitmap} = picture;
  const inset = box.side * CUT / SIDE, scale = SHOWN / (box.side - 2 * inset);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, SHOWN, SHOWN);
  context.imageSmoothingQuality = "high";
  context.filter = cosines ? "grayscale(1)" : "none";
  const left = -(box.left + inset) * scale, top = -(box.top + inset) * scale;
  context.drawImage(bitmap, left, top, bitmap.width * scale, bitmap.height * scale);
  context.filter = "none";
  let range = null;
  if (cosines) {
    const {pixels, low, high} = heatMap(cosines), small = new OffscreenCanvas(INPUT, INPUT);
    small.getContext("2d").putImageData(pixels, 0, 0);
    context.drawImage(small, 0, 0, SHOWN, SHOWN);
    range = [low, high];
  }
  if (picture.selection) drawSelection(context, picture.selection, hasTokens, hasClusters);
  if (place) {
    const at = value => (value + 0.5) * SHOWN / INPUT;
    mark(context, at(place[0]), at(place[1]), isFound, 10);
  }
  return range;
}

// The whole picture with its box, and the part that networks see, dashed.
function drawWhole(picture) {
  const {whole, bitmap, box} = picture, scale = whole.width / bitmap.width;
  const context = whole.getContext("2d"), inset = box.side * CUT / SIDE;
  context.drawImage(bitmap, 0, 0, whole.width, whole.height);
  for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.setLineDash([]);
    context.strokeRect(box.left * scale, box.top * scale, box.side * scale, box.side * scale);
    context.setLineDash([6, 4]);
    const seen = (box.side - 2 * inset) * scale;
    context.strokeRect((box.left + inset) * scale, (box.top + inset) * scale, seen, seen);
  }
  context.setLineDash([]);
  const corner = [(box.left + box.side) * scale - 7, (box.top + box.side) * scale - 7];
  context.fillStyle = "#fff";
  context.fillRect(...corner, 10, 10);
  context.strokeStyle = "#000";
  context.lineWidth = 1;
  context.strokeRect(...corner, 10, 10);
}
