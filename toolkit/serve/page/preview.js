// The page: figures and events come as one stream of messages, pictures are fetched one after the other.
//
// A picture is a request of its own, not an endless multipart stream: browsers open six connections to a host, and as
// many cameras in a few tabs would leave none; and a client that is slow simply asks later.

import { drawGraph, SPAN_S } from "./graph.js";

const SILENCE_MS = 4000;
const RETRY_MS = 2000;
const MOST_EVENTS = 200;

const element = (id) => document.getElementById(id);
const cameras = new Map();
let messages = null;
let heardAtMs = 0;
let clockS = null; // the preview's clock minus ours

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const ms = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const count = (value) => (value ?? 0).toLocaleString("en");
/** How the label is smoothed; empty where it is the frame's own. */
function smoothingWords(smoothing) {
  if (!smoothing) return "";
  const { time_constant_s: constant, margin, hold_s: hold } = smoothing;
  const parts = [constant && `mean over ${constant} s`, margin && `margin ${margin}`, hold && `hold ${hold} s`];
  return `smoothed: ${parts.filter(Boolean).join(", ")}`;
}
const isWatched = () => document.visibilityState === "visible";
const nowS = () => performance.now() / 1000 + clockS;

/** One camera's card. */
class Camera {
  constructor(id) {
    this.id = id;
    this.card = element("camera").content.firstElementChild.cloneNode(true);
    this.seconds = [];
    this.sequence = 0;
    this.shown = 0;
    this.canvas = this.part(".frame");
    element("cameras").append(this.card);
    this.watch();
  }

  part(selector) {
    return this.card.querySelector(selector);
  }

  figure(name, text) {
    this.part(`[data-figure="${name}"]`).textContent = text;
  }

  show(status) {
    const { state, camera } = status;
    const title = /^\d+$/.test(camera) ? `Camera ${camera}` : camera;
    this.card.dataset.state = state;
    this.card.setAttribute("aria-label", title);
    this.part(".name").textContent = title;
    this.sequence = status.sequence ?? 0;
    const silence = Math.round(status.seconds_since_frame);
    this.part(".lost").hidden = state === "live";
    const words = { stale: `No frame for ${silence} s`, ended: "Ended" };
    this.part(".lost").textContent = words[state] ?? "Waiting for the first frame";
    this.keep(status.seconds);
    this.part(".error").hidden = !status.error;
    this.part(".error").textContent = status.error ?? "";
    if (!this.sequence) return;
    this.part(".label").textContent = status.label ?? "no label yet";
    this.part(".confidence").textContent = status.confidence === null ? "" : percent(status.confidence);
    const smoothing = smoothingWords(status.smoothing);
    this.part(".smoothing").hidden = !smoothing;
    this.part(".smoothing").textContent = smoothing;
    this.showClasses(status.top_k);
    this.figure("fps", status.fps.toFixed(1));
    this.figure("classified", count(status.frames_classified));
    this.figure("dropped", count(status.frames_dropped));
    this.figure("reconnects", count(status.reconnects));
    this.figure("latency", ms(status.latency_ms));
    this.figure("age", ms(status.age_ms));
    const answer = status.label === null ? "no label" : `${status.label}, ${percent(status.confidence)}`;
    this.canvas.setAttribute("aria-label", `Newest image of ${title}: ${answer}${smoothing && `, ${smoothing}`}`);
  }

  showClasses(top) {
    this.part(".caption").hidden = !top.length;
    const list = this.part(".classes");
    while (list.children.length > top.length) list.lastElementChild.remove();
    while (list.children.length < top.length) list.append(element("class").content.cloneNode(true));
    top.forEach(([label, confidence], place) => {
      const row = list.children[place];
      row.querySelector(".name").textContent = row.querySelector(".name").title = label;
      const bar = row.querySelector(".bar");
      bar.setAttribute("aria-label", label);
      bar.setAttribute("aria-valuenow", (100 * confidence).toFixed(1));
      bar.firstElementChild.style.width = `${100 * confidence}%`;
      row.querySelector(".share").textContent = percent(confidence);
    });
  }

  /** Takes the seconds of a message that it has not yet, and draws. */
  keep(seconds) {
    const last = this.seconds.at(-1)?.[0] ?? -1;
    this.seconds.push(...seconds.filter((second) => second[0] > last));
    this.draw();
  }

  draw() {
    if (clockS === null) return;
    const oldest = nowS() - SPAN_S;
    this.seconds = this.seconds.filter((second) => second[0] >= oldest);
    const plot = this.part(".plot");
    drawGraph(plot, this.seconds, nowS());
    const newest = this.seconds.at(-1);
    const text = newest ? `latency ${ms(newest[1])}, frame age ${ms(newest[3])} in the last second` : "no figures yet";
    plot.setAttribute("aria-label", `Latency and frame age over the last minutes; ${text}`);
  }

