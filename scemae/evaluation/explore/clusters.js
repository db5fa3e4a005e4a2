// Selective correspondence in the page: which tokens are attentive, and the clusters of the others,
// by the formulas of scemae/models/carb.py. Of equal values the first wins, as there.

// round(eta n), halves to the even number.
function countAttentive(eta, n) {
  const low = Math.floor(eta * n);
  return eta * n - low === 0.5 ? low + (low & 1) : Math.round(eta * n);
}

// Positions of `values` from the highest to the lowest.
function ranked(values) {
  return [...values.keys()].sort((a, b) => values[b] - values[a] || a - b);
}

const ascending = positions => positions.sort((a, b) => a - b);

// The tokens (n, d) at `places`, as (m, d); with `norm` after a LayerNorm without parameters.
function tokensAt(tokens, d, places, norm) {
  const found = new Float32Array(places.length * d);
  places.forEach((place, row) => {
    const token = tokens.subarray(place * d, (place + 1) * d);
    const mean = norm ? token.reduce((sum, value) => sum + value, 0) / d : 0;
    const variance = token.reduce((sum, value) => sum + (value - mean) ** 2, 0) / d;
    const scale = norm ? 1 / Math.sqrt(variance + 1e-5) : 1;
    for (let c = 0; c < d; c++) found[row * d + c] = (token[c] - mean) * scale;
  });
  return found;
}

// ||t_i - t_j|| / sqrt(d) of tokens (m, d), as (m, m).
function distancesOf(tokens, m, d) {
  const distance = new Float32Array(m * m);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < i; j++) {
      let sum = 0;
      for (let c = 0; c < d; c++) sum += (tokens[i * d + c] - tokens[j * d + c]) ** 2;
      distance[i * m + j] = distance[j * m + i] = Math.sqrt(sum / d);
    }
  }
  return distance;
}

// Eq. 2: ln rho of each token, from all others or from its 5 nearest (density "knn").
function logDensity(distance, m, density) {
  return Float32Array.from({length: m}, (_, i) => {
    const squares = distance.slice(i * m, (i + 1) * m).map(value => value * value);
    const near = density === "knn" ? squares.sort().slice(0, 5) : squares;
    const count = density === "knn" ? near.length : Math.max(m - 1, 1);
    return -near.reduce((sum, value) => sum + value, 0) / count;
  });
}

// Eq. 3: the distance to the nearest denser token; of the densest, to the farthest of all.
function distanceToDenser(distance, m, logRho) {
  return Float32Array.from({length: m}, (_, i) => {
    let nearest = Infinity, farthest = 0;
    for (let j = 0; j < m; j++) {
      const isDenser = logRho[j] > logRho[i] || (logRho[j] === logRho[i] && j < i);
      if (isDenser) nearest = Math.min(nearest, distance[i * m + j]);
      farthest = Math.max(farthest, distance[i * m + j]);
    }
    return nearest === Infinity ? farthest : nearest;
  });
}

// The `count` tokens of the highest rho * delta are centres, in ascending order, and each token
// joins the nearest. tokens (m, d). Returns centres, and assignment (m): which centre.
function densityPeakClustering(tokens, m, d, count, density) {
  const distance = distancesOf(tokens, m, d), logRho = logDensity(distance, m, density);
  const delta = distanceToDenser(distance, m, logRho);
  const score = logRho.map((value, i) => value + Math.log(Math.max(delta[i], 1e-12)));
  const centres = ascending(ranked(score).slice(0, count));
  const assignment = Array.from({length: m}, (_, i) => {
    const near = centres.map(centre => -distance[i * m + centre]);
    return centres.includes(i) ? centres.indexOf(i) : ranked(near)[0];
  });
  return {centres, assignment};
}

// From the third block's tokens (n, d) and Eq. 1's similarity (n): for each place its cluster, or
// -1 where it is attentive; and the places of the centres. choice: eta, clusters (K_c), density,
// norm.
function selectionOf({similarity, tokens}, choice) {
  const n = similarity.length, d = tokens.length / n, order = ranked(similarity);
  const places = ascending(order.slice(countAttentive(choice.eta, n)));
  const given = tokensAt(tokens, d, places, choice.norm);
  const found = densityPeakClustering(given, places.length, d, choice.clusters, choice.density);
  const cluster = new Array(n).fill(-1);
  places.forEach((place, i) => { cluster[place] = found.assignment[i]; });
  return {cluster, centres: found.centres.map(i => places[i])};
}
