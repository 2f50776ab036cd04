// The page in a real Chromium. browser_test.go starts this beside a site, an agent in small: PAGE_URL is the page's address,
// CONTROL_URL does what site.do in site_test.go has; EMPTY_URL is a page without environments, MANY_URL one with thousands.
// Nothing here waits for a time: each step waits until what it is about has happened.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const { PAGE_URL, CONTROL_URL, EMPTY_URL, MANY_URL, CHROMIUM, SECRET } = process.env;
const patience = 60_000; // ms, on a busy machine
const axe = createRequire(import.meta.url)("axe-core").source;

// The end of standard input is that of the Go test, however it came: then the browser ends, too.
process.stdin.on("end", () => process.exit(1)).resume();
process.stdin.unref();

let browser;
before(async () => {
  browser = await chromium.launch({
    executablePath: CHROMIUM,
    timeout: patience,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
  });
});
after(() => browser?.close());

const act = async (path) => (await fetch(CONTROL_URL + path, { method: "POST" })).json();
const q = encodeURIComponent;

// look opens the page in a context of its own, hands it to use, and checks what holds of every page: no request but to the
// agent, no violation of the policy, no error, no token.
async function look(options, use, { url = PAGE_URL, troubles = [], ready = "#rows .row" } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  try {
    context.setDefaultTimeout(patience);
    await context.addInitScript(() => {
      window.violations = [];
      document.addEventListener("securitypolicyviolation", (e) => window.violations.push(`${e.violatedDirective}: ${e.blockedURI}`));
    });
    const page = await context.newPage();
    const foreign = [];
    const errors = [];
    context.on("request", (r) => { if (new URL(r.url()).origin !== new URL(url).origin) foreign.push(r.url()); });
    page.on("pageerror", (e) => errors.push(String(e)));
    page.on("console", (m) => { if (m.type() === "error" || m.type() === "warning") errors.push(m.text()); });
    await page.goto(url);
    await page.waitForSelector(ready);
    await use(page);
    if (options.javaScriptEnabled !== false) {
      assert.deepEqual(await page.evaluate(() => window.violations), [], "violations of the policy");
    }
    assert.deepEqual(foreign, [], "requests to elsewhere");
    assert.deepEqual(errors.filter((e) => !troubles.some((t) => t.test(e))), [], "errors in the console");
    assert.ok(!(await page.content()).includes(SECRET), "a token is in the page");
  } finally {
    await context.close();
  }
}

const row = (page, env) => page.locator(`.row[data-env="${env}"]`);

const text = (locator) => locator.textContent();

// becomes waits until a part of a row has another text than it was, or one that matches.
async function becomes(page, env, part, { not = null, like = "" }) {
  await page.waitForFunction(([selector, was, pattern]) => {
    const shown = document.querySelector(selector)?.textContent;
    return shown !== undefined && shown !== was && new RegExp(pattern).test(shown);
  }, [`.row[data-env="${env}"] .${part}`, not, like]);
}

async function stateIs(page, env, state) {
  await page.waitForSelector(`.row[data-env="${env}"][data-state="${state}"]`);
}

test("rows come, change and go without a reload", () => look({}, async (page) => {
  await page.evaluate(() => { window.same = true; });
  await act("/put?env=live-1&by=worker-7&life=1h");
  await becomes(page, "live-1", "by", { like: "^worker-7$" }); // before that it may be seen under its lease
  const version = await text(row(page, "live-1").locator(".version"));
  assert.match(version, /^\d{16}$/);
  await act("/put?env=live-1&by=worker-8&life=1h");
  await becomes(page, "live-1", "by", { like: "^worker-8$" });
  assert.ok(Number(await text(row(page, "live-1").locator(".version"))) > Number(version), "the version hasn't grown");
  await page.waitForSelector("#events li:has-text('live-1')");
  await act("/delete?env=live-1");
  await row(page, "live-1").waitFor({ state: "detached" });
  assert.ok(await page.evaluate(() => window.same), "the page was loaded anew");
}));

test("an address that asks for an order that there isn't shows the rows all the same", async () => {
  for (const sort of ["__proto__", "constructor", "nothing"]) {
    await look({}, async (page) => {
      assert.equal(await page.locator("#sort").inputValue(), "trouble");
    }, { url: `${PAGE_URL}/#sort=${sort}` });
  }
});