  /** Fetches picture after picture while the camera is on the page and the page is looked at. */
  async watch() {
    while (this.card.isConnected) {
      // The server answers when there is a new picture; of a lost camera nobody need wait for one.
      if (!isWatched() || (this.card.dataset.state !== "live" && this.sequence <= this.shown)) {
        await pause(100);
        continue;
      }
      try {
        const answer = await fetch(`cameras/${this.id}/picture.jpg?after=${this.shown}`);
        if (answer.status === 200) {
          await this.paint(await answer.blob());
          this.shown = Number(answer.headers.get("Edgeclf-Sequence"));
        } else if (answer.status !== 204) {
          await pause(RETRY_MS);
        }
      } catch {
        await pause(RETRY_MS); // the connection is lost, which is said above
      }
    }
  }

  async paint(blob) {
    const picture = await createImageBitmap(blob);
    if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) {
      this.canvas.width = picture.width;
      this.canvas.height = picture.height;
    }
    this.canvas.getContext("2d").drawImage(picture, 0, 0);
    picture.close();
  }
}

function showCameras(statuses) {
  for (const status of statuses) {
    if (!cameras.has(status.id)) cameras.set(status.id, new Camera(status.id));
    cameras.get(status.id).show(status);
  }
  element("nothing").hidden = statuses.length > 0;
  const lost = statuses.filter((status) => status.state === "stale").length;
  if (lost) say("lost", statuses.length > 1 ? `${lost} of ${statuses.length} cameras lost` : "camera lost");
  else if (statuses.some((status) => status.state === "live")) say("live", "live");
  else if (statuses.some((status) => status.state === "waiting")) say("waiting", "waiting for a camera");
  else say("waiting", "ended");
}

function say(state, text) {
  const place = element("connection");
  // Only a change is announced by screen readers.
  if (place.dataset.state === state && place.textContent === text) return;
  place.dataset.state = state;
  place.textContent = text;
  document.title = state === "lost" ? `${text} - edgeclf` : "edgeclf";
}

/** One line of an event: what it says of itself, or its names and values. */
function sentence(event) {
  const { event: kind, message, source, time, ...others } = event;
  const rest = Object.entries(others).map(([name, value]) => {
    return `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`;
  });
  const parts = [message ?? kind ?? "event", ...rest];
  return source === undefined || message?.includes(source) ? parts.join(", ") : `${source}: ${parts.join(", ")}`;
}

function showEvent({ at, event }) {
  const row = document.createElement("li");
  const time = document.createElement("time");
  time.dateTime = at;
  time.textContent = new Date(at).toLocaleTimeString();
  const text = document.createElement("span");
  text.textContent = sentence(event);
  row.append(time, text);
  const list = element("events");
  list.prepend(row);
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
  element("happenings").hidden = false;
}

function showModel({ file, architecture, precision, provider, labels }) {
  const parts = [file, architecture, precision, labels && `${labels.length} classes`, provider];
  element("model").textContent = parts.filter(Boolean).join(" · ");
}

function begin(message) {
  // Another process may answer now: nothing that was shown belongs to it.
  cameras.clear();
  element("cameras").replaceChildren();
  element("events").replaceChildren();
  element("happenings").hidden = true;
  showModel(message.model);
  message.events.forEach(showEvent);
}

function connect() {
  messages?.close();
  heardAtMs = performance.now();
  messages = new EventSource("api/stream");
  const on = (name, take) =>
    messages.addEventListener(name, ({ data }) => {
      heardAtMs = performance.now();
      const message = JSON.parse(data);
      if (message.now_s !== undefined) clockS = message.now_s - performance.now() / 1000;
      take(message);
    });
  on("hello", (message) => {
    element("access").hidden = true;
    begin(message);
    showCameras(message.cameras);
  });
  on("status", (message) => showCameras(message.cameras));
  on("event", showEvent);
  on("model", showModel);
  messages.addEventListener("error", lose);
}

/** Asks for the token where the preview, perhaps started anew, does not know the one that this page was opened with. */
async function askForToken() {
  try {
    const answer = await fetch("api/status");
    element("access").hidden = answer.status !== 401;
    if (answer.status === 401) say("lost", "token needed");
  } catch {
    // Nobody answers: the connection is lost, which is said above.
  }
}

element("access").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = encodeURIComponent(element("token").value);
  let answer = null;
  try {
    // The answer to the right token sets a cookie and leads to the page; following it is of no use.
    answer = await fetch(`./?token=${token}`, { redirect: "manual" });
  } catch {
    // As above.
  }
  if (answer?.type === "opaqueredirect") location.reload();
  else element("refusal").textContent = answer?.status === 401 ? "This is another one." : "The preview does not answer.";
});

function lose() {
  // What was said of the token stands until somebody answers.
  if (element("access").hidden) say("lost", "connection lost");
  askForToken();
  cameras.forEach((camera) => {
    camera.card.dataset.state = "stale";
    camera.part(".lost").hidden = false;
    camera.part(".lost").textContent = "Connection lost";
  });
}

// Nobody looks: a device need not encode pictures, and another tab may need the connection.
document.addEventListener("visibilitychange", () => {
  if (isWatched()) connect();
  else messages?.close();
});
// Neither a network that is gone without a word nor a refusal makes the browser try again by itself.
setInterval(() => {
  if (!isWatched() || performance.now() - heardAtMs < SILENCE_MS) return;
  lose();
  connect();
}, 1000);
new ResizeObserver(() => cameras.forEach((camera) => camera.draw())).observe(element("cameras"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cameras.forEach((camera) => camera.draw()));
connect();
