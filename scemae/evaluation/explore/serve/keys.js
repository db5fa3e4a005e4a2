// What keys do: on the picture, and on the page where no text is typed.
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
const KEYS = {
  n: () => step(1), p: () => step(-1), o: nextOpen, b: toggleBox, "[": () => choose(-1), "]": () => choose(1),
  x: () => chosen && place(chosen, null),
  Delete: () => chosen && place(chosen, undefined, true),
  a: () => accept(annotation.points),
};

document.onkeydown = event => {
  const {target} = event, isText = target.matches("input:not([type]), select, textarea");
  if (isText || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ((event.ctrlKey || event.metaKey) && key === "z") undo();
  else if (event.ctrlKey || event.metaKey || !shown) return;
  else if (target === view && ARROWS[key]) moveBy(ARROWS[key], event.shiftKey ? 10 : 1);
  else if (target === view && key === " " && chosen) place(chosen, [(shown.width - 1) / 2, (shown.height - 1) / 2], true);
  else if (target === view && key === "Enter") accept([chosen]);
  else if (/^[1-9]$/.test(key) && annotation.points[key - 1]) { chosen = annotation.points[key - 1]; show(); }
  else if (KEYS[key]) KEYS[key]();
  else return;
  event.preventDefault();
};

// Move the chosen point, or accept its suggestion moved.
function moveBy([dx, dy], by) {
  const from = marksOf(current)[chosen] || (suggestions[chosen] || {}).place;
  if (!chosen || !from) return;
  place(chosen, inside([from[0] + dx * by, from[1] + dy * by]), true);
}
