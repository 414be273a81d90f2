/* What the theme leaves to do for those who have no mouse. */
addEventListener("load", () => {
  for (const arrow of document.querySelectorAll(".bd-sidebar-primary summary")) {
    const page = arrow.closest("li").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages under ${page}`);
  }
  for (const formula of document.querySelectorAll("math[display=block]")) {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0; // the keys scroll it
  }
});
