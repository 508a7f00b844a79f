// The page: conversations kept in this browser, answers from the server it came from.

import { copyText, element, render } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const store = {
  read(key, otherwise) {
    try { return JSON.parse(localStorage.getItem(`edgeslm.${key}`)) ?? otherwise; } catch { return otherwise; }
  },
  write(key, value) {
    try { localStorage.setItem(`edgeslm.${key}`, JSON.stringify(value)); return true; } catch { return false; }
  },
};

let conversations = store.read("conversations", []);
let settings = { system: "", temperature: 0.7, longest: null, key: "", ...store.read("settings", {}) };
const deleted = new Set();
let current = null;
let running = null;

// ---- The server

function headers() {
  const made = { "Content-Type": "application/json" };
  if (settings.key) made.Authorization = `Bearer ${settings.key}`;
  return made;
}

async function refusal(response) {
  let problem = {};
  try { problem = (await response.json()).error ?? {}; } catch { /* no JSON: the status has to do */ }
  const error = new Error(problem.message ?? `The server answered with status ${response.status}.`);
  error.status = response.status;
  error.code = problem.code;
  return error;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ") || part === "data: [DONE]") continue;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function ask(messages, signal) {
  const body = { model: $("model").value, messages, stream: true, temperature: settings.temperature };
  if (settings.longest) body.max_tokens = settings.longest;
  const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
  return response;
}

async function loadModels() {
  const response = await fetch("/v1/models", { headers: headers() });
  if (!response.ok) throw await refusal(response);
  const models = (await response.json()).data;
  const former = $("model").value || store.read("model", "");
  $("model").replaceChildren(...models.map((model) => element("option", { value: model.id }, model.id)));
  if (models.some((model) => model.id === former)) $("model").value = former;
}

async function showMachine() {
  if (document.hidden) return;
  try {
    const response = await fetch("/metrics", { headers: headers() });
    if (!response.ok) throw await refusal(response);
    const text = await response.text();
    const figure = (name) => Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1]);
    const shown = [];
    const bytes = figure("edgeslm_resident_bytes");
    if (bytes) shown.push(`${Math.round(bytes / 1e6)} MB RAM`);
    const celsius = figure("edgeslm_temperature_celsius");
    if (celsius) shown.push(`${Math.round(celsius)} °C`);
    $("machine").textContent = shown.join(" · ");
  } catch {
    $("machine").textContent = "not reachable";
  }
}

// ---- Conversations

function save() {
  if (current && !conversations.includes(current)) conversations.unshift(current);
  if (current) current.changed = Date.now();
  keep();
  showConversations();
}

function keep() {
  merge();
  while (!store.write("conversations", conversations) && conversations.length > 1) conversations.pop();
}

function merge() {
  // Another tab may have written its own since this one read them. What is shown here stays.
  const own = new Map(conversations.map((each) => [each.id, each]));
  for (const each of store.read("conversations", [])) {
    const mine = own.get(each.id);
    if (!mine && !deleted.has(each.id)) conversations.push(each);
    else if (mine && each.id !== current.id && each.changed > mine.changed) Object.assign(mine, each);
  }
  conversations.sort((one, other) => other.changed - one.changed);
}

function follow(event) {
  // Another tab has written: what it deleted goes here too, what it changed is shown.
  const ids = (text) => { try { return JSON.parse(text).map((each) => each.id); } catch { return []; } };
  const left = new Set(ids(event.newValue));
  for (const id of ids(event.oldValue)) if (!left.has(id)) deleted.add(id);
  conversations = conversations.filter((each) => !deleted.has(each.id));
  merge();
  if (deleted.has(current.id)) { open(null); return; }
  const newer = store.read("conversations", []).find((each) => each.id === current.id && each.changed > current.changed);
  if (newer && !running) {
    Object.assign(current, newer);
    showMessages();
  }
  showConversations();
}

