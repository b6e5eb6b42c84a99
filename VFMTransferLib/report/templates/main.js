// Start: read the scene, build the panels, connect them.

function addPanels(app) {
  const grid = find("#panels");
  const readout = find("#readout-cell");
  for (const panel of app.scene.panels) {
    const figure = document.createElement("figure");
    figure.className = `panel ${panel.role}`;
    figure.dataset.panel = panel.id;
    const caption = document.createElement("figcaption");
    const title = node("strong", panel.title);
    const subtitle = node("span", panel.subtitle);
    subtitle.className = "subtitle";
    caption.append(title, subtitle);
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.dataset.title = [panel.title, panel.subtitle].filter(Boolean).join(", ");
    figure.append(caption, canvas);
    grid.insertBefore(figure, readout);
    const view = new View(panel, canvas, app);
    app.views.push(view);
    attachPointer(view, app);
  }
  const count = app.scene.panels.length;
  readout.style.setProperty("--span-wide", 4 - (count % 4));
  readout.style.setProperty("--span-narrow", 2 - (count % 2));
}

function fitPanels(app) {
  for (const view of app.views) view.resize();
  app.refresh();
}

async function start() {
  const scene = JSON.parse(find("#scene").textContent);
  const app = new App(scene, await decodeLayers(scene));
  find("#scene").remove();
  app.hover = (voxel) => {
    const inside = voxel?.map(Math.round).every((v, i) => v >= 0 && v < scene.size[i]);
    const shown = inside ? voxel.map(Math.round) : app.state.cross;
    showReadout(app, shown && [...shown, app.state.slice]);
  };
  app.listeners.push(() => showState(app));
  addPanels(app);
  attachControls(app);
  attachLesions(app);
  addEventListener("resize", () => fitPanels(app));
  fitPanels(app);
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  find("#panels").textContent = `The images could not be shown: ${error.message}. A current browser is needed.`;
});
