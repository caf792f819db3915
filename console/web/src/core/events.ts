/** Reads server-sent events from the pieces in which they arrive. Pure. */

export interface ServerEvent {
  name: string;
  data: string;
}

export class EventParser {
  private rest = "";
  private name = "";
  private data: string[] = [];

  /** The events that end with this piece. Comments and fields that nobody needs are left out. */
  push(piece: string): ServerEvent[] {
    const events: ServerEvent[] = [];
    const lines = (this.rest + piece).split("\n");
    this.rest = lines.pop() ?? "";
    for (const text of lines) {
      const line = text.endsWith("\r") ? text.slice(0, -1) : text;
      if (line === "") {
        if (this.data.length > 0) events.push({ name: this.name || "message", data: this.data.join("\n") });
        this.name = "";
        this.data = [];
        continue;
      }
      const colon = line.indexOf(":");
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "data") this.data.push(value);
      else if (field === "event") this.name = value;
    }
    return events;
  }
}
