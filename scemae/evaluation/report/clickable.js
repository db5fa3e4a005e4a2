// The faces of the report that can be clicked: features from the page, matches by matcher.js.
(async () => {
  const SHOWN = 288; // pixels of a canvas
  const {side, methods, faces} = JSON.parse(document.getElementById("data-clickable").textContent);
  const place = document.getElementById("clickable-faces");
  const choice = document.getElementById("clickable-method");
  const maps = new Map(); // by method and face, made when first needed
  let source = 0, point = [INPUT / 2, INPUT / 2];

  function mapOf(method, face) {
    const key = `${method} ${face}`;
    if (!maps.has(key)) {
      const {channels, maps: packed} = methods[method], text = atob(packed[face]);
      const values = new Float32Array(text.length); // signed bytes; a factor changes no cosine
      for (let i = 0; i < text.length; i++) values[i] = (text.charCodeAt(i) << 24) >> 24;
      maps.set(key, {side, channels, values, lengths: lengthsOf(values, channels, side)});
    }
    return maps.get(key);
  }

  function draw(face) {
    const {canvas, image, note} = cards[face], context = canvas.getContext("2d");
    const method = Number(choice.value);
    const found = match(mapOf(method, source), mapOf(method, face), ...point);
    const {pixels} = heatMap(found.cosines), small = document.createElement("canvas");
    small.width = small.height = INPUT;
    small.getContext("2d").putImageData(pixels, 0, 0);
    context.filter = "grayscale(1)";
    context.drawImage(image, 0, 0, SHOWN, SHOWN);
    context.filter = "none";
    context.drawImage(small, 0, 0, SHOWN, SHOWN);
    const isFound = face !== source, [x, y] = isFound ? [found.x, found.y] : point;
    mark(context, (x + 0.5) * SHOWN / INPUT, (y + 0.5) * SHOWN / INPUT, isFound, 8);
    const trust = `cosine ${found.cosine.toFixed(2)}; returns within ${found.returns.toFixed(1)} px`;
    note.textContent = isFound ? `found at ${x}, ${y}; ${trust}`
      : `the point, ${point.map(pixelOf).join(", ")}`;
  }

  function setPoint(face, x, y) {
    const kept = value => Math.min(Math.max(value, 0), INPUT - 1);
    source = face;
    point = [kept(x), kept(y)];
    cards.forEach((_, i) => draw(i));
  }

  const cards = await Promise.all(faces.map(async (uri, face) => {
    const image = new Image(), figure = document.createElement("div");
    image.src = uri;
    await image.decode();
    const canvas = document.createElement("canvas"), note = document.createElement("small");
    canvas.width = canvas.height = SHOWN;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", `face ${face + 1}: click a point, or move it by arrow keys`);
    canvas.onpointerdown = event => {
      const {left, top, width} = canvas.getBoundingClientRect(), unit = INPUT / width;
      setPoint(face, (event.clientX - left) * unit - 0.5, (event.clientY - top) * unit - 0.5);
    };
    canvas.onkeydown = event => {
      const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
      const step = steps[event.key], [x, y] = source === face ? point.map(pixelOf) : point;
      if (!step) return;
      event.preventDefault();
      const size = event.shiftKey ? 5 : 1;
      setPoint(face, x + size * step[0], y + size * step[1]);
    };
    figure.append(canvas, note);
    return {canvas, image, note, figure};
  }));
  place.append(...cards.map(card => card.figure));
  choice.onchange = () => cards.forEach((_, i) => draw(i));
  document.getElementById("clickable-controls").hidden = false;
  setPoint(0, ...point);
})();
