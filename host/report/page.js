"use strict";
// Everything on the page can be read without this script. It adds a cursor that reads the curves, a legend
// that hides classes, and a 3-D scatter that turns.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const stage = document.querySelector(".turn");
  const redraw_scatter = stage ? turn_scatter(stage, data.scatter) : () => {};
  read_curves(data.measures, data.epochs);
  hide_classes(redraw_scatter);
}

// ---- Curves: one cursor through all panels ----

function read_curves(measures, epochs) {
  const panels = [...document.querySelectorAll("svg.panel")];
  const readout = document.querySelector(".readout");
  const show = (value) => value === null ? "not finite" : value.toFixed(2).replace("-", "\u2212");

  const place = (panel, epoch) => {
    const from = +panel.dataset.from, to = +panel.dataset.to;
    const first = epochs[0].epoch, last = epochs[epochs.length - 1].epoch;
    if (first === last) return (from + to) / 2;
    const t = panel.dataset.scale === "log" ? Math.log(epoch / first) / Math.log(last / first)
                                            : (epoch - first) / (last - first);
    return from + t * (to - from);
  };
  const point_at = (epoch) => {
    readout.textContent = epoch === null ? readout.dataset.hint :
      `Epoch ${epoch.epoch}, test (train): ` +
      measures.map((name, i) => `${name} ${show(epoch.test[i])} (${show(epoch.train[i])})`).join(", ");
    for (const panel of panels) {
      const cursor = panel.querySelector(".cursor");
      cursor.style.display = epoch === null ? "none" : "";
      if (epoch !== null) for (const end of ["x1", "x2"]) cursor.setAttribute(end, place(panel, epoch.epoch));
    }
  };
  for (const panel of panels) {
    panel.insertAdjacentHTML("beforeend",
      `<line class="cursor" y1="40" y2="${panel.viewBox.baseVal.height - 40}" style="display:none"/>`);
    panel.addEventListener("pointermove", (event) => {
      const box = panel.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * panel.viewBox.baseVal.width;
      const off = (epoch) => Math.abs(place(panel, epoch.epoch) - x);
      point_at(epochs.reduce((best, epoch) => off(epoch) < off(best) ? epoch : best));
    });
    panel.addEventListener("pointerleave", () => point_at(null));
  }
}

// ---- Legend: a click hides a class, or shows it again ----

// `changed` is called with the set of labels that are hidden.
function hide_classes(changed) {
  const hidden = new Set();
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const label = +button.dataset.label, shown = hidden.has(label);
      shown ? hidden.delete(label) : hidden.add(label);
      button.setAttribute("aria-pressed", shown);
      for (const mark of document.querySelectorAll(`.scatter .c${label}`)) mark.classList.toggle("off", !shown);
      changed(hidden);
    });
  }
}

// ---- The scatter that turns: plot.cpp's draw_scatter_3d() on a canvas, in the place of the picture ----

// Returns a function that draws it again, without the classes of a set of labels.
function turn_scatter(stage, { means, labels, names, reach, view }) {
  const points = [];
  for (let i = 0; i < means.length; i += 3)
    points.push({ at: means.slice(i, i + 3).map((z) => z / reach), label: labels ? labels[i / 3] : null });
  const canvas = replace_by_canvas(stage.querySelector("svg"));
  let hidden = new Set();

  const redraw = let_turn(canvas, view, (at) => {
    const pen = pen_of(canvas);
    const seen = points.filter((p) => !hidden.has(p.label)).map((p) => ({ label: p.label, ...look(at, p.at) }));
    draw_cube(pen, at);
    draw_points(pen, seen);
    draw_axes(pen, at);
    name_classes(pen, seen, names);
  });
  new ResizeObserver(() => redraw()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
  return (labels) => {
    hidden = labels;
    redraw();
  };
}

function replace_by_canvas(svg) {
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", svg.getAttribute("aria-label") +
    ". Drag, or use the arrow keys, to turn; double click or press Home to turn back.");
  svg.replaceWith(canvas);
  return canvas;
}

// plot.cpp's look()
function look({ yaw, pitch }, [a, b, c]) {
  const x = Math.cos(yaw) * a + Math.sin(yaw) * c, z = Math.cos(yaw) * c - Math.sin(yaw) * a;
  const y = Math.cos(pitch) * b - Math.sin(pitch) * z, depth = Math.sin(pitch) * b + Math.cos(pitch) * z;
  const size = 0.56 * 5 / (5 - depth);
  return { x: size * x, y: size * y, depth };
}

