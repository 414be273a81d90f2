/* What the theme leaves to do for those who have no mouse, or a narrow screen. */
addEventListener("load", () => {
  for (const arrow of document.querySelectorAll(".bd-sidebar-primary summary")) {
    const page = arrow.closest("li").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages under ${page}`);
  }
  for (const name of document.querySelectorAll("td code .pre")) {
    if (name.textContent.length < 15) continue; // a long one may break between its words
    name.innerHTML = name.innerHTML.replace(/(?<=\w)[_(.](?=\w)/g, "$&<wbr>");
  }
  const wide = document.querySelectorAll("math[display=block], :is(p, .cell_output):has(> img)");
  const sizes = new ResizeObserver(() => {
    for (const box of wide) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; // the keys scroll it
      else box.removeAttribute("tabindex");
    }
  });
  wide.forEach((box) => sizes.observe(box));
});
/* Sphinx's British catalogue has empty places, where the search would say what it found. */
addEventListener("DOMContentLoaded", () => {
  const said = typeof Documentation === "undefined" ? {} : Documentation.TRANSLATIONS;
  for (const text in said) if (!said[text][0]) delete said[text];
});
/* Paper is white, whatever the screen is. */
const root = document.documentElement;
addEventListener("beforeprint", () => {
  root.dataset.shown = root.dataset.theme;
  root.dataset.theme = "light";
});
addEventListener("afterprint", () => { root.dataset.theme = root.dataset.shown; });
