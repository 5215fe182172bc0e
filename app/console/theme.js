// Chooses dark or light before anything is painted. Not a module, since modules run too late for that.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is forbidden: the system's choice it is.
}
