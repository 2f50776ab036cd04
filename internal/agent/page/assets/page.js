// The page's only script. Whatever comes from Redis is put in by textContent alone; nothing here makes markup of text.

const $ = (id) => document.getElementById(id);
const meta = (name) => document.querySelector(`meta[name="onetoken-${name}"]`).content;

const namespace = meta("namespace");
const sorts = ["trouble", "name", "state", "left", "version"]; // the keys of orders
const states = ["failing", "conflict", "missing", "refreshing", "stale", "fresh"];
const screenful = 200; // rows that are shown before somebody asks for more
const kept = 50; // events
const holdFor = 8_000; // ms that rows keep their places after a hand was seen on them

// --- The agent's clock -------------------------------------------------------------------------------------------------
// Every frame tells the agent's clock. What remains is counted by it and by performance.now(), never by the machine's wall
// clock; the frame that was under way the shortest tells best how far the two are apart.

let apart = Infinity;

function heardClock(now) {
  apart = Math.min(apart, performance.now() - now);
}

// anotherClock is told of a new stream, whose clock may be that of another process: what is known goes on by it.
function anotherClock(now) {
  const before = apart;
  apart = performance.now() - now;
  for (const entry of known.values()) {
    entry.ends += before - apart;
    entry.leaseEnds += before - apart;
    if (entry.retryAt !== null) entry.retryAt += before - apart;
  }
}

const clock = () => performance.now() - apart;

// --- What is known -----------------------------------------------------------------------------------------------------

const known = new Map(); // environment -> entry: the row, its deadlines by the agent's clock, its node if it is shown
const busy = new Map(); // environment -> what is being done to it
let read = false;
let away = null;

function take(row, now) {
  const entry = known.get(row.environment) ?? { node: null };
  entry.row = row;
  entry.ends = now + row.ttl_ms;
  entry.leaseEnds = now + row.lock.ttl_ms;
  entry.retryAt = row.retry_in_ms === null ? null : now + row.retry_in_ms;
  known.set(row.environment, entry);
  if (entry.node) paint(entry);
}

function forget(name) {
  known.get(name)?.node?.root.remove();
  known.delete(name);
}

// An environment is in trouble where somebody should look: nobody can use its token, or no new one can be had.
function troubled(row) {
  return row.state === "failing" || row.state === "conflict" || (!row.usable && row.state !== "refreshing");
}

// --- The stream --------------------------------------------------------------------------------------------------------

let source = null;
let lastSign = 0;
let reopen = 0; // the timer
let failures = 0;
let boot = meta("boot");
let csrf = meta("csrf");

function open() {
  clearTimeout(reopen);
  source?.close();
  lastSign = performance.now();
  source = new EventSource("/v1/events");
  on("hello", hello);
  on("state", (f) => frame(f, true));
  on("change", (f) => frame(f, false));
  on("beat", () => {});
  source.onerror = lost;
}

function on(name, handle) {
  const from = source;
  from.addEventListener(name, (event) => {
    if (from !== source) return;
    const data = JSON.parse(event.data);
    lastSign = performance.now();
    if (name === "hello") anotherClock(data.now);
    else heardClock(data.now);
    handle(data);
  });
}

function hello(data) {
  failures = 0;
  setLink("live", "Live");
  if (data.boot !== boot) renew();
}

// renew fetches what the page's requests must carry from an agent that has been started anew, and returns whether it did.
async function renew() {
  try {
    const text = await (await fetch("/", { cache: "no-store", redirect: "error" })).text();
    const [newBoot, newCSRF] = ["boot", "csrf"].map((name) => new RegExp(`<meta name="onetoken-${name}" content="([^"&]+)">`).exec(text)[1]);
    if (newBoot === boot) return false;
    [boot, csrf] = [newBoot, newCSRF];
    document.querySelector('meta[name="onetoken-csrf"]').content = csrf;
    return true;
  } catch {
    return false; // the next refused request tries again
  }
}

// A browser comes back by itself after a broken stream, but not after a refusal.
function lost() {
  setLink("lost", "Reconnecting");
  if (source.readyState !== EventSource.CLOSED) return;
  failures += 1;
  clearTimeout(reopen);
  reopen = setTimeout(open, Math.min(1000 * 2 ** failures, 15_000) * (0.5 + Math.random() / 2));
}

