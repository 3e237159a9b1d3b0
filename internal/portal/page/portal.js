// The pages work without this script. With it they stay up to date (htmx asks for what is new)
// and say so when the gateway does not answer any more. What has become of it once it answers again
// the gateway tells itself: it compares what the page was made from with what is now.
(() => {
  "use strict";
  const patience = 3000; // ms without an answer before a failed request means something
  const shownEntries = 1000;
  const lost = document.getElementById("lost");
  let heard = performance.now();

  function show(isLost) {
    if (lost.hidden !== isLost) return;
    const cause = document.querySelector("#gate .working, #gate .returning, #gate .drilling") ? "update" : "plain";
    for (const text of lost.querySelectorAll("[data-lost]")) text.hidden = text.dataset.lost !== cause;
    lost.hidden = !isLost;
    document.documentElement.classList.toggle("stale", isLost);
  }

  document.addEventListener("htmx:after:request", (event) => {
    if (event.detail.ctx.response.status >= 500) return;
    heard = performance.now();
    show(false);
  });

  function missed() {
    if (performance.now() - heard > patience) show(true);
  }
  document.addEventListener("htmx:error", missed);
  document.addEventListener("htmx:response:error", missed);

  // A page that nobody sees asks for nothing, and catches up when it is looked at again.
  document.addEventListener("htmx:config:request", (event) => {
    if (document.hidden) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    heard = performance.now();
    document.querySelectorAll("[hx-get]").forEach((e) => e.dispatchEvent(new Event("wake")));
  });

  // The log grows at its top for as long as the page is open.
  document.addEventListener("htmx:after:swap", () => {
    const entries = document.getElementById("entries");
    while (entries && entries.childElementCount > shownEntries) entries.lastElementChild.remove();
  });
})();
