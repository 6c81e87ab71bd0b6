// One tip for all of the circuit and for terms.
function showTip(event, mark, [title], rows) {
  const tip = $("tip"),
    place = mark.getBoundingClientRect(),
    x = event.clientX || place.left + place.width / 2,
    y = event.clientY || place.bottom;
  tip.replaceChildren(el("b", {}, title), ...rows.filter(Boolean).map((row) => el("span", {}, row)));
  tip.hidden = false;
  tip.style.left = `${Math.max(4, Math.min(innerWidth - tip.offsetWidth - 8, x + 12))}px`;
  tip.style.top = `${y + 16 + tip.offsetHeight > innerHeight ? Math.max(4, y - tip.offsetHeight - 10) : y + 16}px`;
}
const hideTip = () => {
  $("tip").hidden = true;
};
function termTip(event) {
  const mark = event.target.closest && event.target.closest("[data-term]");
  if (mark) showTip(event, mark, [mark.dataset.term], [TERMS[mark.dataset.term]]);
  else if (event.type === "focusin") hideTip();
}
document.addEventListener("pointerover", (event) => {
  if (event.target.closest && event.target.closest("[data-term]")) termTip(event);
});
document.addEventListener("pointerout", (event) => {
  if (event.target.closest && event.target.closest("[data-term]")) hideTip();
});
document.addEventListener("focusin", termTip);
