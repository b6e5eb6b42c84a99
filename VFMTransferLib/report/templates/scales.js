// Scales in a panel's corners: millimeters, the signed difference, the probability.

const SCALE_BARS_MM = [5, 10, 20, 50, 100];
const HEAT_BAR_PX = 72;

function drawScaleBar(view) {
  const c = view.context;
  const { scale } = view.transform;
  const fitting = SCALE_BARS_MM.filter((mm) => mm * scale < view.width * 0.3);
  const mm = fitting.at(-1) ?? SCALE_BARS_MM[0];
  const y = view.height - MARGIN - 2;
  c.strokeStyle = "#e6edf3";
  c.lineWidth = 1.5;
  c.beginPath();
  c.moveTo(MARGIN, y - 4);
  c.lineTo(MARGIN, y);
  c.lineTo(MARGIN + mm * scale, y);
  c.lineTo(MARGIN + mm * scale, y - 4);
  c.stroke();
  view.write(`${mm} mm`, MARGIN + 2, y - 12, "left", FAINT);
}

// The signed difference: its limits, its colors, its unit.
function drawColorBar(view) {
  const c = view.context;
  const { output, state } = view.app;
  const x = view.width - MARGIN - 10;
  const [top, bottom] = [34, 34 + view.height * 0.24];
  const [first, second] = view.app.pairColors();
  const gradient = c.createLinearGradient(0, top, 0, bottom);
  gradient.addColorStop(0, css(first));
  gradient.addColorStop(0.5, "#000");
  gradient.addColorStop(1, css(second));
  c.fillStyle = gradient;
  c.fillRect(x, top, 10, bottom - top);
  c.strokeStyle = "#8b949e";
  c.lineWidth = 1;
  c.strokeRect(x, top, 10, bottom - top);
  const shown = Number(output.limits[state.pair].toPrecision(2));
  view.write(`+${shown}`, x - 5, top + 5, "right");
  view.write("0", x - 5, (top + bottom) / 2, "right", FAINT);
  view.write(`−${shown}`, x - 5, bottom - 5, "right");
  view.write(output.unit, x + 10, bottom + 12, "right", FAINT);
}

// The probability's colors from 0 to 1, and of what it is.
function drawHeatBar(view) {
  const c = view.context;
  const right = view.width - MARGIN;
  const top = MARGIN + 17;
  view.write(`P(${view.app.scene.probability.toLowerCase()})`, right, MARGIN + 6, "right");
  for (let i = 0; i < HEAT_BAR_PX; i++) {
    const [r, g, b, a] = heatColor(i / (HEAT_BAR_PX - 1));
    c.fillStyle = css([r, g, b], a / 255);
    c.fillRect(right - 10 - HEAT_BAR_PX + i, top, 1, 8);
  }
  view.write("0", right - 15 - HEAT_BAR_PX, top + 4, "right", FAINT);
  view.write("1", right, top + 4, "right", FAINT);
}
