// Draws the interactive rate-distortion plot from the JSON in #curve-data; needs Plotly and nothing else.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("curve-data").textContent);
  const pick = (id) => document.getElementById(id);
  const choices = { panel: data.panels, quality: data.qualities, rate: data.rates };
  for (const [id, options] of Object.entries(choices)) {
    options.forEach((option, i) => pick(id).add(new Option(option.label, String(i))));
    pick(id).addEventListener("change", draw);
  }

  function trace(curve, quality, rate) {
    const shown = curve.points.filter((p) => p[quality.name] !== null);
    const x = shown.map((p) => p[rate.name]);
    const y = shown.map((p) => p[quality.name].value);
    const text = shown.map((p) => p[quality.name].text + "<br>kept " + p.kept_fraction.toFixed(3) + ", " +
      p.bpp.toFixed(3) + " bpp<br>" + curve.setting + " " + p.setting + "<br>" + p[quality.name].clips);
    return {
      x: curve.level ? [0, Math.max(...x, data.widest[rate.name])] : x,
      y: curve.level ? [y[0], y[0]] : y,
      text: curve.level ? [text[0], text[0]] : text,
      name: curve.label,
      mode: curve.level ? "lines" : "lines+markers",
      line: { color: curve.colour, dash: curve.dash, width: curve.width },
      marker: {
        color: shown.map((p) => (p[quality.name].partial ? "#ffffff" : curve.colour)), symbol: curve.marker,
        size: curve.bound ? 7 : 10, line: { color: curve.colour, width: 1.6 },
      },
      hovertemplate: "<b>%{fullData.name}</b><br>%{text}<extra></extra>",
    };
  }

  function draw() {
    const panel = data.panels[pick("panel").value], quality = data.qualities[pick("quality").value];
    const rate = data.rates[pick("rate").value];
    const traces = panel.curves.filter((c) => c.points.some((p) => p[quality.name] !== null)).map((c) => trace(c, quality, rate));
    const axis = { showline: true, linecolor: "#1c1f23", gridcolor: "#e3e6ea", zeroline: false, ticks: "outside" };
    Plotly.react("curve", traces, {
      margin: { l: 70, r: 20, t: 12, b: 56 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff", hovermode: "closest",
      font: { family: "system-ui, DejaVu Sans, sans-serif", size: 13, color: "#1c1f23" },
      xaxis: Object.assign({ title: { text: rate.axis }, rangemode: "tozero" }, axis),
      yaxis: Object.assign({ title: { text: quality.axis } }, axis),
      legend: { x: 1.02, y: 0.5 },
    }, {
      responsive: true, displaylogo: false, toImageButtonOptions: { format: "svg" },
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    });
  }
  draw();
})();