function open(conversation) {
  running?.abort();
  current = conversation ?? { id: crypto.getRandomValues(new Uint32Array(2)).join(""), title: "", messages: [], changed: 0 };
  store.write("open", current.id);
  notice("");
  showMenu(false);
  showConversations();
  showMessages();
}

function remove(conversation) {
  if (!confirm(`Delete “${conversation.title}”?`)) return;
  deleted.add(conversation.id);
  conversations = conversations.filter((each) => each !== conversation);
  keep();
  if (conversation === current) open(null); else showConversations();
}

function showConversations() {
  $("conversations").replaceChildren(...conversations.map((each) => {
    const item = element("li", each === current ? { class: "current" } : {});
    const button = element("button", { type: "button", class: "open", onclick: () => open(each) }, each.title || "Untitled");
    if (each === current) button.setAttribute("aria-current", "true");
    item.append(button, element("button", { type: "button", class: "remove", "aria-label": `Delete ${each.title}`, onclick: () => remove(each) }, "×"));
    return item;
  }));
}

// ---- Messages

function showMessages() {
  $("welcome").hidden = current.messages.length > 0;
  $("messages").replaceChildren(...current.messages.map(messageItem));
  scrollDown(true);
}

function messageItem(message, index) {
  const text = element("div", { class: "text" });
  const tools = element("div", { class: "tools" });
  const item = element("li", { class: message.role }, element("span", { class: "hidden" }, message.role === "user" ? "You:" : "Answer:"), text, tools);
  if (message.role === "user") text.textContent = message.content;
  else render(message.content, text);
  const last = index === current.messages.length - 1;
  const copy = element("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () => copyText(message.content, copy));
  tools.append(copy);
  if (message.role === "user") {
    tools.append(element("button", { type: "button", onclick: () => edit(index) }, "Edit"));
  } else if (last) {
    tools.append(element("button", { type: "button", onclick: regenerate }, "Answer again"));
  }
  if (message.figures) tools.append(element("span", { class: "figures" }, message.figures));
  return item;
}

function edit(index) {
  if (running) return;
  $("input").value = current.messages[index].content;
  current.messages.length = index;
  save();
  showMessages();
  grow();
  $("input").focus();
}

function scrollDown(always) {
  const log = $("log");
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
  if (always || near) log.scrollTop = log.scrollHeight;
}

// ---- Asking

async function send(text) {
  if (running || !text.trim()) return;
  current.title ||= text.trim().split("\n")[0].slice(0, 60);
  current.messages.push({ role: "user", content: text.trim() });
  save();
  showMessages();
  await answer();
}

async function regenerate() {
  if (running) return;
  const former = current.messages.at(-1)?.role === "assistant" ? current.messages.pop() : null;
  showMessages();
  await answer(former);
}

async function answer(former = null) {
  const conversation = current;
  const message = { role: "assistant", content: "" };
  const item = messageItem(message, -1);
  const text = item.querySelector(".text");
  item.querySelector(".tools").hidden = true;
  item.setAttribute("aria-busy", "true");
  text.append(element("span", { class: "waiting" }));
  $("messages").append(item);
  scrollDown(true);
  notice("");
  busy(new AbortController());
  try {
    await read(conversation, message, text, running.signal);
    $("spoken").textContent = message.content;
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  }
  const kept = message.content ? message : former;
  if (kept) conversation.messages.push(kept);
  busy(null);
  if (conversation === current) {
    save();
    showMessages();
  } else {
    keep();
  }
}

async function read(conversation, message, text, signal) {
  const { response, leftOut } = await askWithRoom(conversation.messages, signal);
  if (leftOut) notice("The conversation is longer than the model's context: its oldest messages were left out.");
  const began = performance.now();
  let pieces = 0, drawn = false;
  const draw = () => {
    drawn = false;
    render(message.content, text);
    scrollDown(false);
  };
  for await (const event of events(response)) {
    const choice = event.choices?.[0];
    if (event.timings) message.figures = figures(event.timings);
    const content = choice?.delta?.content;
    if (!content) continue;
    message.content += content;
    pieces += 1;
    const seconds = (performance.now() - began) / 1000;
    $("status").textContent = seconds > 0.5 ? `≈ ${(pieces / seconds).toFixed(1)} tokens/s` : "";
    if (!drawn) { drawn = true; requestAnimationFrame(draw); }
  }
}

async function askWithRoom(messages, signal) {
  const system = settings.system.trim() ? [{ role: "system", content: settings.system.trim() }] : [];
  const said = messages.map(({ role, content }) => ({ role, content }));
  for (let from = 0; ;) {
    try {
      return { response: await ask([...system, ...said.slice(from)], signal), leftOut: from > 0 };
    } catch (error) {
      const next = said.findIndex((each, index) => index > from && each.role === "user");
      if (error.code !== "context_length_exceeded" || next < 0) throw error;
      from = next;
    }
  }
}

function figures(timings) {
  const made = [`${timings.predicted_n} tokens`];
  if (timings.predicted_per_second) made.push(`${timings.predicted_per_second.toFixed(1)} tokens/s`);
  made.push(`first after ${(timings.prompt_ms / 1000).toFixed(2)} s`);
  return made.join(" · ");
}

function fail(error) {
  const offline = error instanceof TypeError;
  notice(offline ? "The device does not answer. Is it still running?" : error.message);
  if (error.status === 401) showSettings();
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function busy(controller) {
  running = controller;
  $("send").hidden = Boolean(controller);
  $("stop").hidden = !controller;
  $("status").textContent = "";
}

// ---- The rest of the page

function grow() {
  const input = $("input");
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  $("send").disabled = !input.value.trim();
}

function showMenu(shown) {
  $("sidebar").classList.toggle("shown", shown);
  $("shade").hidden = !shown;
  $("menu").setAttribute("aria-expanded", String(shown));
}

function showSettings() {
  $("system").value = settings.system;
  $("temperature").value = settings.temperature;
  $("temperature-shown").textContent = settings.temperature;
  $("longest").value = settings.longest ?? "";
  $("key").value = settings.key;
  $("settings").showModal();
}

async function keepSettings() {
  settings = {
    system: $("system").value,
    temperature: Number($("temperature").value),
    longest: Number($("longest").value) || null,
    key: $("key").value.trim(),
  };
  store.write("settings", settings);
  await start();
}

async function start() {
  try {
    await loadModels();
    notice("");
  } catch (error) {
    fail(error);
  }
  await showMachine();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return;
  const text = $("input").value;
  $("input").value = "";
  grow();
  send(text);
});
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("settings").open) return;
  if ($("sidebar").classList.contains("shown")) { showMenu(false); $("menu").focus(); } else running?.abort();
});
$("stop").addEventListener("click", () => { running?.abort(); $("input").focus(); });
$("new").addEventListener("click", () => { open(null); $("input").focus(); });
$("menu").addEventListener("click", () => showMenu(true));
$("shade").addEventListener("click", () => showMenu(false));
$("model").addEventListener("change", () => store.write("model", $("model").value));
$("settings-open").addEventListener("click", showSettings);
$("settings").addEventListener("close", keepSettings);
$("temperature").addEventListener("input", () => { $("temperature-shown").textContent = $("temperature").value; });
$("forget").addEventListener("click", () => {
  if (!confirm("Delete all conversations?")) return;
  for (const each of [...conversations, ...store.read("conversations", [])]) deleted.add(each.id);
  conversations = [];
  keep();
  open(null);
});
window.addEventListener("storage", (event) => { if (event.key === "edgeslm.conversations") follow(event); });
for (const idea of $("ideas").children) idea.addEventListener("click", () => send(idea.textContent));

open(conversations.find((each) => each.id === store.read("open", "")) ?? null);
grow();
start();
setInterval(showMachine, 5000);
