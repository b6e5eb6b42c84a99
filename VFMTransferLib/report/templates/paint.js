// Slices to pixels and outlines. Nothing here knows the page; sizes are voxels of the shown grid.

const NO_COLOR = [0, 0, 0, 0];

function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

function painted(width, height, pixel) {
  const canvas = newCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0, at = 0; i < width * height; i++, at += 4) {
    const [r, g, b, a] = pixel(i);
    image.data[at] = r;
    image.data[at + 1] = g;
    image.data[at + 2] = b;
    image.data[at + 3] = a;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Gray levels of an image between the two ends of its window.
function paintGray(layer, k, [width, height], [low, high]) {
  const codes = layer.slice(k);
  const canvas = newCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  const gain = (255 * layer.scale) / (high - low);
  const shift = (255 * (layer.offset - low)) / (high - low);
  for (let i = 0; i < words.length; i++) {
    const gray = Math.max(0, Math.min(255, codes[i] * gain + shift)) | 0;
    words[i] = 0xff000000 | (gray << 16) | (gray << 8) | gray;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Labels in their colors; colors[v] is null where v is not shown.
function paintLabels(layer, k, [width, height], colors) {
  const codes = layer.slice(k);
  const solid = colors.map((color) => (color ? [...color, 255] : NO_COLOR));
  return painted(width, height, (i) => solid[codes[i]] ?? NO_COLOR);
}

// Color of a probability: clear at 0, through red to yellow at 1.
function heatColor(share) {
  const [red, green, blue] = [Math.min(1, 0.35 + 1.3 * share), share ** 1.6, Math.max(0.15, 0.55 - share)];
  return [255 * red, 255 * green, 255 * blue, 255 * Math.min(1, 1.6 * share)];
}

function paintHeat(layer, k, [width, height]) {
  const codes = layer.slice(k);
  return painted(width, height, (i) => heatColor(codes[i] * layer.scale));
}

// Signed difference: blue where the first is higher, orange where the second is, black where they agree.
function paintDifference(first, second, k, [width, height], limit, positive, negative) {
  const a = first.slice(k);
  const b = second.slice(k);
  return painted(width, height, (i) => {
    const difference = first.offset + first.scale * a[i] - second.offset - second.scale * b[i];
    const share = Math.min(1, Math.abs(difference) / limit);
    const [red, green, blue] = difference > 0 ? positive : negative;
    return [red * share, green * share, blue * share, 255];
  });
}

// Marching squares, cell by cell: which edge midpoints a corner pattern joins.
// Corners: 1 top left, 2 top right, 4 bottom right, 8 bottom left. Edges: top, right, bottom, left.
const CELL_LINES = [
  [], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], [[3, 0], [1, 2]], [[0, 2]], [[3, 2]],
  [[2, 3]], [[2, 0]], [[0, 1], [2, 3]], [[2, 1]], [[1, 3]], [[1, 0]], [[0, 3]], [],
];
const EDGE_MIDPOINTS = [[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]];

// Outline of the voxels that `inside` accepts, in voxel coordinates with (0.5, 0.5) the first center.
function outline(codes, [width, height], inside) {
  const path = new Path2D();
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside(codes[y * width + x]);
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const pattern = at(x, y) | (at(x + 1, y) << 1) | (at(x + 1, y + 1) << 2) | (at(x, y + 1) << 3);
      for (const [from, to] of CELL_LINES[pattern]) {
        path.moveTo(x + 0.5 + EDGE_MIDPOINTS[from][0], y + 0.5 + EDGE_MIDPOINTS[from][1]);
        path.lineTo(x + 0.5 + EDGE_MIDPOINTS[to][0], y + 0.5 + EDGE_MIDPOINTS[to][1]);
      }
    }
  }
  return path;
}

const css = (color, alpha = 1) => `rgb(${color[0]} ${color[1]} ${color[2]} / ${alpha})`;
