// One panel, or the two of behaviour, in a page of their own: to stand in somebody else's.
Object.assign(DEFAULTS, FIRST.alone.state);
Object.assign(state, fromAddress());
showBar();
// What nothing here reads is not offered.
if (!FIRST.alone.panels.includes("circuit")) for (const id of ["vs", "task"]) $(id).closest("label").remove();
firstPanels(FIRST.alone.panels);
atState();
onChange(atState);
darkSystem.addEventListener("change", drawAgain);
document.body.dataset.ready = "yes";
