// The tool bar, the keyboard, the read-out and the list of disagreements.

const find = (selector) => document.querySelector(selector);
const findAll = (selector) => [...document.querySelectorAll(selector)];

function attachControls(app) {
  const { scene } = app;
  find("#slice").max = scene.size[2] - 1;
  on("#slice", "input", (e) => app.set({ slice: Number(e.target.value) }));
  on("#opacity", "input", (e) => app.set({ opacity: e.target.value / 100 }));
  on("#fade", "input", (e) => app.set({ fade: e.target.value / 100, mode: "fade" }));
  on("#reference", "change", (e) => app.set({ reference: e.target.checked }));
  on("#crosshair", "change", (e) => app.set({ crosshair: e.target.checked }));
  on("#output", "change", (e) => app.set({ output: Number(e.target.value), pair: "ab", maximized: null }));
  on("#reset", "click", () => app.resetView());
  on("#help-open", "click", () => find("#help").showModal());
  for (const [name, key] of [["style", "style"], ["mode", "mode"], ["pair", "pair"]])
    for (const input of findAll(`input[name=${name}]`)) input.addEventListener("change", () => app.set({ [key]: input.value }));
  for (const button of findAll("[data-jump]"))
    button.addEventListener("click", () => {
      app.jump(scene.disagreements.find((d) => d.index === Number(button.dataset.jump)));
      find("#viewer").scrollIntoView({ block: "nearest" });
    });
  attachWindowSliders(app);
  attachStrip(app);
  find("#output").replaceChildren(...scene.outputs.map((output, i) => new Option(output.title, i)));
  addEventListener("keydown", (event) => onKey(event, app));
}

function on(selector, type, listener) {
  find(selector).addEventListener(type, listener);
}

// Of the shown output: one may have a reference and another none.
function hideWhatDoesNotApply(app) {
  const { scene } = app;
  const applies = {
    segmentation: scene.kind === "segmentation",
    probability: app.styles.includes("probability"),
    compare: scene.kind !== "classification",
    reference: app.hasReference,
    naive: app.hasNaive,
    pairs: app.hasReference || app.hasNaive,
    "reference-outline": app.hasReference && scene.kind === "segmentation",
    outputs: scene.outputs.length > 1,
    strip: Boolean(scene.strip),
  };
  for (const element of findAll("[data-if]")) element.hidden = !applies[element.dataset.if];
}

// Sliders in steps of 1/500 of the range of the first window, so that one step is small for any unit.
function attachWindowSliders(app) {
  const change = () => {
    const { group } = app.state;
    const [low, high] = app.firstWindows[group];
    const unit = (high - low) / 500;
    setWindow(app, group, low + find("#level").value * unit, Math.max(1, find("#width").value) * unit);
  };
  on("#level", "input", change);
  on("#width", "input", change);
}

function attachStrip(app) {
  const strip = find("#strip");
  const go = (event) => {
    const box = strip.getBoundingClientRect();
    app.set({ slice: Math.floor(((event.clientX - box.left) / box.width) * app.scene.size[2]) });
  };
  strip.addEventListener("pointerdown", (event) => {
    strip.setPointerCapture(event.pointerId);
    go(event);
  });
  strip.addEventListener("pointermove", (event) => event.buttons && go(event));
}

const KEYS = {
  ArrowUp: (app) => app.set({ slice: app.state.slice + 1 }),
  ArrowRight: (app) => app.set({ slice: app.state.slice + 1 }),
  ArrowDown: (app) => app.set({ slice: app.state.slice - 1 }),
  ArrowLeft: (app) => app.set({ slice: app.state.slice - 1 }),
  Home: (app) => app.set({ slice: 0 }),
  End: (app) => app.set({ slice: app.scene.size[2] - 1 }),
  o: (app) => app.nextStyle(),
  f: (app) => app.flicker(),
  d: (app) => app.set({ mode: "difference" }),
  a: (app) => app.set({ mode: "fade" }),
  c: (app) => app.set({ mode: "checkerboard" }),
  r: (app) => app.hasReference && app.set({ reference: !app.state.reference }),
  x: (app) => app.set({ crosshair: !app.state.crosshair }),
  n: (app) => app.step(1),
  p: (app) => app.step(-1),
  "+": (app) => app.set({ zoom: app.state.zoom * 1.25 }),
  "=": (app) => app.set({ zoom: app.state.zoom * 1.25 }),
  "-": (app) => app.set({ zoom: app.state.zoom / 1.25 }),
  0: (app) => app.resetView(),
  "?": () => find("#help").showModal(),
};

function onKey(event, app) {
  if (event.ctrlKey || event.metaKey || event.altKey || find("#help").open) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const ownsArrows = event.target.matches("input, select");
  if (ownsArrows && event.key.length > 1) return;
  const needsTwo = "ofdacnp".includes(key) && app.scene.kind === "classification";
  if (!KEYS[key] || needsTwo) return;
  event.preventDefault();
  KEYS[key](app);
}

// The page follows the state, whoever changed it.
function showState(app) {
  const { state, scene } = app;
  hideWhatDoesNotApply(app);
  find("#slice").value = state.slice;
  find("#slice-text").textContent = `Slice ${state.slice + 1} of ${scene.size[2]}`;
  find("#slice").setAttribute("aria-valuetext", app.sliceText());
  find("#opacity").value = state.opacity * 100;
  find("#fade").value = state.fade * 100;
  find("#reference").checked = state.reference;
  find("#crosshair").checked = state.crosshair;
  for (const name of ["style", "mode", "pair"])
    for (const input of findAll(`input[name=${name}]`)) input.checked = input.value === state[name];
  showWindow(app);
  showPanels(app);
  for (const row of findAll("[data-region]")) {
    const isCurrent = Number(row.dataset.region) === state.disagreement;
    row.toggleAttribute("aria-current", isCurrent);
    if (isCurrent && row.closest("details")) row.closest("details").open = true;
  }
  drawStrip(app);
  showReadout(app, state.cross && [...state.cross, state.slice]);
}

