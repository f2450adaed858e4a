// What the scripts of pages share. Texts become text nodes only, so that nothing here can be markup.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const paragraph = (text, quiet = false) => element("p", quiet ? { class: "quiet" } : {}, text);

function button(text, onclick, kind = "second") {
  return element("button", { type: "button", class: kind, click: onclick }, text);
}

// ── Requests ──────────────────────────────────────────────────────────────────────────────────────

class Refused extends Error {
  constructor(status, body) {
    super(body.error ?? "");
    this.status = status;
    this.errcode = body.errcode ?? "";
    this.waitMs = body.retry_after_ms ?? 0;
  }
}

async function ask(url, method, body) {
  let answer;
  try {
    answer = await fetch(url, {
      method, cache: "no-store", headers: body ? { "Content-Type": "application/json" } : {},
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch {
    throw new Refused(0, { error: "The server cannot be reached. Check your connection and try again." });
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, told);
  return told;
}

// ── Time ──────────────────────────────────────────────────────────────────────────────────────────

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const duration = (seconds) =>
  seconds < 120 ? `${seconds} ${seconds === 1 ? "second" : "seconds"}` : `${Math.ceil(seconds / 60)} minutes`;

// ── Captchas ──────────────────────────────────────────────────────────────────────────────────────

// Let a captcha's maker show it in a box. Its script is loaded once, and calls back by a name. `solved` gets the answer,
// and what to call for another try.
function showCaptcha({ key, script }, box, { nonce, solved, failed }) {
  const render = () => {
    const again = () => window.grecaptcha.reset(id);
    const id = window.grecaptcha.render(box, { sitekey: key, callback: (answer) => solved(answer, again) });
  };
  if (window.grecaptcha) return void render();
  window.eigenserverCaptcha = render;
  const mark = script.includes("?") ? "&" : "?";
  const src = `${script}${mark}onload=eigenserverCaptcha&render=explicit`;
  document.head.append(element("script", { src, nonce, async: true, error: failed }));
}

const NO_CAPTCHA = "The captcha cannot be loaded. Check your connection and try again.";

// ── Stages ────────────────────────────────────────────────────────────────────────────────────────

// Tell the app that opened this page for a stage that the stage is done.
function tellApp() {
  if (typeof window.onAuthDone === "function") window.onAuthDone();
  else if (window.opener && window.opener.postMessage) window.opener.postMessage("authDone", "*");
}
