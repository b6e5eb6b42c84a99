// What the page shows and how it is changed; views draw, controls change, this decides.

const PAIR_ARMS = { ab: ["a", "b"], ar: ["a", "reference"], br: ["b", "reference"], an: ["a", "naive"], bn: ["b", "naive"] };
const MAX_ZOOM = 12;
const MAX_CACHED = 160;

class App {
  constructor(scene, layers) {
    this.scene = scene;
    this.layers = layers;
    this.views = [];
    this.listeners = [];
    this.cache = new Map();
    this.windows = {};
    for (const layer of layers.values())
      if (layer.group && !this.windows[layer.group]) this.windows[layer.group] = [...layer.window];
    this.firstWindows = structuredClone(this.windows);
    this.state = {
      slice: scene.focus, ...this.firstView(), cross: this.firstCross(), crosshair: true, style: "outline", opacity: 0.45,
      mode: "difference", pair: "ab", fade: 0.5, showB: false, reference: true, output: 0,
      group: this.groupOf(scene.panels[0]), maximized: null, disagreement: null,
    };
  }

  // The middle of what matters, near enough to read.
  firstView() {
    const { size, spacing, center, field } = this.scene;
    const zoom = Math.max(1, Math.max(size[0] * spacing[0], size[1] * spacing[1]) / field);
    return zoom > 1 ? { zoom, center: [0, 1].map((i) => (center[i] + 0.5) * spacing[i]) } : { zoom: 1, center: null };
  }

  firstCross() {
    const first = this.scene.disagreements.find((d) => d.at[2] === this.scene.focus);
    return first ? first.at.slice(0, 2) : this.scene.center;
  }

  get output() {
    return this.scene.outputs[this.state.output];
  }

  get hasReference() {
    return this.scene.kind === "image"
      ? this.layers.has(`reference:${this.output.name}`)
      : this.layers.has("labels:reference");
  }

  get hasNaive() {
    return this.scene.kind === "image" && this.layers.has(`naive:${this.output.name}`);
  }

  get styles() {
    return this.layers.has("probability:a") ? ["outline", "fill", "probability"] : ["outline", "fill"];
  }

  nextStyle() {
    this.set({ style: this.styles[(this.styles.indexOf(this.state.style) + 1) % this.styles.length] });
  }

  // Change the state; everything is drawn once, before the next frame.
  set(change) {
    Object.assign(this.state, change);
    this.state.slice = Math.max(0, Math.min(this.scene.size[2] - 1, this.state.slice));
    this.state.zoom = Math.max(1, Math.min(MAX_ZOOM, this.state.zoom));
    this.refresh();
  }

  refresh() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      for (const view of this.views) view.draw();
      for (const listener of this.listeners) listener();
    });
  }

  // Layer of a panel's image: a sequence's own, or an arm's or reference's output.
  imageOf(image) {
    return this.layers.has(image) ? image : `${image}:${this.output.name}`;
  }

  groupOf(panel) {
    return this.layers.get(this.imageOf(panel.image)).group;
  }

  cached(key, make) {
    if (!this.cache.has(key)) {
      if (this.cache.size >= MAX_CACHED) this.cache.delete(this.cache.keys().next().value);
      this.cache.set(key, make());
    }
    return this.cache.get(key);
  }

  grayPicture(name) {
    const layer = this.layers.get(name);
    if (!layer) return null;
    const window = this.windows[layer.group];
    const { slice } = this.state;
    return this.cached(`${name} ${slice} ${window}`, () => paintGray(layer, slice, this.scene.size, window));
  }

  labelPicture(name, colors) {
    const layer = this.layers.get(name);
    const { slice } = this.state;
    return this.cached(`${name} ${slice} ${colors.join()}`, () => paintLabels(layer, slice, this.scene.size, colors));
  }

  heatPicture(arm) {
    const name = `probability:${arm}`;
    const { slice } = this.state;
    return this.cached(`${name} ${slice}`, () => paintHeat(this.layers.get(name), slice, this.scene.size));
  }

  differencePicture() {
    const { pair, slice } = this.state;
    const [first, second] = PAIR_ARMS[pair].map((arm) => this.layers.get(`${arm}:${this.output.name}`));
    const limit = this.output.limits[pair];
    return this.cached(`difference ${this.output.name} ${pair} ${slice}`, () =>
      paintDifference(first, second, slice, this.scene.size, limit, ...this.pairColors()));
  }

  pairColors() {
    return PAIR_ARMS[this.state.pair].map((arm) => this.scene.colors[arm]);
  }

  differenceColors() {
    return [null, ...this.pairColors(), this.scene.colors.other];
  }

  // Outline of each label of an arm in the shown slice.
  outlines(arm) {
    const layer = this.layers.get(`labels:${arm}`);
    if (!layer) return [];
    const { slice } = this.state;
    return this.cached(`outlines ${arm} ${slice}`, () => {
      const codes = layer.slice(slice);
      const present = new Set(codes);
      return this.scene.labels
        .map((label, i) => ({ label, value: i + 1 }))
        .filter(({ value }) => present.has(value))
        .map(({ label, value }) => ({ label, path: outline(codes, this.scene.size, (v) => v === value) }));
    });
  }

  // LPS millimeters of a voxel.
  world([x, y, z]) {
    return this.scene.affine.slice(0, 3).map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
  }

  sliceText() {
    const { size } = this.scene;
    const z = this.world([(size[0] - 1) / 2, (size[1] - 1) / 2, this.state.slice])[2];
    return `${sideOf(z, "S", "I")} mm   ${this.state.slice + 1}/${size[2]}`;
  }

  jump(disagreement) {
    const [x, y, z] = disagreement.at;
    this.set({ slice: z, cross: [x, y], crosshair: true, disagreement: disagreement.index, mode: "difference", pair: "ab" });
  }

  // To the next or previous region of the list.
  step(by) {
    const list = this.scene.disagreements;
    if (!list.length) return;
    const now = list.findIndex((d) => d.index === this.state.disagreement);
    this.jump(list[now < 0 ? 0 : (now + by + list.length) % list.length]);
  }

  flicker() {
    const { mode, showB } = this.state;
    this.set({ mode: "flicker", showB: mode === "flicker" ? !showB : true });
  }

  resetView() {
    this.windows = structuredClone(this.firstWindows);
    this.set(this.firstView());
  }
}

const sideOf = (value, positive, negative) => `${value >= 0 ? positive : negative} ${Math.abs(value).toFixed(1)}`;
