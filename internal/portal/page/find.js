// "Can this computer find me?": asks for the gateway's token under each of its names, and shows the
// words that fit what came of it.
(() => {
  "use strict";
  const stall = 1000; // ms after which an answer counts as late
  const patience = 10000; // ms
  const again = document.getElementById("again");

  async function ask(url, options) {
    const answer = await fetch(url, { cache: "no-store", credentials: "omit", ...options });
    return options.mode === "no-cors" ? null : answer.json();
  }

  // own is the gateway's token as it is now; the portal may have been started anew since the page was made.
  const own = (signal) => ask("/find/token", { signal }).then((t) => t.token, () => null);

  async function outcome(url) {
    const begun = performance.now();
    const signal = AbortSignal.timeout(patience);
    const after = () => performance.now() - begun;
    try {
      const theirs = await ask(url, { signal });
      const time = after();
      if (typeof theirs.token !== "string") return { kind: "stranger", time };
      const mine = await own(AbortSignal.timeout(patience));
      if (mine === null) return { kind: "lost", time };
      if (mine !== theirs.token) return { kind: "other", time, other: String(theirs.name || "") };
      return { kind: time > stall ? "slow" : "found", time };
    } catch {
      const time = after();
      if (await own(AbortSignal.timeout(patience)) === null) return { kind: "lost", time };
      if (signal.aborted) return { kind: "silent", time };
      // Whoever answers without letting us read it is no gateway.
      return ask(url, { signal, mode: "no-cors" }).then(() => ({ kind: "stranger", time }), () => ({ kind: "unknown", time }));
    }
  }

  const looks = { found: "ok", slow: "warning", other: "warning", stranger: "warning", unknown: "error", silent: "error", lost: "error", asking: "unknown" };

  function show(row, { kind, time = 0, other = "" }) {
    const seconds = (time / 1000).toLocaleString(document.documentElement.lang, { minimumFractionDigits: 1, maximumFractionDigits: time < 100 ? 2 : 1 });
    for (const part of row.querySelectorAll("[data-outcome]")) {
      part.hidden = part.dataset.outcome !== kind;
      for (const p of part.children) {
        p.dataset.text ??= p.textContent;
        p.textContent = p.dataset.text.replace("{time}", seconds).replace("{other}", other);
      }
    }
    row.classList.remove(...Object.values(looks));
    row.classList.add(looks[kind]);
    const use = row.querySelector("use");
    use.setAttribute("href", use.getAttribute("href").replace(/#.*/, "#" + looks[kind]));
  }

  async function check() {
    again.disabled = true;
    await Promise.all([...document.querySelectorAll("[data-check]")].map(async (row) => {
      show(row, { kind: "asking" });
      show(row, await outcome(row.dataset.check));
    }));
    again.disabled = false;
  }

  again.hidden = false;
  again.addEventListener("click", check);
  check();
})();
