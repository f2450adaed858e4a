"""The style of every page that this server shows to people: one look, light and dark, from phones to desktops.

Nothing comes from elsewhere. Text has a contrast of at least 4.5:1, borders that mean something one of 3:1, in both
schemes: a test measures it.
"""

LIGHT = {
    "ground": "#eef0f6",
    "card": "#ffffff",
    "text": "#1a1d29",
    "quiet": "#4a5068",
    "line": "#d3d7e4",
    "edge": "#767d96",
    "accent": "#0b57d0",
    "on-accent": "#ffffff",
    "bad": "#8f1d1d",
    "bad-ground": "#fdeceb",
    "good": "#14532d",
    "good-ground": "#e6f5ec",
}
DARK = {
    "ground": "#12141b",
    "card": "#1c1f2a",
    "text": "#eceef6",
    "quiet": "#b5bacd",
    "line": "#343949",
    "edge": "#868da6",
    "accent": "#a8c7fa",
    "on-accent": "#062e6f",
    "bad": "#ffb9b3",
    "bad-ground": "#3b1c1e",
    "good": "#a5e6bb",
    "good-ground": "#17301f",
}


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
*, *::before, *::after {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: var(--ground); color: var(--text); font: 1rem/1.5 system-ui, sans-serif;
  min-height: 100vh; display: flex; flex-direction: column; overflow-wrap: anywhere; }}
header, main, footer {{ width: 100%; max-width: 27rem; margin: 0 auto; padding: 0 1rem; }}
header {{ padding-top: 1.5rem; padding-bottom: 1rem; display: flex; align-items: center; gap: 0.6rem;
  font-weight: 600; }}
header svg {{ width: 1.9rem; height: 1.9rem; flex: none; color: var(--accent); }}
.card {{ background: var(--card); border: 1px solid var(--line); border-radius: 0.75rem; padding: 1.5rem 1.25rem; }}
footer {{ padding-top: 1rem; padding-bottom: 2rem; color: var(--quiet); font-size: 0.875rem; }}
h1 {{ font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }}
h1:focus {{ outline: none; }}
p {{ margin: 0 0 1rem; }}
.quiet {{ color: var(--quiet); }}
a {{ color: var(--accent); text-underline-offset: 0.15em; }}
dl {{ margin: 0 0 1.25rem; border-top: 1px solid var(--line); }}
dl > div {{ padding: 0.5rem 0; border-bottom: 1px solid var(--line); }}
dt {{ color: var(--quiet); font-size: 0.875rem; }}
dd {{ margin: 0; }}
label {{ display: block; font-weight: 600; margin-bottom: 0.25rem; }}
.field {{ margin-bottom: 1rem; }}
.hint {{ color: var(--quiet); font-size: 0.875rem; margin: 0.5rem 0 0; }}
input[type=text], input[type=password], input[type=email] {{ display: block; width: 100%; min-height: 2.75rem;
  padding: 0.5rem 0.75rem; font: inherit; color: inherit; background: var(--card); border: 1px solid var(--edge);
  border-radius: 0.5rem; }}
input[aria-invalid=true] {{ border-color: var(--bad); box-shadow: 0 0 0 1px var(--bad); }}
.code {{ font-size: 1.25rem; letter-spacing: 0.2em; font-variant-numeric: tabular-nums; }}
.check {{ display: flex; gap: 0.6rem; align-items: flex-start; font-weight: 400; padding: 0.5rem 0;
  margin-bottom: 0.5rem; }}
.check input {{ width: 1.25rem; height: 1.25rem; margin: 0.125rem 0 0; flex: none; accent-color: var(--accent); }}
.button, button {{ display: flex; align-items: center; justify-content: center; width: 100%; min-height: 2.75rem;
  padding: 0.5rem 1rem; font: inherit; font-weight: 600; text-align: center; text-decoration: none; cursor: pointer;
  color: var(--on-accent); background: var(--accent); border: 1px solid var(--accent); border-radius: 0.5rem;
  margin-bottom: 0.75rem; }}
.button.second, button.second {{ color: var(--accent); background: transparent; border-color: var(--edge); }}
button.plain {{ color: var(--accent); background: none; border-color: transparent; text-decoration: underline;
  text-underline-offset: 0.15em; font-weight: 400; margin-bottom: 0; }}
button:disabled {{ cursor: default; color: var(--quiet); background: var(--ground); border-color: var(--line); }}
.card > :last-child, form > :last-child, #stage > :last-child, .choices > :last-child > * {{ margin-bottom: 0; }}
.card form + form, .card form + button, #stage form + button {{ margin-top: 0.75rem; }}
:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; }}
.choices {{ list-style: none; margin: 0 0 1rem; padding: 0; }}
.notice {{ border-radius: 0.5rem; padding: 0.75rem 1rem; margin: 0 0 1rem; border-left: 0.3rem solid currentcolor; }}
.notice.below {{ margin: 1rem 0 0; }}
.notice:empty {{ display: none; }}
.notice.bad {{ color: var(--bad); background: var(--bad-ground); }}
.notice.good {{ color: var(--good); background: var(--good-ground); }}
.notice.wait {{ color: var(--quiet); background: var(--ground); }}
.notice > :last-child {{ margin-bottom: 0; }}
[hidden] {{ display: none !important; }}
@media (min-width: 40rem) {{ header {{ padding-top: 4rem; }} .card {{ padding: 2rem; }} }}
@media (forced-colors: active) {{ .notice {{ border: 1px solid; }} }}
@media (prefers-reduced-motion: no-preference) {{ button, .button {{ transition: background-color 0.15s; }} }}
"""
