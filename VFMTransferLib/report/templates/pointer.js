// Mouse, pen and touch in the panels, as in Slicer: wheel slices, drag windows, Shift+drag pans, right drag zooms.

const CLICK_PX = 4;
const WHEEL_STEP_PX = 40;

function attachPointer(view, app) {
  const { canvas } = view;
  let drag = null;
  let wheel = 0;

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) return zoomAt(view, app, event, Math.exp(-event.deltaY / 300));
    wheel += event.deltaMode === 1 ? event.deltaY * WHEEL_STEP_PX : event.deltaY;
    const steps = Math.trunc(wheel / WHEEL_STEP_PX);
    wheel -= steps * WHEEL_STEP_PX;
    if (steps) app.set({ slice: app.state.slice - Math.sign(steps) });
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    const kind = event.button === 2 ? "zoom" : event.button === 1 || event.shiftKey ? "pan" : "window";
    drag = { kind, x: event.clientX, y: event.clientY, moved: false };
    app.set({ group: app.groupOf(view.panel) });
  });

  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return app.hover(view.voxelAt(event.offsetX, event.offsetY));
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.moved && Math.hypot(dx, dy) < CLICK_PX) return;
    Object.assign(drag, { moved: true, x: event.clientX, y: event.clientY });
    dragged[drag.kind](view, app, dx, dy, event);
  });

  canvas.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved && event.button === 0) placeCrosshair(view, app, event);
    drag = null;
  });

  canvas.addEventListener("pointerleave", () => app.hover(null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => {
    app.set({ maximized: app.state.maximized === view.panel.id ? null : view.panel.id });
  });
}

const dragged = {
  window(view, app, dx, dy) {
    const group = app.groupOf(view.panel);
    const [low, high] = app.windows[group];
    const [firstLow, firstHigh] = app.firstWindows[group];
    const step = (firstHigh - firstLow) / 300;
    const width = Math.max(step, high - low + dx * step);
    setWindow(app, group, (low + high) / 2 + dy * step, width);
  },
  pan(view, app, dx, dy) {
    const { scale } = view.transform;
    const [x, y] = centerOf(app);
    app.set({ center: [x - dx / scale, y - dy / scale] });
  },
  zoom(view, app, dx, dy, event) {
    zoomAt(view, app, event, Math.exp(-dy / 120));
  },
};

function centerOf(app) {
  const { size, spacing } = app.scene;
  return app.state.center ?? [(size[0] * spacing[0]) / 2, (size[1] * spacing[1]) / 2];
}

// Zoom so that what lies under the pointer stays there.
function zoomAt(view, app, event, factor) {
  const { scale, x, y } = view.transform;
  const under = [(event.offsetX - x) / scale, (event.offsetY - y) / scale];
  const zoom = Math.max(1, Math.min(MAX_ZOOM, app.state.zoom * factor));
  const grown = zoom / app.state.zoom;
  const center = centerOf(app).map((c, i) => under[i] + (c - under[i]) / grown);
  app.set({ zoom, center: zoom === 1 ? null : center });
}

function setWindow(app, group, level, width) {
  app.windows[group] = [level - width / 2, level + width / 2];
  app.set({ group });
}

function placeCrosshair(view, app, event) {
  const voxel = view.voxelAt(event.offsetX, event.offsetY).map(Math.round);
  if (voxel.every((v, i) => v >= 0 && v < app.scene.size[i])) app.set({ cross: voxel, crosshair: true });
}
