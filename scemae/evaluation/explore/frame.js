// A box of a photograph as the frame of 136 pixels, to the last bit as Pillow resizes it: bilinear,
// widened where it shrinks, first along rows and then along columns, each rounded to 8 bits.
const FRAME = 136, BITS = 22; // BITS after the point of Pillow's weights

// For each of FRAME pixels the first pixel of `side` that it covers, and its weights.
function weightsOf(side) {
  const scale = side / FRAME, reach = Math.max(scale, 1), found = [];
  for (let i = 0; i < FRAME; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), side);
    const shares = [];
    for (let j = first; j < end; j++) {
      shares.push(Math.max(0, 1 - Math.abs((j - centre + 0.5) / reach)));
    }
    const sum = shares.reduce((a, b) => a + b, 0);
    found.push([first, shares.map(share => Math.trunc(0.5 + share / sum * 2 ** BITS))]);
  }
  return found;
}

// RGBA pixels (side, side) to the frame (3, 136, 136), 8 bits.
function frameOf(pixels, side) {
  const frame = new Uint8Array(3 * FRAME * FRAME), area = FRAME * FRAME;
  if (side === FRAME) {
    for (let i = 0; i < 3 * area; i++) frame[i] = pixels[4 * (i % area) + Math.floor(i / area)];
    return frame;
  }
  const weights = weightsOf(side), half = 2 ** (BITS - 1);
  const narrow = new Uint8Array(side * FRAME * 3); // the rows resized, RGB
  const clip = sum => Math.min(Math.max(sum >> BITS, 0), 255);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < FRAME; x++) {
      const [first, shares] = weights[x];
      let r = half, g = half, b = half, at = 4 * (y * side + first);
      for (const share of shares) {
        r += pixels[at] * share; g += pixels[at + 1] * share; b += pixels[at + 2] * share;
        at += 4;
      }
      narrow.set([clip(r), clip(g), clip(b)], 3 * (y * FRAME + x));
    }
  }
  for (let y = 0; y < FRAME; y++) {
    const [first, shares] = weights[y];
    for (let x = 0; x < FRAME; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = half, at = 3 * (first * FRAME + x) + c;
        for (const share of shares) { sum += narrow[at] * share; at += 3 * FRAME; }
        frame[c * area + y * FRAME + x] = clip(sum);
      }
    }
  }
  return frame;
}