// Draws on the whole canvas, in the colours of the page.
function pen_of(canvas) {
  const side = canvas.clientWidth, sharp = window.devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(side * sharp);
  const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement), inks = {};
  context.setTransform(sharp, 0, 0, sharp, 0, 0);
  const colour = (ink) => inks[ink] ??= style.getPropertyValue("--" + ink).trim();
  const across = (seen) => side / 2 * (1 + seen.x), down = (seen) => side / 2 * (1 - seen.y);
  return {
    side,
    line(a, b, ink) {
      context.lineWidth = 1.2;
      context.strokeStyle = colour(ink);
      context.beginPath();
      context.moveTo(across(a), down(a));
      context.lineTo(across(b), down(b));
      context.stroke();
    },
    disc(centre, radius, ink, opacity) {
      context.globalAlpha = opacity;
      context.fillStyle = colour(ink);
      context.beginPath();
      context.arc(across(centre), down(centre), radius, 0, 2 * Math.PI);
      context.fill();
      context.globalAlpha = 1;
    },
    text(middle, words, size) {
      context.font = `600 ${size}px ${getComputedStyle(canvas).fontFamily}`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.lineWidth = 3;
      context.lineJoin = "round";
      context.strokeStyle = colour("paper");
      context.strokeText(words, across(middle), down(middle));
      context.fillStyle = colour("text");
      context.fillText(words, across(middle), down(middle));
    },
  };
}

function draw_cube(pen, at) {
  for (let axis = 0; axis < 3; ++axis)
    for (const u of [-1, 1]) for (const v of [-1, 1]) {
      const from = [0, 0, 0], to = [0, 0, 0];
      from[axis] = -1;
      to[axis] = 1;
      from[(axis + 1) % 3] = to[(axis + 1) % 3] = u;
      from[(axis + 2) % 3] = to[(axis + 2) % 3] = v;
      pen.line(look(at, from), look(at, to), "rule");
    }
}

function draw_points(pen, seen) {
  const grain = pen.side / 560;
  for (const p of [...seen].sort((a, b) => a.depth - b.depth)) {
    const nearness = Math.min(1, Math.max(0, 0.5 + 0.8 * p.depth));
    const ink = p.label === null ? "test" : "class" + p.label % 10;
    pen.disc(p, (1.6 + 1.4 * nearness) * grain, ink, 0.35 + 0.55 * nearness);
  }
}

function draw_axes(pen, at) {
  for (let axis = 0; axis < 3; ++axis) {
    const end = [0, 0, 0], name = [0, 0, 0];
    end[axis] = 1;
    name[axis] = 1.09;
    pen.line(look(at, [0, 0, 0]), look(at, end), "muted");
    pen.text(look(at, name), "z" + "\u2081\u2082\u2083"[axis], 15);
  }
}

// Class names at the middle of their points, moved apart where they would touch.
function name_classes(pen, seen, names) {
  const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  const places = [];
  for (const label of new Set(seen.map((p) => p.label))) {
    if (label === null) continue;
    const own = seen.filter((p) => p.label === label), words = names[label] ?? String(label);
    const x = middle(own.map((p) => p.x)), y = middle(own.map((p) => p.y));
    places.push({ words, x, y, half: 8 * words.length / pen.side });
  }
  for (let round = 0; round < 30; ++round)
    for (const a of places) for (const b of places) {
      const gap = 32 / pen.side - (b.y - a.y);
      if (a === b || b.y < a.y || gap <= 0 || Math.abs(a.x - b.x) > a.half + b.half) continue;
      a.y -= gap / 4;
      b.y += gap / 4;
    }
  for (const place of places) pen.text(place, place.words, 13);
}

// Turns the view with a pointer and with keys, from `front`. Returns a function that draws the view as it is now.
function let_turn(canvas, front, draw) {
  const view = { ...front };
  const redraw = () => draw(view);
  let due = false;
  const turn = (by_yaw, by_pitch) => {
    view.yaw += by_yaw;
    view.pitch = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, view.pitch + by_pitch));
    if (!due) requestAnimationFrame(() => { due = false; redraw(); });
    due = true;
  };
  const turn_back = () => { Object.assign(view, front); turn(0, 0); };

  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = { id: event.pointerId, x: event.clientX, y: event.clientY };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (held === null || event.pointerId !== held.id) return;
    turn((event.clientX - held.x) * 4 / canvas.clientWidth, (event.clientY - held.y) * 4 / canvas.clientWidth);
    held.x = event.clientX;
    held.y = event.clientY;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
  canvas.addEventListener("dblclick", turn_back);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (step) turn(...step);
    else if (event.key === "Home") turn_back();
    else return;
    event.preventDefault();
  });
  return redraw;
}
