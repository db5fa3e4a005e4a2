// The worker of the page: runs the networks, and refines each picture's features by
// cover-and-stride (scemae/models/cover_and_stride.py), one shift of the crop at a time, the coarse
// maps of all pictures first.
const SHIFTS = {8: [0], 4: [-2, 2], 2: [-3, -1, 1, 3]}, MARGIN = 20;
let encoder, heads, mean, std, isBusy = false;
const jobs = new Map(); // by picture: {version, frame, left: strides still to compute}
const thirds = new Map(); // by picture: {version, similarity, tokens}, of its crop
let choice; // of clusters.js: eta, clusters, density, norm

self.onmessage = async ({data}) => {
  try {
    if (data.type === "start") await start(data);
    else if (data.type === "forget") [jobs, thirds].forEach(kept => kept.delete(data.id));
    else if (data.type === "choose") {
      ({choice} = data);
      for (const id of thirds.keys()) tellSelection(id);
    } else {
      const frame = frameOf(data.pixels, data.side);
      jobs.set(data.id, {version: data.version, frame, left: [8, 4, 2]});
    }
    if (encoder && !isBusy) await refineAll();
  } catch (error) {
    isBusy = false;
    self.postMessage({type: "failed", why: String(error && error.message || error)});
  }
};

async function start(data) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.proxy = false;
  ort.env.wasm.wasmBinary = data.wasm;
  ({mean, std, choice} = data);
  const options = {executionProviders: ["wasm"]};
  const made = await ort.InferenceSession.create(data.encoder, options);
  heads = [];
  for (const bytes of data.heads) {
    heads.push(bytes && await ort.InferenceSession.create(bytes, options));
  }
  encoder = made;
  self.postMessage({type: "ready"});
}

// The picture whose next map is the coarsest.
function nextJob() {
  let best = null;
  for (const [id, job] of jobs) {
    if (!best || job.left[0] > best[1].left[0]) best = [id, job];
  }
  return best;
}

async function refineAll() {
  isBusy = true;
  for (let next = nextJob(); next; next = nextJob()) {
    const [id, job] = next, stride = job.left[0];
    const maps = await expand(job, stride, () => jobs.get(id) === job);
    if (!maps) continue; // the picture was removed, or its box moved
    self.postMessage({type: "maps", id, version: job.version, stride, maps: maps.maps});
    if (stride === 8) { // the one crop that is not shifted
      thirds.set(id, {version: job.version, ...maps.third});
      tellSelection(id);
    }
    job.left.shift();
    if (!job.left.length) jobs.delete(id);
  }
  isBusy = false;
}

function tellSelection(id) {
  const third = thirds.get(id), selection = selectionOf(third, choice);
  self.postMessage({type: "selection", id, version: third.version, selection});
}

// The maps of a frame at `stride`, and the third block's tokens and Eq. 1 of its last crop; null
// where it is no longer wanted.
async function expand(job, stride, isWanted) {
  const shifts = SHIFTS[stride], n = shifts.length;
  let side, channels, joined, third;
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < n; column++) {
      await new Promise(resolve => setTimeout(resolve)); // messages come in here
      if (!isWanted()) return null;
      const crop = cropOf(job.frame, MARGIN + shifts[row], MARGIN + shifts[column]);
      const images = new ort.Tensor("float32", crop, [1, 3, INPUT, INPUT]);
      const {map, similarity, tokens} = await encoder.run({images});
      const [, d, h, w] = map.dims;
      side = h * n; channels = d;
      third = {similarity: similarity.data, tokens: tokens.data};
      joined ||= new Float32Array(d * side * side);
      for (let c = 0; c < d; c++) for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
        joined[(c * side + y * n + row) * side + x * n + column] = map.data[(c * h + y) * w + x];
      }
    }
  }
  const maps = [];
  for (const head of heads) {
    let values = joined, size = channels;
    if (head) {
      const given = new ort.Tensor("float32", joined, [1, channels, side, side]);
      const {projected} = await head.run({map: given});
      values = new Float32Array(projected.data); size = projected.dims[1];
    }
    maps.push({side, channels: size, values, lengths: lengthsOf(values, size, side)});
  }
  return {maps, third};
}

// The crop (3, 96, 96) of a frame from row `top` and column `left`, normalised.
function cropOf(frame, top, left) {
  const crop = new Float32Array(3 * INPUT * INPUT);
  for (let c = 0; c < 3; c++) for (let y = 0; y < INPUT; y++) for (let x = 0; x < INPUT; x++) {
    const value = frame[(c * FRAME + top + y) * FRAME + left + x] / 255;
    crop[(c * INPUT + y) * INPUT + x] = (value - mean[c]) / std[c];
  }
  return crop;
}
