// Arrow keys go from one card to the next: to all elements with the attribute data-stop, which have an id.
const stops = [...document.querySelectorAll("[data-stop]")];
let current = stops.findIndex(stop => "#" + stop.id === location.hash);
const nearest = step => {
  const tops = stops.map(stop => stop.getBoundingClientRect().top - 20);
  return step > 0 ? tops.findIndex(top => top > 1) : tops.findLastIndex(top => top < -1);
};
// the last cards cannot come to the top of the window: only who scrolls by hand leaves the current one
for (const kind of ["wheel", "touchmove", "pointerdown"]) addEventListener(kind, () => { current = -1; }, {passive: true});
addEventListener("hashchange", () => { current = stops.findIndex(stop => "#" + stop.id === location.hash); });
addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!step || !stops.length || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.target instanceof Element && event.target.closest("video, input, select, textarea")) return;
  const next = current < 0 ? nearest(step) : current + step;
  event.preventDefault();
  if (next < 0 || next >= stops.length) return;
  current = next;
  location.replace("#" + stops[next].id);
});
