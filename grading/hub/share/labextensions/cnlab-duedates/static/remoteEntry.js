// Writes beside each assignment in nbgrader's assignment list when it is due. JupyterLab loads this file as it is:
// a prebuilt extension is what puts `get` and `init` into window._JUPYTERLAB under its name.

(() => {
  const LISTS = "#released_assignments_list, #fetched_assignments_list, #submitted_assignments_list";
  const MINUTE_MS = 60_000;
  const HOUR_MS = 60 * MINUTE_MS;
  const DAY_MS = 24 * HOUR_MS;

  // Returns "in 6 days", "in 5 hours", "3 minutes ago": the largest unit of which there are two.
  function fromNow(left) {
    const [unit, length] = [["day", DAY_MS], ["hour", HOUR_MS]].find(([, length]) => Math.abs(left) >= 2 * length)
      ?? ["minute", MINUTE_MS];
    return new Intl.RelativeTimeFormat(undefined, { numeric: "always" }).format(Math.trunc(left / length), unit);
  }

  // Returns "due Sun, Nov 29, 11:59 PM (in 6 days)" and how urgent that is, in the words and zone of this browser.
  function describe(due, now) {
    const when = new Intl.DateTimeFormat(undefined, {
      weekday: "short", day: "numeric", month: "short", hour: "numeric", minute: "2-digit",
    }).format(due);
    const left = due - now;
    const color = left < 0 ? "--jp-error-color1" : left < DAY_MS ? "--jp-warn-color0" : "--jp-ui-font-color1";
    return { text: `${left < 0 ? "was due" : "due"} ${when} (${fromNow(left)})`, color: `var(${color})` };
  }

  async function readDates(app) {
    const { baseUrl, token } = app.serviceManager.serverSettings;
    const headers = token ? { Authorization: `token ${token}` } : {};
    const answer = await fetch(`${baseUrl}cnlab/duedates`, { headers, cache: "no-store" });
    return answer.ok ? answer.json() : {};
  }

  function write(row, dates) {
    const name = row.querySelector(".item_name");
    const due = Date.parse(dates[name?.firstChild?.textContent]);
    if (Number.isNaN(due) || name.querySelector(".cnlab-due")) return;
    const { text, color } = describe(due, Date.now());
    const note = document.createElement("span");
    note.className = "cnlab-due";
    note.textContent = ` ${text}`;
    note.style.color = color;
    note.style.marginLeft = "1em";
    name.append(note);
  }

  function activate(app) {
    const isRow = (node) => node.classList?.contains("list_item") && node.parentElement?.matches(LISTS);
    const observer = new MutationObserver(async (mutations) => {
      const rows = mutations.flatMap((mutation) => [...mutation.addedNodes]).filter(isRow);
      if (rows.length === 0) return;
      const dates = await readDates(app);
      for (const row of rows) write(row, dates);
    });
    observer.observe(document.body, { childList: true, subtree: true });
  }

  const plugin = { id: "cnlab-duedates:plugin", autoStart: true, activate };
  window._JUPYTERLAB = window._JUPYTERLAB ?? {};
  window._JUPYTERLAB["cnlab-duedates"] = { init: () => {}, get: async () => () => ({ __esModule: true, default: plugin }) };
})();
