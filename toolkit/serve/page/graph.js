// Latency and frame age over the last minutes, drawn into a canvas.

export const SPAN_S = 300;

const MARGIN = { top: 8, right: 8, bottom: 20, left: 46 };

/** A round number that is not much above `value`. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.5, 2, 3, 4, 5, 6, 8].map((step) => step * power).find((step) => step >= value) ?? 10 * power;
}

/** Pieces of the line: where seconds are missing there is nothing to draw. */
function pieces(seconds) {
  const found = [];
  let before = -Infinity;
  for (const second of seconds) {
    if (second[0] - before > 3) found.push([]);
    found.at(-1).push(second);
    before = second[0];
  }
  return found;
}

/**
 * Draws the graph.
 * @param {HTMLCanvasElement} canvas
 * @param {number[][]} seconds [at_s, mean latency, largest latency, mean age, largest age], in ms, oldest first
 * @param {number} nowS the clock of `at_s`, now
 */
export function drawGraph(canvas, seconds, nowS) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(name).trim();
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);

  // The scale follows nearly all of the means: a hiccup must not flatten five minutes to a line at the bottom.
  const means = seconds.flatMap((second) => [second[1], second[3]]).sort((one, other) => one - other);
  const top = roundUp(1.5 * Math.max(5, means[Math.floor(0.96 * (means.length - 1))] ?? 0));
  const minutes = Math.min(Math.max(1, Math.ceil((nowS - (seconds[0]?.[0] ?? nowS)) / 60)), SPAN_S / 60);
  const x = (atS) => width - MARGIN.right - ((nowS - atS) / (60 * minutes)) * (width - MARGIN.left - MARGIN.right);
  const y = (ms) => height - MARGIN.bottom - (Math.min(ms, top) / top) * (height - MARGIN.top - MARGIN.bottom);

  pen.font = `11px ${style.fontFamily}`;
  pen.fillStyle = colour("--quiet");
  pen.strokeStyle = colour("--line");
  pen.lineWidth = 1;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const share of [0, 0.5, 1]) {
    const level = Math.round(y(share * top)) + 0.5;
    pen.beginPath();
    pen.moveTo(MARGIN.left, level);
    pen.lineTo(width - MARGIN.right, level);
    pen.stroke();
    pen.fillText(`${share * top} ms`, MARGIN.left - 6, level);
  }
  pen.textBaseline = "alphabetic";
  for (let minute = 0; minute <= minutes; minute += 1) {
    pen.textAlign = minute === 0 ? "right" : minute === minutes ? "left" : "center";
    pen.fillText(minute ? `-${minute} min` : "now", x(nowS - minute * 60), height - 5);
  }

  pen.save();
  pen.beginPath();
  pen.rect(MARGIN.left, 0, width - MARGIN.left - MARGIN.right, height);
  pen.clip();
  for (const [name, mean, worst, dash] of [["--age", 3, 4, [5, 3]], ["--latency", 1, 2, []]]) {
    pen.strokeStyle = pen.fillStyle = colour(name);
    for (const piece of pieces(seconds)) {
      const there = piece.map((second) => [x(second[0]), y(second[worst])]);
      const back = piece.map((second) => [x(second[0]), y(second[mean])]).reverse();
      pen.globalAlpha = 0.18;
      pen.beginPath();
      [...there, ...back].forEach(([at, level]) => pen.lineTo(at, level));
      pen.fill();
      pen.globalAlpha = 1;
      pen.lineWidth = 1.75;
      pen.setLineDash(dash);
      pen.beginPath();
      back.forEach(([at, level]) => pen.lineTo(at, level));
      pen.stroke();
      pen.setLineDash([]);
    }
  }
  pen.restore();
}