test("each state is told by a word and a shape of its own", () => look({}, async (page) => {
  const shapes = new Set();
  for (const [env, state] of Object.entries({
    prod: "fresh", test: "stale", staging: "failing", sandbox: "conflict", "legacy-import": "missing", reports: "refreshing",
  })) {
    await stateIs(page, env, state);
    assert.ok((await text(row(page, env).locator(".state"))).includes(state));
    shapes.add(await row(page, env).locator(".state use").getAttribute("href"));
  }
  assert.equal(shapes.size, 6, "two states have the same shape");
  assert.match(await text(row(page, "reports").locator(".lease")), /held by worker-17\.eu\.internal:4123 · ends in \d+m \d\ds/);
  assert.match(await text(row(page, "staging").locator(".failure")), /http_503 · .*503 Service Unavailable · attempt 3 · next try in \d/);
  assert.match(await text(row(page, "sandbox").locator(".reason")), /Not usable: .*another configuration/);
  assert.match(await page.title(), /^\(\d+\) onetoken/, "the title doesn't count the troubles");
}));

test("the life runs down, by no clock of the browser's machine", () => look({}, async (page) => {
  await act("/refresh?env=eu-prod&life=50m");
  await page.addInitScript(() => { Date.now = () => 0; });
  await page.reload();
  const eu = row(page, "eu-prod");
  await becomes(page, "eu-prod", "time", { like: "^4\\dm \\d\\ds$" });
  const scale = () => eu.locator(".fill").evaluate((e) => Number(/scaleX\(([\d.]+)\)/.exec(e.style.transform)[1]));
  const [shown, full] = [await text(eu.locator(".time")), await scale()];
  assert.ok(full > 0.9 && full <= 1, `the bar is at ${full}`);
  await becomes(page, "eu-prod", "time", { not: shown });
  await page.waitForFunction(([was]) => Number(/scaleX\(([\d.]+)\)/.exec(document.querySelector('[data-env="eu-prod"] .fill').style.transform)[1]) < was, [full]);
  const meter = page.getByRole("meter", { name: "Life left of the token of eu-prod" });
  assert.match(await meter.getAttribute("aria-valuetext"), /^\d+ minutes of 50 minutes left$/);
  await act("/expire?env=eu-prod&life=20m"); // what somebody does by hand is seen, too
  await becomes(page, "eu-prod", "time", { like: "^1\\dm \\d\\ds$" });
}));

test("refresh: asked for, confirmed, done, told", () => look({}, async (page) => {
  const sent = (await act("/posts")).length;
  const button = page.getByRole("button", { name: "Refresh prod", exact: true });
  await button.click();
  const dialog = page.getByRole("dialog", { name: "Refresh prod?" });
  await dialog.waitFor();
  assert.match(await text(dialog), /whole fleet gets a new token/);
  assert.equal(await page.evaluate(() => document.activeElement.id), "ask-no", "the safe answer hasn't the focus");
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.ok(await button.evaluate((e) => e === document.activeElement), "the focus is not back on the button");
  await button.click();
  await page.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "hidden" });
  assert.equal((await act("/posts")).length, sent, "something was sent without a yes");
  const version = await text(row(page, "prod").locator(".version"));
  await button.press("Enter");
  await dialog.waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#said:has-text('prod: there is a new token')");
  assert.match(await text(page.locator("#announce")), /prod: there is a new token, version \d+, fetched by replica-01\./);
  await becomes(page, "prod", "version", { not: version });
  const posts = (await act("/posts")).slice(sent);
  assert.equal(posts.length, 1);
  assert.equal(posts[0].path, "/v1/environments/prod/refresh");
  assert.ok(posts[0].ok, `the CSRF token was ${posts[0].csrf}`);
}));

