// Uploading an update bundle works without this script. With it the page says how much has arrived.
(() => {
  "use strict";
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches(".upload")) return;
    event.preventDefault();
    const button = form.querySelector("button");
    const bar = form.querySelector("progress");
    const broken = form.querySelector(".wrong");
    const request = new XMLHttpRequest();
    const ended = (isBroken) => {
      broken.hidden = !isBroken;
      button.disabled = false;
      bar.hidden = true;
    };
    request.open("POST", form.action);
    request.responseType = "document";
    request.upload.addEventListener("progress", (e) => {
      if (e.lengthComputable) bar.value = 100 * e.loaded / e.total;
    });
    request.addEventListener("error", () => ended(true));
    request.addEventListener("load", () => {
      ended(false);
      if (request.status < 300) {
        location.assign(request.responseURL);
        return;
      }
      const note = request.response?.querySelector(".note.failed"); // the page without script has it at its top
      if (!note) {
        ended(true);
        return;
      }
      document.querySelectorAll("main > .note").forEach((n) => n.remove());
      document.querySelector("main h1").after(note);
      note.scrollIntoView({ block: "nearest" });
    });
    const data = new FormData(form);
    bar.value = 0;
    bar.hidden = false;
    broken.hidden = true;
    button.disabled = true;
    request.send(data);
  });
})();
