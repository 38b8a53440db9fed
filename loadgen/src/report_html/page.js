// Comfort only: figures under the pointer, lines that a click on the legend hides, and unfolding
// what a link or the printer wants to see. The page says everything without it.
(() => {
  "use strict";
  const tip = document.getElementById("tip");

  const scale = (text) => {
    const [kind, ...numbers] = text.split(",");
    const [v0, v1, p0, p1] = numbers.map(Number);
    return (pixel) => {
      const share = (pixel - p0) / (p1 - p0);
      return kind === "log" ? v0 * Math.pow(v1 / v0, share) : v0 + share * (v1 - v0);
    };
  };
  const digits = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
  const inWords = {
    seconds: (value) => `${value.toFixed(1)} s`,
    nines: (value) => `${(100 * (1 - Math.pow(10, -value))).toFixed(Math.max(0, Math.ceil(value) - 1))} %`,
    rate: (value) => `${Math.round(value).toLocaleString("en")}/s`,
    latency: (value) => value >= 1e6 ? `${digits(value / 1e6)} s` : value >= 1e3 ? `${digits(value / 1e3)} ms` : `${digits(value)} µs`,
  };

  for (const chart of document.querySelectorAll("svg.chart")) {
    const pixels = (text) => text.split(",").slice(3).map(Number);
    const [p0, p1] = pixels(chart.dataset.x), [bottom, top] = pixels(chart.dataset.y);
    const toX = scale(chart.dataset.x), toY = scale(chart.dataset.y);
    const lines = [...chart.querySelectorAll("g[data-name]")].map((group) => ({
      group,
      points: [...group.querySelector("polyline").points].map((point) => [point.x, point.y]),
    }));
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
    cursor.setAttribute("class", "cursor");
    chart.append(cursor);
    const leave = () => { tip.hidden = true; cursor.setAttribute("d", ""); };
    chart.addEventListener("pointerleave", leave);
    chart.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
      if (at.x < p0 || at.x > p1) return leave();
      const rows = [];
      let snapped = at.x;
      for (const { group, points } of lines) {
        if (group.classList.contains("away")) continue;
        let nearest = points[0];
        for (const point of points) if (Math.abs(point[0] - at.x) < Math.abs(nearest[0] - at.x)) nearest = point;
        // A curve that ended further left says nothing here.
        if (at.x > points[points.length - 1][0] + 12) continue;
        if (!rows.length) snapped = nearest[0];
        rows.push([group.dataset.name, inWords[chart.dataset.vertical](toY(nearest[1]))]);
      }
      if (!rows.length) return leave();
      cursor.setAttribute("d", `M${snapped} ${bottom}V${top}`);
      const head = document.createElement("strong");
      head.textContent = inWords[chart.dataset.horizontal](toX(snapped));
      tip.replaceChildren(head, ...rows.map(([name, value]) => {
        const row = document.createElement("div"), left = document.createElement("span"), right = document.createElement("span");
        left.textContent = name;
        right.textContent = value;
        row.append(left, right);
        return row;
      }));
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - 16 - box.width : event.clientX + 16;
      tip.style.left = `${Math.max(4, left)}px`;
      tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - box.height - 4))}px`;
    });
  }

  for (const item of document.querySelectorAll(".legend li")) {
    item.setAttribute("role", "button");
    item.setAttribute("aria-pressed", "true");
    item.tabIndex = 0;
    const toggle = () => {
      const away = item.getAttribute("aria-pressed") === "true";
      item.setAttribute("aria-pressed", String(!away));
      const around = item.closest("figure, .inset");
      for (const group of around.querySelectorAll("g[data-name]")) {
        if (group.dataset.run === item.dataset.run && group.dataset.name === item.dataset.name) group.classList.toggle("away", away);
      }
      for (const end of around.querySelectorAll("text.end")) {
        if (end.dataset.run === item.dataset.run) end.classList.toggle("away", away);
      }
    };
    item.addEventListener("click", toggle);
    item.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
    });
  }

  const unfold = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
