for (const pick of document.querySelectorAll(".pick")) {
  const group = pick.dataset.group;
  pick.addEventListener("click", (event) => {
    const name = event.target.dataset.name;
    if (name === undefined) return;
    for (const button of pick.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === event.target));
    for (const one of document.querySelectorAll(`[data-in="${group}"]`)) one.hidden = one.dataset.name !== name;
  });
}
for (const svg of document.querySelectorAll("svg[data-plot]")) {
  const plot = JSON.parse(svg.dataset.plot), figure = svg.parentNode, cursor = svg.querySelector(".cursor");
  const tip = document.createElement("div");
  tip.className = "tip"; tip.hidden = true; figure.append(tip);
  svg.addEventListener("mousemove", (event) => {
    if (!plot.x.length) return;
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    let best = 0;
    plot.x.forEach((at, index) => { if (Math.abs(at - x) < Math.abs(plot.x[best] - x)) best = index; });
    cursor.setAttribute("x1", plot.x[best]); cursor.setAttribute("x2", plot.x[best]); cursor.setAttribute("visibility", "visible");
    tip.replaceChildren(plot.at[best]);
    for (const line of plot.lines) {
      const value = line.values[best];
      if (value === null || value === undefined) continue;
      const row = document.createElement("div"), dot = document.createElement("i");
      dot.style.background = `var(--${line.colour})`;
      row.append(dot, `${line.name}: ${value} ${plot.unit}`); tip.append(row);
    }
    tip.hidden = false;
    const left = box.left - figure.getBoundingClientRect().left + plot.x[best] / scale;
    const fits = left + tip.offsetWidth + 20 < figure.clientWidth;
    tip.style.left = `${fits ? left + 12 : left - tip.offsetWidth - 12}px`;
    tip.style.top = `${svg.offsetTop + 16}px`;
  });
  svg.addEventListener("mouseleave", () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); });
}
