"use strict";
const at = (id) => document.getElementById(id);
let image = null, answer = null, models = [], taking = 0, asking = 0, mostMib = Infinity;

function say(text, isError = false) {
  at("status").textContent = text;
  at("status").className = isError ? "error" : "";
}

async function call(url, body) {
  const headers = {"X-Ovdense": "1", "Content-Type": body instanceof Blob ? "application/octet-stream" : "application/json"};
  const response = await fetch(url, {method: "POST", headers, body: body instanceof Blob ? body : JSON.stringify(body)});
  const said = await response.json().catch(() => ({error: `the server answered ${response.status}`}));
  if (!response.ok) throw new Error(said.error);
  return said;
}

async function take(blob, name) {
  if (blob.size > mostMib * 2 ** 20) return say(`the picture's file may have ${mostMib} MiB at most; make it smaller`, true);
  say(`sending ${name} ...`);
  const turn = ++taking;
  let taken;
  try {
    taken = await call("image", blob);
  } catch (error) {
    return turn === taking ? say(error.message, true) : undefined;
  }
  if (turn !== taking) return;  // another one was dropped meanwhile
  image = taken;
  asking += 1;  // what is still being asked is about another picture
  at("drop-text").textContent = `${name}: ${image.width} x ${image.height}. Drop another one at any time.`;
  at("picture").src = URL.createObjectURL(blob);
  clear();
  at("ask").disabled = false;
  say("");
  if (at("texts").value.trim()) ask();
}

function clear() {
  answer = null;
  for (const id of ["classes"]) at(id).replaceChildren();
  for (const id of ["times", "boxes"]) at(id).hidden = true;
}

async function ask() {
  if (!image) return;
  const turn = ++asking;
  at("ask").disabled = true;
  say("looking ...");
  const texts = at("texts").value.split("\n").map((t) => t.trim()).filter(Boolean);
  const asked = at("sentence").checked ? {caption: texts.join(" ")} : {texts};
  try {
    const found = await call("ask", {image: image.image, ...asked, model: at("model").value, score_thr: Number(at("thr").value)});
    if (turn === asking) show(found);
  } catch (error) {
    if (turn === asking) say(error.message, true);
  }
  if (turn === asking) at("ask").disabled = false;
}

function cell(text, kind = "td") {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

function show(found) {
  answer = found;
  at("picture").src = found.overlay;
  at("picture").dataset.answer = found.answer;
  const seconds = found.seconds, body = at("times").tBodies[0];
  const parts = [["image features", seconds.image, found.features], ["text", seconds.text], ["matching", seconds.match], ["drawing", seconds.draw]];
  if (seconds.load > 0.01) parts.unshift(["loading the model", seconds.load]);
  parts.push(["all", seconds.total]);
  body.replaceChildren(...parts.map(([name, value, note]) => {
    const row = document.createElement("tr"), last = cell(note || "");
    if (note) last.className = note;
    row.append(cell(name), cell(`${value.toFixed(3)} s`), last);
    return row;
  }));
  at("times").hidden = false;
  at("classes").replaceChildren(...found.classes.map((c, k) => {
    const made = document.createElement("button"), chip = document.createElement("i"), count = document.createElement("small");
    chip.style.background = c.colour;
    count.textContent = c.found;
    made.append(chip, c.name, count);
    made.title = "show the heat map of this class";
    made.setAttribute("aria-pressed", "false");
    made.addEventListener("click", () => heat(made, k));
    return made;
  }));
  at("boxes").hidden = !found.boxes.length;
  at("boxes").tBodies[0].replaceChildren(...found.boxes.map((b) => {
    const row = document.createElement("tr");
    row.append(cell(found.classes[b.class].name), cell(b.score.toFixed(2)), ...b.box.map((v) => cell(v.toFixed(0))));
    return row;
  }));
  say(found.kind === "boxes" ? `${found.num_boxes} found` : "");
}

function heat(button, k) {
  const on = button.getAttribute("aria-pressed") !== "true";
  for (const other of at("classes").children) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(on));
  at("picture").src = on ? `heat/${answer.answer}/${k}.png` : answer.overlay;
}

at("picture").addEventListener("error", () => say("the picture could not be shown; ask again", true));
at("ask").addEventListener("click", ask);
at("texts").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(); });
at("model").addEventListener("change", () => { tell(); if (image && at("texts").value.trim()) ask(); });
at("file").addEventListener("change", () => { const file = at("file").files[0]; if (file) take(file, file.name); at("file").value = ""; });
for (const kind of ["dragenter", "dragover"]) at("drop").addEventListener(kind, (e) => { e.preventDefault(); at("drop").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) at("drop").addEventListener(kind, () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", (event) => { event.preventDefault(); const file = event.dataTransfer.files[0]; if (file) take(file, file.name); });
at("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") at("file").click(); });

function tell() {
  const chosen = models.find((m) => m.name === at("model").value);
  at("about").textContent = chosen ? chosen.about : "";
  at("as-sentence").hidden = !(chosen && chosen.captions);
  if (at("as-sentence").hidden) at("sentence").checked = false;
}

fetch("about").then((r) => r.json()).then((about) => {
  models = about.models;
  mostMib = about.limits.upload_mib;
  at("model").replaceChildren(...models.map((m) => { const o = document.createElement("option"); o.value = o.textContent = m.name; return o; }));
  tell();
  at("examples").replaceChildren(...about.examples.map((example, n) => {
    const made = document.createElement("img");
    made.src = example.url;
    made.alt = `example ${n + 1}`;
    made.title = example.texts.join("; ");
    made.addEventListener("click", async () => {
      at("sentence").checked = false;
      at("texts").value = example.texts.join("\n");
      take(await (await fetch(example.url)).blob(), `example ${n + 1}`);
    });
    return made;
  }));
}).catch(() => say("the server does not answer", true));
