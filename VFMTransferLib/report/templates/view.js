// One panel: an image, what is marked on it, and the annotations in its corners.

const FONT = "12px system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const CHECKER_TILES = 8;
const MARGIN = 8;
const FAINT = "#aab4c0";

class View {
  constructor(panel, canvas, app) {
    this.panel = panel;
    this.canvas = canvas;
    this.app = app;
    this.context = canvas.getContext("2d");
  }

  // Millimeters of the shown grid to pixels of the panel.
  get transform() {
    const { scene, state } = this.app;
    const [sx, sy] = scene.spacing;
    const extent = [scene.size[0] * sx, scene.size[1] * sy];
    const fit = Math.min(this.width / extent[0], this.height / extent[1]);
    const scale = fit * state.zoom;
    const center = state.center ?? [extent[0] / 2, extent[1] / 2];
    return { scale, x: this.width / 2 - center[0] * scale, y: this.height / 2 - center[1] * scale };
  }

  // Voxel under a pixel of the panel, not rounded.
  voxelAt(px, py) {
    const { scale, x, y } = this.transform;
    const [sx, sy] = this.app.scene.spacing;
    return [(px - x) / scale / sx - 0.5, (py - y) / scale / sy - 0.5];
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.ratio = window.devicePixelRatio || 1;
    this.width = box.width;
    this.height = box.height;
    this.canvas.width = Math.round(box.width * this.ratio);
    this.canvas.height = Math.round(box.height * this.ratio);
  }

  draw() {
    if (!this.width) return;
    const c = this.context;
    c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    c.fillStyle = "#000";
    c.fillRect(0, 0, this.width, this.height);
    if (this.panel.role === "compare") this.drawCompare();
    else this.drawPlain(this.panel.role);
    this.drawCrosshair();
    this.drawAnnotations();
  }

  drawPlain(role) {
    const { state } = this.app;
    this.drawImage(this.app.imageOf(this.panel.image));
    if (state.reference && role !== "reference") this.drawOutlines("reference", 1, true);
    if (role === "a" || role === "b") this.drawLabels(role, 1);
  }

  drawCompare() {
    const { state } = this.app;
    const draw = {
      difference: () => this.drawDifference(),
      fade: () => this.drawFade(),
      flicker: () => this.drawArm(state.showB ? "b" : "a", 1),
      checkerboard: () => this.drawCheckerboard(),
    };
    draw[state.mode]();
    if (state.reference && state.mode !== "difference") this.drawOutlines("reference", 1, true);
  }

  drawDifference() {
    const { app } = this;
    const { scene, state } = app;
    if (scene.kind === "image") return this.drawCanvas(app.differencePicture(), false);
    this.drawImage(app.imageOf(this.panel.image));
    this.drawCanvas(app.labelPicture(`labels:diff-${state.pair}`, app.differenceColors()), false, Math.min(1, state.opacity + 0.2));
    const arms = PAIR_ARMS[state.pair];
    for (const arm of arms) this.drawOutlines(arm, 0.8, true, 0.6);
  }

  drawFade() {
    const { state } = this.app;
    if (this.app.scene.kind === "image") {
      this.drawArm("a", 1);
      return this.drawArm("b", state.fade);
    }
    this.drawImage(this.app.imageOf(this.panel.image));
    this.drawLabels("a", 1 - state.fade, true);
    this.drawLabels("b", state.fade, true);
  }

  drawArm(arm, alpha) {
    const isImage = this.app.scene.kind === "image";
    this.drawImage(this.app.imageOf(isImage ? arm : this.panel.image), alpha);
    this.drawLabels(arm, alpha);
  }

  drawCheckerboard() {
    const c = this.context;
    const side = Math.max(this.width, this.height) / CHECKER_TILES;
    for (const [arm, odd] of [["a", 0], ["b", 1]]) {
      c.save();
      const tiles = new Path2D();
      for (let j = 0; j * side < this.height; j++)
        for (let i = (j + odd) % 2; i * side < this.width; i += 2) tiles.rect(i * side, j * side, side, side);
      c.clip(tiles);
      this.drawArm(arm, 1);
      c.fillStyle = css(this.app.scene.colors[arm], 0.035);
      c.fillRect(0, 0, this.width, this.height);
      c.restore();
    }
  }

  drawImage(name, alpha = 1) {
    this.drawCanvas(this.app.grayPicture(name), true, alpha);
  }

