// The page of a live video: chunks come as bytes over a WebSocket and are drawn when they are due; everything else is JSON.

const $ = (id) => document.getElementById(id);
const now = () => performance.now() / 1000;
const PAST_S = 20, AHEAD_S = 14; // what the timeline shows
const MOST_FRAMES = 240; // that wait to be drawn
const RETRY_S = [0.3, 1, 2, 4];
const KEY_NAMES = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", " ": "space", Tab: "tab",
  Home: "home", End: "end", PageUp: "pageup", PageDown: "pagedown", Insert: "insert", Delete: "delete" };

const state = {
  socket: null, tries: 0, ended: false, live: null, writes: false, paused: false, nextChunk: 0, cues: [], planned: new Map(),
  told: new Map(), // event_id -> when it was sent, and in which chunk it is seen
  shownChunk: -1, shownTimes: [], latency: null, count: 0, held: new Set(),
};

// ---- time: chunks, frames, seconds ----

const firstFrame = (chunk) => chunk < 1 ? state.live.first_frames[0]
  : state.live.first_frames[1] + (chunk - 1) * state.live.frames_per_chunk;
const secondOf = (chunk) => firstFrame(chunk) / state.live.fps;
const chunkAt = (second) => Math.max(0, Math.round(
  (second * state.live.fps - state.live.first_frames[1]) / state.live.frames_per_chunk) + 1);
const clock = (second) => `${second.toFixed(1)} s`;

// ---- pictures: decode, wait until due, draw ----

const screen = $("screen"), paint = screen.getContext("2d");
let queue = []; // frames to draw, the earliest first: {image, due, index}
let decoder = null, due = new Map(), stamp = 0;

async function hasH264() {
  if (!("VideoDecoder" in window)) return false;
  try { return (await VideoDecoder.isConfigSupported({ codec: "avc1.42E028" })).supported; } catch { return false; }
}

function openDecoder() {
  decoder?.state === "configured" && decoder.close();
  due.clear();
  decoder = new VideoDecoder({
    output: (image) => { const at = due.get(image.timestamp); due.delete(image.timestamp); at ? enqueue(image, at) : image.close(); },
    error: () => { decoder = null; },
  });
  decoder.configure({ codec: "avc1.42E028", optimizeForLatency: true });
}

function enqueue(image, at) {
  queue.push({ image, ...at });
  queue.sort((a, b) => a.due - b.due);
  while (queue.length > MOST_FRAMES) queue.shift().image.close();
}

function forgetFrames() {
  for (const frame of queue) frame.image.close();
  queue = [];
  if (decoder) openDecoder();
}

async function takeChunk(bytes) {
  const length = new DataView(bytes).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  const start = now() + head.due_in;
  state.lost = head.lost;
  let offset = 4 + length;
  for (const [number, size] of head.sizes.entries()) {
    const data = new Uint8Array(bytes, offset, size);
    offset += size;
    const at = { due: start + number / state.live.fps, index: head.index, frame: head.start_frame + number };
    if (head.codec === "h264") {
      if (!decoder) openDecoder();
      stamp += 1000;
      due.set(stamp, at);
      decoder.decode(new EncodedVideoChunk({ type: head.keys[number] ? "key" : "delta", timestamp: stamp, data }));
    } else {
      enqueue(await createImageBitmap(new Blob([data], { type: "image/jpeg" })), at);
    }
  }
}

function draw() {
  let frame = null;
  while (queue.length && queue[0].due <= now()) {
    frame?.image.close();
    frame = queue.shift();
  }
  if (frame) {
    const width = frame.image.displayWidth ?? frame.image.width, height = frame.image.displayHeight ?? frame.image.height;
    if (screen.width !== width || screen.height !== height) { screen.width = width; screen.height = height; }
    paint.drawImage(frame.image, 0, 0, width, height);
    frame.image.close();
    if (frame.index !== state.shownChunk) seen(frame.index);
    state.shownTimes.push(now());
    $("time").textContent = clock(frame.frame / state.live.fps);
    state.second = frame.frame / state.live.fps;
  }
  while (state.shownTimes[0] < now() - 2) state.shownTimes.shift();
  requestAnimationFrame(draw);
}

