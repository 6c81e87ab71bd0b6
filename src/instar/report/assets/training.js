// ---- the course of the fine-tuning --------------------------------------------------------------------------------------
const COURSE = [["choosing", "Choosing, on pairs used for nothing else", "nats"], ["loss", "Loss", "nats per token"], ["gradient_norm", "Norm of the gradient, before it is clipped", "L2"], ["change", "‖Δθ‖, how far the weights have moved", "L2"]];
function drawCourse() {
  const c = D.course;
  if (!c) { $("training").remove(); return; }
  COURSE.forEach(([name, title, unit]) => {
    const id = "course-" + name, there = c[name].some((x) => x !== null);
    if (!there) { $(id).remove(); return; }
    const at = c.kept.map((s) => c[name][c.steps.indexOf(s)]);
    const line = { x: c.steps, y: c[name], mode: "lines", connectgaps: true, line: { color: "#5b6470", width: 1.5 }, showlegend: false, type: "scatter", hovertemplate: "step %{x}: %{y:.4g}<extra></extra>" };
    const dots = { x: c.kept, y: at, mode: "markers", name: "checkpoint", marker: { size: 7, color: COLOUR.new }, type: "scatter", hovertemplate: "checkpoint %{x}: %{y:.4g}<extra></extra>" };
    draw(id, [line, dots], layout(title, { xaxis: { title: { text: "fine-tuning step" } }, yaxis: { title: { text: unit } }, shapes: marker() }));
  });
  $("course-how").textContent = c.pairs ? `Choosing is the mean over ${c.pairs} held-out pairs that are neither trained, tested nor measured on; it decided which steps were kept.` : "";
}
drawings.push({ start: drawCourse, atStep: () => COURSE.forEach(([name]) => $("course-" + name) && $("course-" + name).data && Plotly.relayout($("course-" + name), { shapes: marker() })) });