  drawCanvas(picture, smooth, alpha = 1) {
    if (!picture || alpha <= 0) return;
    const c = this.context;
    const { scale, x, y } = this.transform;
    const [sx, sy] = this.app.scene.spacing;
    c.globalAlpha = alpha;
    c.imageSmoothingEnabled = smooth;
    c.imageSmoothingQuality = "high";
    c.drawImage(picture, x, y, picture.width * sx * scale, picture.height * sy * scale);
    c.globalAlpha = 1;
  }

  // Labels of an arm as outline, fill, or with their probability; in the arm's own color where both arms lie in one panel.
  drawLabels(arm, alpha, inArmColor = false) {
    const { app } = this;
    if (app.scene.kind !== "segmentation" || alpha <= 0) return;
    if (app.state.style === "fill") {
      const colors = [null, ...app.scene.labels.map((l) => (inArmColor ? app.scene.colors[arm] : l.color))];
      this.drawCanvas(app.labelPicture(`labels:${arm}`, colors), false, alpha * app.state.opacity);
    }
    if (app.state.style === "probability")
      this.drawCanvas(app.heatPicture(arm), true, alpha * Math.min(1, app.state.opacity + 0.2));
    this.drawOutlines(arm, app.state.style === "outline" ? alpha : alpha * 0.6, inArmColor);
  }

  drawOutlines(arm, alpha, inArmColor, thickness = 1) {
    const { app } = this;
    const c = this.context;
    const { scale, x, y } = this.transform;
    const [sx, sy] = app.scene.spacing;
    c.save();
    c.translate(x, y);
    c.scale(scale * sx, scale * sy);
    c.lineCap = "round";
    for (const { label, path } of app.outlines(arm)) {
      c.lineWidth = (3.2 * thickness) / (scale * sx);
      c.strokeStyle = `rgb(0 0 0 / ${0.45 * alpha})`;
      c.stroke(path);
      c.lineWidth = (1.6 * thickness) / (scale * sx);
      c.strokeStyle = css(inArmColor ? app.scene.colors[arm] : label.color, alpha);
      c.stroke(path);
    }
    c.restore();
  }

  drawCrosshair() {
    const { state, scene } = this.app;
    if (!state.crosshair || !state.cross) return;
    const c = this.context;
    const { scale, x, y } = this.transform;
    const px = x + (state.cross[0] + 0.5) * scene.spacing[0] * scale;
    const py = y + (state.cross[1] + 0.5) * scene.spacing[1] * scale;
    const gap = 7;
    c.strokeStyle = "rgb(255 235 90 / 0.75)";
    c.lineWidth = 1;
    c.beginPath();
    for (const [x0, y0, x1, y1] of [
      [0, py, px - gap, py], [px + gap, py, this.width, py],
      [px, 0, px, py - gap], [px, py + gap, px, this.height],
    ]) {
      c.moveTo(x0, y0);
      c.lineTo(x1, y1);
    }
    c.stroke();
  }

  write(text, x, y, align = "left", color = "#e6edf3", weight = "") {
    const c = this.context;
    c.font = `${weight} ${FONT}`;
    c.textAlign = align;
    c.textBaseline = "middle";
    c.lineWidth = 3;
    c.lineJoin = "round";
    c.strokeStyle = "rgb(0 0 0 / 0.75)";
    c.strokeText(text, x, y);
    c.fillStyle = color;
    c.fillText(text, x, y);
  }

  drawAnnotations() {
    const { app, width, height } = this;
    this.write("R", MARGIN, height / 2, "left", FAINT);
    this.write("L", width - MARGIN, height / 2, "right", FAINT);
    this.write("A", width / 2, MARGIN + 6, "center", FAINT);
    this.write("P", width / 2, height - MARGIN - 6, "center", FAINT);
    this.write(app.sliceText(), width - MARGIN, height - MARGIN - 6, "right", FAINT);
    if (this.panel.badge) this.write(this.panel.badge, width - MARGIN, MARGIN + 6, "right", "#ffd33d", "600");
    if (this.panel.role === "compare") this.drawCompareNote();
    if (this.showsProbability) drawHeatBar(this);
    drawScaleBar(this);
  }

  drawCompareNote() {
    const { state, scene } = this.app;
    if (state.mode === "flicker") {
      const arm = state.showB ? "b" : "a";
      this.write(arm.toUpperCase(), MARGIN, MARGIN + 6, "left", css(scene.colors[arm]), "700");
    }
    if (state.mode === "difference" && scene.kind === "image") drawColorBar(this);
  }

  get showsProbability() {
    return this.app.state.style === "probability" && ["a", "b"].includes(this.panel.role);
  }
}
