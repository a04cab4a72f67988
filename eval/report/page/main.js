// The page: sections for what there is, the links to them, and the switch between light and dark.

function main() {
  buildTheme();
  const set = CONTENT.sets[0];
  if (CONTENT.sets.length > 1) {
    const options = CONTENT.sets.map((one, index) => ({ value: String(index), label: one.name }));
    document
      .getElementById("image-set")
      .append(menu("Images", options, "0", (value) => build(CONTENT.sets[Number(value)])).element);
  }
  document
    .getElementById("footer")
    .append(
      `Made ${CONTENT.made} UTC by latentcodec ${CONTENT.version}. `,
      "This page loads nothing: all that it shows is in this file.",
    );
  build(set);
  document.documentElement.dataset.ready = "yes";
  performance.mark("latentcodec-ready");
}

function build(set) {
  const sections = [];
  const add = (title, content) => content && sections.push({ id: `section-${sections.length + 1}`, title, content });
  if (set) {
    let viewer = null;
    const show = ({ image, variant }) => viewer && image !== null && viewer.showVariant(image, variant);
    const pictured = new Pictured(set);
    if (pictured.images.length) viewer = new Viewer(pictured);
    add("Summary", summarySection(set));
    add("Pictures", viewer && [h("p", { class: "note" }, set.pictures_note), viewer.element]);
    add("Rate and distortion", rateSection(set, show));
    add("Every image", imagesSection(set, show));
  }
  for (const measured of CONTENT.latents) add(titled("Latents", measured, CONTENT.latents), latentsSection(measured));
  for (const measured of CONTENT.speed) add(titled("Speed", measured, CONTENT.speed), speedSection(measured));
  for (const measured of CONTENT.other) add(measured.title, otherSection(measured));
  add("Provenance", provenanceSection());
  document.getElementById("subtitle").textContent = set ? set.subtitle : CONTENT.subtitle;
  document
    .getElementById("content")
    .replaceChildren(
      ...sections.map(({ id, title, content }) =>
        h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), content),
      ),
    );
  buildLinks(sections);
}

function titled(title, measured, all) {
  return all.length > 1 ? `${title}: ${measured.title}` : title;
}

/** Links to the sections; the one in sight is marked. */
function buildLinks(sections) {
  const links = new Map(sections.map(({ id, title }) => [id, h("a", { href: `#${id}` }, title)]));
  document.getElementById("sections").replaceChildren(...links.values());
  const inSight = new Set();
  const watch = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) inSight[isIntersecting ? "add" : "delete"](target.id);
      const [first] = [...links.keys()].filter((id) => inSight.has(id));
      for (const [id, link] of links) {
        if (id === first) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-15% 0px -60% 0px" },
  );
  for (const id of links.keys()) watch.observe(document.getElementById(id));
}

function buildTheme() {
  const options = [
    { value: "light", label: "Light" },
    { value: "auto", label: "Auto", title: "As the system is" },
    { value: "dark", label: "Dark" },
  ];
  document.getElementById("theme").append(
    segmented("Colours", options, "auto", (value) => {
      document.documentElement.dataset.theme = value;
    }),
  );
}

main();
