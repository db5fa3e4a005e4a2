// The selected tokens on the page: the controls of eta and K_c, what is drawn, what is said.

// Eta and K_c as the controls have them, within their limits.
function chosen() {
  const [eta, clusters] = ["eta", "count"].map(id => {
    const {value, min, max, defaultValue} = part(id);
    const number = Math.min(Math.max(Number(value || defaultValue), min), max);
    return Number(part(id).value = id === "count" ? Math.round(number) : number);
  });
  return {...model.choice, eta, clusters};
}

// The tokens of each cluster, counted.
function sizesOf({selection}) {
  if (!selection) return "";
  const sizes = selection.centres.map((_, k) => selection.cluster.filter(one => one === k).length);
  return ` ${selection.cluster.filter(one => one < 0).length} attentive tokens; in the clusters ` +
    `${sizes.join(", ")}.`;
}

// The colours of the report (Okabe and Ito), then others.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#d55e00"];
const clusterColour = index => COLOURS[index] || `hsl(${(index * 137.5) % 360} 80% 50%)`;

// hasTokens: the attentive patches get a white edge, and others are darkened. hasClusters: the
// others get their cluster's colour instead, its centre an edge and its number.
function drawSelection(context, {cluster, centres}, hasTokens, hasClusters) {
  const grid = Math.round(Math.sqrt(cluster.length)), size = SHOWN / grid;
  const edge = (i, colour) => {
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.strokeRect((i % grid) * size + 1, Math.floor(i / grid) * size + 1, size - 2, size - 2);
  };
  cluster.forEach((index, i) => {
    if (index < 0) return hasTokens && edge(i, "#fff");
    if (!hasTokens && !hasClusters) return;
    context.fillStyle = hasClusters ? clusterColour(index) : "#000";
    context.globalAlpha = 0.55;
    context.fillRect((i % grid) * size, Math.floor(i / grid) * size, size, size);
    context.globalAlpha = 1;
  });
  if (!hasClusters) return;
  context.font = `bold ${Math.round(size * 0.6)}px sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  centres.forEach((i, index) => {
    edge(i, "#000");
    context.fillStyle = "#fff";
    context.fillRect((i % grid) * size + 2, Math.floor(i / grid) * size + 2, size - 4, size - 4);
    context.fillStyle = "#000";
    context.fillText(index + 1, (i % grid + 0.5) * size, (Math.floor(i / grid) + 0.5) * size);
  });
}
