// The matcher of scemae/evaluation/landmarks/matching.py, in JavaScript for pages: equal numbers.
//
// A feature map is {side, channels, values, lengths}: values (channels, side, side) as one
// Float32Array, lengths (96 * 96) the norm of the upsampled feature at each pixel of the crop.
const INPUT = 96; // side of the crop in pixels

// The two cells and the weight of the second, for each pixel of a line: align_corners=False.
function cellsOf(side) {
  const low = new Int32Array(INPUT), high = new Int32Array(INPUT), weight = new Float32Array(INPUT);
  for (let i = 0; i < INPUT; i++) {
    const place = Math.max(0, (i + 0.5) * side / INPUT - 0.5);
    low[i] = Math.min(Math.floor(place), side - 1);
    high[i] = Math.min(low[i] + 1, side - 1);
    weight[i] = place - low[i];
  }
  return {low, high, weight};
}

// One channel (side * side) from `values` at `start`, bilinearly upsampled to the crop's pixels.
function enlarge(values, start, side, cells, out) {
  const {low, high, weight} = cells;
  for (let y = 0; y < INPUT; y++) {
    const top = start + low[y] * side, bottom = start + high[y] * side, b = weight[y];
    for (let x = 0; x < INPUT; x++) {
      const a = weight[x], left = low[x], right = high[x];
      const above = values[top + left] * (1 - a) + values[top + right] * a;
      const below = values[bottom + left] * (1 - a) + values[bottom + right] * a;
      out[y * INPUT + x] = above * (1 - b) + below * b;
    }
  }
  return out;
}

// The norms of the upsampled features, (96 * 96).
function lengthsOf(values, channels, side) {
  const cells = cellsOf(side), large = new Float32Array(INPUT * INPUT);
  const sums = new Float64Array(INPUT * INPUT), lengths = new Float32Array(INPUT * INPUT);
  for (let c = 0; c < channels; c++) {
    enlarge(values, c * side * side, side, cells, large);
    for (let i = 0; i < sums.length; i++) sums[i] += large[i] * large[i];
  }
  for (let i = 0; i < sums.length; i++) lengths[i] = Math.max(Math.sqrt(sums[i]), 1e-12);
  return lengths;
}

// The nearest pixel of the crop; halves go to the even one, as torch rounds.
function pixelOf(value) {
  const low = Math.floor(value), part = value - low;
  const near = part === 0.5 ? low + (low & 1) : Math.round(value);
  return Math.min(Math.max(near, 0), INPUT - 1);
}

// The feature (channels) at the pixel x, y of the crop.
function lookUp(map, x, y) {
  const {low, high, weight} = cellsOf(map.side), found = new Float32Array(map.channels);
  const a = weight[x], b = weight[y], area = map.side * map.side;
  for (let c = 0; c < map.channels; c++) {
    const top = c * area + low[y] * map.side, bottom = c * area + high[y] * map.side;
    const above = map.values[top + low[x]] * (1 - a) + map.values[top + high[x]] * a;
    const below = map.values[bottom + low[x]] * (1 - a) + map.values[bottom + high[x]] * a;
    found[c] = above * (1 - b) + below * b;
  }
  return found;
}

// The cosine of a feature with each pixel of a map's crop, and the best pixel.
function search(feature, map) {
  const area = map.side * map.side, dots = new Float32Array(area);
  let square = 0;
  for (let c = 0; c < map.channels; c++) {
    const factor = feature[c], start = c * area;
    square += factor * factor;
    for (let i = 0; i < area; i++) dots[i] += factor * map.values[start + i];
  }
  const cosines = enlarge(dots, 0, map.side, cellsOf(map.side), new Float32Array(INPUT * INPUT));
  const length = Math.max(Math.sqrt(square), 1e-12);
  let best = 0;
  for (let i = 0; i < cosines.length; i++) {
    cosines[i] /= map.lengths[i] * length;
    if (cosines[i] > cosines[best]) best = i;
  }
  return {cosines, x: best % INPUT, y: Math.floor(best / INPUT), cosine: cosines[best]};
}

// The point x, y (pixels of the source's crop) found in the target, and the match of the match.
function match(source, target, x, y) {
  const px = pixelOf(x), py = pixelOf(y);
  const found = search(lookUp(source, px, py), target);
  const back = search(lookUp(target, found.x, found.y), source);
  found.returns = Math.hypot(back.x - px, back.y - py);
  return found;
}

// Cosines as colours over a crop, (96 * 96) RGBA: viridis over their own range.
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function heatMap(cosines) {
  let low = Infinity, high = -Infinity;
  for (const value of cosines) { low = Math.min(low, value); high = Math.max(high, value); }
  const pixels = new ImageData(INPUT, INPUT);
  for (let i = 0; i < cosines.length; i++) {
    const place = (cosines[i] - low) / Math.max(high - low, 1e-9) * (SCALE.length - 1);
    const step = Math.min(Math.floor(place), SCALE.length - 2), part = place - step;
    for (let c = 0; c < 3; c++) {
      pixels.data[4 * i + c] = SCALE[step][c] * (1 - part) + SCALE[step + 1][c] * part;
    }
    pixels.data[4 * i + 3] = 165;
  }
  return {pixels, low, high};
}

// A mark on a canvas: a ring for a point that was asked for, a dot for one that was found.
function mark(context, x, y, isFound, size) {
  for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
    context.beginPath();
    context.arc(x, y, isFound ? size * 0.7 : size, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = colour;
    if (isFound && width === 4) { context.fillStyle = "#d55e00"; context.fill(); }
    context.stroke();
  }
  if (!isFound) { context.fillStyle = "#fff"; context.fillRect(x - 1, y - 1, 2, 2); }
}
