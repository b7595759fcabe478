// Keeps pages and fragments of jobs up to date. Without it, pages reload themselves.
(() => {
  "use strict";

  // Make `old` what `now` is, but keep each node that both have: focus and selection stay.
  const morph = (old, now) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== now.data) old.data = now.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!now.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    let next = old.firstChild;
    for (const child of [...now.childNodes]) {
      const same = child.id
        ? [...old.children].find((each) => each.id === child.id)
        : next && !next.id && next.nodeName === child.nodeName && next;
      if (!same) {
        old.insertBefore(child, next);
        continue;
      }
      while (next !== same) next = drop(next);
      next = same.nextSibling;
      morph(same, child);
    }
    while (next) next = drop(next);
  };
  const drop = (node) => {
    const next = node.nextSibling;
    node.remove();
    return next;
  };

  // The server writes UTC, for want of the reader's time zone.
  const localise = (root) => {
    for (const time of root.querySelectorAll("time:not([title])")) {
      const style = { timeStyle: "medium", dateStyle: "exClock" in time.dataset ? undefined : "medium" };
      const local = new Date(time.dateTime).toLocaleString([], style);
      const isRelative = "exAgo" in time.dataset;
      time.title = isRelative ? local : time.textContent;
      if (!isRelative) time.textContent = local;
    }
  };

  // Say that a job is gone, instead of what it was. Returns false: there is nothing to ask for.
  const giveUp = (element) => {
    const text = element.dataset.exGone;
    if (!text) return false; // a list
    const said = document.createElement("p");
    said.className = "ex-said";
    said.textContent = text;
    const hadFocus = element.contains(document.activeElement);
    element.replaceChildren(said);
    if (hadFocus) element.focus();
    const announced = document.getElementById("ex-status");
    if (announced) {
      announced.textContent = text;
      document.title = document.title.replace(/^[^·]*· /, "");
    }
    return false;
  };

  // Bring what is shown up to date. Returns whether to ask again.
  const refresh = async (element) => {
    const response = await fetch(element.dataset.exUrl, { headers: { Accept: "text/html" }, redirect: "manual" });
    const isElsewhere = response.type === "opaqueredirect"; // a login, say
    if (isElsewhere || [401, 403, 404, 410].includes(response.status)) return giveUp(element);
    if (!response.ok) throw new Error(response.statusText);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!page.getElementById(element.id)) return giveUp(element);
    const focused = document.activeElement;
    localise(page);
    for (const part of page.querySelectorAll("[data-ex-live]")) {
      const shown = document.getElementById(part.id);
      if (shown) morph(shown, part);
    }
    if (page.title) document.title = page.title;
    if (!focused.isConnected) element.focus();
    return "exPoll" in element.dataset;
  };

  // Wait for some seconds, or until something has happened here.
  const pause = (seconds) =>
    new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        document.removeEventListener("ex-look", end);
        resolve();
      };
      const timer = setTimeout(end, seconds * 1000);
      document.addEventListener("ex-look", end);
    });
  const untilVisible = () =>
    new Promise((resolve) => {
      const look = () => document.hidden || (document.removeEventListener("visibilitychange", look), resolve());
      document.addEventListener("visibilitychange", look);
      look();
    });

  // Show what the server sends, until the job is done or the server has other things to do.
  const listen = (element) =>
    new Promise((resolve) => {
      const source = new EventSource(element.dataset.exEvents);
      const end = () => {
        source.close();
        document.removeEventListener("ex-look", end);
        resolve();
      };
      source.addEventListener("progress", ({ data }) => {
        const { status, progress, said } = JSON.parse(data);
        if (!element.classList.contains(`ex-${status}`)) return refresh(element).catch(end);
        if (!progress) return;
        const write = (name, text) => {
          const part = element.querySelector(`[data-ex-${name}]`);
          if (part && part.textContent !== text) part.textContent = text;
        };
        write("message", progress.message);
        if (progress.percent !== null) {
          write("figure", `${progress.percent} %`);
          element.querySelector("progress")?.setAttribute("value", progress.percent);
          document.title = document.title.replace(/^[^·]*/, `${progress.percent} % `);
        }
        const announced = document.getElementById("ex-status");
        if (announced && announced.textContent !== said) announced.textContent = said;
      });
      for (const name of ["done", "pause"]) source.addEventListener(name, end);
      source.addEventListener("error", () => source.readyState === EventSource.CLOSED && end());
      document.addEventListener("ex-look", end);
    });

  const follow = async (element) => {
    const opensResult = "exFollow" in element.dataset;
    let failures = 0;
    let goes = true;
    if (element.dataset.exEvents) {
      await listen(element);
      goes = await refresh(element).catch(() => true);
    }
    while (goes) {
      await pause(Math.min(30, element.dataset.exPoll * 2 ** failures));
      if ("exVisible" in element.dataset) await untilVisible();
      try {
        goes = await refresh(element);
        failures = 0;
      } catch {
        failures += 1;
      }
    }
    const result = element.querySelector("[data-ex-result]");
    if (opensResult && result) location.replace(result.href);
  };

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!("exCancel" in form.dataset) || (window.htmx && form.hasAttribute("hx-post"))) return;
    event.preventDefault();
    try {
      const body = new URLSearchParams(new FormData(form));
      const response = await fetch(form.action, { method: "POST", body, headers: { Accept: "application/json" } });
      if (!response.ok && response.status !== 409) throw new Error(response.statusText);
      document.dispatchEvent(new Event("ex-look"));
    } catch {
      form.submit(); // and the browser shows what is wrong
    }
  });

  localise(document);
  document.querySelectorAll("[data-ex-poll]").forEach(follow);
})();
