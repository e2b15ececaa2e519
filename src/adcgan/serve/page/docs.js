// Shows openapi.json to people, without anything from elsewhere.

function add(parent, name, text = "") {
  const node = document.createElement(name);
  node.textContent = text;
  parent.append(node);
  return node;
}

function table(parent, title, rows) {
  if (rows.length === 0) return;
  add(parent, "h3", title);
  const body = add(add(parent, "table"), "tbody");
  for (const [head, ...cells] of rows) {
    const line = add(body, "tr");
    const first = add(line, "th");
    first.scope = "row";
    add(first, "code", head);
    for (const cell of cells) add(line, "td", cell);
  }
}

/** A schema in few words: "number or null", "list of ImageRow", one of the allowed values. */
function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  if (schema.type === "object" && schema.additionalProperties) return `${kind(schema.additionalProperties)} by name`;
  return schema.format === "binary" ? "file" : (schema.type ?? "");
}

function operation(path, method, details, parent) {
  const section = add(parent, "section");
  section.className = "operation";
  add(add(section, "h2"), "code", `${method.toUpperCase()} ${path}`);
  for (const text of (details.description ?? details.summary).split("\n\n")) add(section, "p", text);
  const parameters = details.parameters ?? [];
  table(section, "Parameters", parameters.map((p) => [p.name, kind(p.schema), p.description ?? ""]));
  table(section, "Body", Object.keys(details.requestBody?.content ?? {}).map((type) => [type]));
  const answers = Object.entries(details.responses).map(([status, response]) => {
    const schema = Object.values(response.content ?? {})[0]?.schema;
    return [status, kind(schema), response.description];
  });
  table(section, "Answers", answers);
}

async function start() {
  const response = await fetch("openapi.json");
  const api = await response.json();
  const parent = document.getElementById("operations");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, details] of Object.entries(methods)) operation(path, method, details, parent);
  }
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    if (name.includes("Validation")) continue;
    const section = add(parent, "section");
    section.className = "operation";
    add(add(section, "h2"), "code", name);
    add(section, "p", schema.description ?? "");
    table(section, "Fields", Object.entries(schema.properties).map(([key, p]) => [key, kind(p), p.description ?? ""]));
  }
}

start().catch((error) => {
  const trouble = document.getElementById("trouble");
  trouble.textContent = `The description cannot be read: ${error.message}`;
  trouble.hidden = false;
});
