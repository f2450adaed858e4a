// The login page: walks the stages of whichever flow `GET login` advertises, in the dialect of the 2014 draft, and
// hands the result to the app that opened the page. Stands after parts.js.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const nonce = document.currentScript.nonce;
  const heading = document.querySelector("h1");
  const stage = document.getElementById("stage");
  const problem = document.getElementById("problem");
  const news = document.getElementById("news");
  const KEPT = "eigenserver.login"; // in sessionStorage, while this tab is at a provider
  const POLL_MS = 2000;
  const RESEND_SECONDS = 60;
  const MINUTES_15 = 15 * 60 * 1000;
  const NAMES = {
    "m.login.password": "Password",
    "m.login.email.code": "Code by e-mail",
    "m.login.email.url": "Link by e-mail",
    "m.login.oauth2": data.providers.length === 1 ? `Account at ${data.providers[0]}` : "Account at another service",
    "m.login.recaptcha": "Captcha",
    "m.login.terms": "Terms",
  };

  let flows = [];
  let login = fresh();
  let shown = 0; // counts screens: what belongs to an older one stops

  function fresh() {
    return { session: null, user: null, done: [], now: null };
  }

  // ── Elements ────────────────────────────────────────────────────────────────────────────────────

  function field(name, label, attributes = {}) {
    return element(
      "div",
      { class: "field" },
      element("label", { for: name }, label),
      element("input", {
        id: name, name, type: "text", required: true, autocapitalize: "none", spellcheck: "false", autocomplete: "off",
        ...attributes,
      }),
    );
  }

  // The name of whom this login is for; once a stage has named them it stands fast.
  function userField() {
    return field("user", "User name", {
      autocomplete: "username", value: login.user ?? false, readonly: login.user !== null, autocorrect: "off",
    });
  }

  function form(fields, label, submit) {
    const send = element("button", { type: "submit" }, label);
    return element(
      "form",
      {
        submit: async (event) => {
          event.preventDefault();
          if (send.disabled) return;
          const typed = Object.fromEntries(new FormData(event.target));
          const screen = shown;
          send.disabled = true;
          say();
          try {
            await submit(typed);
          } catch (error) {
            await refused(error, event.target, send);
          } finally {
            if (screen === shown) send.disabled = false;
          }
        },
      },
      ...fields,
      send,
    );
  }

  // A new screen: its heading is read out, and the first field that can be typed in has the focus.
  function show(title, ...children) {
    shown += 1;
    say();
    heading.textContent = title;
    document.title = `${title} · ${data.server_name}`;
    const step = place();
    stage.replaceChildren(...(step ? [paragraph(step, true)] : []), ...children.filter((child) => child !== null));
    if (shown > 1) (stage.querySelector("input:not([readonly]):not([type=checkbox])") ?? heading).focus();
    return shown;
  }

  // "Step 1 of 2", if that is certain.
  function place() {
    const path = [...login.done, ...(login.now === null ? [] : [login.now])];
    const fitting = flows.filter((flow) => path.every((kind, index) => flow[index] === kind));
    const lengths = new Set(fitting.map((flow) => flow.length));
    const [length] = lengths;
    return lengths.size === 1 && length > 1 && login.now !== null ? `Step ${Math.min(login.done.length + 1, length)} of ${length}` : null;
  }

  function say(text = "", isProblem = false) {
    problem.textContent = isProblem ? text : "";
    news.textContent = isProblem ? "" : text;
  }

  // ── Steps ───────────────────────────────────────────────────────────────────────────────────────

  function submitted(type, keys) {
    const session = login.session === null ? {} : { session: login.session };
    return ask(data.login, "POST", { ...data.body, type, ...session, ...keys });
  }

  // Submit a stage and go where the answer says; `wait` gets the answer of a stage that is not done with it.
  async function submit(type, keys, wait) {
    const told = await submitted(type, keys);
    if (told.session) login.session = told.session;
    if (keys.user) login.user = keys.user;
    if (told.next) {
      login.done.push(type);
      login.now = null;
      const options = told.next_options ?? [told.next];
      if (options.length > 1) choose(options.map((kind) => ({ label: NAMES[kind] ?? kind, kind })));
      else start(told.next);
    } else if (told.type) wait(told);
    else finish(told);
  }

  async function refused(error, within, send) {
    if (!(error instanceof Refused)) throw error;
    const screen = shown;
    if (error.status === 401) return startAgain("This took too long, was tried too often, or was used already. Please start again.");
    const fields = within?.querySelectorAll("input:not([readonly]):not([type=checkbox])") ?? [];
    for (const input of fields) {
      if (error.status === 403) input.setAttribute("aria-invalid", "true");
      if (input.type === "password") input.value = "";
      input.addEventListener("input", () => input.removeAttribute("aria-invalid"), { once: true });
      input.setAttribute("aria-describedby", "problem");
    }
    if (error.status !== 429) {
      say(error.message || "Something went wrong at the server. Please try again.", true);
      fields[fields.length - 1]?.focus();
      return;
    }
    for (let seconds = Math.ceil(Math.max(error.waitMs, 1000) / 1000); seconds > 0 && screen === shown; seconds -= 1) {
      // Announced once, not each second.
      if (!problem.textContent) say(`${error.message} You can try again in ${duration(seconds)}.`, true);
      if (send) send.disabled = true;
      await pause(1000);
    }
    if (screen === shown) say("You can try again now.");
  }

  // ── Screens ─────────────────────────────────────────────────────────────────────────────────────

  async function begin() {
    login = fresh();
    stage.replaceChildren(paragraph("One moment…")); // in place of the word to browsers without scripts
    try {
      const told = await ask(data.login, "GET");
      flows = told.flows.map((flow) => flow.stages ?? [flow.type]).filter((flow) => flow.every((kind) => STAGES[kind]));
    } catch (error) {
      show("Log in", button("Try again", begin, ""));
      say(error.message || "The server does not answer as it should. Please try again later.", true);
      return;
    }
    if (!flows.length) return void show("Log in", paragraph("This server offers no way to log in here."));
    if (!resume()) offer();
  }

  function offer() {
    const firsts = [...new Set(flows.map((flow) => flow[0]))];
    if (firsts.length === 1) return start(firsts[0]);
    choose(
      firsts.map((kind) => {
        const fitting = flows.filter((flow) => flow[0] === kind);
        const names = fitting.length === 1 ? fitting[0].map((part) => NAMES[part]) : [NAMES[kind]];
        const rest = names.slice(1).map((name) => name.toLowerCase());
        return { label: [names[0], ...rest].join(", then "), kind };
      }),
    );
  }

  function choose(choices) {
    const items = choices.map(({ label, kind }) => element("li", {}, button(label, () => start(kind))));
    show(login.done.length ? "How do you want to go on?" : "How do you want to log in?",
      element("ul", { class: "choices" }, ...items));
  }

  const another = () =>
    new Set(flows.map((flow) => flow[0])).size > 1 || login.done.length
      ? button(login.done.length ? "Start again" : "Log in another way", () => { login = fresh(); offer(); }, "plain")
      : null;

  function startAgain(why) {
    login = fresh();
    show("Please start again", button("Start again", () => offer(), ""));
    say(why, true);
  }

  async function start(kind) {
    login.now = kind;
    try {
      await STAGES[kind](kind);
    } catch (error) {
      if (!stage.querySelector("button")) show("Log in", button("Start again", () => { login = fresh(); offer(); }, ""));
      await refused(error);
    }
  }

  function finish(told) {
    const user = told.user_id ?? login.user;
    login = fresh();
    if (data.continuation) {
      if (typeof told.login_token !== "string") return startAgain("This server cannot log in other apps here.");
      const { client, url, placeholder } = data.continuation;
      const address = url.replace(placeholder, encodeURIComponent(told.login_token));
      show("Continue", paragraph("You are signed in."),
        element("p", {}, "Continue to ", element("strong", {}, client),
          "? It will be able to act as you. Only go on if this is where you came from."),
        button(`Continue to ${client}`, () => location.assign(address), ""));
      return;
    }
    show("You are signed in", element("div", { class: "notice good", role: "status" },
      paragraph(user ? `You are signed in as ${user}.` : "You are signed in.")),
    paragraph("You can go back to your app now.", true));
    const app = window.matrixLogin;
    if (app && typeof app.onLogin === "function") app.onLogin(told);
    else if (typeof window.onLogin === "function") window.onLogin(told);
  }

  // ── Stages ──────────────────────────────────────────────────────────────────────────────────────

  function password(kind) {
    show("Log in with your password",
      form([
        userField(),
        field("password", "Password", { type: "password", autocomplete: "current-password" }),
      ], "Log in", (typed) => submit(kind, { user: typed.user, password: typed.password }, () => start(kind))),
      another());
  }

  function mailForm(kind, title, wait) {
    show(title,
      paragraph("We send a mail to the address that belongs to your account.", true),
      form([
        userField(),
        field("email", "E-mail address", { type: "email", autocomplete: "email" }),
      ], "Send the mail", (typed) => {
        const asked = { user: typed.user, email: typed.email.trim() };
        return submit(kind, asked, () => wait(asked));
      }),
      another());
  }

  function sendAgain(kind, asked, what) {
    const again = button(`Send another ${what}`, async () => {
      const screen = shown;
      again.disabled = true;
      say();
      try {
        await submitted(kind, asked);
        say(`Another ${what} is on its way, if the address belongs to this account.`);
        await pause(RESEND_SECONDS * 1000);
      } catch (error) {
        await refused(error, null, again);
      }
      if (screen === shown) again.disabled = false;
    });
    return again;
  }

  function mailedCode(kind) {
    mailForm(kind, "Get a code by e-mail", (asked) => {
      show("Enter the code",
        element("p", {}, "If ", element("strong", {}, asked.email),
          ` belongs to the account ${asked.user}, a mail with a code is on its way there. It is valid for ten minutes.`),
        form([
          field("code", "Code", { inputmode: "numeric", autocomplete: "one-time-code", class: "code", maxlength: 20 }),
        ], "Continue", (typed) => submit(kind, { code: typed.code.replace(/\s/g, "") }, () => {})),
        sendAgain(kind, asked, "code"),
        another());
    });
  }

  function mailedLink(kind) {
    mailForm(kind, "Get a link by e-mail", (asked) => {
      const screen = show("Open the link",
        element("p", {}, "If ", element("strong", {}, asked.email),
          ` belongs to the account ${asked.user}, a mail with a link is on its way there. Open the link, on any device, `
          + "and confirm there. This page then goes on by itself."),
        sendAgain(kind, asked, "link"),
        another());
      say("Waiting until the link is opened…");
      poll(kind, screen, "M_LOGIN_EMAIL_URL_NOT_YET");
    });
  }

  // Ask until what happens elsewhere has happened.
  async function poll(kind, screen, notYet, first = POLL_MS) {
    for (let wait = first; ; ) {
      await pause(wait);
      if (screen !== shown) return;
      wait = POLL_MS;
      try {
        await submit(kind, {}, () => {});
        if (screen !== shown) return;
      } catch (error) {
        if (screen !== shown) return;
        if (error.errcode === notYet || error.status === 429) wait = Math.max(POLL_MS, error.waitMs);
        else if (error.status === 0) say(error.message, true);
        else if (error.status === 401) return void startAgain("This took too long. Please start again.");
        else {
          startAgain(error.message || "Something went wrong at the server. Please start again.");
          return;
        }
      }
    }
  }

  async function elsewhere(kind) {
    const named = login.user === null ? {} : { user: login.user };
    await submit(kind, named, ({ uri }) => atService(kind, uri));
  }

  function atService(kind, uri, wait = POLL_MS) {
    const address = new URL(uri, location.href);
    if (!["http:", "https:"].includes(address.protocol)) throw new Refused(400, { error: "That is no web address." });
    const service = data.providers.length === 1 ? data.providers[0] : "the service";
    const where = address.origin === location.origin ? "" : ` It opens ${address.host}.`;
    const screen = show(`Log in at ${service}`,
      paragraph(`Log in there, in a new window. This page then goes on by itself.${where}`),
      element("a", { class: "button", href: address.href, target: "_blank", rel: "noopener noreferrer",
        click: () => say("Waiting until you are logged in there…") }, "Open in a new window"),
      element("a", { class: "button second", href: address.href, rel: "noreferrer",
        click: () => keep(kind, address.href) }, "Continue in this window"),
      another());
    poll(kind, screen, "M_LOGIN_OAUTH2_NOT_YET", wait);
  }

  // While this tab is elsewhere, it keeps how far the login is: the page of the return comes back here.
  function keep(kind, uri) {
    sessionStorage.setItem(KEPT, JSON.stringify({ kind, uri, login, address: location.href, at: Date.now() }));
  }

  function taken() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
      sessionStorage.removeItem(KEPT);
      return kept;
    } catch {
      return null; // apps may show this page without such a store
    }
  }

  function resume() {
    const kept = taken();
    if (kept === null || kept.address !== location.href || Date.now() - kept.at > MINUTES_15) return false;
    login = kept.login;
    atService(kept.kind, kept.uri, 0);
    return true;
  }

  async function captcha(kind) {
    const box = element("div", { class: "captcha" });
    const screen = show("Show that you are human", paragraph("Solve the puzzle. This page then goes on by itself."),
      box, another());
    const solved = async (response, again) => {
      try {
        await submit(kind, { response }, () => {});
      } catch (error) {
        await refused(error);
        if (screen === shown) again();
      }
    };
    showCaptcha(data.recaptcha, box, { nonce, solved, failed: () => say(NO_CAPTCHA, true) });
  }

  function terms(kind) {
    const boxes = data.terms.map(({ name, url }, index) =>
      element("label", { class: "check" },
        element("input", { type: "checkbox", required: true, name: `agree${index}` }),
        element("span", {}, "I agree to ", element("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, name))));
    show("Terms", form(boxes, "Continue", () => submit(kind, {}, () => start(kind))), another());
  }

  const STAGES = {
    "m.login.password": password,
    "m.login.email.code": mailedCode,
    "m.login.email.url": mailedLink,
    "m.login.oauth2": elsewhere,
    "m.login.recaptcha": captcha,
    "m.login.terms": terms,
  };

  begin();
})();
