// Where every figure comes from.

function provenanceSection() {
  return [
    h("p", { class: "note" }, CONTENT.pictures.note),
    CONTENT.missing.length ? h("p", { class: "notice" }, missingText(CONTENT.missing)) : null,
    h("div", { class: "stack" }, CONTENT.results.map(resultCard)),
  ];
}

function missingText(names) {
  const few = names.length > 3 ? [...names.slice(0, 3), "others"] : names;
  return `Not there, though rows name ${names.length === 1 ? "it" : "them"}: ${listed(few)}.`;
}

function resultCard(result) {
  const versions = Object.entries(result.versions).map(([name, version]) => `${name} ${version}`);
  const facts = [
    ["Measured", `${result.time.replace("T", " ").replace("+00:00", "")} UTC`],
    ["Device", `${result.device}; ${plural(result.threads, "thread")}`],
    ["Commit", result.commit || "no checkout"],
    ["Python", result.python],
    ["Versions", versions.join(", ")],
    ["File", `${result.file}, sha256 ${result.sha256}`],
  ];
  return h(
    "article",
    { class: "panel" },
    h("h3", {}, result.name, h("small", {}, result.kind || "other")),
    h(
      "dl",
      {},
      facts.flatMap(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]),
    ),
    folded("Settings", tree(result.settings)),
    result.skipped.length
      ? folded(
          `${plural(result.skipped.length, "image")} skipped`,
          h(
            "ul",
            {},
            result.skipped.map((skipped) => h("li", {}, `${skipped.image}: ${skipped.reason}`)),
          ),
        )
      : null,
  );
}

/** Settings as they are nested. */
function tree(value) {
  if (Array.isArray(value) && value.every((item) => item === null || typeof item !== "object")) return value.join(", ");
  if (value === null || typeof value !== "object") return String(value);
  return h(
    "dl",
    { class: "tree" },
    Object.entries(value).flatMap(([key, inner]) => [h("dt", {}, key), h("dd", {}, tree(inner))]),
  );
}