test("invalidate drops the version that was seen", () => look({}, async (page) => {
  await act("/refresh?env=billing&life=1h");
  await stateIs(page, "billing", "fresh");
  const version = await text(row(page, "billing").locator(".version"));
  const sent = (await act("/posts")).length;
  await page.getByRole("button", { name: "Invalidate billing", exact: true }).click();
  const dialog = page.getByRole("dialog", { name: "Invalidate billing?" });
  assert.match(await text(dialog), new RegExp(`version ${version}, is dropped everywhere`));
  await dialog.getByRole("button", { name: "Invalidate billing" }).click();
  await page.waitForSelector("#said:has-text('dropped, everywhere')");
  await stateIs(page, "billing", "missing");
  const posts = (await act("/posts")).slice(sent);
  assert.deepEqual(posts.map((p) => [p.path, p.ok]), [[`/v1/environments/billing/invalidate?version=${version}`, true]]);
}));

test("a refusal is told as the agent tells it", () => look({}, async (page) => {
  await act(`/endpoint-fails?message=${q("the endpoint <b>rests</b>")}`);
  await page.getByRole("button", { name: "Refresh legacy-import" }).click();
  await page.locator("#ask-yes").click();
  await page.waitForSelector("#said.bad:has-text('The token endpoint failed')");
  assert.match(await text(page.locator("#said-text")), /^legacy-import: refresh failed\. The token endpoint failed: .*<b>rests<\/b>/);
  assert.equal(await page.locator("#said b").count(), 0);
  await page.getByRole("button", { name: "Dismiss the message" }).click();
  await page.locator("#said").waitFor({ state: "hidden" });
}, { troubles: [/status of 503/] }));

