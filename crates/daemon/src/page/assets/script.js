// Keeps an open page up to date. Without this script the page is complete, and a reload shows what is new.
"use strict";

(() => {
  const address = document.currentScript.dataset.events;
  const stream = () => document.getElementById("stream");
  const say = (word, tone) => {
    const place = stream();
    if (place && place.textContent !== word) {
      place.textContent = word;
      place.dataset.tone = tone;
    }
  };

  // Makes `old` look like `fresh`, and touches nothing that is already so: focus, selection, scrolling and opened details stay.
  const same = (a, b) =>
    a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.nodeType !== 1 || a.dataset?.key === b.dataset?.key);
  const morph = (old, fresh) => {
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE || old.id === "note" || old.id === "stream") return;
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const keyed = new Map();
    for (const child of old.children) if (child.dataset?.key) keyed.set(child.dataset.key, child);
    let here = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const known = wanted.nodeType === 1 && wanted.dataset?.key ? keyed.get(wanted.dataset.key) : undefined;
      if (known && known !== here) old.insertBefore(known, here);
      const child = known ?? here;
      if (child && same(child, wanted)) {
        morph(child, wanted);
        here = child.nextSibling;
      } else {
        old.insertBefore(document.importNode(wanted, true), here);
      }
    }
    while (here) {
      const next = here.nextSibling;
      here.remove();
      here = next;
    }
  };

  let asking = false;
  let again = false;
  const update = async () => {
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
      const live = document.getElementById("live");
      if (fresh && live) {
        const before = live.querySelector("[data-news]")?.textContent;
        morph(live, fresh);
        const now = live.querySelector("[data-news]");
        if (now && now.textContent !== before) document.getElementById("news").textContent = now.textContent;
      }
      age();
    } catch {
      say("defib does not answer; trying again", "doubt");
    } finally {
      asking = false;
      if (again) {
        again = false;
        update();
      }
    }
  };

  // Between two pictures the ages go on. The server's clock is what they are told by, so ours need not be right.
  const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  const spell = (seconds) => {
    // As the server spells it: no seconds beyond an hour, no minutes beyond a day.
    let left = Math.max(0, Math.floor(seconds));
    left -= left < 3600 ? 0 : left % (left < 86400 ? 60 : 3600);
    const parts = [];
    for (const [unit, size] of units) {
      const count = Math.floor(left / size);
      left -= count * size;
      if (count > 0 || (unit === "s" && parts.length === 0)) parts.push(count + (unit === "d" ? (count === 1 ? "day" : "days") : unit));
      if (parts.length === 2) break;
    }
    return parts.join(" ");
  };
  let drawnAt = performance.now();
  let serverNow = NaN;
  const readClock = () => {
    const at = document.querySelector("footer time");
    if (at && Date.parse(at.dateTime) !== serverNow) {
      serverNow = Date.parse(at.dateTime);
      drawnAt = performance.now();
    }
  };
  const age = () => {
    readClock();
    if (Number.isNaN(serverNow)) return;
    const now = serverNow + performance.now() - drawnAt;
    for (const time of document.querySelectorAll("time[data-age]")) {
      const seconds = (now - Date.parse(time.dateTime)) / 1000;
      const ago = seconds < 0 ? "in " + spell(-seconds) : seconds < 1 ? "just now" : spell(seconds) + " ago";
      const text = time.dataset.age === "for" ? spell(seconds) : ago;
      if (time.textContent !== text) time.textContent = text;
    }
  };

  // A span's evidence, where it is looked at or focused.
  const note = (event) => {
    const told = event.target.closest?.("[data-note]")?.dataset.note;
    const place = document.getElementById("note");
    if (told && place && place.textContent !== told) place.textContent = told;
  };
  document.addEventListener("focusin", note);
  document.addEventListener("pointerover", note);

  // The browser connects again by itself after a break, but not after a refusal: then we do.
  const connect = () => {
    const events = new EventSource(address);
    events.addEventListener("fleet", () => {
      say("live", "well");
      update();
    });
    events.addEventListener("unread", () => {
      say("the database does not answer", "doubt");
      update();
    });
    events.onerror = () => {
      say("connecting again", "doubt");
      if (events.readyState === EventSource.CLOSED) setTimeout(() => { update(); connect(); }, 10000);
    };
    return events;
  };
  let events = connect();
  // A page in the background costs nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) events.close();
    else if (events.readyState === EventSource.CLOSED) events = connect();
  });
  setInterval(age, 1000);
})();
