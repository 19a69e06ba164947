// Tells a refused setting at its field. The ids of accordions and the field are in data-field of a status line, or
// in the classes of a message of Gradio's ("at:ID"). Its text then stands at the field, until the value changes.

(() => {
  const LOOK_EVERY = 200; // milliseconds: Gradio changes values without an event that others could hear
  const PATIENCE = 3000; // milliseconds until an accordion has opened
  const CONTROLS = "textarea, input[type=number], input[type=text], input[type=range], input[role=combobox]";
  const LINES = ".status, [data-field], .told-at";
  const marks = new Map(); // field -> { note, origin, value }

  const shown = (element) => Boolean(element?.offsetParent);

  // What a person sees of a field's value.
  function valueOf(field) {
    const typed = [...field.querySelectorAll("input, textarea")].map((one) => `${one.value} ${one.checked}`);
    return [...typed, field.querySelectorAll("canvas, img, button:enabled").length].join("\n");
  }

  // The seed stands in a row with its button, which is one field to the eye.
  const frameOf = (field) => field.closest("[id$=seed-row]") ?? field;

  async function reached(ids) {
    const until = Date.now() + PATIENCE;
    for (const [place, id] of ids.entries()) {
      let found = document.getElementById(id);
      while (!shown(found)) {
        if (place === 0 || Date.now() > until) return null; // it is not on this tab of the page
        await new Promise((done) => setTimeout(done, 50));
        found = document.getElementById(id);
      }
      if (place === ids.length - 1) return found;
      const content = found.querySelector("[data-testid=accordion-content]");
      if (!shown(content)) found.querySelector("button")?.click();
    }
    return null;
  }

  function unmark(field) {
    marks.get(field)?.note.remove();
    marks.delete(field);
    for (const one of [field, ...field.querySelectorAll(CONTROLS)]) {
      one.removeAttribute("aria-invalid");
      one.removeAttribute("aria-describedby");
    }
    frameOf(field).classList.remove("refused");
  }

  function unmarkAll(origin) {
    for (const [field, mark] of marks) if (mark.origin === origin) unmark(field);
  }

  function mark(field, sentence, origin) {
    unmark(field);
    const note = document.createElement("p");
    note.className = "field-note";
    note.id = `${field.id}-refused`;
    note.tabIndex = -1;
    note.setAttribute("role", "alert");
    note.textContent = sentence;
    const frame = frameOf(field);
    if (frame !== field) frame.append(note);
    else if (field.style.height) field.after(note); // an editor of fixed height would cut it off
    else field.append(note);
    frame.classList.add("refused");
    const controls = [...field.querySelectorAll(CONTROLS)];
    for (const one of controls) one.setAttribute("aria-invalid", "true");
    for (const one of controls.length ? controls : [field]) one.setAttribute("aria-describedby", note.id);
    marks.set(field, { note, origin, value: valueOf(field) });
    // A list of choices would open over the note; an editor has no one control.
    const first = controls.find((one) => shown(one) && one.getAttribute("role") !== "combobox");
    (first ?? note).focus({ preventScroll: true });
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const { top, bottom } = field.getBoundingClientRect();
    if (top < 0 || Math.max(bottom, note.getBoundingClientRect().bottom) > innerHeight)
      field.scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
  }

  const placeOf = (element) => element.dataset.field?.split(" ")
    ?? [...element.classList].filter((one) => one.startsWith("at:")).map((one) => one.slice(3));

  // The component that a line stands in, which has an id of ours; a message stands in none.
  const originOf = (element) => element.closest(".block[id]")?.id;

  async function tell(element) {
    const toast = element.closest("[data-testid=toast-body]"), origin = originOf(element);
    const field = await reached(placeOf(element));
    if (!field || !element.isConnected) return; // the sentence stands where it came
    mark(field, element.textContent.trim(), origin);
    if (toast) toast.querySelector("[data-testid=toast-close]")?.click();
    else element.hidden = true;
  }

  function consider(element) {
    if (element.matches(".status")) {
      unmarkAll(originOf(element)); // of the drawing before
      element.hidden = false;
    }
    if (placeOf(element).length) tell(element);
  }

  new MutationObserver((changes) => {
    const changed = new Set(); // Gradio writes a new line into the element of the last one
    for (const { target, type, addedNodes } of changes) {
      if (type === "attributes") changed.add(target);
      for (const node of addedNodes) {
        if (node.nodeType !== Node.ELEMENT_NODE) continue;
        for (const one of [node, ...node.querySelectorAll(LINES)]) if (one.matches(LINES)) changed.add(one);
      }
    }
    changed.forEach(consider);
  }).observe(document.documentElement, {
    childList: true, subtree: true, attributes: true, attributeFilter: ["data-state", "data-told"],
  });

  setInterval(() => {
    for (const [field, { value }] of marks) if (!field.isConnected || valueOf(field) !== value) unmark(field);
  }, LOOK_EVERY);
  document.addEventListener("pointerup", (event) => { // a stroke on an editor
    for (const field of marks.keys()) if (event.target.tagName === "CANVAS" && field.contains(event.target)) unmark(field);
  }, true);
})();
