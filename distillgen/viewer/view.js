// Follows links without losing the places of the panes, listens to keys, and keeps figures fresh. It reads pages
// of this server only, and puts them in as parsed documents, in which no script runs.
"use strict";
const one = (selector, root = document) => root.querySelector(selector);
const MOST_WAITING = 4; // keys that wait for the page of the key before
let visit = 0, waiting = 0, turn = Promise.resolve();

async function page(address) {
  const answer = await fetch(address);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

async function go(address, { push = true } = {}) {
  const mine = ++visit;
  document.body.classList.add("waiting"); // until the page is replaced
  let fresh;
  try { fresh = await page(address); } catch { location.href = address; return; }
  if (mine !== visit) return;
  const places = [...document.querySelectorAll("[data-keep]")].map(pane => [pane.dataset.keep, pane.scrollTop]);
  const list = one(".list")?.dataset.list, top = scrollY;
  if (push) history.pushState(null, "", address);
  document.title = fresh.title;
  document.body.replaceWith(fresh.body);
  const same = one(".list")?.dataset.list === list;
  for (const [name, place] of places) {
    const pane = one(`[data-keep="${name}"]`);
    if (pane && (name !== "list" || same)) pane.scrollTop = place;
  }
  one(".card[aria-current]")?.scrollIntoView({ block: "nearest" });
  scrollTo(0, one(".row") ? 0 : same ? top : 0);
  count();
}

async function count() {
  const place = one("[data-count]");
  if (!place) return;
  const answer = await fetch("count" + location.search).catch(() => null); // null: the command has ended
  if (!answer) return;
  const { count: number } = await answer.json();
  if (place.isConnected) place.textContent = number.toLocaleString("en") + (number === 1 ? " row" : " rows");
}

async function refresh() {
  if (!one("[data-growing]") || one("body.waiting")) return;
  const mine = visit, fresh = await page(location.href);
  if (mine !== visit) return;
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = one(`[data-live="${part.dataset.live}"]`, fresh);
    if (other && !("full" in part.dataset) && !part.contains(document.activeElement)) part.replaceWith(other);
  }
  if (!one("[data-growing]", fresh)) one("[data-growing]")?.removeAttribute("data-growing");
  count();
}
async function refreshAgain() {
  await refresh().catch(() => {}); // the command has ended, or the next time succeeds
  setTimeout(refreshAgain, 2000);
}
setTimeout(refreshAgain, 1000);

addEventListener("click", event => {
  if (event.target.closest("[data-help]") || event.target.matches("dialog")) {
    const keys = one("dialog");
    keys.open ? keys.close() : keys.showModal();
    return;
  }
  const link = event.target.closest("a[href^='?']");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});
addEventListener("submit", event => {
  event.preventDefault();
  const values = new URLSearchParams(new FormData(event.target));
  for (const [name, value] of [...values]) if (!value) values.delete(name);
  go("?" + values);
});
addEventListener("change", event => {
  if (event.target.matches("select")) event.target.form.requestSubmit();
});
addEventListener("popstate", () => go(location.href, { push: false }));

addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing) return;
  if (event.key === "/") { event.preventDefault(); one("input[name=text]")?.focus(); one("input[name=text]")?.select(); return; }
  if (event.key === "?") { const keys = one("dialog"); keys.open ? keys.close() : keys.showModal(); return; }
  if (one("dialog")?.open) return;
  const names = { ArrowDown: "j", ArrowUp: "k", ArrowRight: "n", ArrowLeft: "p", Escape: "x" };
  const key = names[event.key] || event.key;
  if (!one(`[data-key="${CSS.escape(key)}"]`) || waiting >= MOST_WAITING) return;
  event.preventDefault();
  waiting += 1;
  turn = turn.then(() => follow(key)).finally(() => { waiting -= 1; });
});

async function follow(key) {
  const link = one(`[data-key="${CSS.escape(key)}"]`);
  if (link) await go(link.getAttribute("href"));
}

count();
