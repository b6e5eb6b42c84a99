// The sector map and the list of lesions: choosing one shows it in all views.

function attachLesions(app) {
  const go = (key) => {
    const [x, y, z] = app.scene.lesions[key];
    app.set({ slice: z, cross: [x, y], crosshair: true, lesion: key });
    document.querySelector("#viewer").scrollIntoView({ block: "nearest" });
  };
  for (const element of document.querySelectorAll("[data-lesion]")) {
    element.addEventListener("click", () => go(element.dataset.lesion));
    if (element.tagName !== "BUTTON")
      element.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        go(element.dataset.lesion);
      });
  }
  app.listeners.push(() => {
    for (const row of document.querySelectorAll("[data-lesion-row]"))
      row.toggleAttribute("aria-current", row.dataset.lesionRow === app.state.lesion);
  });
}