function frame(data, everything) {
  if (everything) {
    const names = new Set(data.rows.map((row) => row.environment));
    for (const name of [...known.keys()]) if (!names.has(name)) forget(name);
    $("events").replaceChildren();
  }
  for (const row of data.rows) take(row, data.now);
  for (const name of data.removed) forget(name);
  read = data.read;
  away = data.away;
  showAway();
  showHeard(data.heard);
  arrange();
}

function setLink(state, word) {
  if ($("link").dataset.link === state) return;
  $("link").dataset.link = state;
  $("link-word").textContent = word;
  document.body.classList.toggle("old", state === "lost");
  showTitle();
}

// --- Which rows are shown, and in which order --------------------------------------------------------------------------

let limit = screenful;
let handSeen = -Infinity; // when somebody last pointed at, or typed in, the rows
let unsorted = false; // the rows have kept their places although others are due

const wanted = readHash();

function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const sort = hash.get("sort");
  return {
    text: hash.get("find") ?? "",
    sort: sorts.includes(sort) ? sort : "trouble",
    states: new Set((hash.get("state") ?? "").split(",").filter((s) => states.includes(s))),
  };
}

function writeHash() {
  const hash = new URLSearchParams();
  if (wanted.text) hash.set("find", wanted.text);
  if (wanted.sort !== "trouble") hash.set("sort", wanted.sort);
  if (wanted.states.size) hash.set("state", [...wanted.states].join(","));
  history.replaceState(null, "", hash.size ? `#${hash}` : location.pathname);
}

function matches({ row }) {
  if (wanted.states.size && !wanted.states.has(row.state)) return false;
  const text = wanted.text.toLowerCase();
  return !text || [row.environment, row.refreshed_by, row.lock.holder].some((s) => s?.toLowerCase().includes(text));
}

const byName = (a, b) => (a.row.environment < b.row.environment ? -1 : 1);
const by = (key) => (a, b) => key(a) - key(b) || byName(a, b);
const orders = {
  trouble: by(({ row }) => (troubled(row) ? (row.usable ? 1 : 0) : 2)),
  name: byName,
  state: by(({ row }) => states.indexOf(row.state)),
  left: by((entry) => entry.ends),
  version: by(({ row }) => -(row.version ?? 0)),
};

// arrange brings the right rows into the right order. Under somebody's hand they stay where they are for a while: new ones
// come to the end.
function arrange(asked = false) {
  const held = !asked && performance.now() - handSeen < holdFor;
  const list = $("rows");
  let due = [...known.values()].filter(matches).sort(orders[wanted.sort]);
  const matching = due.length;
  if (held) {
    const shown = [...list.children].map((root) => known.get(root.dataset.env)).filter(Boolean);
    const there = new Set(shown);
    due = shown.concat(due.filter((entry) => !there.has(entry)));
  }
  unsorted = held;
  due = due.slice(0, Math.max(limit, held ? list.children.length : 0));
  place(list, due);
  showCounts(matching);
}

// place makes the list's children those of entries, in their order, and keeps the focus where it was.
function place(list, entries) {
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const keep = new Set(entries);
  for (const root of [...list.children]) {
    const entry = known.get(root.dataset.env);
    if (keep.has(entry)) continue;
    seen.unobserve(root);
    visible.delete(root);
    root.remove();
    if (entry) entry.node = null;
  }
  let next = list.firstElementChild;
  for (const entry of entries) {
    if (!entry.node) build(entry);
    const { root } = entry.node;
    if (root === next) next = next.nextElementSibling;
    else list.insertBefore(root, next);
  }
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

// --- A row -------------------------------------------------------------------------------------------------------------

const visible = new Set(); // the roots of rows on the screen: only they are kept counting down
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) {
      visible.delete(target);
      continue;
    }
    visible.add(target);
    const entry = known.get(target.dataset.env);
    if (entry?.node) count(entry);
  }
}, { rootMargin: "200px" });

const parts = ["name", "word", "bar", "fill", "time", "of", "version", "by", "acts", "elsewhere", "refresh", "invalidate", "lease", "holder",
  "lease-left", "failure", "code", "detail", "next", "reason", "why"];

