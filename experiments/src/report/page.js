"use strict";
// Tables sort by their column heads and filter by a text; charts show values, zoom by dragging and hide arms.
(function () {
  const root = document.documentElement;
  const element = (tag, attributes, ...inner) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...inner);
    return made;
  };

  // The first number of a cell; cells without one are last in either order.
  const numberOf = (text) => {
    const found = text.replace("−", "-").match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return found ? parseFloat(found[0]) : null;
  };
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = element("button", { type: "button", class: "sort" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
        const numeric = column > 0 && rows.some((r) => numberOf(r.text) !== null && /^[-+−\d]/.test(r.text));
        const key = (r) => (numeric ? numberOf(r.text) : r.text);
        rows.sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === null || y === null) return (x === null) - (y === null);
          const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
          return down ? -order : order;
        });
        body.append(...rows.map((r) => r.row));
      });
    });
  }
  function filterable(table) {
    if (table.tBodies[0].rows.length < 6) return;
    const input = element("input", { type: "search", placeholder: "filter rows", "aria-label": "filter rows" });
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.classList.toggle("filtered", !words.every((word) => text.includes(word)));
      }
    });
    const holder = table.closest(".scroll") || table;
    holder.before(element("p", { class: "filter" }, input));
  }
  for (const table of document.querySelectorAll("table.data")) {
    sortable(table);
    filterable(table);
  }

  // A link of the contents opens what it leads to.
  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", open);
  open();

  const holder = document.getElementById("charts");
  const data = holder && JSON.parse(document.getElementById("chart-data").textContent);
  if (!data) {
    root.dataset.ready = "1";
    return;
  }
  const arms = new Map(data.arms.map((arm) => [arm.name, arm]));
  const hidden = new Set();
  const shown = (value) => {
    if (value == null) return "–";
    const size = Math.abs(value);
    return size >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
  };
  // Ticks at 1, 2, 5 and their tens; where fewer than three lie in the range, as far apart as on a linear axis.
  const logTicks = (low, high) => {
    const of = (marks) => {
      const found = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
        for (const mark of marks) if (mark * 10 ** e >= low && mark * 10 ** e <= high) found.push(mark * 10 ** e);
      return found;
    };
    const ticks = of(Math.log10(high / low) > 3.5 ? [1] : [1, 2, 5]);
    if (ticks.length >= 3) return ticks;
    const rough = (high - low) / 5;
    const ten = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * ten).find((s) => s >= rough * 0.999);
    const linear = [];
    for (let i = Math.ceil(low / step); i * step <= high && linear.length < 20; i++) linear.push(i * step);
    return linear;
  };
  let charts = [];
  function draw() {
    charts.forEach((chart) => chart.destroy());
    charts = [];
    const style = getComputedStyle(root);
    const [ink, line] = [style.getPropertyValue("--soft").trim(), style.getPropertyValue("--line").trim()];
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const paint = (color) => (dark && color === "#3C3C3C" ? "#C0C6CE" : dark && color === "#0072B2" ? "#3D9BE0" : color);
    const axis = (label, more) => ({
      label, stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 },
      font: "12px system-ui, sans-serif", labelFont: "13px system-ui, sans-serif", ...more,
    });
    data.charts.forEach((chart, index) => {
      const target = holder.querySelector(`[data-chart="${index}"]`);
      const places = chart.log ? chart.xs.map(Math.log10) : chart.xs;
      const real = (x) => (chart.log ? 10 ** x : x);
      const series = chart.lines.map((l) => {
        const arm = arms.get(l.name);
        return {
          label: l.name, stroke: paint(arm.color), width: 2, dash: arm.dash ? [arm.dash, arm.dash * 0.7] : undefined,
          show: !hidden.has(l.name), points: { show: chart.xs.length < 60, size: 6 }, spanGaps: true,
          value: (u, value, s, i) => {
            const half = i == null || !l.half ? null : l.half[i];
            return value == null ? "–" : `${shown(value)}${half == null ? "" : ` ± ${shown(half)}`} ${chart.unit}`;
          },
        };
      });
      const whiskers = (u) => {
        u.ctx.save();
        u.ctx.beginPath();
        u.ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
        u.ctx.clip();
        u.ctx.globalAlpha = 0.6;
        u.ctx.lineWidth = devicePixelRatio;
        chart.lines.forEach((l, s) => {
          if (!l.half || !u.series[s + 1].show) return;
          u.ctx.strokeStyle = paint(arms.get(l.name).color);
          u.ctx.beginPath();
          l.half.forEach((half, i) => {
            const x = u.valToPos(places[i], "x", true);
            if (half == null || l.ys[i] == null || x < u.bbox.left || x > u.bbox.left + u.bbox.width) return;
            u.ctx.moveTo(x, u.valToPos(Math.max(0, l.ys[i] - half), "y", true));
            u.ctx.lineTo(x, u.valToPos(l.ys[i] + half, "y", true));
          });
          u.ctx.stroke();
        });
        u.ctx.restore();
      };
      // Wide intervals must not press the lines together: they may take as much room again as the lines.
      const most = (of) => Math.max(...chart.lines.flatMap((l) => l.ys.map((y, i) => (y || 0) + of(l, i))));
      const highest = Math.min(most((l, i) => (l.half && l.half[i]) || 0), 1.6 * most(() => 0));
      const options = {
        width: Math.max(280, target.clientWidth), height: 340, cursor: { focus: { prox: 24 } }, focus: { alpha: 0.25 },
        scales: { x: { time: false }, y: { range: [0, chart.unit === "%" ? 100 : highest * 1.05] } },
        axes: [
          axis(chart.x, {
            splits: chart.log ? (u, a, low, high) => logTicks(10 ** low, 10 ** high).map(Math.log10) : undefined,
            values: (u, splits) => splits.map((x) => (x == null ? "" : shown(real(x)))),
          }),
          axis(chart.y, { size: 56 }),
        ],
        series: [{ label: chart.x, value: (u, x) => (x == null ? "–" : shown(real(x))) }, ...series],
        hooks: { draw: [whiskers] },
      };
      charts.push(new uPlot(options, [places, ...chart.lines.map((l) => l.ys)], target));
    });
  }
  const chips = element("div", { class: "chips", role: "group", "aria-label": "arms shown" });
  function toggle(name) {
    if (!hidden.delete(name)) hidden.add(name);
    for (const chip of chips.children) chip.setAttribute("aria-pressed", String(!hidden.has(chip.dataset.arm)));
    charts.forEach((chart, c) =>
      data.charts[c].lines.forEach((l, s) => {
        if (l.name === name) chart.setSeries(s + 1, { show: !hidden.has(name) });
      }));
    for (const row of document.querySelectorAll("tr[data-arm]"))
      if (row.dataset.arm === name) row.classList.toggle("off", hidden.has(name));
  }
  for (const arm of data.arms) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.borderTop = `3px ${arm.dash ? "dashed" : "solid"} ${arm.color}`;
    const chip = element("button", { type: "button", class: "chip", "aria-pressed": "true" }, swatch, arm.name);
    chip.dataset.arm = arm.name;
    chip.addEventListener("click", () => toggle(arm.name));
    chips.append(chip);
  }
  holder.append(chips);
  holder.append(element("p", { class: "hint" }, 
    "Click an arm to hide it, drag to zoom, double-click to see all. Whiskers are 95 % intervals over seeds; those beyond the frame are cut."));
  data.charts.forEach((chart, index) => {
    const target = element("div", { class: "chart" });
    target.dataset.chart = index;
    holder.append(element("figure", {}, element("figcaption", {}, chart.title), target));
  });
  draw();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  root.dataset.ready = "1";
})();
