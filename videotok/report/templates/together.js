// Videos of one group run together: what is done to one is done to the others.
for (const group of document.querySelectorAll(".together")) {
  const videos = [...group.querySelectorAll("video")];
  for (const one of videos) for (const other of videos.filter(video => video !== one)) {
    one.addEventListener("play", () => { other.currentTime = one.currentTime; other.play().catch(() => {}); });
    one.addEventListener("pause", () => { if (!one.ended) other.pause(); });
    one.addEventListener("seeked", () => { if (Math.abs(other.currentTime - one.currentTime) > .1) other.currentTime = one.currentTime; });
  }
}
