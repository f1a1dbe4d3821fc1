"use strict";
// Draws the events of /overview/stream. All text of the router is set as text, never as markup.
(function () {
  const LAND = "@LAND@";
  const KEPT = 300; // points of the charts
  const byId = (id) => document.getElementById(id);
  const make = (tag, attributes, ...inner) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...inner);
    return made;
  };
  const draw = (tag, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // Figures as text; what is not known is a dash.
  const known = (value) => typeof value === "number" && isFinite(value);
  const ms = (v) => !known(v) ? "–" : v < 9.95 ? v.toFixed(1) + " ms" : v < 999.5 ? v.toFixed(0) + " ms"
    : v < 99950 ? (v / 1e3).toFixed(1) + " s" : (v / 6e4).toFixed(0) + " min";
  const plain = (v) => !known(v) ? "–" : v.toFixed(1);
  const rate = (v) => !known(v) ? "–" : v < 9.95 ? v.toFixed(1) : v.toFixed(0);
  const count = (v) => !known(v) ? "–" : v < 1e4 ? String(v) : v < 1e6 ? (v / 1e3).toFixed(0) + " k" : (v / 1e6).toFixed(1) + " M";
  const percent = (v) => !known(v) ? "–" : (v * 100).toFixed(0) + " %";
  const share = (hits, kind) => hits && hits.prompt_tokens > 0 ? hits[kind] / hits.prompt_tokens : null;
  const span = (s) => s < 100 ? s.toFixed(0) + " s" : s < 6e3 ? (s / 60).toFixed(0) + " min" : s < 3.6e5 ? (s / 3600).toFixed(0) + " h" : (s / 86400).toFixed(0) + " d";
  const tone = (state) => state === "up" ? "good" : state === "down" || state === "breaker open" ? "bad" : "warn";

  // A long name loses its middle where it has no room, since names of pods differ at their ends; the tip has all of it.
  const END = 8;
  function named(text) {
    const signs = [...text];
    if (signs.length <= 2 * END) return text;
    return make("span", { class: "name", title: text }, make("span", {}, signs.slice(0, -END).join("")), make("span", {}, signs.slice(-END).join("")));
  }
  const shorten = (text, most) => {
    const signs = [...text];
    return signs.length <= most ? text : signs.slice(0, most - END - 1).join("") + "…" + signs.slice(-END).join("");
  };

  // Tables: columns are [title, text of a row, kind or "" for figures, figure to sort by].
  const orders = {};
  function table(id, columns, rows) {
    const order = orders[id];
    const sorted = [...rows];
    if (order) {
      const key = columns[order.column][3] || columns[order.column][1];
      const value = (row) => { const v = key(row); return v === null || v === undefined || v !== v ? -Infinity : v; };
      sorted.sort((a, b) => { const [x, y] = [value(a), value(b)]; return (x < y ? -1 : x > y ? 1 : 0) * (order.down ? -1 : 1); });
    }
    const head = make("tr", {}, ...columns.map(([title, , kind], i) => {
      const button = make("button", { type: "button", "data-key": `${id} ${i}` }, title);
      button.addEventListener("click", () => { orders[id] = { column: i, down: order && order.column === i ? !order.down : kind === "" }; show(); });
      const cell = make("th", { scope: "col", class: kind === "" ? "" : "text" }, button);
      if (order && order.column === i) cell.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      return cell;
    }));
    const body = sorted.map((row) => make("tr", {}, ...columns.map(([, text, kind]) => {
      const cell = make("td", { class: kind }, kind === "text" ? named(text(row)) : text(row));
      if (kind === "state") cell.className = "text " + tone(text(row));
      return cell;
    })));
    byId(id).replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  }

  function bars(id, rows) {
    byId(id).replaceChildren(...rows.flatMap(([name, parts, text]) => {
      const bar = make("div", { class: "bar", role: "img", "aria-label": name + " " + text });
      for (const [kind, width, title] of parts) {
        const part = make("i", { class: kind, title });
        part.style.width = (Math.max(0, Math.min(1, width)) * 100).toFixed(2) + "%";
        bar.append(part);
      }
      return [make("span", {}, name), bar, make("span", {}, text)];
    }));
  }

  // The map: 2.5 degrees a dot, from 77.5 north to 55 south.
  const land = LAND.split("/").flatMap((row, y) => [...row].flatMap((digit, x) =>
    [8, 4, 2, 1].flatMap((bit, i) => parseInt(digit, 16) & bit ? [`M${(x * 4 + i) * 2.5 + 1.25} ${y * 2.5 + 2.5}h0`] : []))).join("");
  const onMap = (place) => [place[1] + 180, 80 - place[0]];
  function map(told) {
    const svg = byId("map");
    const hasPlaces = told.regions.some((region) => region.place);
    svg.setAttribute("viewBox", hasPlaces ? "0 0 360 138" : `0 0 360 ${Math.max(60, told.regions.length * 16)}`);
    const height = Math.max(60, told.regions.length * 16);
    const place = (region, i) => hasPlaces ? region.place && onMap(region.place) : [250, height * (i + 0.5) / told.regions.length];
    const here = hasPlaces ? told.place && onMap(told.place) : [50, height / 2];
    const all = told.regions.reduce((sum, region) => sum + (region.requests_per_second || 0), 0);
    const parts = hasPlaces ? [draw("path", { class: "land", d: land })] : [];
    const labels = [];
    told.regions.forEach((region, i) => {
      const at = place(region, i);
      if (!at) return;
      const part = all > 0 ? (region.requests_per_second || 0) / all : 0;
      const [x, y] = at;
      if (here && part > 0 && Math.hypot(x - here[0], y - here[1]) > 1) {
        const [mx, my] = [(x + here[0]) / 2, (y + here[1]) / 2 - (hasPlaces ? Math.hypot(x - here[0], y - here[1]) * 0.22 : 0)];
        parts.push(draw("path", { class: "arc", d: `M${here[0]} ${here[1]}Q${mx} ${my} ${x} ${y}`, "stroke-width": (0.5 + 3 * Math.sqrt(part)).toFixed(2) }));
      }
      const dot = draw("circle", { class: region.available === 0 ? "spot bad" : "spot", cx: x, cy: y, r: (1.6 + 4 * Math.sqrt(part)).toFixed(2) });
      const name = region.region || "(no region)";
      dot.append(draw("title", {}, `${name}: ${rate(region.requests_per_second)} requests/s, ${region.available} of ${region.replicas} replicas`));
      parts.push(dot);
      const label = { x: Math.max(24, Math.min(336, x)), y: y + 8 + 4 * Math.sqrt(part), "text-anchor": "middle" };
      const words = draw("text", hasPlaces ? label : { x: x + 8, y: y + 2 }, `${shorten(name.replace(/^[a-z]+:/, ""), 20)} ${percent(part)}`);
      words.append(draw("title", {}, name));
      labels.push(words);
    });
    if (here) {
      const mark = draw("circle", { class: "here", cx: here[0], cy: here[1], r: 2.6 });
      mark.append(draw("title", {}, "this router"));
      parts.push(mark);
    }
    svg.replaceChildren(...parts, ...labels);
  }

  // Charts of what this page has seen.
  const seen = { at: [], p50: [], p90: [], p99: [], rate: [], queue: [], flight: [] };
  let charts = [];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  function chart(id, unit, lines) {
    const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const series = lines.map(([label, , ink]) => ({ label, stroke: colour(ink), width: 1.5, points: { show: false }, value: (u, v) => v == null ? "–" : unit(v) }));
    const clock = (v) => v == null ? "" : new Date(v * 1e3).toTimeString().slice(0, 8);
    const options = {
      width: Math.max(200, byId(id).clientWidth), height: 190, series: [{ label: "time", value: (u, v) => clock(v) }, ...series],
      axes: [{ ...axis, space: 80, values: (u, ticks) => ticks.map(clock) }, { ...axis, size: 62, values: (u, ticks) => ticks.map(unit) }],
      scales: { y: { range: (u, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    };
    byId(id).replaceChildren();
    return { id, plot: new uPlot(options, data(lines), byId(id)), lines };
  }
  const data = (lines) => [seen.at, ...lines.map(([, key]) => seen[key])];
  function drawCharts(anew) {
    if (anew || !charts.length) {
      charts.forEach((one) => one.plot.destroy());
      charts = [
        chart("ttft", ms, [["p50", "p50", "good"], ["p90", "p90", "warn"], ["p99", "p99", "bad"]]),
        chart("load", rate, [["requests/s", "rate", "link"], ["in flight", "flight", "prefill"], ["queue", "queue", "bad"]]),
      ];
    } else charts.forEach((one) => one.plot.setData(data(one.lines)));
    // Without a pointer over a chart its legend shows the latest figures.
    for (const { plot } of charts) if (!(plot.cursor.left >= 0)) plot.setLegend({ idx: seen.at.length - 1 });
  }
  function remember(told) {
    const at = (q) => told.ttft[q] ? told.ttft[q].ttft_ms : null;
    const values = { at: told.at_unix_ms / 1e3, p50: at("p50"), p90: at("p90"), p99: at("p99"), rate: told.requests.per_second, queue: told.requests.queue, flight: told.requests.in_flight };
    for (const [key, list] of Object.entries(seen)) {
      list.push(values[key]);
      if (list.length > KEPT) list.shift();
    }
  }

  // Decisions: the open ones stay open while new ones come in.
  const open = new Set();
  const TERMS = ["network_ms", "prefill_ms", "waiting_ms", "running_ms", "total_ms"];
  function terms(one) {
    const decision = one.decision;
    const head = ["candidate", "network", "prefill", "waiting", "running", "total", "expected TTFT", "cached tokens", "waiting/running", "excluded"];
    const rows = decision.candidates.map((c) => make("tr", { class: c.id === decision.chosen ? "chosen" : "" }, make("td", {}, named(c.id)),
      ...TERMS.map((key) => make("td", {}, plain(c[key]))), make("td", {}, ms(c.expected_ttft_ms)), make("td", {}, count(c.cached_tokens)),
      make("td", {}, `${c.waiting_requests}/${c.running_requests}`), make("td", { class: "text" }, c.excluded || "")));
    const lead = `${decision.policy} chose ${decision.chosen || "no replica"} for ${decision.prompt_tokens} prompt tokens (${decision.tokens}).`
      + ` Predicted ${ms(one.predicted_ttft_ms)}, took ${ms(one.actual_ttft_ms)}; attempt ${one.attempts}; ${one.status}.`
      + (decision.candidates_left_out ? ` ${decision.candidates_left_out} more candidates: GET /explain/${one.request_id}.` : "");
    return make("td", { class: "inner", colspan: 8 }, make("p", { class: "hint" }, lead),
      make("table", {}, make("thead", {}, make("tr", {}, ...head.map((title) => make("th", { scope: "col" }, title)))), make("tbody", {}, ...rows)));
  }
  function decisions(told) {
    const head = ["request", "chosen", "runner-up", "decided by", "regret", "predicted", "TTFT", "hit / prompt"];
    const rows = told.decisions.flatMap((one) => {
      const { decision, request_id: id } = one;
      const deciding = decision.deciding;
      const by = decision.reason || (deciding.deciding_term ? `${deciding.deciding_term} ${deciding.ahead_by.toFixed(0)}` : "–");
      const hit = one.actual_cached_tokens ?? one.predicted_cached_tokens;
      const button = make("button", { type: "button", "aria-expanded": String(open.has(id)), "data-key": "decision " + id }, named(id));
      const row = make("tr", { class: open.has(id) ? "head open" : "head" }, make("td", {}, button), make("td", { class: "text" }, named(decision.chosen || "–")),
        make("td", { class: "text" }, named(deciding.runner_up || "–")), make("td", { class: "text" }, by), make("td", {}, ms(deciding.regret_ms)),
        make("td", {}, ms(one.predicted_ttft_ms)), make("td", {}, ms(one.actual_ttft_ms)), make("td", {}, `${count(hit)} / ${count(decision.prompt_tokens)}`));
      row.addEventListener("click", () => { if (!open.delete(id)) open.add(id); show(); });
      return open.has(id) ? [row, make("tr", {}, terms(one))] : [row];
    });
    byId("decisions").replaceChildren(make("thead", {}, make("tr", {}, ...head.map((title, i) => make("th", { scope: "col", class: i < 4 ? "text" : "" }, title)))), make("tbody", {}, ...rows));
    const shown = new Set(told.decisions.map((one) => one.request_id));
    for (const id of open) if (!shown.has(id)) open.delete(id);
  }

  const at50 = (row) => row.ttft.p50 ? row.ttft.p50.ttft_ms : null;
  const delivered = (row) => share(row.hits, "delivered");
  const note = (row) => row.last_error && (row.state !== "up" || row.last_error_age_ms < 6e4) ? `${row.last_error} (${span(row.last_error_age_ms / 1e3)} ago)` : "";
  let last = null, frozen = false;
  function show() {
    const told = last;
    if (!told) return;
    byId("main").hidden = false;
    const focused = document.activeElement && document.activeElement.dataset.key;
    document.title = `gorgo ${told.name}`;
    byId("name").textContent = told.name;
    const { requests } = told;
    const quantile = (q) => told.ttft[q] ? told.ttft[q].ttft_ms : null;
    const tiles = [["requests/s", rate(requests.per_second)], ["in flight", count(requests.in_flight)],
      ["queue", count(requests.queue), requests.queue > 0], ["TTFT p50", ms(quantile("p50"))], ["TTFT p99", ms(quantile("p99"))],
      ["hits delivered", percent(share(told.hits, "delivered"))], ["retried", count(requests.retried)], ["failed", count(requests.failed), requests.failed > 0],
      ["refused", count(requests.rejected), requests.rejected > 0]];
    byId("tiles").replaceChildren(...tiles.map(([name, text, bad]) => make("div", { class: bad ? "bad" : "" }, make("dt", {}, name), make("dd", {}, text))));
    map(told);
    table("regions", [["region", (r) => r.region || "(no region)", "text"], ["up", (r) => `${r.available}/${r.replicas}`, ""],
      ["req/s", (r) => rate(r.requests_per_second), "", (r) => r.requests_per_second], ["RTT", (r) => ms(r.rtt_ms), "", (r) => r.rtt_ms],
      ["wait/run", (r) => `${r.waiting}/${r.running}`, "", (r) => r.waiting], ["TTFT p50", (r) => ms(at50(r)), "", at50], ["hits", (r) => percent(delivered(r)), "", delivered]], told.regions);
    const most = Math.max(1, ...["mean", "p50", "p90", "p99"].map((q) => quantile(q) || 0));
    bars("bars", ["mean", "p50", "p90", "p99"].filter((q) => told.ttft[q]).map((q) => {
      const row = told.ttft[q];
      const parts = ["network", "queue", "prefill"].map((part) => [part, row[part + "_ms"] / most, `${part} ${ms(row[part + "_ms"])}`]);
      return [q, parts, ms(row.ttft_ms)];
    }));
    bars("hits", [["best anywhere", "best_anywhere"], ["expected", "expected"], ["delivered", "delivered"]].map(([name, kind]) =>
      [name, [["hit", share(told.hits, kind) || 0, name]], percent(share(told.hits, kind))]));
    byId("unreported").textContent = `Of ${count(told.hits.prompt_tokens)} prompt tokens`
      + (told.hits.unreported ? `; ${count(told.hits.unreported)} requests whose engine reports no cached tokens are left out` : "")
      + (told.window.enabled ? "" : "; the request log is off, so there are no figures of requests") + ".";
    table("replicas", [["replica", (r) => r.id, "text"], ["region", (r) => r.region || "–", "text"], ["state", (r) => r.state, "state"],
      ["req/s", (r) => rate(r.requests_per_second), "", (r) => r.requests_per_second], ["RTT", (r) => ms(r.latency_ms), "", (r) => r.latency_ms],
      ["wait/run", (r) => `${r.load.waiting_requests}/${r.load.running_requests}`, "", (r) => r.load.waiting_requests],
      ["engine", (r) => `${count(r.waiting_reqs)}/${count(r.running_reqs)}`, "", (r) => r.waiting_reqs], ["KV", (r) => percent(r.gpu_cache_usage), "", (r) => r.gpu_cache_usage],
      ["hits", (r) => percent(delivered(r)), "", delivered], ["expected", (r) => percent(share(r.hits, "expected")), "", (r) => share(r.hits, "expected")],
      ["TTFT p50", (r) => ms(at50(r)), "", at50], ["dispatched", (r) => count(r.dispatched), "", (r) => r.dispatched], ["note", note, "note"]], told.replicas);
    decisions(told);
    table("policies", [["policy", (p) => p.policy, "text"], ["", (p) => p.shadow ? "shadow" : "in force", "text"], ["decided", (p) => count(p.decided), "", (p) => p.decided],
      ["hits expected", (p) => percent(p.hit_rate), "", (p) => p.hit_rate], ["predicted TTFT, mean", (p) => ms(p.mean_predicted_ttft_ms), "", (p) => p.mean_predicted_ttft_ms],
      ["busiest / mean replica", (p) => known(p.busiest) ? p.busiest.toFixed(2) : "–", "", (p) => p.busiest]], told.policies);
    // The tables are new; the focus stays where it was.
    const again = focused && document.querySelector(`[data-key="${CSS.escape(focused)}"]`);
    if (again) again.focus({ preventScroll: true });
    document.documentElement.dataset.ready = "1";
  }

  // The stream. EventSource cannot send a key, so the events are read from a fetch.
  const KEY = "gorgo-key";
  const state = (text, bad) => { byId("state").textContent = text; byId("state").className = bad ? "bad" : ""; };
  let stop = null, pause = 1000;
  function event(text) {
    const told = JSON.parse(text);
    remember(told);
    if (frozen) return;
    last = told;
    state(`policy ${told.policy}, ${told.phase}, up for ${span(told.uptime_seconds)}` + (told.dropped_events ? `, ${told.dropped_events} events dropped` : ""), told.phase !== "serving");
    show();
    drawCharts(false);
  }
  async function follow(signal) {
    const key = sessionStorage.getItem(KEY);
    const headers = key ? { Authorization: "Bearer " + key } : {};
    const answer = await fetch("overview/stream", { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
    if (answer.status === 401) {
      byId("ask").hidden = false;
      byId("key").focus();
      state(key ? "the router refuses this key" : "a key is needed", true);
      return false;
    }
    if (!answer.ok) throw new Error(answer.status === 429 ? "as many pages as may be are open" : "the router answered " + answer.status);
    byId("ask").hidden = true;
    byId("forget").hidden = !key;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the stream has ended");
      pause = 1000;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const one of events) if (one.startsWith("data: ")) event(one.slice(6));
    }
  }
  async function run() {
    if (stop) stop.abort();
    const own = stop = new AbortController();
    while (!own.signal.aborted) {
      try {
        if (!await follow(own.signal)) return;
      } catch (error) {
        if (own.signal.aborted) return;
        state(`no figures since ${last ? new Date(last.at_unix_ms).toLocaleTimeString() : "the page was opened"} (${error.message}); trying again`, true);
      }
      await new Promise((later) => setTimeout(later, pause));
      pause = Math.min(pause * 2, 10000);
    }
  }
  byId("ask").addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    sessionStorage.setItem(KEY, byId("key").value);
    byId("key").value = "";
    run();
  });
  byId("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  });
  byId("freeze").addEventListener("click", () => {
    frozen = !frozen;
    byId("freeze").setAttribute("aria-pressed", String(frozen));
    state(frozen ? "frozen" : "going on");
  });
  // A page that is not seen costs the router nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { if (stop) stop.abort(); } else run();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(true));
  let resizing;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => { if (last) drawCharts(true); }, 150); });
  run();
})();
