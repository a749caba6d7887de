// The choice of light or dark stays in this browser; a page opened from disk may not store it.
const root = document.documentElement;
const recall = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
const keep = (theme) => { try { localStorage.setItem("theme", theme); } catch { /* private window */ } };
const dark = () => root.dataset.theme
  ? root.dataset.theme === "dark"
  : matchMedia("(prefers-color-scheme: dark)").matches;
if (recall()) root.dataset.theme = recall();
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  keep(root.dataset.theme);
});
// A link into a closed part opens it.
const reveal = () => {
  const target = document.getElementById(location.hash.slice(1));
  target?.querySelectorAll("details").forEach((part) => { part.open = true; });
};
addEventListener("hashchange", reveal);
reveal();