test("hostile text is text", () => look({}, async (page) => {
  const markup = `<img src=x onerror="window.pwned=1">`;
  await act(`/put?env=hostile&by=${q(markup)}&life=1h`);
  await becomes(page, "hostile", "by", { like: `^${markup}$` });
  await act(`/fail?env=hostile&code=${q("<script>")}&message=${q(markup)}&backoff=1h`);
  await becomes(page, "hostile", "failure", { like: `<script> · HTTP 503 · ${markup} · attempt 3` });
  await act(`/lease?env=hostile&holder=${q(`"><svg onload=window.pwned=1>`)}&life=1h`);
  await becomes(page, "hostile", "holder", { like: `^"><svg onload=window.pwned=1>$` });
  await stateIs(page, "hostile", "refreshing");
  assert.equal(await page.locator("main img, main script, main svg[onload]").count(), 0);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  await act("/delete?env=hostile");
}));

test("Redis away, and back", () => look({}, async (page) => {
  const alert = page.getByRole("alert");
  assert.equal(await alert.isVisible(), false);
  await act(`/redis-away?message=${q("LOADING <i>the dataset</i>")}`);
  await alert.waitFor();
  assert.match(await text(alert), /can’t be read.*as of \d[^.]* ago[\s\S]*LOADING <i>the dataset<\/i>/);
  assert.ok(await row(page, "prod").isVisible(), "what was known is gone");
  assert.match(await page.title(), /Redis away/);
  await act("/redis-back");
  await alert.waitFor({ state: "hidden" });
}));

test("an agent that is started anew is found again, with its new CSRF token", () => look({}, async (page) => {
  await page.evaluate(() => { window.same = true; });
  const csrf = await page.getAttribute("meta[name=onetoken-csrf]", "content");
  await act("/stop");
  await page.waitForSelector("#link[data-link=lost]:has-text('Reconnecting')");
  assert.match(await page.title(), /^\(\?\)/);
  await act("/put?env=meanwhile&by=worker-3&life=1h");
  await act("/start");
  await page.waitForSelector("#link[data-link=live]:has-text('Live')");
  await row(page, "meanwhile").waitFor();
  const sent = (await act("/posts")).length;
  await page.waitForFunction(([was]) => document.querySelector("meta[name=onetoken-csrf]").content !== was, [csrf]);
  await page.getByRole("button", { name: "Refresh prod", exact: true }).click();
  await page.locator("#ask-yes").click();
  await page.waitForSelector("#said:has-text('prod: there is a new token')");
  assert.deepEqual((await act("/posts")).slice(sent).map((p) => p.ok), [true]);
  assert.ok(await page.evaluate(() => window.same), "the page was loaded anew");
  await act("/delete?env=meanwhile");
}, { troubles: [/ERR_/] }));

test("finding, choosing and sorting", () => look({}, async (page) => {
  const names = () => page.locator("#rows .name").allTextContents();
  await page.getByLabel("Find by name or replica").fill("PROD");
  await row(page, "test").waitFor({ state: "detached" });
  assert.deepEqual((await names()).sort(), ["eu-prod", "prod"]);
  assert.ok(page.url().endsWith("#find=PROD"));
  await page.reload();
  await row(page, "prod").waitFor();
  assert.deepEqual((await names()).sort(), ["eu-prod", "prod"], "what was looked for is lost");
  await page.getByLabel("Find by name or replica").fill("nothing-like-it");
  await page.getByRole("button", { name: "Show all" }).click();
  await row(page, "test").waitFor();
  await page.getByRole("button", { name: /^conflict/ }).click();
  await row(page, "test").waitFor({ state: "detached" });
  assert.ok((await names()).includes("sandbox"));
  assert.equal(await page.getByRole("button", { name: /^conflict/ }).getAttribute("aria-pressed"), "true");
  await page.getByRole("button", { name: /^conflict/ }).click();
  await page.getByLabel("Sort").selectOption("name");
  const sorted = await names();
  assert.deepEqual(sorted, sorted.toSorted());
  await page.getByLabel("Sort").selectOption("trouble");
  assert.ok(["failing", "conflict", "missing"].includes(await page.locator("#rows .row").first().getAttribute("data-state")));
}));

test("no live region speaks while time passes", () => look({}, async (page) => {
  await page.evaluate(() => {
    window.spoken = 0;
    for (const region of document.querySelectorAll("[role=status], [role=alert], [aria-live]")) {
      new MutationObserver((m) => { window.spoken += m.length; }).observe(region, { subtree: true, childList: true, characterData: true });
    }
  });
  const time = row(page, "prod").locator(".time");
  for (let ticks = 0; ticks < 3; ticks += 1) {
    const shown = await text(time);
    await becomes(page, "prod", "time", { not: shown });
  }
  assert.equal(await page.evaluate(() => window.spoken), 0);
}));

test("the keyboard goes through all of it, in order, and is seen", () => look({}, async (page) => {
  const focused = () => page.evaluate(() => {
    const e = document.activeElement;
    const style = getComputedStyle(e);
    return { what: e.id || e.textContent.trim().replace(/\s+/g, " "), seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
  });
  const path = [];
  for (let i = 0; i < 11; i += 1) {
    await page.keyboard.press("Tab");
    const { what, seen } = await focused();
    assert.ok(seen, `the focus on ${what} isn't seen`);
    path.push(what.replace(/ \d+$/, ""));
  }
  const first = await page.locator("#rows .row").first().locator(".name").textContent();
  assert.deepEqual(path, ["Skip to the environments", "failing", "conflict", "missing", "refreshing", "stale", "fresh", "find", "sort",
    `Refresh ${first}`, `Invalidate ${first}`]);
  await page.locator(".skip").focus();
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "environments");
  // A dialog keeps the focus while it is open.
  await page.getByRole("button", { name: "Refresh prod", exact: true }).press("Enter");
  const inside = [];
  for (let i = 0; i < 4; i += 1) {
    await page.keyboard.press("Tab");
    inside.push(await page.evaluate(() => document.activeElement === document.body || document.querySelector("#ask").contains(document.activeElement)));
  }
  assert.deepEqual(inside, [true, true, true, true]);
  await page.keyboard.press("Escape");
}));

for (const colorScheme of ["light", "dark"]) {
  test(`at 360 pixels, ${colorScheme}: nothing is wider`, () => look({ viewport: { width: 360, height: 740 }, colorScheme }, async (page) => {
    const long = "x".repeat(128);
    await act(`/put?env=${long}&by=${"worker-".repeat(18)}&life=1h`);
    await act(`/fail?env=${long}&code=http_503&message=${"unbreakable".repeat(25)}&backoff=1h`);
    await becomes(page, long, "by", { like: "worker-worker-" });
    await becomes(page, long, "failure", { like: "unbreakable" });
    const wide = () => page.evaluate(() => [document.scrollingElement.scrollWidth, ...[...document.querySelectorAll("#rows *")].map((e) => e.getBoundingClientRect().right)].some((x) => x > 360));
    assert.equal(await wide(), false);
    await page.locator(".row .refresh:visible").first().click();
    const box = await page.getByRole("dialog").boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 360, "the dialog is wider than the screen");
    await page.keyboard.press("Escape");
    await act("/delete?env=" + long);
  }));

  test(`accessibility, ${colorScheme}`, () => look({ colorScheme, reducedMotion: "reduce" }, async (page) => {
    const check = async (what) => {
      const found = await page.evaluate(async () => (await window.axe.run(document, {
        runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
      })).violations.map((v) => `${v.impact}: ${v.id}: ${v.nodes.map((n) => n.target).join(", ")}`));
      assert.deepEqual(found, [], what);
    };
    await page.evaluate(axe);
    await check("the page");
    await page.setViewportSize({ width: 360, height: 740 });
    await check("on a phone");
    await page.getByRole("button", { name: "Invalidate prod", exact: true }).click();
    await check("the question");
    await page.keyboard.press("Escape");
    await act(`/redis-away?message=away`);
    await page.getByRole("alert").waitFor();
    await check("without Redis");
    await act("/redis-back");
    await page.getByLabel("Find by name or replica").fill("nothing-like-it");
    await page.getByRole("heading", { name: "Nothing matches" }).waitFor();
    await check("without a match");
    assert.equal(await page.evaluate(() => document.querySelector("#rows").getAttribute("role")), "list");
  }));
}

