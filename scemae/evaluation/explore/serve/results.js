// Fits, their curve, shards and the detector: what is made of the points.
let polling = null, seenJob = 0, lastCurve = [];
const number = value => value.toFixed(2);
const interval = one => (one ? `${number(one.mean)} [${number(one.low)}, ${number(one.high)}]` : "–");

async function order(address) {
  await saving; // points on their way to the disk
  try {
    showResults(await ask(address, {method: "POST"}));
  } catch (error) {
    say(error.message, true);
  }
}

const startFit = isCurve =>
  order(`fit?curve=${isCurve ? 1 : 0}&random=${part("random").checked ? 1 : 0}`);

async function poll() {
  polling = null;
  try {
    showResults(await ask("job"));
  } catch (error) {
    say(error.message, true);
  }
}

function showResults({job, curve, has_regressor}) {
  part("job").hidden = part("cancel").disabled = !job.is_running;
  part("cancel").disabled = !(job.is_running && job.name === "fit");
  for (const id of ["start-fit", "start-curve", "build"]) part(id).disabled = job.is_running;
  part("keep").disabled = !has_regressor || job.is_running;
  part("job").value = job.share;
  part("job-text").textContent = jobText(job);
  part("job-text").classList.toggle("failed", Boolean(job.error));
  if (job.is_running) {
    seenJob = job.number;
    polling ||= setTimeout(poll, 500);
  } else if (job.number && job.number === seenJob) {
    seenJob = 0;
    say(job.error || job.said, Boolean(job.error));
  }
  showCurve(curve);
}

function jobText(job) {
  if (!job.number) return "Nothing runs.";
  if (!job.is_running) return job.error || job.said;
  const left = job.share > 0.03 ? Math.round(job.seconds / job.share - job.seconds) : null;
  const rest = left === null ? "" : `, about ${left} s left`;
  return `${job.name}: ${Math.round(100 * job.share)} %${rest}`;
}

function showCurve(curve) {
  lastCurve = curve;
  for (const id of ["cards", "curve"]) part(id).hidden = !curve.length;
  if (!curve.length) {
    part("fits").innerHTML = '<tr><td colspan="5" class="soft">No fit yet.</td></tr>';
    part("worst").textContent = "";
    return;
  }
  const last = curve[curve.length - 1];
  part("scale").textContent = `${last.scale[0]} – ${last.scale[1]}`;
  showCards(last);
  part("fits").replaceChildren(...curve.map(one => {
    const line = document.createElement("tr"), gap = one.comparisons["mean shape"];
    const decided = gap.is_decided ? "" : ", not decided";
    const cells = [one.pictures, interval(one.methods.trained), interval(one.methods["mean shape"]),
      interval(one.methods["random encoder"]), interval(gap.difference) + decided];
    for (const [i, text] of cells.entries()) {
      const cell = line.insertCell();
      cell.textContent = text;
      if (i) cell.className = "n";
    }
    return line;
  }));
  part("curve-box").replaceChildren(chartOf(curve));
  const worst = part("worst");
  worst.textContent = "Largest errors, which often show a wrong click: ";
  for (const [name, error] of last.worst) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${name} ${number(error)}`;
    button.onclick = () => { open(name); view.scrollIntoView({block: "center"}); };
    worst.append(button);
  }
}

function showCards(last) {
  const gap = last.comparisons["mean shape"], better = gap.difference.mean < 0;
  const words = !gap.is_decided ? "not decided: annotate more, or train the encoder longer"
    : better ? "better than the mean shape" : "worse than the mean shape";
  const how = last.folds === last.pictures ? "each left out in turn" : `${last.folds} folds`;
  const cards = [
    ["Trained features", last.methods.trained, `${last.pictures} pictures, ${how}`],
    ["Mean shape, the floor", last.methods["mean shape"], "of the other pictures"],
    ["Trained − mean shape", gap.difference, words],
  ];
  part("cards").replaceChildren(...cards.map(([title, one, small]) => {
    const card = document.createElement("div");
    card.className = "card";
    card.innerHTML = '<span class="what"></span><b></b><small></small><small></small>';
    const texts = [title, `${number(one.mean)} %`, `95 %: ${number(one.low)} to ${number(one.high)}`, small];
    texts.forEach((text, i) => { card.children[i].textContent = text; });
    return card;
  }));
}

// The curve as SVG: error (n) over pictures (n), whiskers for intervals.
function chartOf(curve) {
  const W = Math.min(640, Math.max(300, part("fit").clientWidth)), H = 260;
  const left = 48, right = 96, top = 14, bottom = 40;
  const make = (name, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };
  const kinds = [["trained", "trained"], ["mean shape", "floor"]];
  const highest = Math.max(...curve.flatMap(one => kinds.map(([kind]) => one.methods[kind].high)));
  const step = [1, 2, 5, 10, 20, 50, 100].find(value => highest / value <= 6) || 200;
  const most = Math.ceil(highest / step) * step, last = curve[curve.length - 1].pictures;
  const x = n => left + (W - left - right) * n / last, y = value => H - bottom - (H - top - bottom) * value / most;
  const words = curve.map(one => `${one.pictures} pictures: trained ${number(one.methods.trained.mean)}, ` +
    `mean shape ${number(one.methods["mean shape"].mean)}`).join("; ");
  const svg = make("svg", {viewBox: `0 0 ${W} ${H}`, width: W, role: "img", "aria-label": `Error in %. ${words}`});
  for (let value = 0; value <= most; value += step) {
    svg.append(make("line", {class: "axis", x1: left, x2: W - right, y1: y(value), y2: y(value)}),
      make("text", {x: left - 8, y: y(value) + 4, "text-anchor": "end"}, `${value} %`));
  }
  let nearest = -Infinity;
  for (const {pictures} of curve) {
    if (x(pictures) - nearest < 22) continue;
    nearest = x(pictures);
    svg.append(make("text", {x: nearest, y: H - bottom + 18, "text-anchor": "middle"}, pictures));
  }
  svg.append(make("text", {x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle"}, "annotated pictures"));
  const ends = kinds.map(([kind]) => y(curve[curve.length - 1].methods[kind].mean));
  const apart = Math.abs(ends[0] - ends[1]) < 15 ? (ends[0] <= ends[1] ? [-7, 7] : [7, -7]) : [0, 0];
  kinds.forEach(([kind, style], i) => {
    const nudge = i ? 3 : -3;
    const places = curve.map(one => [x(one.pictures) + nudge, y(one.methods[kind].mean)]);
    svg.append(make("polyline", {class: style, points: places.join(" ")}));
    curve.forEach((one, j) => {
      const {low, high} = one.methods[kind], at = places[j][0];
      svg.append(make("line", {class: style, x1: at, x2: at, y1: y(low), y2: y(high), "stroke-opacity": 0.5}),
        make("circle", {class: `dot ${style}`, cx: at, cy: places[j][1], r: 4}));
    });
    svg.append(make("text", {class: style, x: W - right + 12, y: ends[i] + 4 + apart[i]}, kind));
  });
  return svg;
}