function build(entry) {
  const root = $("row").content.firstElementChild.cloneNode(true);
  const node = { root, use: root.querySelector("use") };
  for (const part of parts) node[part] = root.querySelector(`.${part}`);
  const name = entry.row.environment;
  root.dataset.env = name;
  node.name.textContent = name;
  node.bar.setAttribute("aria-label", `Life left of the token of ${name}`);
  for (const verb of ["refresh", "invalidate"]) {
    node[verb].querySelector(".unseen").textContent = name;
    node[verb].addEventListener("click", () => ask(verb, name));
  }
  entry.node = node;
  seen.observe(root);
  paint(entry);
}

// paint shows all of a row.
function paint(entry) {
  const { row, node } = entry;
  node.root.dataset.state = row.state;
  node.root.classList.toggle("unusable", !row.usable);
  node.use.setAttribute("href", `#mark-${row.state}`);
  write(node.word, row.usable || row.state !== "refreshing" ? row.state : "refreshing, no token yet");
  write(node.version, row.version ?? "–");
  write(node.by, row.refreshed_by ?? "–");
  node.lease.hidden = row.state !== "refreshing";
  write(node.holder, row.lock.holder ?? "somebody unknown");
  node.failure.hidden = row.failure.code === null;
  write(node.code, row.failure.code ?? "");
  write(node.detail, failureDetail(row.failure));
  node.reason.hidden = row.reason === null || row.reason === "no token is stored";
  write(node.why, row.reason ?? "");
  paintActs(entry);
  count(entry);
}

function failureDetail({ code, status, message, attempt }) {
  const said = [];
  if (status !== null && code !== `http_${status}`) said.push(`HTTP ${status}`);
  if (message !== null) said.push(message);
  if (attempt !== null) said.push(`attempt ${attempt}`);
  return said.map((s) => ` · ${s}`).join("");
}

function paintActs({ row, node }) {
  const doing = busy.get(row.environment);
  node.acts.hidden = !row.here;
  node.elsewhere.hidden = row.here;
  write(node.refresh.firstElementChild, doing === "refresh" ? "Refreshing…" : "Refresh");
  write(node.invalidate.firstElementChild, doing === "invalidate" ? "Dropping…" : "Invalidate");
  for (const button of [node.refresh, node.invalidate]) set(button, "aria-disabled", String(doing !== undefined));
}

// count shows what runs down.
function count({ row, node, ends, leaseEnds, retryAt }) {
  const now = clock();
  const left = Math.max(ends - now, 0);
  const life = Math.max(row.life_ms, row.ttl_ms, 1);
  node.fill.style.transform = `scaleX(${row.ttl_ms ? Math.min(left / life, 1).toFixed(4) : 0})`;
  write(node.time, row.ttl_ms === 0 ? "no token" : left === 0 ? "ran out" : span(left));
  write(node.of, row.ttl_ms === 0 ? "" : `of ${span(life).replace(/ 0\d?[mhs]$/, "")}`);
  set(node.bar, "aria-valuenow", row.ttl_ms ? String(Math.round((100 * left) / life)) : "0");
  set(node.bar, "aria-valuetext", row.ttl_ms === 0 ? "no token" : left === 0 ? "ran out" : `${spoken(left)} of ${spoken(life)} left`);
  if (!node.lease.hidden) write(node["lease-left"], leaseEnds > now ? ` · ends in ${span(leaseEnds - now)} unless renewed` : "");
  if (!node.failure.hidden) write(node.next, nextTry(retryAt, now));
}

function nextTry(retryAt, now) {
  if (retryAt === null) return "";
  return retryAt > now ? ` · next try in ${span(retryAt - now)}` : " · next try as soon as somebody asks";
}

function write(element, text) {
  const s = String(text);
  if (element.textContent !== s) element.textContent = s;
}

