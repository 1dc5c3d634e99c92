"use strict";
// Everything on the page can be read without this script. It adds a cursor that reads the curves, a legend
// that hides classes, and a 3-D scatter that turns.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const show = (value) => value === null ? "not finite" : value.toFixed(2).replace("-", "\u2212");

  // ---- Curves: one cursor through all panels ----
  const panels = [...document.querySelectorAll("svg.panel")];
  const readout = document.querySelector(".readout");
  const epochs = data.epochs;

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
      `Epoch ${epoch.epoch}, test (train): ELBO ${show(epoch.test[0])} (${show(epoch.train[0])}), ` +
      `reconstruction ${show(epoch.test[1])} (${show(epoch.train[1])}), KL ${show(epoch.test[2])} (${show(epoch.train[2])})`;
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

  // ---- Legend: a click hides a class, or shows it again ----
  const hidden = new Set();
  let redraw = () => {};
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const label = +button.dataset.label, shown = hidden.has(label);
      shown ? hidden.delete(label) : hidden.add(label);
      button.setAttribute("aria-pressed", shown);
      for (const mark of document.querySelectorAll(`.scatter .c${label}`)) mark.classList.toggle("off", !shown);
      redraw();
    });
  }

  // ---- The scatter that turns ----
  const stage = document.querySelector(".turn");
  if (!stage) return;
  const { means, labels, names, reach, view } = data.scatter;
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", stage.querySelector("svg").getAttribute("aria-label") +
    ". Drag, or use the arrow keys, to turn; double click or press Home to turn back.");
  stage.querySelector("svg").remove();
  stage.prepend(canvas);
  const pen = canvas.getContext("2d");
  let { yaw, pitch } = view;

  const look = ([a, b, c]) => {  // plot.cpp's look()
    const x = Math.cos(yaw) * a + Math.sin(yaw) * c, z = Math.cos(yaw) * c - Math.sin(yaw) * a;
    const y = Math.cos(pitch) * b - Math.sin(pitch) * z, depth = Math.sin(pitch) * b + Math.cos(pitch) * z;
    const size = 0.56 * 5 / (5 - depth);
    return { x: size * x, y: size * y, depth };
  };
  const points = [];
  for (let i = 0; i < means.length; i += 3)
    points.push({ at: [means[i] / reach, means[i + 1] / reach, means[i + 2] / reach], label: labels ? labels[i / 3] : null });

  redraw = () => {
    const style = getComputedStyle(document.documentElement), ink = (name) => style.getPropertyValue("--" + name).trim();
    const colours = Array.from({ length: 10 }, (_, i) => ink("class" + i));
    const side = canvas.clientWidth, sharp = window.devicePixelRatio || 1;
    canvas.width = canvas.height = Math.round(side * sharp);
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    const across = (seen) => side / 2 * (1 + seen.x), down = (seen) => side / 2 * (1 - seen.y);
    const edge = (from, to) => {
      const a = look(from), b = look(to);
      pen.beginPath();
      pen.moveTo(across(a), down(a));
      pen.lineTo(across(b), down(b));
      pen.stroke();
    };

    pen.lineWidth = 1.2;
    pen.strokeStyle = ink("rule");
    for (let axis = 0; axis < 3; ++axis)
      for (const u of [-1, 1]) for (const v of [-1, 1]) {
        const from = [0, 0, 0], to = [0, 0, 0];
        from[axis] = -1;
        to[axis] = 1;
        from[(axis + 1) % 3] = to[(axis + 1) % 3] = u;
        from[(axis + 2) % 3] = to[(axis + 2) % 3] = v;
        edge(from, to);
      }

    const seen = points.filter((p) => !hidden.has(p.label)).map((p) => ({ label: p.label, ...look(p.at) }));
    seen.sort((a, b) => a.depth - b.depth);
    const grain = side / 560;
    for (const p of seen) {
      const nearness = Math.min(1, Math.max(0, 0.5 + 0.8 * p.depth));
      pen.globalAlpha = 0.35 + 0.55 * nearness;
      pen.fillStyle = p.label === null ? ink("test") : colours[p.label % 10];
      pen.beginPath();
      pen.arc(across(p), down(p), (1.6 + 1.4 * nearness) * grain, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.globalAlpha = 1;

    const say = (words, at, size) => {
      pen.font = `600 ${size}px ${getComputedStyle(canvas).fontFamily}`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.lineWidth = 3;
      pen.lineJoin = "round";
      pen.strokeStyle = ink("paper");
      pen.strokeText(words, across(at), down(at));
      pen.fillStyle = ink("text");
      pen.fillText(words, across(at), down(at));
    };
    for (let axis = 0; axis < 3; ++axis) {
      const end = [0, 0, 0], name = [0, 0, 0];
      end[axis] = 1;
      name[axis] = 1.09;
      pen.strokeStyle = ink("muted");
      pen.lineWidth = 1.2;
      edge([0, 0, 0], end);
      say("z" + "\u2081\u2082\u2083"[axis], look(name), 15);
    }
    // Class names at the middle of their points, moved apart where they would touch.
    const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    const places = [];
    for (const label of new Set(labels || [])) {
      const own = seen.filter((p) => p.label === label);
      if (own.length === 0) continue;
      const words = names[label] ?? String(label);
      places.push({ words, half: 8 * words.length / side, x: middle(own.map((p) => p.x)), y: middle(own.map((p) => p.y)) });
    }
    for (let round = 0; round < 30; ++round)
      for (const a of places) for (const b of places) {
        const gap = 32 / side - (b.y - a.y);
        if (a === b || b.y < a.y || gap <= 0 || Math.abs(a.x - b.x) > a.half + b.half) continue;
        a.y -= gap / 4;
        b.y += gap / 4;
      }
    for (const place of places) say(place.words, place, 13);
  };

  let due = false;
  const turn = (by_yaw, by_pitch) => {
    yaw += by_yaw;
    pitch = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, pitch + by_pitch));
    if (!due) requestAnimationFrame(() => { due = false; redraw(); });
    due = true;
  };
  const reset = () => { ({ yaw, pitch } = view); turn(0, 0); };
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
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (step) turn(...step);
    else if (event.key === "Home") reset();
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => redraw()).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
})();