function showWindow(app) {
  const { group } = app.state;
  const [low, high] = app.windows[group];
  const [firstLow, firstHigh] = app.firstWindows[group];
  const unit = (firstHigh - firstLow) / 500;
  find("#width").value = (high - low) / unit;
  find("#level").value = ((low + high) / 2 - firstLow) / unit;
  find("#window-text").textContent = `${sequenceTitle(app, group)}  W ${rounded(high - low)}  L ${rounded((low + high) / 2)}`;
}

function sequenceTitle(app, group) {
  return { t2w: "T2w", adc: "ADC", hbv: "High-b" }[group];
}

function showPanels(app) {
  const { state, scene } = app;
  let resized = false;
  for (const element of findAll(".panel")) {
    const panel = scene.panels.find(({ id }) => id === element.dataset.panel);
    const isMaximized = state.maximized === panel.id;
    const isHidden = (state.maximized !== null && !isMaximized) || !app.layers.has(app.imageOf(panel.image));
    resized ||= element.hidden !== isHidden || element.classList.contains("maximized") !== isMaximized;
    element.hidden = isHidden;
    element.classList.toggle("maximized", isMaximized);
  }
  if (resized) dispatchEvent(new Event("resize"));
  for (const canvas of findAll(".panel canvas"))
    canvas.setAttribute("aria-label", `${canvas.dataset.title}, ${app.sliceText()}`);
  const caption = find(".panel[data-panel=compare] figcaption");
  if (caption) [caption.firstChild.textContent, caption.lastChild.textContent] = compareTexts(app);
  if (scene.outputs.length) find("#output").value = state.output;
}

// Title and subtitle of the panel in which A and B meet.
function compareTexts(app) {
  const { state, scene } = app;
  const texts = {
    difference: ["Difference", PAIR_ARMS[state.pair].map((arm) => ({ a: "A", b: "B" })[arm] ?? arm).join(scene.kind === "image" ? " − " : ", ")],
    fade: ["Fade", `${Math.round((1 - state.fade) * 100)} % A, ${Math.round(state.fade * 100)} % B`],
    flicker: ["Flicker", `showing ${state.showB ? "B" : "A"}, F swaps`],
    checkerboard: ["Checkerboard", "A and B alternating"],
  };
  return texts[state.mode];
}

function drawStrip(app) {
  const { scene, state } = app;
  if (!scene.strip) return;
  const canvas = find("#strip");
  const ratio = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const c = canvas.getContext("2d");
  c.scale(ratio, ratio);
  const series = Object.entries(scene.strip.series);
  const totals = [...Array(scene.size[2]).keys()].map((k) => series.reduce((sum, [, values]) => sum + values[k], 0));
  const most = Math.max(...totals, 1e-9);
  const step = width / scene.size[2];
  c.fillStyle = "rgb(255 255 255 / 0.14)";
  c.fillRect(state.slice * step, 0, step, height);
  for (let k = 0; k < scene.size[2]; k++) {
    let y = height;
    for (const [key, values] of series) {
      const tall = (values[k] / most) * (height - 3);
      c.fillStyle = css(scene.colors[key]);
      c.fillRect(k * step + 1.5, y - tall, Math.max(1, step - 3), tall);
      y -= tall;
    }
  }
}

function showReadout(app, voxel) {
  const { scene } = app;
  if (!voxel) return;
  const [x, y, z] = app.world(voxel);
  const place = [sideOf(x, "L", "R"), sideOf(y, "P", "A"), sideOf(z, "S", "I")].join("   ");
  const rows = [["Position", `${place} mm`]];
  for (const [name, layer] of app.layers) {
    if (layer.bits === 16) rows.push([layerTitle(app, name), valueText(layer, layer.value(...voxel))]);
    else if (name.startsWith("probability:"))
      rows.push([`${name.at(-1).toUpperCase()}, probability`, layer.value(...voxel).toFixed(2)]);
    else if (!name.startsWith("labels:diff"))
      rows.push([layerTitle(app, name), scene.labels[layer.value(...voxel) - 1]?.title ?? "Background"]);
  }
  find("#readout").replaceChildren(...rows.flatMap(([term, text]) => [node("dt", term), node("dd", text)]));
}

function layerTitle(app, name) {
  const who = { a: "A", b: "B", reference: "Reference", naive: app.scene.panels.find((p) => p.id === "naive")?.title, labels: "" };
  const [first, rest] = name.split(":");
  if (first === "labels") return who[rest];
  if (!rest) return sequenceTitle(app, first);
  return app.scene.outputs.length > 1 ? `${who[first]}, ${app.scene.outputs.find((o) => o.name === rest).title}` : who[first];
}

function valueText(layer, value) {
  const digits = layer.scale >= 1 ? 0 : Math.min(4, Math.ceil(-Math.log10(layer.scale)));
  return layer.group === "adc" ? `${value.toFixed(0)} × 10⁻⁶ mm²/s` : value.toFixed(digits);
}

const rounded = (value) => (Math.abs(value) >= 10 ? value.toFixed(0) : value.toPrecision(2));

function node(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}