function set(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

// span is a duration in its two largest units, of the same width where it counts down.
function span(ms) {
  const s = Math.ceil(ms / 1000);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${two(s % 60)}s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h ${two(Math.floor((s % 3600) / 60))}m`;
  return `${Math.floor(s / 86_400)}d ${Math.floor((s % 86_400) / 3600)}h`;
}

// spoken is a duration for a screen reader, coarse, so that it changes seldom.
function spoken(ms) {
  const s = Math.ceil(ms / 1000);
  const many = (n, unit) => `${n} ${unit}${n === 1 ? "" : "s"}`;
  if (s < 120) return many(s < 20 ? s : Math.ceil(s / 10) * 10, "second");
  if (s < 7200) return many(Math.round(s / 60), "minute");
  if (s < 172_800) return many(Math.round(s / 3600), "hour");
  return many(Math.round(s / 86_400), "day");
}

const capital = (s) => s[0].toUpperCase() + s.slice(1);

// --- Around the rows ---------------------------------------------------------------------------------------------------

let troubles = 0;

function showCounts(matching) {
  const counts = Object.fromEntries(states.map((s) => [s, 0]));
  troubles = 0;
  for (const { row } of known.values()) {
    counts[row.state] += 1;
    if (troubled(row)) troubles += 1;
  }
  for (const chip of document.querySelectorAll(".chip")) {
    write(chip.querySelector("b"), counts[chip.dataset.state]);
    chip.classList.toggle("none", counts[chip.dataset.state] === 0);
    set(chip, "aria-pressed", String(wanted.states.has(chip.dataset.state)));
  }
  const filtered = matching !== known.size ? `, ${matching} shown` : "";
  write($("sum"), read ? `${known.size} in all${filtered},` : "");
  write($("troubles"), read ? `${troubles === 0 ? "none" : troubles} in trouble` : "");
  $("troubles").classList.toggle("bad", troubles > 0);
  const rest = matching - $("rows").children.length;
  $("more").hidden = rest <= 0;
  write($("more-do"), `Show ${Math.min(rest, screenful)} more of ${rest}`);
  $("loading").hidden = read || away !== null;
  $("empty").hidden = !read || known.size > 0;
  $("nomatch").hidden = !read || known.size === 0 || matching > 0 || $("rows").children.length > 0;
  showTitle();
}

function showTitle() {
  const name = `onetoken · ${namespace}`;
  const lost = $("link").dataset.link === "lost";
  document.title = lost ? `(?) ${name}` : away ? `(!) Redis away · ${name}` : troubles ? `(${troubles}) ${name}` : name;
}

function showAway() {
  $("away").hidden = away === null;
  if (away === null) return;
  write($("away-why"), away.message);
  countAway();
}

function countAway() {
  if (away !== null) write($("away-since"), span(Math.max(clock() - away.since, 1000)));
}

const told = { stored: "new token", failed: "failed", invalidated: "dropped" };
const looks = { stored: "fresh", failed: "failing", invalidated: "missing" };

function showHeard(events) {
  const list = $("events");
  for (const { env, kind, version, at } of events) {
    const when = new Date(at);
    const item = document.createElement("li");
    item.dataset.kind = kind;
    const time = document.createElement("time");
    time.dateTime = at;
    time.title = `${at}, version ${version}`;
    time.textContent = when.toLocaleTimeString("en-GB");
    const mark = document.querySelector(`.chip[data-state="${looks[kind]}"] svg`)?.cloneNode(true);
    item.append(time, " ", ...(mark ? [mark] : []), part("env", env), " ", part("kind", told[kind] ?? kind), " ", part("version", version));
    list.prepend(item);
  }
  while (list.children.length > kept) list.lastElementChild.remove();
  $("quiet").hidden = list.children.length > 0;
}

function part(name, text) {
  const span = document.createElement("span");
  span.className = name;
  span.textContent = text;
  return span;
}

// --- What can be done --------------------------------------------------------------------------------------------------

let asked = null; // what the open dialog is about

const warnings = {
  refresh: () => "The whole fleet gets a new token: one replica asks the token endpoint once, now, and a backoff that is running is not waited for. The present token stays in use until the new one is there.",
  invalidate: (row) => `The stored token${row?.version ? `, version ${row.version},` : ""} is dropped everywhere: the whole fleet stops using it at once and fetches a new token. Until that is there, requests wait; if the token endpoint fails, they fail.`,
};

function ask(verb, name) {
  if (busy.has(name)) return;
  const row = known.get(name)?.row;
  asked = { verb, name, version: row?.version ?? null };
  $("ask-title").textContent = `${capital(verb)} ${name}?`;
  $("ask-text").textContent = warnings[verb](row);
  $("ask-yes").textContent = `${capital(verb)} ${name}`;
  $("ask").dataset.verb = verb;
  $("ask").showModal();
  $("ask-no").focus();
}

function answered(yes) {
  const what = asked;
  asked = null;
  $("ask").close();
  if (yes && what) act(what);
}

async function act({ verb, name, version }) {
  setBusy(name, verb);
  const query = verb === "invalidate" && version ? `?version=${version}` : "";
  try {
    const reply = await send(`/v1/environments/${encodeURIComponent(name)}/${verb}${query}`);
    if (reply.ok) say(await success(verb, name, version, reply), false);
    else say(`${name}: ${verb} failed. ${await problem(reply)}`, true);
  } catch {
    say(`${name}: ${verb} failed. The agent gave no answer; whether it was done isn’t known.`, true);
  } finally {
    setBusy(name, undefined);
  }
}

// send sends a request, and once more where the agent has been started anew meanwhile and refused it.
async function send(path) {
  const post = () => fetch(path, { method: "POST", headers: { "X-Onetoken-CSRF": csrf }, cache: "no-store", redirect: "error" });
  const reply = await post();
  return reply.status === 403 && (await renew()) ? post() : reply;
}

async function success(verb, name, version, reply) {
  if (verb === "invalidate") return `${name}: ${version ? `version ${version} is` : "all versions are"} dropped, everywhere.`;
  const answer = await json(reply);
  const by = answer?.refreshed_by ? `, fetched by ${answer.refreshed_by}` : "";
  return `${name}: there is a new token${answer?.version ? `, version ${answer.version}` : ""}${by}.`;
}

// problem is what an RFC 9457 body says, or the status where there is none.
async function problem(reply) {
  const body = await json(reply);
  const said = [body?.title, body?.detail].filter((s) => typeof s === "string" && s !== "");
  const later = reply.headers.get("Retry-After");
  if (later && /^\d+$/.test(later)) said.push(`next try in ${span(1000 * later)}`);
  return (said.length ? said.join(": ") : `HTTP ${reply.status}`).replace(/\.*$/, ".");
}

async function json(reply) {
  try {
    return await reply.json();
  } catch {
    return null;
  }
}

function setBusy(name, verb) {
  if (verb) busy.set(name, verb);
  else busy.delete(name);
  const entry = known.get(name);
  if (entry?.node) paintActs(entry);
}

function say(text, bad) {
  $("said-text").textContent = text;
  $("said").classList.toggle("bad", bad);
  $("said").hidden = false;
  $("announce").replaceChildren(part("text", text)); // a new element is read out even where its text is the same
}

// --- Hands -------------------------------------------------------------------------------------------------------------

for (const chip of document.querySelectorAll(".chip")) {
  chip.addEventListener("click", () => {
    const { state } = chip.dataset;
    if (!wanted.states.delete(state)) wanted.states.add(state);
    choose();
  });
}

function choose() {
  limit = screenful;
  writeHash();
  arrange(true);
}

$("find").value = wanted.text;
$("sort").value = wanted.sort;
$("find").addEventListener("input", () => { wanted.text = $("find").value.trim(); choose(); });
$("sort").addEventListener("change", () => { wanted.sort = $("sort").value; choose(); });
$("clear").addEventListener("click", () => {
  wanted.text = $("find").value = "";
  wanted.states.clear();
  choose();
  $("find").focus();
});
$("more-do").addEventListener("click", () => {
  limit += screenful;
  arrange(true);
});
for (const kind of ["pointermove", "pointerdown", "keydown", "focusin"]) {
  $("rows").addEventListener(kind, () => { handSeen = performance.now(); }, { passive: true });
}
$("said-done").addEventListener("click", () => { $("said").hidden = true; });
$("ask-no").addEventListener("click", () => answered(false));
$("ask-yes").addEventListener("click", () => answered(true));
$("ask").addEventListener("cancel", () => { asked = null; });

// --- Time --------------------------------------------------------------------------------------------------------------

const silence = 35_000; // ms: three signs of life have been missed

setInterval(() => {
  for (const root of visible) {
    const entry = known.get(root.dataset.env);
    if (entry?.node) count(entry);
  }
  countAway();
  if (unsorted) arrange();
  if (source.readyState === EventSource.OPEN && performance.now() - lastSign > silence) {
    setLink("lost", "Reconnecting");
    open();
  }
}, 1000);

addEventListener("pagehide", () => source.close());
addEventListener("pageshow", (event) => { if (event.persisted) open(); });

$("loading").hidden = false;
open();