test("dark and light, and no movement where none is wanted", async () => {
  const grounds = {};
  for (const colorScheme of ["light", "dark"]) {
    await look({ colorScheme, reducedMotion: colorScheme === "dark" ? "reduce" : "no-preference" }, async (page) => {
      const [ground, ink, turns, slides] = await page.evaluate(() => {
        const style = (s) => getComputedStyle(document.querySelector(s));
        return [style("body").backgroundColor, style("body").color, style('[data-state="refreshing"] .state .mark').animationName, style(".fill").transitionDuration];
      });
      grounds[colorScheme] = [ground, ink].map((c) => c.match(/\d+/g).slice(0, 3).reduce((sum, n) => sum + Number(n), 0));
      assert.deepEqual([turns, slides], colorScheme === "dark" ? ["none", "0s"] : ["turn", "1s"]);
    });
  }
  assert.ok(grounds.light[0] > 600 && grounds.light[1] < 200, `light: ${grounds.light}`);
  assert.ok(grounds.dark[0] < 200 && grounds.dark[1] > 600, `dark: ${grounds.dark}`);
});

test("without environments it says so", () => look({}, async (page) => {
  assert.match(await text(page.locator("#empty")), /No environments yet/);
  assert.equal(await page.locator("#loading").isVisible(), false);
}, { url: EMPTY_URL, ready: "#empty:not([hidden])" }));

test("without JavaScript it says what to use instead", () => look({ javaScriptEnabled: false }, async (page) => {
  const said = page.locator("noscript");
  assert.match(await said.innerText(), /needs JavaScript.*\/v1\/environments/s);
  assert.equal(await page.getByText("Reading Redis").isVisible(), false);
}, { ready: "noscript" }));

test("thousands of environments", (t) => look({}, async (page) => {
  const took = await page.evaluate(() => performance.now());
  t.diagnostic(`2,000 rows were there ${Math.round(took)} ms after the page was asked for`);
  assert.equal(await page.locator("#rows .row").count(), 200);
  assert.match(await text(page.locator("#sum")), /^2000 in all/);
  await page.getByRole("button", { name: "Show 200 more of 1800" }).click();
  assert.equal(await page.locator("#rows .row").count(), 400);
  const spent = await page.evaluate(() => {
    const from = performance.now();
    const find = document.querySelector("#find");
    find.value = "tenant-01999";
    find.dispatchEvent(new Event("input"));
    return performance.now() - from;
  });
  t.diagnostic(`finding one of them took ${spent.toFixed(1)} ms`);
  assert.deepEqual(await page.locator("#rows .name").allTextContents(), ["tenant-01999"]);
}, { url: MANY_URL }));