function seen(index) {
  state.shownChunk = index;
  for (const [id, told] of state.told) {
    if (told.chunk !== undefined && told.chunk <= index) {
      state.told.delete(id);
      state.latency = now() - told.sent;
      $("latency").textContent = `${Math.round(1000 * state.latency)} ms`;
    }
  }
}

// ---- the connection ----

async function connect() {
  const address = new URL("live", location.href);
  address.protocol = "ws:";
  address.searchParams.set("codec", state.codec ??= new URLSearchParams(location.search).get("codec") ?? ((await hasH264()) ? "h264" : "jpeg"));
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  state.socket = socket;
  let order = Promise.resolve();
  socket.onmessage = ({ data }) => {
    order = order.then(() => typeof data === "string" ? hear(JSON.parse(data)) : takeChunk(data)).catch(console.error);
  };
  socket.onclose = () => {
    if (state.ended) return;
    const wait = RETRY_S[Math.min(state.tries++, RETRY_S.length - 1)];
    cover(state.tries > 3 ? "The connection is lost. Is causvid still running? Trying again …" : "Connecting again …");
    setTimeout(connect, 1000 * wait);
  };
}

function tell(message) {
  if (state.socket?.readyState !== WebSocket.OPEN) return say("Not connected.", true);
  const event_id = `page-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  if (message.at === undefined && (message.prompt || message.cue || message.seed !== undefined || message.key)) {
    state.told.set(event_id, { sent: now() });
  }
  state.socket.send(JSON.stringify({ ...message, event_id }));
  return event_id;
}

const hears = {
  hello(event) {
    state.tries = 0;
    Object.assign(state, { writes: event.writes, mayWrite: event.may_write });
    if (event.state === "live") {
      Object.assign(state, { live: event, paused: event.paused, nextChunk: event.next_chunk, cues: event.cues });
      state.planned = new Map(event.planned.map((plan) => [plan.event_id, plan]));
      const [width, height] = event.size.split("x");
      $("model").textContent = `${event.model}, ${width} × ${height}, seed ${event.seed}`;
      showKeys(event.keys);
      cover(null);
    } else {
      cover(event.state === "waiting" ? "Say what to show first." : "The model is loading …");
    }
  },
  pen(event) { state.writes = event.writes; say(event.writes ? "You write now." : "Somebody else writes now."); },
  viewers(event) { state.count = event.count; $("viewers").textContent = event.count; },
  started() { cover(null); },
  received() {},
  planned(event) { state.planned.set(event.event_id, event); say(`Planned for ${clock(secondOf(event.chunk))}.`); },
  dropped(event) { state.planned.delete(event.event_id); say("Dropped."); },
  applied(event) {
    state.planned.delete(event.event_id);
    state.cues = [...state.cues.filter((cue) => cue.chunk !== event.chunk), event].sort((a, b) => a.chunk - b.chunk);
    const told = state.told.get(event.event_id);
    if (told) told.chunk = event.chunk;
    say([`“${event.prompt}” is seen in ${event.in.toFixed(1)} s, from ${clock(secondOf(event.chunk))} on.`, ...event.notes].join(" "));
  },
  chunk(event) { state.nextChunk = event.index + 1; state.ahead = event.latency; },
  paused(event) { state.paused = event.paused; say(event.paused ? "Paused." : "It goes on."); },
  undone(event) {
    forgetFrames();
    state.nextChunk = event.chunk;
    state.cues = state.cues.filter((cue) => cue.chunk < event.chunk || cue.chunk === 0);
    say(`Back at ${clock(secondOf(event.chunk))}: “${event.prompt}”.`);
  },
  saved(event) { say(`Saved: ${event.output ?? event.script}`); },
  refused(event) { state.told.delete(event.event_id); state.planned.delete(event.event_id); say(event.why, true); },
  ended(event) {
    state.ended = true;
    const kept = event.output ? ` Kept as ${event.output}, and what was told as ${event.script}.` : "";
    cover(`The end, after ${event.frames} frames.${kept}`);
    say("");
  },
};

function hear(event) {
  hears[event.event]?.(event);
  show();
}

// ---- what is seen besides the video ----

function say(text, wrong = false) {
  $("answer").textContent = text;
  $("answer").classList.toggle("wrong", wrong);
}

function cover(text) {
  $("cover").hidden = text === null;
  $("cover").textContent = text ?? "";
}

function show() {
  const idle = !state.writes || state.ended;
  for (const id of ["prompt", "send", "transition", "later", "seed"]) $(id).disabled = idle;
  for (const id of ["pause", "undo", "quit"]) $(id).disabled = idle || !state.live;
  for (const button of $("keys").children) button.disabled = idle;
  $("pause").setAttribute("aria-pressed", String(state.paused));
  $("pause").textContent = state.paused ? "Go on" : "Pause";
  const kept = state.live && state.nextChunk && !state.ended; // a link without an address cannot be followed, by keys neither
  for (const [id, there] of [["video", kept && state.live.has_file], ["script", kept]]) {
    there ? $(id).setAttribute("href", id) : $(id).removeAttribute("href");
  }
  $("watching").hidden = state.writes || state.ended;
  $("take").hidden = !state.mayWrite;
  showTimeline();
}

function showRates() {
  const times = state.shownTimes;
  $("rate").textContent = times.length > 1 ? `${((times.length - 1) / (times.at(-1) - times[0])).toFixed(1)} frames a second`
    + (state.lost ? `, ${state.lost} chunks lost` : "") : "–";
  $("ahead").textContent = state.ahead === undefined ? "–" : `${state.ahead.toFixed(1)} s`;
  showTimeline();
}

function showKeys(keys) {
  const names = Object.keys(keys);
  $("keys").hidden = !names.length;
  $("keys").replaceChildren(...names.map((name) => {
    const button = document.createElement("button");
    button.textContent = { left: "←", right: "→", up: "↑", down: "↓" }[name] ?? name;
    button.setAttribute("aria-label", `Key ${name}`);
    const press = (down) => () => pressKey(name, down);
    button.addEventListener("pointerdown", press(true));
    for (const kind of ["pointerup", "pointercancel", "pointerleave"]) button.addEventListener(kind, press(false));
    button.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.repeat) pressKey(name, true); });
    button.addEventListener("keyup", (event) => { if (event.key === "Enter") pressKey(name, false); });
    return button;
  }));
}

function pressKey(name, down) {
  if (down === state.held.has(name) || !state.writes) return;
  down ? state.held.add(name) : state.held.delete(name);
  const held = state.live.keys[name];
  if (down || held) tell(down ? { key: name } : { key: name, down: false });
}

// ---- the timeline ----

let dragged = null;

function place(second) {
  const end = Math.max(state.second ?? 0, secondOf(state.nextChunk) - 1) + AHEAD_S;
  return 100 * (second - (end - AHEAD_S - PAST_S)) / (AHEAD_S + PAST_S);
}

function showTimeline() {
  if (!state.live || dragged) return;
  const line = $("timeline"), shown = new Map([...line.children].map((each) => [each.dataset.id, each]));
  const end = Math.max(state.second ?? 0, secondOf(state.nextChunk) - 1) + AHEAD_S, start = end - AHEAD_S - PAST_S;
  // What is there already stays the same element: a press begins and ends on it.
  const put = (id, make, second, rem) => {
    const element = shown.get(id) ?? make(id);
    shown.delete(id);
    element.style.left = `${place(second)}%`;
    if (rem !== undefined) element.style.top = `${rem}rem`;
    if (!element.parentNode) line.append(element);
    return element;
  };
  for (let second = Math.max(0, Math.ceil(start / 5) * 5); second < end; second += 5) {
    put(`second ${second}`, mark("second", `${second} s`), second);
  }
  put("now", mark("now", ""), state.second ?? 0);
  state.cues.filter((cue) => secondOf(cue.chunk) >= start).forEach((cue, number) => {
    const button = put(`cue ${cue.chunk}`, cueButton(cue.chunk), secondOf(cue.chunk), 0.2 + 2.2 * (number % 2));
    name(button, cue.prompt, `${clock(secondOf(cue.chunk))}: ${cue.prompt}. Go back to before it.`);
    button.disabled = !state.writes || !cue.chunk || cue.chunk >= state.nextChunk;
  });
  [...state.planned.values()].sort((a, b) => a.chunk - b.chunk).forEach((plan, number) => {
    const button = put(`plan ${plan.event_id}`, planButton(plan.event_id), secondOf(plan.chunk), 3.3 + 1.1 * (number % 2));
    const says = plan.cue.prompt ?? Object.entries(plan.cue).map(([field, value]) => `${field} ${value}`).join(", ");
    name(button, says, `Planned for ${clock(secondOf(plan.chunk))}: ${says}. Arrow keys move it, Delete drops it.`);
    button.disabled = !state.writes;
  });
  for (const stale of shown.values()) stale.remove();
}

function name(button, text, label) {
  if (button.textContent !== text) button.textContent = button.title = text;
  if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
}

const mark = (kind, text) => (id) => {
  const element = document.createElement("span");
  element.className = kind;
  element.dataset.id = id;
  element.textContent = text;
  element.setAttribute("aria-hidden", "true");
  return element;
};

const cueButton = (chunk) => (id) => {
  const button = document.createElement("button");
  button.className = "cue";
  button.dataset.id = id;
  button.addEventListener("click", () => tell({ undo: chunk }));
  return button;
};

const planButton = (event_id) => (id) => {
  const button = document.createElement("button"), plan = () => state.planned.get(event_id);
  button.className = "cue planned";
  button.dataset.id = id;
  const move = (chunk) => tell({ move: event_id, at: Math.max(state.nextChunk, chunk) });
  button.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") move(plan().chunk + (event.key === "ArrowRight" ? 1 : -1));
    else if (event.key === "Delete" || event.key === "Backspace") tell({ drop: event_id });
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  button.addEventListener("pointerdown", (event) => {
    button.setPointerCapture(event.pointerId);
    button.classList.add("held");
    dragged = { x: event.clientX, chunk: plan().chunk };
  });
  button.addEventListener("pointermove", (event) => {
    if (!dragged || !plan()) return;
    const seconds = (event.clientX - dragged.x) / $("timeline").clientWidth * (PAST_S + AHEAD_S);
    dragged.chunk = Math.max(state.nextChunk, chunkAt(secondOf(plan().chunk) + seconds));
    button.style.left = `${place(secondOf(dragged.chunk))}%`;
    say(`To ${clock(secondOf(dragged.chunk))}`);
  });
  const drop = () => {
    if (!dragged) return;
    const { chunk } = dragged;
    dragged = null;
    button.classList.remove("held");
    if (plan() && chunk !== plan().chunk) move(chunk);
    show();
  };
  button.addEventListener("pointerup", drop);
  button.addEventListener("pointercancel", drop);
  return button;
};

// ---- what the user does ----

$("tell").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = $("prompt").value.trim(), seed = $("seed").value, transition = $("transition").value;
  if (!prompt && !seed && !transition) return $("prompt").focus();
  if (!state.live) {
    if (prompt) { tell({ prompt }); $("prompt").value = ""; }
    return;
  }
  const cue = { ...(prompt && { prompt }), ...(transition && { transition }), ...(seed && { seed: Number(seed) }) };
  const later = Number($("later").value), message = { cue };
  if (later > 0) message.at = Math.max(state.nextChunk, chunkAt((state.second ?? 0) + later));
  tell(message);
  for (const id of ["prompt", "seed"]) $(id).value = "";
  $("later").value = 0;
  $("transition").value = "";
});
$("pause").addEventListener("click", () => tell({ pause: !state.paused }));
$("undo").addEventListener("click", () => {
  const last = state.cues.filter((cue) => cue.chunk && cue.chunk < state.nextChunk).at(-1);
  last ? tell({ undo: last.chunk }) : say("Nothing was changed yet.", true);
});
$("quit").addEventListener("click", () => tell({ quit: true }));
$("take").addEventListener("click", () => tell({ pen: true }));

const typing = (target) => target.matches?.("input, select, textarea");
const keyName = (event) => KEY_NAMES[event.key] ?? event.key.toLowerCase();
addEventListener("keydown", (event) => {
  const name = keyName(event);
  if (event.key === "Escape" && typing(event.target)) return event.target.blur();
  if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey || !state.live) return;
  if (name in state.live.keys) { event.preventDefault(); if (!event.repeat) pressKey(name, true); }
  else if (event.key === "/") { event.preventDefault(); $("prompt").focus(); }
});
addEventListener("keyup", (event) => { const name = keyName(event); if (state.held.has(name)) pressKey(name, false); });
addEventListener("blur", () => { for (const name of [...state.held]) pressKey(name, false); });

setInterval(showRates, 500);
requestAnimationFrame(draw);
show();
connect();
