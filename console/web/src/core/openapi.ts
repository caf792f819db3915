/** The document of the API, as the page that sends calls reads it. Pure. */

export interface Parameter {
  name: string;
  in: "path" | "query" | "header";
  required?: boolean;
  description?: string;
}

export interface JsonSchema {
  $ref?: string;
  type?: string | string[];
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  additionalProperties?: JsonSchema | boolean;
  anyOf?: JsonSchema[];
  allOf?: JsonSchema[];
  enum?: unknown[];
}

interface OperationText {
  operationId: string;
  summary: string;
  tags: string[];
  parameters?: Parameter[];
  deprecated?: boolean;
  requestBody?: { content: Record<string, { schema: JsonSchema }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: JsonSchema }> }>;
}

export interface Document_ {
  info: { version: string; description: string };
  paths: Record<string, Record<string, OperationText>>;
  components: { schemas: Record<string, JsonSchema> };
}

export interface Operation extends OperationText {
  method: string;
  path: string;
}

export function operations(document: Document_): Operation[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, text]) => ({ ...text, method: method.toUpperCase(), path })),
  );
}

export function matches(operation: Operation, text: string): boolean {
  const words = `${operation.method} ${operation.path} ${operation.summary} ${operation.operationId}`.toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => words.includes(word));
}

/** An example of what a schema describes, to begin with. */
export function example(schema: JsonSchema | undefined, all: Record<string, JsonSchema>, depth = 0): unknown {
  if (!schema || depth > 6) return null;
  if (schema.$ref) return example(all[schema.$ref.split("/").pop() ?? ""], all, depth + 1);
  if (schema.enum) return schema.enum[0];
  const choice = [...(schema.anyOf ?? []), ...(schema.allOf ?? [])].find((one) => one.type !== "null");
  if (choice && !schema.type) return example(choice, all, depth + 1);
  switch (Array.isArray(schema.type) ? schema.type[0] : schema.type) {
    case "array":
      return [example(schema.items, all, depth + 1)];
    case "string":
      return "";
    case "integer":
    case "number":
      return 0;
    case "boolean":
      return false;
    default:
  }
  const members = Object.entries(schema.properties ?? {});
  return Object.fromEntries(members.map(([name, member]) => [name, example(member, all, depth + 1)]));
}

/** The path and query of a call, with the values that were filled in. Empty values of a query are left out. */
export function target(operation: Operation, values: Record<string, string>): string {
  let { path } = operation;
  const query = new URLSearchParams();
  for (const parameter of operation.parameters ?? []) {
    const value = values[parameter.name] ?? "";
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (parameter.in === "query" && value) query.append(parameter.name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}
