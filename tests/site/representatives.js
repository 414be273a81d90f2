// What can be seen of text depends on its own style and on the grounds behind it. Of all text with
// the same, axe looks at the first, the middle and the last: a page of code has thousands of spans,
// and a few dozen kinds of them.
() => {
  const OWN = ["color", "fontSize", "fontWeight", "textDecorationLine", "textShadow", "display"];
  const BEHIND = {
    backgroundColor: "rgba(0, 0, 0, 0)", backgroundImage: "none", opacity: "1", filter: "none",
    mixBlendMode: "normal", position: "static", visibility: "visible", zIndex: "auto",
  };
  const grounds = new Map([[null, ""]]);
  const ground = (element) => {
    if (!grounds.has(element)) {
      const style = getComputedStyle(element);
      const own = Object.keys(BEHIND).filter((name) => style[name] !== BEHIND[name]);
      const said = own.map((name) => `${name}: ${style[name]}`).join(", ");
      grounds.set(element, ground(element.parentElement) + (said && ` > ${said}`));
    }
    return grounds.get(element);
  };
  const kinds = new Map();
  for (const element of document.body.querySelectorAll("*")) {
    const texts = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!texts && !element.matches("a[href], input, button, select, textarea")) continue;
    const style = getComputedStyle(element);
    const around = getComputedStyle(element.parentElement).color;
    const seen = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    const kind = [seen, around, ...OWN.map((name) => style[name]), ground(element)].join("; ");
    if (!kinds.has(kind)) kinds.set(kind, []);
    kinds.get(kind).push(element);
  }
  for (const all of kinds.values())
    for (const place of [0, all.length >> 1, all.length - 1])
      all[place].setAttribute("data-looked-at", "");
  return kinds.size;
}
